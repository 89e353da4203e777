"""The pixels of pictures: their order and scale, paper in place of transparency, their size, grey and inverted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.importing.options import Options, PictureError

Images = npt.NDArray[np.uint8]
WHITE = 255
CHANNELS = (1, 3, 4)  # grey, colours, and colours with transparency
LUMINANCE = np.array([299, 587, 114])  # thousandths of red, green and blue in grey (ITU-R BT.601), as in Pillow


def layout(shape: Sequence[int], number: int | None = None) -> str:
    """The order of the axes of an array of pictures, such as `NHWC`; `M` is an axis of all values of a picture.

    Args:
      shape: of the array.
      number: how many pictures there are, if labels say so; None if unknown.

    Raises:
      PictureError: an array of this shape does not hold pictures.
    """
    pictures_last = number is not None and shape[0] != number and shape[-1] == number
    match len(shape):
        case 2 if _square(shape[1]):
            return "NM"
        case 3:
            return "HWN" if pictures_last else "NHW"
        case 4 if pictures_last and shape[2] in CHANNELS:
            return "HWCN"
        case 4 if shape[3] in CHANNELS:
            return "NHWC"
        case 4 if shape[1] in CHANNELS:
            return "NCHW"
    raise PictureError(
        f"it has the shape {tuple(shape)}; expected: (pictures, height, width), with 1, 3 or 4 channels before or "
        "after them, or (pictures, height × width) of squares"
    )


def _square(values: int) -> tuple[int, int] | None:
    """Side and channels of square pictures with so many values each; None if there are none."""
    for channels in (1, 3):
        side = math.isqrt(values // channels)
        if side and side * side * channels == values:
            return side, channels
    return None


def arrange(array: npt.NDArray[np.generic], order: str) -> npt.NDArray[np.generic]:
    """The pictures of an array with axes in `order` as (N, height, width, channels)."""
    if order == "NM":
        side, channels = _square(array.shape[1]) or (0, 0)
        return array.reshape(-1, channels, side, side).transpose(0, 2, 3, 1)
    if "C" not in order:
        array, order = array[..., np.newaxis], f"{order}C"
    return array.transpose([order.index(axis) for axis in "NHWC"])


def scale(dtype: np.dtype[np.generic], minimum: float, maximum: float) -> tuple[float, float, str]:
    """The factor and the summand that bring values to 0..255, and what to say of them; nothing if they are unchanged.

    Args:
      dtype: of the array.
      minimum, maximum: of its values.

    Raises:
      PictureError: the values are not those of pictures.
    """
    if not (np.isfinite(minimum) and np.isfinite(maximum)):
        raise PictureError("it has values that are not numbers")
    if dtype.kind == "b" or (minimum >= 0 and maximum <= 1):
        return 255.0, 0.0, "values from 0 to 1 became 0 to 255"
    if dtype.kind == "f" and minimum >= -1 and maximum <= 1:
        return 127.5, 127.5, "values from -1 to 1 became 0 to 255"
    if minimum >= 0 and maximum <= 16:
        return 255.0 / 16, 0.0, "values from 0 to 16 became 0 to 255"
    if minimum >= 0 and maximum <= 255:
        return 1.0, 0.0, ""
    if minimum >= 0 and maximum <= 65535 and dtype.kind in "iu":
        return 255.0 / 65535, 0.0, "values from 0 to 65535 became 0 to 255"
    raise PictureError(f"its values are from {minimum:g} to {maximum:g}; expected: 0 to 1, or 0 to 255")


def rescale(array: npt.NDArray[np.generic], factor: float, summand: float) -> Images:
    """Values times a factor plus a summand, rounded to whole numbers from 0 to 255."""
    if factor == 1 and summand == 0 and array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    values = np.rint(np.asarray(array, np.float32) * np.float32(factor) + np.float32(summand))
    return np.asarray(values.clip(0, 255), np.uint8)


def on_paper(images: Images) -> Images:
    """Pictures with an alpha channel, (N, height, width, 4), on white paper, (…, 3); others as they are."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.float32) / WHITE
    return np.rint(images[..., :3] * alpha + WHITE * (1 - alpha)).astype(np.uint8)


def prepare(images: Images, options: Options) -> Images:
    """Pictures as they are written: on paper, grey, of the chosen size, inverted, each if the options say so.

    Args:
      images: (N, height, width, 1, 3 or 4).
      options: the options.

    Returns:
      (N, height, width, 1 or 3).
    """
    images = on_paper(images)
    if images.shape[-1] == 3 and options.grey:
        images = ((images @ LUMINANCE + 500) // 1000).astype(np.uint8)[..., np.newaxis]
    if options.size is not None and images.shape[1:3] != options.size:
        images = np.stack([fit(image, options.size) for image in images])
    return WHITE - images if options.invert else images


def fit(image: Images, size: tuple[int, int]) -> Images:
    """Scale a picture into a size, without distortion, in the middle of more of its paper.

    Args:
      image: (height, width, channels). Its paper is the median colour of its edge.
      size: height and width.

    Returns:
      (*size, channels).
    """
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    canvas = np.empty((*size, image.shape[2]), np.uint8)
    canvas[:] = np.median(edge, axis=0)
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    scaled = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)).reshape(height, width, -1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = scaled
    return canvas


def tiles(sheet: Images, size: tuple[int, int]) -> Images:
    """The tiles of a sheet, row by row, without those of one colour: empty places at its end.

    Args:
      sheet: (height, width, channels).
      size: height and width of a tile.

    Returns:
      (N, *size, channels).

    Raises:
      PictureError: the sheet's sides are not multiples of the tile's.
    """
    rows, columns = sheet.shape[0] // size[0], sheet.shape[1] // size[1]
    if (rows * size[0], columns * size[1]) != sheet.shape[:2] or not rows * columns:
        raise PictureError(
            f"it has {sheet.shape[0]}×{sheet.shape[1]} pixels, which tiles of {size[0]}×{size[1]} do not fill"
        )
    cut = sheet.reshape(rows, size[0], columns, size[1], -1).swapaxes(1, 2).reshape(rows * columns, *size, -1)
    return np.asarray(cut[(cut != cut[:, :1, :1]).any(axis=(1, 2, 3))])
