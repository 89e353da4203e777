"""The network and its likelihood as a distribution: a `tfp.distributions.PixelCNN` with this package inside it.

Whoever holds TFP's distribution can hold this one: the arguments, the shapes and the meaning are TFP's. What is new: it
is autoregressive from its first step on, refuses pixels outside its range, and samples by computing each feature once.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tensorflow_probability import distributions as tfd
from tensorflow_probability import random as tfp_random
from tensorflow_probability.python.internal import prefer_static

from stages.pixelcnn import network, tfp_weights, weights
from stages.pixelcnn.likelihood import pixel_log_prob, scale_pixels
from stages.pixelcnn.network import Config, Mixture, Parameters


class Network(tf_keras.layers.Layer):
    """The network with its parameters as variables, called as the `network` of TFP's distribution is.

    Attributes:
      config: the architecture.
      parameters: a variable for every array of `network.shapes`, by name.
      initialised: whether the parameters are final, or wait for a first batch to set scales and biases by.
    """

    def __init__(self, config: Config, seed: int = 0, dtype: tf.DType = tf.float32) -> None:
        super().__init__(name="network", dtype=dtype)
        self.config = config
        initial = network.initialise(config, seed, tf.as_dtype(dtype))
        self.parameters = {name: tf.Variable(value, name=name) for name, value in initial.items()}
        waits = config.use_weight_norm and config.use_data_init
        self.initialised = tf.Variable(not waits, trainable=False, name="initialised")
        self.built = True

    def assign(self, parameters: Mapping[str, Any], initialised: bool = True) -> None:
        """Sets all variables; `parameters` holds an array for each."""
        for name, variable in self.parameters.items():
            variable.assign(parameters[name])
        self.initialised.assign(initialised)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor | Sequence[tf.Tensor], training: bool | None = None) -> list[tf.Tensor]:
        """The mixture's parameters: logits, locs, scales and, for images of several channels, coeffs.

        Args:
          inputs: images (batch, height, width, channels), scaled to -1..1; or [images, condition].
          training: whether dropout is on.
        """
        images, *rest = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        condition = rest[0] if rest else None
        self._initialise_once(images, condition)
        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if training else None
        kernels = network.kernels(self.config, self.parameters)
        mixture = network.forward(self.config, kernels, images, condition, dropout_seed=seed)
        return [part for part in mixture if part is not None]

    def initialise(self, images: tf.Tensor, condition: tf.Tensor | None) -> None:
        """Sets scales and biases such that every layer's outputs have mean 0 and variance 1 on these images."""
        self.assign(network.data_dependent_initialisation(self.config, self.parameters, images, condition))

    def _initialise_once(self, images: tf.Tensor, condition: tf.Tensor | None) -> None:
        with tf.init_scope():
            # Known while a function is traced: one traced afterwards does not carry a second network along.
            if self.initialised:
                return

        def initialise() -> tf.Tensor:
            self.initialise(images, condition)
            return tf.constant(True)

        tf.cond(self.initialised, lambda: tf.constant(True), initialise)


