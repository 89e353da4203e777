"""Training steps: noise on the input, loss, gradient, update and running average, on one device or on several.

The weights are the arrays of `network.shapes`. Each has the moments that `optimizer` keeps and, optionally, a running
average (Polyak averaging, from which PixelCNN++ samples). The random numbers are a function of (seed, step), so a step
is a function of the state before it, its batch and its number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.pixelcnn import network
from stages.pixelcnn.likelihood import pixel_log_prob, scale_pixels
from stages.pixelcnn.network import Config, Parameters
from stages.pixelcnn.optimizer import Optimizer

# Share of the steps with noise on the input. In the rest, the network learns the likelihood of clean drawings.
NOISE_END = 0.75


@dataclass(frozen=True)
class TrainingConfig:
    """How the weights are fitted.

    Attributes:
      steps: total number of steps, which the decay of the learning rates and the end of the noise depend on.
      learning_rate: Adam's initial learning rate.
      muon_learning_rate: Muon's initial learning rate, for the hidden kernels; None updates them with Adam too.
      learning_rate_decay: final learning rates as a share of the initial ones; they decay along a cosine.
      ema_decay: decay of the running average of the weights; 0 disables averaging. The decay is smaller in the first
        steps: min(ema_decay, (1 + step) / (10 + step)).
      clip_norm: maximum global norm of the gradient of the mean bits per dimension; 0 disables clipping.
      input_noise: mean share of the pixels that `replace_pixels` replaces in what the network sees, in the first
        three quarters of the steps; at most 0.5.
      dtype: of the convolutions and of the activations between them. With bfloat16 the weights, their update, sums and
        the likelihood stay float32; a single gradient is about 10% off.
      seed: random seed of dropout and of the noise on the input.
    """

    steps: int
    learning_rate: float
    muon_learning_rate: float | None = None
    learning_rate_decay: float = 1.0
    ema_decay: float = 0.0
    clip_norm: float = 0.0
    input_noise: float = 0.0
    dtype: tf.DType = tf.float32
    seed: int = 0

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rates of a step, counted from 0, as a share of the initial ones."""
        progress = tf.cast(step, tf.float32) / max(self.steps, 1)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(progress, 1.0)))
        return self.learning_rate_decay + (1.0 - self.learning_rate_decay) * cosine


