"""What the HTML pages share: rendering a template, embedding images, and formatting settings."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def render(
    template: Path,
    style: Path,
    script: Path | None = None,
    filters: Mapping[str, Callable[..., object]] = {},
    lengths: Mapping[str, str] = {},
    **values: object,
) -> str:
    """Render a page as one HTML file that loads nothing else.

    Values are escaped, and every variable of the template must have a value. A content security policy allows only
    this style and this script, by their hashes, and images embedded in the page.

    Args:
      template: the Jinja template. It includes `head.html`.
      style, script: files whose text becomes the variables `style` and `script`.
      filters: functions that the template can use as filters, by name.
      lengths: variables of the style, by name without the dashes. The policy forbids `style` attributes.
      values: the template's other variables.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    texts = [file.read_text(encoding="utf-8") if file else "" for file in (style, script)]
    if lengths:
        texts[0] += ":root { " + " ".join(f"--{name}: {length};" for name, length in lengths.items()) + " }\n"
    style_hash, script_hash = map(_csp_hash, texts)
    return environment.get_template(template.name).render(
        style=Markup(texts[0]), style_hash=style_hash, script=Markup(texts[1]), script_hash=script_hash, **values
    )


def _csp_hash(text: str) -> str:
    """The hash that allows a style or a script in a content security policy."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def data_uri(drawing: npt.NDArray[np.uint8]) -> str:
    """An image, (height, width) or (height, width, channels), as a PNG data URI."""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(drawing).save(png, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")


def shown_size(height: int, width: int, target: int) -> str:
    """The width at which to show a drawing in a square of `target` pixels: a whole multiple of its own, if it fits.

    Then all pixels of the drawing have the same size on the screen.
    """
    side = max(height, width)
    factor = target // side or target / side
    return f"{round(width * factor, 2):g}px"


def format_setting(value: object) -> str:
    """A setting's value as in params.yaml, with a list in one line, and a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
