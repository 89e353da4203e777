"""The update of the weights: Adam for all of them, or Muon for the hidden kernels and Adam for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) takes a kernel as a matrix U from its inputs (taps
times channels) to its outputs, here of the averaged gradient, and replaces it by the nearest matrix with orthonormal
columns: each direction is learned at the same rate, however small its gradient. Newton-Schulz iterations approximate
that matrix by an odd polynomial of U. Here they run on the Gram matrix UᵀU, which is smaller than U, and on all Gram
matrices of one size at once; U is multiplied once, by their product.

With weight norm only a kernel's direction counts. Each step makes the kernel longer, so that the next one turns it
less, which long runs need. Norms that were kept gave 1.643 bits per dimension on held-out drawings, not 1.658, after
1,200 steps of (1, 3, 32), but 1.71, not 1.57, after half of the steps of the profile laptop, at the rate 0.025.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.compiler.xla import xla_data_pb2

from stages.pixelcnn import network
from stages.pixelcnn.network import Config

ADAM_BETAS = (0.9, 0.999)  # TensorFlow's defaults, which the post uses
BESIDE_MUON_BETAS = (0.9, 0.99)  # of Adam beside Muon: better than 0.999 in short runs
EPSILON = 1e-7
MOMENTUM = 0.9

# Five iterations X ← aX + bX(XᵀX) + cX(XᵀX)² with Jordan's coefficients. Singular values from 0.003 to 1 end
# between 0.7 and 1.2.
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def hidden_kernels(config: Config) -> list[str]:
    """The names of the weights that Muon updates.

    They are the kernels between feature maps. The first layers, the last one and the projections of the condition have
    inputs or outputs of another kind, for which Adam is better.
    """
    suffix = "v" if config.use_weight_norm else "kernel"
    outer = ("init/vertical", "init/up", "init/left", "vertical/condition", "horizontal/condition", "output")
    return [f"{name}/{suffix}" for name in network.layers(config) if name not in outer]


class Optimizer:
    """The moments of the gradients, and the update of the weights by them.

    Attributes:
      first_moments: the running averages of the gradients, by the name of the weight.
      second_moments: those of their squares, for the weights that Adam updates.
    """

    def __init__(self, config: Config, weights: Mapping[str, tf.Variable], muon: bool) -> None:
        """Args:
        config: the architecture.
        weights: the variables to update, by name.
        muon: whether Muon updates the hidden kernels.
        """
        self.config, self.weights = config, weights
        self.muon: Collection[str] = hidden_kernels(config) if muon else ()
        self._betas = BESIDE_MUON_BETAS if muon else ADAM_BETAS
        self.first_moments = {name: tf.Variable(tf.zeros_like(value)) for name, value in weights.items()}
        self.second_moments = {
            name: tf.Variable(tf.zeros_like(value)) for name, value in weights.items() if name not in self.muon
        }

    def apply(
        self, step: tf.Tensor, gradients: Mapping[str, tf.Tensor], learning_rate: tf.Tensor, muon_rate: tf.Tensor
    ) -> None:
        """Update the weights.

        Args:
          step: number of this step, from 0.
          gradients: of all weights, by name.
          learning_rate: Adam's, of this step.
          muon_rate: Muon's, of this step.
        """
        for name in self.second_moments:
            self._apply_adam(name, gradients[name], tf.cast(step, tf.float32) + 1.0, learning_rate)
        if self.muon:
            self._apply_muon(gradients, muon_rate)

    def _apply_adam(self, name: str, gradient: tf.Tensor, count: tf.Tensor, rate: tf.Tensor) -> None:
        """Adam (arXiv 1412.6980), in one pass over the array."""
        beta_1, beta_2 = self._betas
        tf.raw_ops.ResourceApplyAdam(
            var=self.weights[name].handle,
            m=self.first_moments[name].handle,
            v=self.second_moments[name].handle,
            beta1_power=beta_1**count,
            beta2_power=beta_2**count,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=EPSILON,
            grad=gradient,
        )

    def _apply_muon(self, gradients: Mapping[str, tf.Tensor], rate: tf.Tensor) -> None:
        """Muon with Nesterov's momentum."""
        table = network.layers(self.config)
        transposed = {name: table[name.rpartition("/")[0]].transposed for name in self.muon}
        matrices = []
        for name in self.muon:
            moment, gradient = self.first_moments[name], (1.0 - MOMENTUM) * gradients[name]
            moment.assign(MOMENTUM * moment + gradient)
            matrices.append(as_matrices(MOMENTUM * moment + gradient, transposed[name]))
        for name, direction in zip(self.muon, orthogonalise(*matrices), strict=True):
            weight = self.weights[name]
            weight.assign_sub(rate * as_kernels(direction, weight.shape, transposed[name]))


