"""Pictures as files: a folder or a zip file of class folders, one sheet of tiles, a folder of `.npy` files."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from pipeline.importing import pixels
from pipeline.importing.arrays import DAMAGE, Batch, Notify, read_npy
from pipeline.importing.options import Options, PictureError
from stages.common.errors import counted, list_names, one_line

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 64_000_000  # of a picture that is opened; a small file can claim any number
MAX_FILE_BYTES = 256 << 20

Opener = Callable[[], "io.BufferedIOBase | Path"]


def open_picture(file: object) -> pixels.Images:
    """A picture, turned as its EXIF data says, on paper, (height, width, 1 or 3). Of an animation, the first picture.

    Raises an error of any kind if it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata
        with Image.open(file, formats=FORMATS) as picture:  # type: ignore[arg-type]
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"it claims {picture.width}×{picture.height} pixels")
            turned = ImageOps.exif_transpose(picture)
            if turned.mode.startswith("I;16"):
                return pixels.rescale(np.asarray(turned), 255 / 65535, 0)[..., np.newaxis]
            grey = turned.mode in ("1", "L", "LA") or (turned.mode == "P" and _is_grey(turned))
            mode = "RGBA" if turned.has_transparency_data else "RGB"
            picture_on_paper = pixels.on_paper(np.asarray(turned.convert(mode)))
    return picture_on_paper[..., :1] if grey else picture_on_paper


def _is_grey(picture: Image.Image) -> bool:
    """Whether the colours that a picture with a palette uses are shades of grey."""
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def read_folder(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The pictures of a folder of class folders, or of one of `<class>.npy` files. Hidden files are left out."""
    files = sorted(_files(path, notify))
    arrays = [file for file in files if file.suffix == ".npy"]
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    if arrays and not pictures:
        for array in arrays:
            yield from read_npy(array, options, notify)
        return
    if not pictures:
        held = sorted({file.suffix or file.name for file in files})
        raise PictureError(
            f"{path}: it holds no pictures and no .npy files" + (f", but {list_names(held)}" * bool(held))
        )
    entries = [(PurePosixPath(file.relative_to(path)), lambda file=file: file) for file in pictures]
    yield from _pictures(str(path), entries, options, notify)


def _files(path: Path, notify: Notify) -> Iterator[Path]:
    """All files below a folder, without hidden ones and without links that lead out of it."""
    top = path.resolve()
    outside = 0
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in files:
            file = Path(folder, name)
            if name.startswith("."):
                continue
            if file.is_symlink() and not file.resolve().is_relative_to(top):
                outside += 1
            elif file.is_file():
                yield file
    if outside:
        notify(f"{counted(outside, 'link')} out of the folder left out")


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    return PurePosixPath(info.filename).parts


def read_zip(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The pictures of a zip file of class folders. Nothing is unpacked onto the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                info
                for info in archive.infolist()
                if PurePosixPath(info.filename).suffix.lower() in SUFFIXES
                and not any(part.startswith((".", "__MACOSX")) and part != ".." for part in _parts(info))
            ]
            if not members:
                raise PictureError(f"{path}: it holds no pictures")

            def opener(info: zipfile.ZipInfo) -> Opener:
                def read() -> io.BytesIO:
                    with archive.open(info) as file:
                        content = file.read(MAX_FILE_BYTES + 1)
                    if len(content) > MAX_FILE_BYTES:
                        raise ValueError("it is too large")
                    return io.BytesIO(content)

                return read

            entries = [(PurePosixPath(info.filename), opener(info)) for info in members]
            yield from _pictures(str(path), entries, options, notify)
    except DAMAGE as error:
        raise PictureError(f"{path}: it cannot be read ({one_line(error)})") from None


def _pictures(
    source: str, entries: Iterable[tuple[PurePosixPath, Opener]], options: Options, notify: Notify
) -> Iterator[Batch]:
    """The pictures of files, whose class is the folder that they are in."""
    skipped: list[str] = []
    number = 0
    for name, opener in entries:
        class_name = options.class_name or name.parent.name
        if not class_name:
            raise PictureError(
                f"{source}: {one_line(name)} is in no folder of a class; --class NAME gives all pictures one class"
            )
        try:
            picture = open_picture(opener())
        except Exception as error:  # Pillow has errors of its own for each kind of damage, and archives have theirs
            skipped.append(f"{one_line(name)} ({one_line(error)})")
            continue
        number += 1
        yield class_name, picture[np.newaxis]
    if skipped:
        text = f"{counted(len(skipped), 'picture')} left out, as they cannot be read: {', '.join(skipped[:3])}"
        if not number:
            raise PictureError(f"{source}: {text}")
        notify(text)


def read_sheet(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The tiles of one picture, all of one class."""
    if options.tile is None or options.class_name is None:
        raise PictureError(
            f"{path}: it is one picture; if it is a sheet of many, say how large each is and what they show: "
            "--tile 28x28 --class bee"
        )
    try:
        sheet = open_picture(path)
    except Exception as error:  # Pillow has errors of its own for each kind of damage
        raise PictureError(f"{path}: it cannot be read ({one_line(error)})") from None
    try:
        cut = pixels.tiles(sheet, options.tile)
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from None
    notify(f"{path.name}: {counted(len(cut), 'tile')}")
    yield options.class_name, cut
