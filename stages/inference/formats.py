"""A trained model in the formats of other libraries, for processes that do not have this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.inference.trained_model import TrainedModel


def write_tfp(trained: TrainedModel, path: Path) -> None:
    """Write the weights of `tfp.distributions.PixelCNN`, an .npz file in the order of its `network.set_weights`.

    Raises:
      ValueError: the network has an input for the position, which TFP's lacks.
    """
    np.savez(path, *trained.distribution.to_tfp().network.get_weights())


def write_saved_model(trained: TrainedModel, folder: Path) -> None:
    """Write a TensorFlow SavedModel with two signatures, for any number of images.

    Both take `images`, (N, height, width, channels) float32 from 0 to 255, and `condition`, (N, …) float32. `log_prob`
    gives the natural log of each image's probability, (N,); `forward` gives the parameters of each pixel's mixture of
    logistics on the scale -1..1: `logits`, `locs`, `scales` and, for several channels, `coeffs`.
    """
    import tensorflow as tf

    from stages.pixelcnn.likelihood import scale_pixels

    distribution = trained.distribution
    config = distribution.config
    arguments = (
        tf.TensorSpec([None, *config.image_shape], tf.float32, "images"),
        tf.TensorSpec([None, *(config.conditional_shape or ())], tf.float32, "condition"),
    )

    def log_prob(images: tf.Tensor, condition: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"log_prob": distribution.log_prob(images, conditional_input=condition)}

    def forward(images: tf.Tensor, condition: tf.Tensor) -> dict[str, tf.Tensor]:
        mixture = distribution.network([scale_pixels(config, images), condition])
        return dict(zip(("logits", "locs", "scales", "coeffs"), mixture, strict=False))

    module: Any = tf.Module()
    module.parameters = list(distribution.network.parameters.values())
    signatures = {
        function.__name__: tf.function(function, input_signature=arguments, autograph=False)
        for function in (log_prob, forward)
    }
    tf.saved_model.save(module, str(folder), signatures)
