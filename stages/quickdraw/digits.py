"""The 1,797 handwritten digits that scikit-learn ships: real drawings of 8×8 pixels, without a network."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

IMAGE_SHAPE = (8, 8, 1)
WHITE = 16  # the value of full ink


@functools.cache
def drawings() -> dict[str, npt.NDArray[np.uint8]]:
    """The digits of each class, "0" to "9", as (N, 64) with values from 0 to 255."""
    from sklearn.datasets import load_digits

    values, classes = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(values) * (255 / WHITE)).astype(np.uint8)
    return {str(digit): pixels[classes == digit] for digit in range(10)}
