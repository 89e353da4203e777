"""The elementwise chains between the convolutions, each one compiled function with a gradient to match.

TensorFlow runs an activation, a dropout or a gate as a handful of passes over the feature map, and keeps what each of
them wrote for the gradient. Here XLA makes one pass of a chain; its gradient computes the chain again from the inputs,
in one pass too, so that nothing but the inputs is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def _fused(chain: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of tensors, differentiable in its floating-point arguments."""

    @tf.function(jit_compile=True, autograph=False)
    def backward(arguments: tuple[tf.Tensor, ...], upstream: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        sources = [argument for argument in arguments if argument.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = tf.nest.flatten(chain(*arguments))
        return tape.gradient(outputs, sources, list(upstream))

    compiled = tf.function(chain, jit_compile=True, autograph=False)

    @tf.custom_gradient
    def call(*arguments: tf.Tensor) -> Any:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor | None]:
            found = iter(backward(arguments, upstream))
            return [next(found) if argument.dtype.is_floating else None for argument in arguments]

        return compiled(*arguments), gradient

    return call


def _rows(x: tf.Tensor) -> tf.Tensor:
    """(batch, height, width, channels) as a matrix: XLA's CPU code for a concatenation is three times faster on it."""
    return tf.reshape(x, [-1, x.shape[-1]])


def _like(x: tf.Tensor, model: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, tf.concat([tf.shape(model)[:-1], [x.shape[-1]]], axis=0))


# The activations of a matrix's elements. Those with an exponential have a gradient of their own, one pass over the
# matrix. exp(x) - 1 is off by 6e-8 at most, and three times faster than expm1.


@tf.custom_gradient
def _elu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    power = tf.exp(-tf.abs(x))
    return tf.where(x >= 0, x, power - 1.0), lambda upstream: tf.where(x >= 0, upstream, upstream * power)


@tf.custom_gradient
def _concat_elu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    power = tf.exp(-tf.abs(x))  # one exponential for elu(x) and elu(-x)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        above, below = tf.split(upstream, 2, axis=-1)
        return tf.where(x >= 0, above - power * below, power * above - below)

    return tf.concat([tf.where(x >= 0, x, power - 1.0), tf.where(x > 0, power - 1.0, -x)], axis=-1), gradient


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "concat_elu": _concat_elu,
    "elu": _elu,
    "relu": tf.nn.relu,
}


@functools.cache
def activate(name: str, dtype: tf.DType) -> Callable[[tf.Tensor], tf.Tensor]:
    """x -> activation(x); concat_elu is [elu(x), elu(-x)] (arXiv 1603.05201), of twice the channels."""
    return _fused(lambda x: _like(tf.cast(ACTIVATIONS[name](_rows(x)), dtype), x))


@functools.cache
def activate_and_drop(name: str, rate: float, dtype: tf.DType) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(x, seed) -> dropout(activation(x)), the kept values scaled up.

    One random byte decides over a value, so the rate is rounded to a multiple of 1/256 (0.5 is one).
    """
    dropped = round(rate * 256)

    def chain(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        active = ACTIVATIONS[name](_rows(x)) * (256.0 / (256.0 - dropped))
        return _like(tf.cast(tf.where(_rows(noise) >= dropped, active, 0.0), dtype), x)

    fused_chain = _fused(chain)

    def call(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # Drawn outside of the compiled chain: XLA's random numbers are a hundred times slower on a CPU.
        channels = x.shape[-1] * (2 if name == "concat_elu" else 1)
        words = tf.random.stateless_uniform(
            tf.concat([tf.shape(x)[:-1], [-(-channels // 4)]], axis=0), seed, None, None, tf.uint32
        )
        noise = tf.reshape(tf.bitcast(words, tf.uint8), tf.concat([tf.shape(x)[:-1], [-(-channels // 4) * 4]], axis=0))
        return fused_chain(x, noise[..., :channels] if channels % 4 else noise)

    return call


@functools.cache
def gate(name: str, dtype: tf.DType) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """(x, source[, condition]) -> source + a * sigmoid(b), and the activation of that; [a, b] = x + condition.

    x is (batch, height, width, 2 * filters), the condition (batch, 2 * filters), the source of `filters` channels.
    """

    def chain(x: tf.Tensor, source: tf.Tensor, *condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for projection in condition:
            x = x + projection[:, tf.newaxis, tf.newaxis]
        value, opening = tf.split(_rows(x), 2, axis=-1)
        out = _rows(source) + value * tf.sigmoid(opening)
        return _like(out, source), _like(tf.cast(ACTIVATIONS[name](out), dtype), source)

    return _fused(chain)
