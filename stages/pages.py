"""What the pages for the browser share: their templates, the policy that guards them, and how values stand in them."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from jinja2 import Environment

# The best there is of measures of which less is better, and which chance takes below it: guessing is right half of the
# time, and the unbiased distance of two sets that do not differ scatters around none.
PERFECT = {"told_apart": 0.5, "kernel_distance": 0.0}


def environment(folder: Path) -> Environment:
    """The templates of a folder: whatever they are given is escaped, and none of it may be missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def policy_hash(text: str) -> str:
    """How a content-security policy names a style or a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def data_uri(drawing: npt.NDArray[np.uint8]) -> str:
    """A picture, (height, width) or (height, width, channels), as the address of a PNG that holds itself."""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(drawing).save(png, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")


def as_written(value: object) -> str:
    """A setting's value the way that params.yaml writes it, a list in one line; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def cost(measure: str, better: str, value: float, reference: float) -> float:
    """A measure's value as a number of which less is better, however `better` counts; NaN where it is not known."""
    if better == "more":
        return -value
    return max(value, PERFECT.get(measure, -math.inf)) if better == "less" else abs(value - reference)
