"""A folder of `<class>.npy` files that is written picture by picture, so that its memory does not grow with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.importing.options import PictureError
from stages.quickdraw.contact_sheet import SHOWN
from stages.quickdraw.labels import check_name
from stages.quickdraw.npy_header import MAX_SIDE, MIN_SIDE, RENDERED_BYTES, describe_shape, render

Images = npt.NDArray[np.uint8]
MAX_CLASSES = 10_000
AT_ONCE = 256  # pictures of a class that are written together


class Writer:
    """Appends pictures to the files of their classes.

    Args:
      folder: an empty folder.

    Attributes:
      counts: the number of pictures of each class.
      shape: height, width and channels of all pictures; None before the first.
      first: the first pictures of each class, for the contact sheet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, list[Images]] = {}  # not written yet, so that a file is not opened for each picture
        self.counts: dict[str, int] = {}
        self.shape: tuple[int, int, int] | None = None
        self.first: dict[str, list[Images]] = {}
        self._ink = 0.0

    @property
    def ink(self) -> float:
        """The mean of all values, from 0 to 1."""
        return self._ink / max(1, sum(self.counts.values()))

    def add(self, name: str, images: Images, source: str) -> None:
        """Append pictures of a class.

        Args:
          name: the class.
          images: (N, height, width, channels), at least one.
          source: what they are from, for errors.

        Raises:
          PictureError: the name cannot be that of a class, or the pictures have another shape than those before.
        """
        try:
            name = check_name(name)
        except ValueError as error:
            raise PictureError(f"{source}: {error}") from None
        shape = height, width, channels = images.shape[1:]
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
            raise PictureError(
                f"{source}: pictures of {height}×{width} pixels; expected: {MIN_SIDE} to {MAX_SIDE} each way; choose "
                "a size, as with --size 28"
            )
        if self.shape is not None and self.shape != shape:
            raise PictureError(
                f"{source}: pictures of {describe_shape(shape)}, where those before are of "
                f"{describe_shape(self.shape)} (--size 28 gives all one size, --grey one kind)"
            )
        if name not in self.counts and len(self.counts) == MAX_CLASSES:
            raise PictureError(f"{source}: more than {MAX_CLASSES:,} classes")
        self.shape = (height, width, channels)
        waiting = self._waiting.setdefault(name, [])
        waiting.append(images)
        if sum(map(len, waiting)) >= AT_ONCE or len(waiting) >= AT_ONCE:
            self._write(name)
        self.counts[name] = self.counts.get(name, 0) + len(images)
        shown = self.first.setdefault(name, [])
        shown.extend(images[: SHOWN - len(shown)])
        self._ink += float(images.mean(dtype=np.float64)) / 255 * len(images)

    def finish(self) -> None:
        """Write the headers, for which the number of pictures must be known."""
        assert self.shape is not None
        for name, count in self.counts.items():
            self._write(name)
            with open(self._path(name), "r+b") as file:
                file.write(render(count, self.shape))

    def _write(self, name: str) -> None:
        path = self._path(name)
        with open(path, "ab") as file:
            if not file.tell():
                file.write(bytes(RENDERED_BYTES))
            for images in self._waiting.pop(name, []):
                file.write(np.ascontiguousarray(images).data)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"