def as_matrices(kernels: tf.Tensor, transposed: bool) -> tf.Tensor:
    """Stacked kernels as matrices from inputs to outputs, (copies, taps * inputs, outputs).

    Args:
      kernels: (copies, rows, columns, inputs, outputs), or (copies, inputs, outputs).
      transposed: whether inputs and outputs are exchanged, as in a transposed convolution.
    """
    if transposed:
        kernels = tf.linalg.matrix_transpose(kernels)
    return tf.reshape(kernels, [kernels.shape[0], -1, kernels.shape[-1]])


def as_kernels(matrices: tf.Tensor, shape: tf.TensorShape, transposed: bool) -> tf.Tensor:
    """The inverse of `as_matrices`, for kernels of the given shape."""
    if not transposed:
        return tf.reshape(matrices, shape)
    *rest, outputs, inputs = shape
    return tf.linalg.matrix_transpose(tf.reshape(matrices, [*rest, inputs, outputs]))


@functools.partial(tf.function, jit_compile=True, autograph=False)
def orthogonalise(*matrices: tf.Tensor) -> list[tf.Tensor]:
    """For each matrix roughly the nearest one with orthonormal columns; its singular values are 0.7 to 1.2.

    A singular value below 0.003 of the matrix's Frobenius norm stays below 0.7: it is multiplied by about 500.

    Args:
      matrices: float32, (copies, rows, columns) each, with at least as many rows as columns.
    """
    # The scale of a matrix is lost in any case; without it the squares stay within float32.
    matrices = tuple(
        matrix / tf.maximum(tf.reduce_max(tf.abs(matrix), axis=[1, 2], keepdims=True), 1e-30) for matrix in matrices
    )
    grams: dict[int, list[tf.Tensor]] = {}
    for matrix in matrices:
        grams.setdefault(matrix.shape[-1], []).append(_multiply(matrix, matrix, transpose=True))
    factors = {
        size: iter(tf.split(_factors(tf.concat(stack, axis=0)), [gram.shape[0] for gram in stack]))
        for size, stack in grams.items()
    }
    return [_multiply(matrix, next(factors[matrix.shape[-1]])) for matrix in matrices]


def _factors(grams: tf.Tensor) -> tf.Tensor:
    """The matrices by which Newton-Schulz iterations multiply matrices of these Gram matrices, (copies, size, size)."""
    a, b, c = COEFFICIENTS
    squared_norm = tf.maximum(tf.linalg.trace(grams), 1e-30)[:, tf.newaxis, tf.newaxis]
    gram, product = grams / squared_norm, None
    for iteration in range(ITERATIONS):
        # All of these are polynomials of the first Gram matrix, so they are symmetric and their order is free.
        factor = a * tf.eye(gram.shape[-1]) + b * gram + c * _multiply(gram, gram)
        product = factor * tf.math.rsqrt(squared_norm) if product is None else _multiply(product, factor)
        if iteration < ITERATIONS - 1:
            gram = _multiply(_multiply(factor, gram), factor)
    return product


def _multiply(left: tf.Tensor, right: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """The products of stacked matrices, in full float32 on a GPU too.

    TensorFloat-32, which TensorFlow's own product uses there, has errors of 0.0005, and the iterations multiply the
    errors of a Gram matrix by up to 500².

    Args:
      left: (copies, m, k), or with `transpose` (copies, k, m).
      right: (copies, k, n).
      transpose: whether to transpose `left`.
    """
    dimensions = xla_data_pb2.DotDimensionNumbers(
        lhs_batch_dimensions=[0],
        rhs_batch_dimensions=[0],
        lhs_contracting_dimensions=[1 if transpose else 2],
        rhs_contracting_dimensions=[1],
    )
    highest: Any = xla_data_pb2.PrecisionConfig(operand_precision=[xla_data_pb2.PrecisionConfig.HIGHEST] * 2)
    return xla.dot_general(left, right, dimensions, highest)
