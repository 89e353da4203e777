"""Opens the mirror and the source of pixels that the settings name."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.common.errors import SettingsError, one_line
from stages.quickdraw.images import Source
from stages.quickdraw.labels import DOODLES
from stages.quickdraw.mirrors import Doodles, Folder, Mirror
from stages.quickdraw.remote import Remote
from stages.quickdraw.tfds import PreparedDataset


def open_mirror(address: str, root: Path) -> Mirror:
    """The mirror at `address`: `doodles`, a URL, or a folder, relative to `root`."""
    if address == DOODLES:
        return Doodles()
    scheme, separator, _ = address.partition("://")
    if not separator:
        return Folder(_folder("mirror", address, root))
    if scheme == "file":
        return Folder(Path(unquote(urlsplit(address).path)))
    return Remote(address)


def open_source(mirror: Mirror, source: str, data_dir: str, root: Path) -> Source:
    """The source of the pixels of a mirror's drawings.

    Args:
      source: `mirror` for the mirror itself, or `tfds` for a dataset that TensorFlow Datasets has prepared.
      data_dir: the folder of that dataset, relative to `root`.
    """
    return mirror if source == "mirror" else PreparedDataset(_folder("data_dir", data_dir, root), mirror.counts())


def _folder(setting: str, path: str, root: Path) -> Path:
    """The folder that a setting names, relative to `root`."""
    try:
        return root / Path(path).expanduser()
    except RuntimeError:
        raise SettingsError(f"{setting}: {one_line(path)} is in the home folder of an unknown user") from None
