"""What kind of place a setting names: which drawings there are, and where their pixels are read."""

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
    """Where the pixels of a mirror's drawings are read: at the `mirror` itself, or where `tfds` has prepared them."""
    return mirror if source == "mirror" else PreparedDataset(_folder("data_dir", data_dir, root), mirror.counts())


def _folder(setting: str, place: str, root: Path) -> Path:
    """The folder that a setting names, relative to `root`."""
    try:
        return root / Path(place).expanduser()
    except RuntimeError:
        where = f"{one_line(place)} starts at the home of a user"
        raise SettingsError(f"{setting}: {where} who is not known here") from None
