"""The network and its likelihood as a distribution: a drop-in replacement for `tfp.distributions.PixelCNN`.

Arguments, shapes and results are those of TFP's distribution. The differences: it is autoregressive from its first
training step, rejects pixels outside its range, and computes each feature only once when sampling.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
    """The network with its parameters as variables, with the interface of the `network` of TFP's distribution.

    Attributes:
      config: the architecture.
      parameters: a variable for each array of `network.shapes`, by name.
      initialised: whether scales and biases are set; if not, the first batch sets them.
    """

    def __init__(self, config: Config, seed: int = 0, dtype: tf.DType = tf.float32) -> None:
        super().__init__(name="network", dtype=dtype)
        self.config = config
        initial = network.initialise(config, seed, tf.as_dtype(dtype))
        self.parameters = {name: tf.Variable(value, name=name) for name, value in initial.items()}
        self._needs_batch = config.use_weight_norm and config.use_data_init
        self.initialised = tf.Variable(not self._needs_batch, trainable=False, name="initialised")
        self.built = True

    def assign(self, parameters: Mapping[str, Any], initialised: bool = True) -> tf.Operation | None:
        """Set all variables; `parameters` has an array for each. Returns the operation, or None when eager."""
        assignments = [variable.assign(parameters[name]) for name, variable in self.parameters.items()]
        return tf.group(*assignments, self.initialised.assign(initialised))

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor | Sequence[tf.Tensor], training: bool | None = None) -> list[tf.Tensor]:
        """The parameters of the mixtures: logits, locs, scales and, for images of several channels, coeffs.

        Args:
          inputs: images (batch, height, width, channels), scaled to -1..1; or [images, condition].
          training: whether dropout is on.
        """
        images, *rest = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        condition = rest[0] if rest else None
        seed = _dropout_seed(training)
        kernels = self.kernels(lambda: images, condition, seed)
        mixture = network.forward(self.config, kernels, images, condition, dropout_seed=seed)
        return [part for part in mixture if part is not None]

    def initialise(
        self, images: tf.Tensor, condition: tf.Tensor | None, dropout_seed: tf.Tensor | None = None
    ) -> tf.Operation | None:
        """Set scales and biases so that every layer's outputs have mean 0 and variance 1 on these images."""
        return self.assign(
            network.data_dependent_initialisation(
                self.config, self.parameters, images, condition, dropout_seed=dropout_seed
            )
        )

    def kernels(
        self,
        first_images: Callable[[], tf.Tensor],
        condition: tf.Tensor | None,
        dropout_seed: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Plain kernels and biases, after `initialise` if the network has not been initialised.

        Args:
          first_images: returns the images to initialise with, (batch, height, width, channels), scaled to -1..1.
          condition: of these images.
          dropout_seed: two integers, or None to initialise without dropout.
        """

        def initialise() -> tf.Tensor:
            # In a graph of TensorFlow 1, which has no order of its own, a result must name what comes before it.
            with tf.control_dependencies([self.initialise(first_images(), condition, dropout_seed)]):
                return tf.constant(True)

        with tf.init_scope():
            # The value is known when a `tf.function` is traced: traced after initialisation, it has no second network.
            done = not self._needs_batch or (tf.executing_eagerly() and bool(self.initialised))
        if done:
            return network.kernels(self.config, self.parameters)
        with tf.control_dependencies([tf.cond(self.initialised, lambda: tf.constant(True), initialise)]):
            read = {name: variable.read_value() for name, variable in self.parameters.items()}
            return network.kernels(self.config, read)


def _dropout_seed(training: bool | None) -> tf.Tensor | None:
    return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if training else None


class LogProb(tf_keras.layers.Layer):
    """Maps images to log-probabilities, as one layer, so that a Keras model can be built from `log_prob`."""

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
        if not tf.executing_eagerly():  # else `PixelCNN` has checked them, with an error that Keras does not wrap
            images = _checked_range(config, images)
        logits, locs, scales, *coeffs = self.network([scale_pixels(config, images), *condition], training=training)
        mixture = Mixture(logits, locs, scales, coeffs[0] if coeffs else None)
        return tf.reduce_sum(pixel_log_prob(config, mixture, tf.floor(images)), axis=[1, 2])


def _checked_range(config: Config, images: tf.Tensor) -> tf.Tensor:
    """The images; raises `InvalidArgumentError` if a pixel is not from `low` to `high`."""
    # These comparisons are false for NaN.
    inside = tf.reduce_all((images >= config.low) & (images <= config.high))
    minimum, maximum = tf.reduce_min(images), tf.reduce_max(images)
    message = f"Pixels must be from low={config.low} to high={config.high}, but are from"
    if tf.executing_eagerly():
        if not inside:
            raise tf.errors.InvalidArgumentError(None, None, f"{message} {minimum:g} to {maximum:g}.")
        return images
    with tf.control_dependencies([tf.debugging.Assert(inside, [message, minimum, "to", maximum])]):
        return tf.identity(images)


class PixelCNN(tfd.PixelCNN):
    """PixelCNN++ (arXiv 1701.05517): in raster order, each pixel is a mixture of logistics given the pixels before it.

    ```python
    dist = PixelCNN(image_shape=(28, 28, 1), conditional_shape=(20,), num_resnet=2, num_filters=64)
    dist.initialise(images, one_hot, training=True)  # optional: else the first log_prob does it
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
        """The arguments up to `name` are those of `tfp.distributions.PixelCNN`.

        Args:
          image_shape: height, width and channels of an image. Unlike TFP's, the network pads sides that
            2 ** (num_hierarchies - 1) does not divide.
          conditional_shape: shape of the conditional input of one image, or None for no conditional input.
          num_resnet: residual blocks at each resolution (Figure 2 of arXiv 1606.05328).
          num_hierarchies: resolutions, each half the one before (Figure 2 of arXiv 1701.05517).
          num_filters: channels of the convolutions.
          num_logistic_mix: logistics in a pixel's mixture.
          receptive_field_dims: rows (the current one included) and columns that a convolution covers; columns odd.
          dropout_p: probability that a value in a residual block is dropped during training.
          resnet_activation: "concat_elu", "elu" or "relu".
          use_weight_norm: whether kernels are parameterised as direction and scale (arXiv 1602.07868).
          use_data_init: whether the first batch sets scales and biases; needs weight norm.
          high: maximum value of a pixel.
          low: minimum value of a pixel.
          dtype: float32 or float64.
          name: name of the distribution.
          position: input channels that encode a pixel's position: "none" (as in TFP), "ones", "coordinates"; see
            `network.Config`.
          seed: random seed of the initial parameters.
        """
        parameters = dict(locals())
        dtype = tf.as_dtype(dtype)
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(f"dtype must be float32 or float64, but is {dtype.name}.")
        with tf.name_scope(name) as scope:
            # Skips TFP's constructor, which would build TFP's network.
            super(tfd.PixelCNN, self).__init__(
                dtype=dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=False,
                allow_nan_stats=True,
                parameters=parameters,
                name=scope,
            )
        self.image_shape = _fully_defined("image_shape", image_shape)
        self.conditional_shape = (
            None if conditional_shape is None else _fully_defined("conditional_shape", conditional_shape)
        )
        if self.image_shape.rank != 3:
            raise ValueError(f"`image_shape` must have length 3, [height, width, channels], but is {image_shape}.")
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
        # Read by the methods inherited from TFP.
        self._low, self._high = tf.cast(low, dtype), tf.cast(high, dtype)
        self._num_logistic_mix = num_logistic_mix
        self.network = Network(config, seed, dtype)
        self._log_prob_layer = LogProb(self.network)

    @classmethod
    def from_parameters(cls, config: Config, parameters: Parameters, **arguments: Any) -> PixelCNN:
        """The distribution with given parameters, such as those of a training run or of a file (`weights.load`).

        Args:
          config: the architecture.
          parameters: an array for each name of `network.shapes(config)`. The first batch does not change them.
          **arguments: `dtype`, `name`.
        """
        created = cls(**vars(config), **arguments)
        created.network.assign(parameters)
        return created

    @classmethod
    def from_tfp(cls, dist: tfd.PixelCNN) -> PixelCNN:
        """The distribution with the weights of a TFP distribution; see `tfp_weights.from_tfp` for untrained ones."""
        created = cls(**dist.parameters)
        created.network.assign(*tfp_weights.from_tfp(dist, created.config))
        return created

    def copy(self, **override_parameters_kwargs: Any) -> PixelCNN:
        """A new distribution with the same arguments except those given; its weights are initialised from its seed."""
        # TFP's copy has a reference to the original, whose variables would be counted among the copy's.
        return type(self)(**self.parameters | override_parameters_kwargs)

    def to_tfp(self) -> tfd.PixelCNN:
        """TensorFlow Probability's own PixelCNN, with the weights of this one.

        Raises:
          ValueError: the setting `position` is not "none", or images need padding: TFP's network has neither.
        """
        if self.config.position != "none":
            raise ValueError(f"position is {self.config.position!r}; TFP's network needs position 'none'")
        if any(self.config.padding):
            divisor = 2 ** (self.config.num_hierarchies - 1)
            raise ValueError(
                f"image_shape is {self.config.image_shape}; TFP's network needs height and width divisible by {divisor}"
            )
        arguments = {name: value for name, value in self.parameters.items() if name not in ("position", "seed")}
        created = tfd.PixelCNN(**arguments)
        tfp_weights.to_tfp(created, self.config, self.network.parameters, bool(self.network.initialised))
        return created

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights.safetensors (float32) and config.json to a folder, which is created if it does not exist."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        weights.save(path / weights.WEIGHTS, self.network.parameters)
        weights.save_config(path / weights.CONFIG, self.config)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **arguments: Any) -> PixelCNN:
        """The distribution from a folder that `save` or a training run wrote. The first batch does not change it.

        Args:
          folder: contains weights.safetensors and config.json.
          **arguments: `dtype`, `name`.

        Raises:
          FileNotFoundError: a file does not exist.
          ValueError: a file is invalid, or the two files do not match.
        """
        path = Path(folder)
        config = weights.load_config(path / weights.CONFIG)
        return cls.from_parameters(config, weights.load(path / weights.WEIGHTS, config), **arguments)

    @property
    def config(self) -> Config:
        """The architecture, in the form that the functions of this package take."""
        return self.network.config

    def initialise(
        self, value: tf.Tensor, conditional_input: tf.Tensor | None = None, training: bool | None = None
    ) -> None:
        """Run data-dependent initialisation (arXiv 1602.07868) on these images, even if it has been done before.

        Without this call the first `log_prob` or `sample` does it, as in TFP. A training step that is traced after this
        call is half as long.

        Args:
          value: images, as `log_prob` takes them.
          conditional_input: as `log_prob` takes it.
          training: whether dropout is on, as in the training that follows.
        """
        images, condition, _ = self._flatten_batch(value, conditional_input)
        self.network.initialise(scale_pixels(self.config, images), condition, _dropout_seed(training))

    def _log_prob(
        self, value: tf.Tensor, conditional_input: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Natural log of the probability of images.

        Args:
          value: (..., height, width, channels), from `low` to `high`. Only integers have mass: a fractional value gets
            the mass of the integer below it, as in TFP.
          conditional_input: (..., *conditional_shape), or None if the distribution has no condition. Its leading
            dimensions and those of `value` broadcast.
          training: whether dropout is on. None lets Keras decide: it is off outside of `Model.fit`.

        Returns:
          One value per image, in the shape of the broadcast leading dimensions.

        Raises:
          tf.errors.InvalidArgumentError: a pixel is not from `low` to `high`.
          ValueError: a shape is wrong, or the conditional input is missing or unexpected.
        """
        images, condition, batch_shape = self._flatten_batch(value, conditional_input)
        if images.shape[0] == 0:  # TensorFlow's convolutions reject it on some CPUs
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
        """Sample images; each feature of the network is computed once.

        With an integer seed an image is a function of the seed, its condition and its index among the images of that
        condition. It does not depend on the other images.

        Args:
          n: number of images; the product of `sample_shape`.
          seed: an integer of at least 0, or a pair of them; None for different images at each call.
          conditional_input: (..., *conditional_shape). Its leading dimensions are the last ones of `sample_shape`;
            without leading dimensions, all images share it.
          training: whether dropout is on; if so, TFP's loop samples by running the whole network for every pixel.
          **options: `temperature`, `guidance`, `reference`, `given`, `known`, `quantised` and `progress` of
            `sampling.sample`.

        Returns:
          (*sample_shape, height, width, channels), integer values from `low` to `high`.

        Raises:
          ValueError: a shape is wrong, or the conditional input is missing or unexpected.
        """
        if (condition := self._condition(conditional_input)) is not None:
            inputs = tf.reshape(condition, [-1, *(self.config.conditional_shape or ())])
            if n % max(inputs.shape[0], 1):
                raise ValueError(f"{n} samples cannot be divided evenly among {inputs.shape[0]} conditional inputs.")
            condition = tf.repeat(inputs[tf.newaxis], n // inputs.shape[0], axis=0)
            condition = tf.reshape(condition, [n, *inputs.shape.as_list()[1:]])
        if training:
            return super()._sample_n(n, seed, condition, training)
        if not isinstance(seed, int):
            seed = tfp_random.sanitize_seed(seed)

        if tf.get_static_value(n) == 0:
            return tf.zeros([0, *self.image_shape], self.dtype)

        def noise_images() -> tf.Tensor:  # as in TFP, sampling initialises an untrained network with noise
            return tf.random.stateless_uniform([n, *self.image_shape], (0, 0), -1.0, 1.0, self.dtype)

        kernels = self.network.kernels(noise_images, condition)
        if tf.executing_eagerly():
            return self._sample_images(kernels, n, seed, condition, options)
        # The function runs outside of the graph, so the graph passes it the kernels: they may be those of a session.
        names = list(kernels)

        def sample(n: NDArray[Any], seed: NDArray[Any], condition: NDArray[Any], *values: NDArray[Any]) -> NDArray[Any]:
            by_name = dict(zip(names, values, strict=True))
            given_condition = None if conditional_input is None else condition
            return self._sample_images(by_name, int(n), seed, given_condition, options).numpy()

        inputs = [n, seed, () if condition is None else condition, *kernels.values()]
        images = tf.numpy_function(sample, inputs, self.dtype)
        images.set_shape([None, *self.image_shape])
        return images

    def _sample_images(
        self, kernels: Parameters, n: int, seed: Any, condition: tf.Tensor | None, options: dict[str, Any]
    ) -> tf.Tensor:
        from stages.pixelcnn import sampling

        words = np.asarray(seed).astype(np.uint32).astype(np.uint64)
        noise_seed = int(seed) if words.ndim == 0 else int(words[0]) << 32 | int(words[1])
        for name, rank in {"given": 3, "known": 2}.items():
            if name in options and np.ndim(options[name]) > rank:
                value = np.asarray(options[name])
                options = options | {name: value.reshape(-1, *value.shape[-rank:])}
        condition = None if condition is None else np.asarray(condition)
        noise = sampling.noise(self.config, noise_seed, _keys(n, condition))
        return tf.cast(sampling.sample(self.config, kernels, noise, condition, **options), self.dtype)

    def _condition(self, conditional_input: tf.Tensor | None) -> tf.Tensor | None:
        """The conditional input as a tensor, after checking its shape."""
        shape = self.config.conditional_shape
        if conditional_input is None and shape is None:
            return None
        if conditional_input is None or shape is None:
            status = "missing" if conditional_input is None else "given"
            raise ValueError(f"conditional_input is {status}, but conditional_shape is {shape}.")
        condition = tf.cast(tf.convert_to_tensor(conditional_input), self.dtype)
        rank = condition.shape.rank - len(shape)
        if rank < 0 or not condition.shape[rank:].is_compatible_with(shape):
            raise ValueError(f"conditional_input of shape {condition.shape} does not end in conditional_shape {shape}.")
        return condition

    def _flatten_batch(
        self, value: tf.Tensor, conditional_input: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
        """Images and conditions, checked and with one leading dimension, and their original leading dimensions."""
        value = tf.cast(value, self.dtype)
        if not value.shape[-3:].is_compatible_with(self.image_shape):
            raise ValueError(f"Images of shape {value.shape} do not end in image_shape {self.image_shape}.")
        if tf.executing_eagerly() and isinstance(value, tf.Tensor):  # not a symbolic tensor of Keras
            value = _checked_range(self.config, value)
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
    """The keys of the images' noise: the index; with a condition, its hash and the index among equal conditions."""
    if condition is None:
        return np.arange(n, dtype=np.uint64)[:, np.newaxis]
    keys = np.empty((n, 2), np.uint64)
    counts: Counter[bytes] = Counter()
    for key, row in zip(keys, condition.astype("<f4").reshape(n, -1) + np.float32(0), strict=True):  # -0 is 0
        content = row.tobytes()
        key[:] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"), counts[content]
        counts[content] += 1
    return keys


def _fully_defined(name: str, shape: Sequence[int] | tf.TensorShape) -> tf.TensorShape:
    shape = tf.TensorShape(shape)
    if not shape.is_fully_defined():
        raise ValueError(f"`{name}` must be fully defined, but is {shape}.")
    return shape
