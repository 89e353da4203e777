"""Opens the source of drawings that the settings name."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.common.errors import SettingsError, one_line
from stages.quickdraw.images import Source
from stages.quickdraw.labels import DIGITS, DOODLES, TFDS, TFDS_BITMAP, is_folder, published
from stages.quickdraw.mirrors import Digits, Doodles, Folder
from stages.quickdraw.remote import Remote
from stages.quickdraw.tfds import PreparedDataset


def open_source(source: str, root: Path) -> Source:
    """Open the source that the setting `source` names. A relative folder starts at `root`."""
    if source == DOODLES:
        return Doodles()
    if source == DIGITS:
        return Digits()
    if source == TFDS_BITMAP:
        return PreparedDataset(tfds_folder(), {name: file.rows for name, file in published().items()})
    if source.startswith(TFDS):
        from stages.quickdraw.tfds_sets import TfdsSet

        return TfdsSet(source.removeprefix(TFDS), tfds_folder())
    if source.startswith("file://"):
        return Folder(Path(unquote(urlsplit(source).path)))
    return Folder(_folder(source, root)) if is_folder(source) else Remote(source)


def tfds_folder() -> Path:
    """The data directory of TensorFlow Datasets: $TFDS_DATA_DIR, or its default."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


def _folder(path: str, root: Path) -> Path:
    """The folder that the setting names, relative to `root`."""
    try:
        return root / Path(path).expanduser()
    except RuntimeError:
        raise SettingsError(f"source: {one_line(path)} is in the home folder of an unknown user") from None