def bits_per_dim(
    config: Config,
    weights: Parameters,
    images: tf.Tensor,
    condition: tf.Tensor | None,
    *,
    seen: tf.Tensor | None = None,
    dropout_seed: tf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Bits per dimension of each image, (batch,): -log2 of its probability, divided by the number of its values.

    Args:
      config: the architecture.
      weights: plain kernels and biases, from `network.kernels`.
      images: (batch, height, width, channels), integers from `low` to `high`, of any dtype.
      condition: (batch, *conditional_shape), or None.
      seen: what the network sees in place of the images, of their shape and range; None for the images.
      dropout_seed: two integers, or None for no dropout.
      dtype: of the convolutions.
    """
    images = tf.cast(images, tf.float32)
    scaled = scale_pixels(config, images if seen is None else tf.cast(seen, tf.float32))
    mixture = network.forward(config, weights, scaled, condition, dropout_seed=dropout_seed, dtype=dtype)
    log_prob = tf.reduce_sum(pixel_log_prob(config, mixture, images), axis=[1, 2])
    return -log_prob / (math.prod(config.image_shape) * math.log(2.0))


def replace_pixels(images: tf.Tensor, share: tf.Tensor | float, seed: tf.Tensor) -> tf.Tensor:
    """Replace random pixels of each image by those of another image of the batch, moved by some rows and columns.

    A network that is trained to predict the next pixel after such mistakes goes on well after its own when it samples.

    Args:
      images: (batch, height, width, channels).
      share: mean share of the pixels that are replaced; the share of one image is uniform from 0 to twice this value.
      seed: two integers of at least 0, which alone decide where pixels are replaced, also in a program compiled by XLA.

    Returns:
      (batch, height, width, channels).
    """
    batch, height, width, _ = images.shape
    count = batch * (height * width + 1)
    words = tf.random.stateless_uniform([count + 3], seed, None, None, tf.uint32, alg="philox")
    # Of 32 random bits, a float32 holds 24.
    uniform = tf.reshape(tf.cast(words[:count] // 256, tf.float32) * 2.0**-24, [batch, height * width + 1])
    replaced = uniform[:, 1:] < 2.0 * share * uniform[:, :1]
    sizes = tf.constant([max(batch - 1, 1), height, width], tf.uint32)
    shifts = tf.cast(words[count:] % sizes, tf.int32) + tf.constant([1, 0, 0])
    others = tf.roll(images, shifts, [0, 1, 2])
    return tf.where(tf.reshape(replaced, [batch, height, width, 1]), others, images)


class Trainer:
    """The state of a training run, and the step that updates it.

    With a strategy over several devices, a batch is split evenly among them. A step then computes what one device would
    compute with the whole batch, except for dropout, whose random numbers differ between devices.
    """

    def __init__(
        self,
        config: Config,
        training: TrainingConfig,
        parameters: Parameters,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool = False,
    ) -> None:
        """Args:
        config: the architecture.
        training: how the weights are fitted.
        parameters: initial weights, from `network.initialise` or `network.data_dependent_initialisation`.
        strategy: the devices to use; None uses TensorFlow's current strategy, by default one device.
        jit_compile: whether to compile the whole step with XLA: faster on a GPU, not on a CPU.
        """
        self.config, self.training = config, training
        self._strategy = strategy or tf.distribute.get_strategy()
        with self._strategy.scope():
            self.weights = {name: tf.Variable(value, name=name) for name, value in parameters.items()}
            self.optimizer = Optimizer(config, self.weights, muon=training.muon_learning_rate is not None)
            averaged = parameters if training.ema_decay else {}
            self._averages = {name: tf.Variable(value, trainable=False) for name, value in averaged.items()}
        compiled: Callable[..., Any] = functools.partial(tf.function, autograph=False, jit_compile=jit_compile)
        if self._strategy.num_replicas_in_sync == 1:
            self._step = compiled(self._whole_step)
        else:
            self._step = self._distributed(compiled(self._gradients), compiled(self._apply))
        self._evaluate = compiled(self._bits_per_dim)

    @property
    def averages(self) -> dict[str, tf.Variable]:
        """The weights to sample from and to evaluate: the running averages, or without averaging the weights."""
        return self._averages or self.weights

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """All arrays that a step changes, by name."""
        return {name: variable.numpy() for name, variable in self._variables().items()}

    def restore(self, state: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Restore a state that `state` returned."""
        with self._strategy.scope():
            for name, variable in self._variables().items():
                variable.assign(state[name])

    def _variables(self) -> dict[str, tf.Variable]:
        kinds = {
            "weights": self.weights,
            "first_moments": self.optimizer.first_moments,
            "second_moments": self.optimizer.second_moments,
            "averages": self._averages,
        }
        return {f"{kind}/{name}": variable for kind, named in kinds.items() for name, variable in named.items()}

    def step(self, step: int, images: npt.ArrayLike, condition: npt.ArrayLike | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Update the state with one batch.

        Args:
          step: number of this step, from 0.
          images: (batch, height, width, channels), integers from `low` to `high`.
          condition: (batch, *conditional_shape), or None.

        Returns:
          The batch's mean bits per dimension before the update, and the gradient's norm before clipping.
        """
        return self._step(tf.constant(step, tf.int32), tf.convert_to_tensor(images), _tensor(condition))

    def evaluate(
        self, images: npt.NDArray[np.uint8], condition: npt.NDArray[np.float32] | None, batch_size: int
    ) -> npt.NDArray[np.float32]:
        """Bits per dimension of each image under the averaged weights, without dropout, (number of images,)."""
        values = []
        for start in range(0, len(images), batch_size):
            # The last batch is padded, so that all batches use the same compiled program.
            rows = np.minimum(np.arange(start, start + batch_size), len(images) - 1)
            batch_condition = None if condition is None else tf.convert_to_tensor(condition[rows])
            values.append(self._evaluate(tf.convert_to_tensor(images[rows]), batch_condition).numpy())
        return np.concatenate(values)[: len(images)]

    def _bits_per_dim(self, images: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        return bits_per_dim(self.config, network.kernels(self.config, self.averages), images, condition)

    def _whole_step(
        self, step: tf.Tensor, images: tf.Tensor, condition: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        loss, gradients = self._gradients(step, images, self._seen(step, images), condition)
        return loss, self._apply(step, gradients)

    def _seen(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """What the network sees of a whole batch in place of the images."""
        noise = self.training.input_noise
        if not noise:
            return images
        share = tf.where(step < round(NOISE_END * self.training.steps), noise, 0.0)
        # `network.outputs` gives dropout the seeds from 512 * step on, one for each of less than 511 layers.
        return replace_pixels(images, share, tf.stack([tf.constant(self.training.seed), 512 * step + 511]))

    def _gradients(
        self, step: tf.Tensor, images: tf.Tensor, seen: tf.Tensor, condition: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The mean bits per dimension of this device's part of a batch, and its gradients by the weights."""
        context = tf.distribute.get_replica_context()
        dropout_seed = tf.stack([tf.constant(self.training.seed), step])
        if context.num_replicas_in_sync > 1:
            dropout_seed = tf.random.experimental.stateless_fold_in(dropout_seed, context.replica_id_in_sync_group)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                bits_per_dim(
                    self.config,
                    network.kernels(self.config, self.weights),
                    images,
                    condition,
                    seen=seen,
                    dropout_seed=dropout_seed,
                    dtype=self.training.dtype,
                )
            )
        return loss, tape.gradient(loss, list(self.weights.values()))

    def _apply(self, step: tf.Tensor, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Update the state with the gradients of a whole batch, and return their norm."""
        norm = tf.linalg.global_norm(gradients)
        if self.training.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.training.clip_norm, use_norm=norm)
        self._update(step, dict(zip(self.weights, gradients, strict=True)))
        return norm

    def _update(self, step: tf.Tensor, gradients: dict[str, tf.Tensor]) -> None:
        """Update the weights and their running averages."""
        count, decay = tf.cast(step, tf.float32) + 1.0, self.training.decay(step)
        muon_rate = decay * (self.training.muon_learning_rate or 0.0)
        self.optimizer.apply(step, gradients, decay * self.training.learning_rate, muon_rate)
        ema_decay = tf.minimum(self.training.ema_decay, count / (9.0 + count))
        for name, average in self._averages.items():
            tf.raw_ops.AssignSubVariableOp(
                resource=average.handle,
                value=(1.0 - ema_decay) * (average.read_value() - self.weights[name].read_value()),
            )

    def _distributed(
        self, gradients: Callable[..., tuple[tf.Tensor, list[tf.Tensor]]], apply: Callable[..., tf.Tensor]
    ) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """The step over all devices, on this host and on others, from what each device does before and after the mean.

        The mean is between the two, because XLA cannot compile an operation between hosts.
        """
        replicas = self._strategy.num_replicas_in_sync

        def replica_step(number: tf.Tensor, *arguments: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
            loss, own = gradients(number, *arguments)
            mean = tf.distribute.ReduceOp.MEAN
            loss, *whole = tf.distribute.get_replica_context().all_reduce(mean, [loss, *own])
            return loss, apply(number, whole)

        @tf.function(autograph=False)
        def run(number: tf.Tensor, images: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
            def split(value: tf.Tensor) -> tf.distribute.DistributedValues:
                parts = tf.split(value, replicas)
                return self._strategy.experimental_distribute_values_from_function(
                    lambda context: parts[context.replica_id_in_sync_group]
                )

            seen = self._seen(number, images)
            arguments = (number, split(images), split(seen), None if condition is None else split(condition))
            loss, norm = map(
                self._strategy.experimental_local_results, self._strategy.run(replica_step, args=arguments)
            )
            return loss[0], norm[0]

        return run


def _tensor(value: npt.ArrayLike | None) -> tf.Tensor | None:
    return None if value is None else tf.convert_to_tensor(value)
