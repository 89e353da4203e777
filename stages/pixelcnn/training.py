"""Training steps: loss, gradient, Adam and the average of the weights, on one device or on all GPUs.

The weights are the arrays of `network.shapes`. Each has Adam's two moments and, optionally, a running average (Polyak
averaging, from which PixelCNN++ samples). The random numbers of dropout are a function of (seed, step), so a step is a
function of the state before it, its batch and its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.pixelcnn import network
from stages.pixelcnn.likelihood import pixel_log_prob, scale_pixels
from stages.pixelcnn.network import Config, Parameters

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are fitted.

    Attributes:
      steps: total number of steps, which the decay of the learning rate depends on.
      learning_rate: Adam's initial learning rate.
      learning_rate_decay: final learning rate as a share of the initial one; it decays along a cosine.
      ema_decay: decay of the running average of the weights; 0 disables averaging. The decay is smaller in the first
        steps: min(ema_decay, (1 + step) / (10 + step)).
      clip_norm: maximum global norm of the gradient of the mean bits per dimension; 0 disables clipping.
      dtype: of the convolutions and of the activations between them. With bfloat16 the weights, their update, sums and
        the likelihood stay float32; a single gradient is about 10% off.
      seed: random seed of dropout.
    """

    steps: int
    learning_rate: float
    learning_rate_decay: float = 1.0
    ema_decay: float = 0.0
    clip_norm: float = 0.0
    dtype: tf.DType = tf.float32
    seed: int = 0

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step, counted from 0."""
        progress = tf.cast(step, tf.float32) / max(self.steps, 1)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(progress, 1.0)))
        return self.learning_rate * (self.learning_rate_decay + (1.0 - self.learning_rate_decay) * cosine)


def bits_per_dim(
    config: Config,
    weights: Parameters,
    images: tf.Tensor,
    condition: tf.Tensor | None,
    *,
    dropout_seed: tf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Bits per dimension of each image, (batch,): -log2 of its probability, divided by the number of its values.

    Args:
      config: the architecture.
      weights: plain kernels and biases, from `network.kernels`.
      images: (batch, height, width, channels), integers from `low` to `high`, of any dtype.
      condition: (batch, *conditional_shape), or None.
      dropout_seed: two integers, or None for no dropout.
      dtype: of the convolutions.
    """
    images = tf.cast(images, tf.float32)
    mixture = network.forward(
        config, weights, scale_pixels(config, images), condition, dropout_seed=dropout_seed, dtype=dtype
    )
    log_prob = tf.reduce_sum(pixel_log_prob(config, mixture, images), axis=[1, 2])
    return -log_prob / (math.prod(config.image_shape) * math.log(2.0))


class Trainer:
    """The state of a training run, and the step that updates it.

    With a strategy over several devices, a batch is split evenly among them. A step then computes what one device would
    compute with the whole batch, except for dropout, whose random numbers differ between devices.
    """

    def __init__(
        self,
        config: Config,
        recipe: OptimizerConfig,
        parameters: Parameters,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool = False,
    ) -> None:
        """Args:
        config: the architecture.
        recipe: how the weights are fitted.
        parameters: initial weights, from `network.initialise` or `network.data_dependent_initialisation`.
        strategy: the devices to use; None uses TensorFlow's current strategy, by default one device.
        jit_compile: whether to compile the whole step with XLA: faster on a GPU, not on a CPU.
        """
        self.config, self.recipe = config, recipe
        self._strategy = strategy or tf.distribute.get_strategy()
        with self._strategy.scope():
            self.weights = {name: tf.Variable(value, name=name) for name, value in parameters.items()}
            self.first_moments = {name: tf.Variable(tf.zeros_like(value)) for name, value in parameters.items()}
            self.second_moments = {name: tf.Variable(tf.zeros_like(value)) for name, value in parameters.items()}
            averaged = parameters if recipe.ema_decay else {}
            self._averages = {name: tf.Variable(value, trainable=False) for name, value in averaged.items()}
        step: Callable[..., tuple[tf.Tensor, tf.Tensor]] = tf.function(
            self._replica_step, autograph=False, jit_compile=jit_compile
        )
        self._step = step if self._strategy.num_replicas_in_sync == 1 else self._distributed(step)
        self._evaluate = tf.function(self._bits_per_dim, autograph=False, jit_compile=jit_compile)

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
            "first_moments": self.first_moments,
            "second_moments": self.second_moments,
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

    def _replica_step(
        self, step: tf.Tensor, images: tf.Tensor, condition: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        dropout_seed = tf.stack([tf.constant(self.recipe.seed), step])
        if context.num_replicas_in_sync > 1:
            dropout_seed = tf.random.experimental.stateless_fold_in(dropout_seed, replica)
        names = list(self.weights)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                bits_per_dim(
                    self.config,
                    network.kernels(self.config, self.weights),
                    images,
                    condition,
                    dropout_seed=dropout_seed,
                    dtype=self.recipe.dtype,
                )
            )
        gradients = tape.gradient(loss, [self.weights[name] for name in names])
        if context.num_replicas_in_sync > 1:
            loss, *gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, [loss, *gradients])
        norm = tf.linalg.global_norm(gradients)
        if self.recipe.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.recipe.clip_norm, use_norm=norm)
        self._update(step, dict(zip(names, gradients, strict=True)))
        return loss, norm

    def _update(self, step: tf.Tensor, gradients: dict[str, tf.Tensor]) -> None:
        """Apply Adam (arXiv 1412.6980) and update the running average, each in one pass over an array."""
        count = tf.cast(step, tf.float32) + 1.0
        rate = self.recipe.rate(step)
        decay = tf.minimum(self.recipe.ema_decay, count / (9.0 + count))
        for name, gradient in gradients.items():
            tf.raw_ops.ResourceApplyAdam(
                var=self.weights[name].handle,
                m=self.first_moments[name].handle,
                v=self.second_moments[name].handle,
                beta1_power=BETA_1**count,
                beta2_power=BETA_2**count,
                lr=rate,
                beta1=BETA_1,
                beta2=BETA_2,
                epsilon=EPSILON,
                grad=gradient,
            )
            if self._averages:
                average = self._averages[name]
                tf.raw_ops.AssignSubVariableOp(
                    resource=average.handle,
                    value=(1.0 - decay) * (average.read_value() - self.weights[name].read_value()),
                )

    def _distributed(
        self, step: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    ) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        replicas = self._strategy.num_replicas_in_sync

        @tf.function(autograph=False)
        def run(number: tf.Tensor, images: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
            def split(value: tf.Tensor) -> tf.distribute.DistributedValues:
                parts = tf.split(value, replicas)
                return self._strategy.experimental_distribute_values_from_function(
                    lambda context: parts[context.replica_id_in_sync_group]
                )

            arguments = (number, split(images), None if condition is None else split(condition))
            loss, norm = map(self._strategy.experimental_local_results, self._strategy.run(step, args=arguments))
            return loss[0], norm[0]

        return run


def _tensor(value: npt.ArrayLike | None) -> tf.Tensor | None:
    return None if value is None else tf.convert_to_tensor(value)
