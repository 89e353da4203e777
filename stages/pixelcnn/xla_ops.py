"""The elementwise operations between the convolutions, each compiled into one function with its gradient.

TensorFlow runs an activation, a dropout or a gate as several passes over the feature map, and stores the result of each
pass for the gradient. XLA fuses such a chain of operations into one pass. The gradient recomputes the chain from its
inputs, also in one pass, so that only the inputs are stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def _fuse(chain: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors; the result is differentiable in its floating-point arguments."""

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
            gradients = iter(backward(arguments, upstream))
            return [next(gradients) if argument.dtype.is_floating else None for argument in arguments]

        return compiled(*arguments), gradient

    return call


def _as_matrix(x: tf.Tensor) -> tf.Tensor:
    """(batch, height, width, channels) as a matrix, on which XLA's CPU code concatenates three times faster."""
    return tf.reshape(x, [-1, x.shape[-1]])


def reshape_like(x: tf.Tensor, template: tf.Tensor) -> tf.Tensor:
    """A matrix (…, channels) with the template's axes, but for the last one."""
    return tf.reshape(x, tf.concat([tf.shape(template)[:-1], [x.shape[-1]]], axis=0))


# Activations of a matrix. Those with an exponential have a hand-written gradient, which takes one pass over the matrix.
# exp(x) - 1 is off by at most 6e-8, and three times faster than expm1.


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
    """A function x -> activation(x); concat_elu is [elu(x), elu(-x)] (arXiv 1603.05201), which doubles the channels."""
    return _fuse(lambda x: reshape_like(tf.cast(ACTIVATIONS[name](_as_matrix(x)), dtype), x))


@functools.cache
def activate_and_drop(name: str, rate: float, dtype: tf.DType) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function (x, seed) -> dropout(activation(x)), with the remaining values scaled up.

    One random byte decides whether a value is dropped, so the rate is rounded to a multiple of 1/256 (0.5 is one).
    """
    dropped = round(rate * 256)

    def chain(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        active = ACTIVATIONS[name](_as_matrix(x)) * (256.0 / (256.0 - dropped))
        return reshape_like(tf.cast(tf.where(_as_matrix(noise) >= dropped, active, 0.0), dtype), x)

    fused_chain = _fuse(chain)

    def call(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # Generated outside of the compiled chain: XLA's random numbers are a hundred times slower on a CPU.
        channels = x.shape[-1] * (2 if name == "concat_elu" else 1)
        words = tf.random.stateless_uniform(
            tf.concat([tf.shape(x)[:-1], [-(-channels // 4)]], axis=0), seed, None, None, tf.uint32
        )
        noise = tf.reshape(tf.bitcast(words, tf.uint8), tf.concat([tf.shape(x)[:-1], [-(-channels // 4) * 4]], axis=0))
        return fused_chain(x, noise[..., :channels] if channels % 4 else noise)

    return call


@functools.cache
def gate(name: str, dtype: tf.DType) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A function (x, source[, condition]) -> source + a * sigmoid(b), and its activation; [a, b] = x + condition.

    x is (batch, height, width, 2 * filters), source (batch, height, width, filters), condition (batch, 2 * filters).
    """

    def chain(x: tf.Tensor, source: tf.Tensor, *condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for projection in condition:
            x = x + projection[:, tf.newaxis, tf.newaxis]
        update, gate_logits = tf.split(_as_matrix(x), 2, axis=-1)
        out = _as_matrix(source) + update * tf.sigmoid(gate_logits)
        return reshape_like(out, source), reshape_like(tf.cast(ACTIVATIONS[name](out), dtype), source)

    return _fuse(chain)
