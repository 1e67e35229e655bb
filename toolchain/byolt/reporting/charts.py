"""What all charts share: their style, and a drawing as one SVG file that suits a light and a dark page."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from byolt.reporting.pictures import data_uri
from byolt_export.proof.page import visible

WIDTH_IN, HEIGHT_IN = 5.0, 2.9
"""At 72 points an inch: 360 px wide, so that text has its true size on a phone and in three columns."""

# Okabe and Ito 2008, with brown and indigo for black and the yellow that white swallows: told apart by any eye.
PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#332288")
LOOKS: Final = cycler(linestyle=("solid", "dashed", "dotted")) * cycler(color=PALETTE)
"""Of the lines of a chart, one after another; the dashes have the names that CSS has for them."""
MARKS: Final = "osD^"
GREY, ALARM = "#8a8a8a", "#a80f0f"

STYLE: Final[Any] = {
    "svg.fonttype": "none",  # Text stays text: small and sharp.
    "svg.hashsalt": "byolt",  # The same figure gives the same bytes.
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "text.parse_math": False,  # A name may hold a dollar.
    "legend.frameon": False,
    "lines.markersize": 3.5,
    "axes.prop_cycle": LOOKS,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
}
# Light and dark change places, and every colour keeps its hue.
_DARK = "<style>@media (prefers-color-scheme: dark) { svg { filter: invert(.91) hue-rotate(180deg) } }</style>"


class Chart(NamedTuple):
    """A drawing with its title above and how to read it below."""

    title: str
    svg: str
    reading: str

    @property
    def source(self) -> Markup:
        """The drawing as the address of an image."""
        return data_uri(self.svg.encode(), "svg+xml")


@contextmanager
def canvas(
    width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN, rows: int = 1, **grid: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its pairs of axes, one below the other."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Of a glyph that the page's own font has, of axes of one point: a drawing of little is no fault.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure((width_in, height_in), layout="constrained")
        yield figure, list(figure.subplots(rows, squeeze=False, **grid)[:, 0])


def svg_of(figure: Figure) -> str:
    """The figure as an SVG file; to be called within its canvas."""
    file = io.StringIO()
    # No date and no version: the same run gives the same file.
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue().replace("<defs>", f"<defs>{_DARK}", 1)


def shortened(name: str, most: int = 24) -> str:
    """A name as a chart can show it: short, and without characters that cannot be seen."""
    name = str(visible(name))
    return name if len(name) <= most else name[: most - 1] + "\u2026"
