"""The charts of the report: SVG elements made with matplotlib."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.outputs.losses import Loss
from stages.reporting.metric_values import format_share

if TYPE_CHECKING:
    from markupsafe import Markup

COLOUR_MAP = "viridis"
MAX_CLASS_NAMES = 24  # a confusion matrix of more classes has no room for names


def loss_curve(loss: Sequence[Loss]) -> Markup:
    """The losses by drawings seen. The SVG ids of the lines are `loss-train-line` and `loss-heldout-line`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    finite = [row for row in loss if math.isfinite(row.bits_per_dim)]
    with _figure((5.2, 3.2)) as figure:
        axes = figure.add_axes((0.085, 0.155, 0.895, 0.755))
        for split, name, style in (
            ("train", "training", {"linewidth": 1.0}),
            ("heldout", "held out", {"linewidth": 1.6, "marker": "o", "markersize": 3.6}),
        ):
            points = [row for row in finite if row.split == split]
            seen, bits = [row.drawings for row in points], [row.bits_per_dim for row in points]
            axes.plot(seen, bits, color="black", label=name, gid=f"{split}-line", **style)
        # The first losses are so high that they would flatten the rest of the curve. The axis does not include them.
        late = [row.bits_per_dim for row in finite if row.drawings * 20 >= finite[-1].drawings]
        if late:
            margin = 0.08 * (max(late) - min(late)) or 0.1
            axes.set_ylim(min(late) - margin, max(late) + margin)
        axes.margins(x=0.012)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", color="black", linewidth=0.8)
        for number, line in enumerate(axes.get_ygridlines()):
            line.set_gid(f"grid-{number}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, pad=5)
        axes.set_title("bits per dimension", loc="left", fontsize=11, x=-0.09)
        axes.set_xlabel("drawings seen", loc="right", labelpad=2)
        legend = axes.legend(loc="upper right", frameon=False, handlelength=1.6)
        for handle, split in zip(legend.get_lines(), ("train", "heldout"), strict=True):
            handle.set_gid(f"{split}-key")
        return _svg(figure, "loss")


def confusion(shares: npt.NDArray[np.float64], names: Sequence[str]) -> Markup:
    """The confusion matrix of requested classes (rows) and predicted classes (columns), in shares of a row."""
    with _figure((4.9, 4.9)) as figure:
        axes = figure.add_axes((0.3, 0.08, 0.57, 0.57))
        # An image: as shapes, the cells of 345 classes would take 17 MB.
        mesh = axes.imshow(shares, cmap=COLOUR_MAP, vmin=0, vmax=1, interpolation="none")
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=3)
        axes.spines[:].set_visible(False)
        if len(names) <= MAX_CLASS_NAMES:
            middles = np.arange(len(names))
            axes.set_xticks(middles, [_shorten(name) for name in names], rotation=90)
            axes.set_yticks(middles, [_shorten(name) for name in names])
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        axes.set_xlabel("predicted class")  # below the matrix; the names are above it
        axes.set_ylabel("requested class")
        axes.yaxis.set_label_coords(-0.48, 0.5)
        bar = figure.colorbar(
            mesh, cax=figure.add_axes((0.89, 0.29, 0.025, 0.36)), ticks=[0, 0.5, 1], format=lambda x, _: format_share(x)
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.ax.text(0, -0.06, "share\nof row", transform=bar.ax.transAxes, verticalalignment="top")
        return _svg(figure, "confusion")


def heat_scale(pixel_bits: npt.NDArray[Any]) -> float:
    """The value of the brightest colour of heat maps: the 99th percentile of the pixels."""
    return float(np.quantile(pixel_bits, 0.99)) or 1.0


def heat_map(pixel_bits: npt.NDArray[Any], maximum: float) -> Markup:
    """A heat map of the bits of each pixel, (H, W), with a colour scale from 0 to `maximum`."""
    height, width = pixel_bits.shape
    with _figure((4.2, 3.3)) as figure:
        axes = figure.add_axes((0.12, 0.15, 0.7, 0.82))
        image = axes.imshow(pixel_bits, cmap=COLOUR_MAP, vmin=0, vmax=maximum, interpolation="none")
        axes.set_xticks([0, width - 1], ["1", str(width)])
        axes.set_yticks([0, height - 1], ["1", str(height)])
        axes.set_xlabel("column", labelpad=-10)
        axes.set_ylabel("row", labelpad=-10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, cax=figure.add_axes((0.86, 0.15, 0.035, 0.74)))
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.ax.set_title("bits", fontsize=11, loc="left")
        return _svg(figure, "heat")


def heat_image(pixel_bits: npt.NDArray[Any], maximum: float) -> npt.NDArray[np.uint8]:
    """The same heat map as an image without a scale, (H, W, 3)."""
    import matplotlib as mpl

    return np.asarray(mpl.colormaps[COLOUR_MAP](np.clip(pixel_bits / maximum, 0, 1), bytes=True)[..., :3], np.uint8)


def _shorten(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure with fixed settings, independent of the user's matplotlibrc."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",  # text stays text
                "svg.hashsalt": "report",  # the same identifiers in every run
                "text.parse_math": False,  # a class may be called "$x$"
                "font.size": 11,
                "figure.facecolor": "none",
                "axes.facecolor": "none",
                "axes.linewidth": 0.8,
            }
        )
        yield Figure(figsize=size)


def _svg(figure: Any, name: str) -> Markup:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return plain_svg(svg.getvalue(), name)


def plain_svg(document: str, name: str) -> Markup:
    """An SVG document of matplotlib as an element of the page, with `name` as the prefix of every identifier.

    The page's content security policy refuses `style` attributes, and its stylesheet sets fonts and colours. So each
    style becomes attributes, black becomes `currentColor`, and fonts, sizes and metadata are removed.
    """
    from xml.etree import ElementTree

    from markupsafe import Markup

    root = ElementTree.fromstring(document)
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        for declaration in filter(None, element.attrib.pop("style", "").split(";")):
            key, _, value = (part.strip() for part in declaration.partition(":"))
            if not key.startswith("font"):
                element.set(key, value.replace("#000000", "currentColor"))
        if reference := element.attrib.pop("{http://www.w3.org/1999/xlink}href", None):
            element.set("href", reference.replace("#", f"#{name}-", 1) if reference.startswith("#") else reference)
        for key, value in element.attrib.items():
            element.set(key, f"{name}-{value}" if key == "id" else value.replace("url(#", f"url(#{name}-"))
    del root.attrib["width"], root.attrib["height"]
    root.set("stroke-linejoin", "round")
    return Markup(re.sub(r"\s*\n\s*", " ", ElementTree.tostring(root, encoding="unicode")))
