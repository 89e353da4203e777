"""What kind of place a setting names: which drawings there are, and where their pixels are read."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.quickdraw.images import Source
from stages.quickdraw.mirrors import Doodles, Folder, Mirror
from stages.quickdraw.prepared import Prepared
from stages.quickdraw.remote import Remote

DOODLES = "doodles"


def open_mirror(address: str, root: Path) -> Mirror:
    """The mirror at `address`: `doodles`, a URL, or a folder, relative to `root`."""
    if address == DOODLES:
        return Doodles()
    scheme, separator, _ = address.partition("://")
    if not separator:
        return Folder(root / Path(address).expanduser())
    if scheme == "file":
        return Folder(Path(unquote(urlsplit(address).path)))
    return Remote(address)


def open_source(mirror: Mirror, source: str, data_dir: str, root: Path) -> Source:
    """Where the pixels of a mirror's drawings are read: at the `mirror` itself, or where `tfds` has prepared them."""
    return mirror if source == "mirror" else Prepared(root / Path(data_dir).expanduser(), mirror.counts())