class LogProb(tf_keras.layers.Layer):
    """From images to their log-probabilities: one layer, so that a Keras model can be built of `log_prob`."""

    def __init__(self, network: Network) -> None:
        super().__init__(name="log_prob", dtype=network.dtype)
        self.network = network

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: list[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Natural log of the probability of each image, (batch,).

        Args:
          inputs: [images] or [images, condition], each with one leading dimension.
          training: whether dropout is on.
        """
        config = self.network.config
        images, *condition = inputs
        if not tf.executing_eagerly():  # else it has been seen to, with a message that Keras does not wrap
            images = _in_range(config, images)
        logits, locs, scales, *coeffs = self.network([scale_pixels(config, images), *condition], training=training)
        mixture = Mixture(logits, locs, scales, coeffs[0] if coeffs else None)
        return tf.reduce_sum(pixel_log_prob(config, mixture, tf.floor(images)), axis=[1, 2])


def _in_range(config: Config, images: tf.Tensor) -> tf.Tensor:
    """The images, which are refused where a pixel is not from `low` to `high`."""
    # Written so that NaN fails as well.
    inside = tf.reduce_all((images >= config.low) & (images <= config.high))
    found = tf.reduce_min(images), tf.reduce_max(images)
    message = f"Pixels must be from low={config.low} to high={config.high}, and are from"
    if tf.executing_eagerly():
        if not inside:
            raise tf.errors.InvalidArgumentError(None, None, f"{message} {found[0]:g} to {found[1]:g}.")
        return images
    with tf.control_dependencies([tf.debugging.Assert(inside, [message, found[0], "to", found[1]])]):
        return tf.identity(images)


class PixelCNN(tfd.PixelCNN):
    """PixelCNN++ (arXiv 1701.05517): pixels in raster order, each a mixture of quantised logistics given those before.

    ```python
    dist = PixelCNN(image_shape=(28, 28, 1), conditional_shape=(20,), num_resnet=2, num_filters=64)
    dist.initialise(images, one_hot)  # or left to the first log_prob
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(dist.log_prob(images, conditional_input=one_hot, training=True))
    gradients = tape.gradient(loss, dist.trainable_variables)
    drawings = dist.sample(8, conditional_input=one_hot[0], seed=0)
    ```
    """

    def __init__(
        self,
        image_shape: Sequence[int] | tf.TensorShape,
        conditional_shape: Sequence[int] | tf.TensorShape | None = None,
        num_resnet: int = 5,
        num_hierarchies: int = 3,
        num_filters: int = 160,
        num_logistic_mix: int = 10,
        receptive_field_dims: Sequence[int] = (3, 3),
        dropout_p: float = 0.5,
        resnet_activation: str = "concat_elu",
        use_weight_norm: bool = True,
        use_data_init: bool = True,
        high: int = 255,
        low: int = 0,
        dtype: tf.DType = tf.float32,
        name: str = "PixelCNN",
        position: str = "none",
        seed: int = 0,
    ) -> None:
        """All arguments up to `name` are those of `tfp.distributions.PixelCNN`.

        Args:
          image_shape: height, width and channels of an image; height and width divisible by 2 ** (num_hierarchies - 1).
          conditional_shape: shape of the conditional input of one image, or None where there is none.
          num_resnet: residual blocks at each resolution (Figure 2 of arXiv 1606.05328).
          num_hierarchies: resolutions, each half the one before (Figure 2 of arXiv 1701.05517).
          num_filters: channels of the convolutions.
          num_logistic_mix: logistics in the mixture of a pixel.
          receptive_field_dims: rows (the current one included) and columns that a convolution covers; columns odd.
          dropout_p: probability that a value is dropped in a residual block while training.
          resnet_activation: "concat_elu", "elu" or "relu".
          use_weight_norm: whether kernels are a direction times a length (arXiv 1602.07868).
          use_data_init: whether the first batch seen sets scales and biases; needs weight norm.
          high: the largest value of a pixel.
          low: the smallest value of a pixel.
          dtype: float32 or float64.
          name: of the distribution.
          position: what the network is told about where a pixel is: "none" (as in TFP), "ones", "coordinates".
          seed: of the first parameters. The same seed gives the same parameters.
        """
        parameters = dict(locals())
        dtype = tf.as_dtype(dtype)
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(f"dtype must be float32 or float64, and is {dtype.name}.")
        with tf.name_scope(name) as scope:
            # Past TFP's own constructor, which builds the network that this class does without.
            super(tfd.PixelCNN, self).__init__(
                dtype=dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=False,
                allow_nan_stats=True,
                parameters=parameters,
                name=scope,
            )
        self.image_shape = _defined("image_shape", image_shape)
        self.conditional_shape = None if conditional_shape is None else _defined("conditional_shape", conditional_shape)
        if self.image_shape.rank != 3:
            raise ValueError(f"`image_shape` must have length 3, [height, width, channels], and is {image_shape}.")
        height, width, channels = self.image_shape.as_list()
        config = Config(
            image_shape=(height, width, channels),
            conditional_shape=None if self.conditional_shape is None else tuple(self.conditional_shape.as_list()),
            num_resnet=num_resnet,
            num_hierarchies=num_hierarchies,
            num_filters=num_filters,
            num_logistic_mix=num_logistic_mix,
            receptive_field_dims=(receptive_field_dims[0], receptive_field_dims[1]),
            dropout_p=dropout_p,
            resnet_activation=resnet_activation,
            use_weight_norm=use_weight_norm,
            use_data_init=use_data_init,
            high=high,
            low=low,
            position=position,
        )
        # What TFP's inherited methods read.
        self._low, self._high = tf.cast(low, dtype), tf.cast(high, dtype)
        self._num_logistic_mix = num_logistic_mix
        self.network = Network(config, seed, dtype)
        self._log_prob_layer = LogProb(self.network)

    @classmethod
    def from_parameters(cls, config: Config, parameters: Parameters, **arguments: Any) -> PixelCNN:
        """The distribution of given parameters: those of a training run, or of a file (`weights.load`).

        Args:
          config: the architecture.
          parameters: an array for every name of `network.shapes(config)`. They are final: no first batch moves them.
          **arguments: `dtype`, `name`.
        """
        made = cls(**vars(config), **arguments)
        made.network.assign(parameters)
        return made

    @classmethod
    def from_tfp(cls, dist: tfd.PixelCNN) -> PixelCNN:
        """TFP's distribution with its weights, to the bit; see `convert.from_tfp` for one that has not been trained."""
        made = cls(**dist.parameters)
        made.network.assign(*tfp_weights.from_tfp(dist, made.config))
        return made

    def copy(self, **override_parameters_kwargs: Any) -> PixelCNN:
        """A new distribution of the same arguments but those given, with weights of its own: the first, by its seed."""
        # TFP's keeps hold of the original, whose variables would count among the copy's.
        return type(self)(**self.parameters | override_parameters_kwargs)

    def to_tfp(self) -> tfd.PixelCNN:
        """TFP's own distribution with these weights, to the bit.

        Raises:
          ValueError: the network is told where a pixel is, which TFP's cannot be.
        """
        if self.config.position != "none":
            raise ValueError(f"TFP's network has no position, and this one has {self.config.position!r}.")
        arguments = {name: value for name, value in self.parameters.items() if name not in ("position", "seed")}
        made = tfd.PixelCNN(**arguments)
        tfp_weights.to_tfp(made, self.config, self.network.parameters, bool(self.network.initialised))
        return made

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights.safetensors (float32) and config.json into a folder, made if it is not there."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        weights.save(path / weights.WEIGHTS, self.network.parameters)
        weights.save_config(path / weights.CONFIG, self.config)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **arguments: Any) -> PixelCNN:
        """The distribution in a folder: one that `save` wrote, or a training run. No first batch moves its weights.

        Args:
          folder: holds weights.safetensors and config.json.
          **arguments: `dtype`, `name`.

        Raises:
          FileNotFoundError: a file is not there.
          ValueError: a file is not what it should be, or the two do not fit each other.
        """
        path = Path(folder)
        config = weights.load_config(path / weights.CONFIG)
        return cls.from_parameters(config, weights.load(path / weights.WEIGHTS, config), **arguments)

    @property
    def config(self) -> Config:
        """The architecture, as the functions of this package take it."""
        return self.network.config

    def initialise(self, value: tf.Tensor, conditional_input: tf.Tensor | None = None) -> None:
        """Data-dependent initialisation (arXiv 1602.07868) on these images, at once and again if it has been done.

        Left alone, the first `log_prob` or `sample` does it, as in TFP. Done first, a training step that is traced
        afterwards is half as long.

        Args:
          value: images, as `log_prob` takes them.
          conditional_input: as `log_prob` takes it.
        """
        images, condition, _ = self._in_one_batch(value, conditional_input)
        self.network.initialise(scale_pixels(self.config, images), condition)

    def _log_prob(
        self, value: tf.Tensor, conditional_input: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Natural log of the probability of images.

        Args:
          value: (..., height, width, channels), from `low` to `high`. Mass lies on the integers: a fractional value has
            the mass of the integer below it, as in TFP.
          conditional_input: (..., *conditional_shape), or None where the distribution has no condition. Its leading
            dimensions and those of `value` broadcast.
          training: whether dropout is on. None leaves it to Keras, which has it off outside of `Model.fit`.

        Returns:
          One value for each image, of the broadcast leading dimensions.

        Raises:
          tf.errors.InvalidArgumentError: a pixel is not from `low` to `high`.
          ValueError: shapes do not fit, or the conditional input is missing or not wanted.
        """
        images, condition, batch_shape = self._in_one_batch(value, conditional_input)
        if images.shape[0] == 0:  # which TensorFlow's convolutions refuse on some CPUs
            return tf.zeros(batch_shape, self.dtype)
        inputs = [images] if condition is None else [images, condition]
        return tf.reshape(self._log_prob_layer(inputs, training=training), batch_shape)

    def _sample_n(
        self,
        n: int,
        seed: Any = None,
        conditional_input: tf.Tensor | None = None,
        training: bool = False,
        **options: Any,
    ) -> tf.Tensor:
        """Draws images, each feature of the network computed once.

        With an integer seed an image is a function of the seed, its condition and its number among the images of that
        condition: whatever else is drawn with it.

        Args:
          n: how many; the product of `sample_shape`.
          seed: an integer from 0 up, or a pair of them; None for other images each time.
          conditional_input: (..., *conditional_shape). Its leading dimensions are the last of `sample_shape`; where it
            has none, all images share it.
          training: whether dropout is on; TFP's own loop then draws the images, the whole network for every pixel.
          **options: `temperature`, `guidance`, `reference`, `given`, `known`, `quantised` and `progress` of
            `sampling.sample`.

        Returns:
          (*sample_shape, height, width, channels), whole numbers from `low` to `high`.

        Raises:
          ValueError: shapes do not fit, or the conditional input is missing or not wanted.
        """
        if (condition := self._condition(conditional_input)) is not None:
            rows = tf.reshape(condition, [-1, *(self.config.conditional_shape or ())])
            if n % rows.shape[0]:
                raise ValueError(f"{n} samples cannot be shared out evenly among {rows.shape[0]} conditional inputs.")
            condition = tf.repeat(rows[tf.newaxis], n // rows.shape[0], axis=0)
            condition = tf.reshape(condition, [n, *rows.shape.as_list()[1:]])
        if training:
            return super()._sample_n(n, seed, condition, training)
        if not isinstance(seed, int):
            seed = tfp_random.sanitize_seed(seed)
        if tf.executing_eagerly():
            return self._draw(n, seed, condition, options)
        images = tf.py_function(
            lambda *given: self._draw(int(given[0]), given[1], given[2] if len(given) > 2 else None, options),
            [n, seed] if condition is None else [n, seed, condition],
            self.dtype,
        )
        images.set_shape([None, *self.image_shape])
        return images

    def _draw(self, n: int, seed: Any, condition: tf.Tensor | None, options: dict[str, Any]) -> tf.Tensor:
        from stages.pixelcnn import sampling

        if not self.network.initialised:
            # As in TFP, the first batch of a network that has seen none is noise.
            shape = [n, *self.image_shape]
            self.network.initialise(tf.random.stateless_uniform(shape, (0, 0), -1.0, 1.0, self.dtype), condition)
        word = np.asarray(seed).astype(np.uint32).astype(np.uint64)
        number = int(seed) if word.ndim == 0 else int(word[0]) << 32 | int(word[1])
        for name, rank in {"given": 3, "known": 2}.items():
            if name in options and np.ndim(options[name]) > rank:
                value = np.asarray(options[name])
                options = options | {name: value.reshape(-1, *value.shape[-rank:])}
        condition = None if condition is None else np.asarray(condition)
        noise = sampling.noise(self.config, number, _keys(n, condition))
        kernels = network.kernels(self.config, self.network.parameters)
        return tf.cast(sampling.sample(self.config, kernels, noise, condition, **options), self.dtype)

    def _condition(self, conditional_input: tf.Tensor | None) -> tf.Tensor | None:
        """The conditional input as a tensor, if it is one of this distribution's."""
        shape = self.config.conditional_shape
        if conditional_input is None and shape is None:
            return None
        if conditional_input is None or shape is None:
            found = "missing" if conditional_input is None else "given"
            raise ValueError(f"conditional_input is {found}, and conditional_shape is {shape}.")
        condition = tf.cast(tf.convert_to_tensor(conditional_input), self.dtype)
        rank = condition.shape.rank - len(shape)
        if rank < 0 or not condition.shape[rank:].is_compatible_with(shape):
            raise ValueError(f"conditional_input of shape {condition.shape} does not end in conditional_shape {shape}.")
        return condition

    def _in_one_batch(
        self, value: tf.Tensor, conditional_input: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
        """Checked images and conditions with one leading dimension, and the leading dimensions that they had."""
        value = tf.cast(value, self.dtype)
        if not value.shape[-3:].is_compatible_with(self.image_shape):
            raise ValueError(f"Images of shape {value.shape} do not end in image_shape {self.image_shape}.")
        if tf.executing_eagerly() and isinstance(value, tf.Tensor):  # Keras's symbols are not
            value = _in_range(self.config, value)
        batch_shape = prefer_static.shape(value)[:-3]
        condition = self._condition(conditional_input)
        if condition is not None:
            shape = self.config.conditional_shape or ()
            batch_shape = prefer_static.broadcast_shape(
                batch_shape, prefer_static.shape(condition)[: condition.shape.rank - len(shape)]
            )
            condition = self._broadcast(condition, batch_shape, shape)
        return self._broadcast(value, batch_shape, self.config.image_shape), condition, batch_shape

    @staticmethod
    def _broadcast(value: tf.Tensor, batch_shape: Any, event_shape: tuple[int, ...]) -> tf.Tensor:
        value = tf.broadcast_to(value, prefer_static.concat([batch_shape, np.asarray(event_shape, np.int32)], axis=0))
        return tf.reshape(value, [-1, *event_shape])


def _keys(n: int, condition: NDArray[np.floating] | None) -> NDArray[np.uint64]:
    """What each image's noise is drawn by: its number, or its condition and its number among those of the same."""
    if condition is None:
        return np.arange(n, dtype=np.uint64)[:, np.newaxis]
    keys = np.empty((n, 2), np.uint64)
    seen: Counter[bytes] = Counter()
    for key, row in zip(keys, condition.astype("<f4").reshape(n, -1) + np.float32(0), strict=True):  # -0 is 0
        text = row.tobytes()
        key[:] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"), seen[text]
        seen[text] += 1
    return keys


def _defined(name: str, shape: Sequence[int] | tf.TensorShape) -> tf.TensorShape:
    shape = tf.TensorShape(shape)
    if not shape.is_fully_defined():
        raise ValueError(f"`{name}` must be fully defined, and is {shape}.")
    return shape
