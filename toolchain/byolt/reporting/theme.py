"""The colours of charts and how a drawing takes them from the page around it.

matplotlib draws with stand-in colours; in the finished SVG each becomes ``currentColor`` or a CSS variable, so one file
reads well on a light and on a dark page.
"""

import re
from typing import Final

from markupsafe import escape

INK: Final = "#010203"
"""Stand-in for text and axes: ``currentColor``."""
FAINT: Final = "#010204"
"""Stand-in for grid lines and labels of little weight."""
ALARM: Final = "#010205"
"""Stand-in for limits."""

# Okabe and Ito 2008, without black and the yellow that white swallows: told apart with any colour vision.
PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b")
STROKES: Final = ".chart * { stroke-linejoin: round; stroke-linecap: butt }"
"""What every page with charts, and every chart that stands alone, has in its style sheet."""
DASHES: Final = ("-", "--", ":")

VARIABLES: Final = {FAINT: "--faint", ALARM: "--alarm"} | {
    colour: f"--s{number}" for number, colour in enumerate(PALETTE, start=1)
}
LIGHT: Final = {FAINT: "#8a8a8a", ALARM: "#a80f0f"} | dict(zip(PALETTE, PALETTE, strict=True))
DARK: Final = {FAINT: "#8d9299", ALARM: "#ff8a80"} | dict(
    zip(PALETTE, ("#4aa8e0", "#f0803c", "#2fc296", "#dd9fc0", "#f0b440", "#8ccdf2", "#c4a36a"), strict=True)
)


def series_style(number: int) -> tuple[str, str]:
    """Colour and dash of the ``number``-th series: colours first, then the same ones dashed."""
    return PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)]


def css_colours(colours: dict[str, str]) -> str:
    """Declarations of the variables, for a style sheet."""
    return "; ".join(f"{VARIABLES[stand_in]}: {colour}" for stand_in, colour in colours.items())


def themed(svg: str, label: str) -> str:
    """What matplotlib wrote as an ``<svg>`` for the inside of a page.

    Args:
        svg: A whole SVG file drawn in the stand-in colours, its ids salted.
        label: What the drawing shows, for those who do not see it.
    """
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", inner, flags=re.DOTALL)
    inner = inner.replace("xlink:href", "href").replace("'DejaVu Sans'", "system-ui, sans-serif")
    # Only ids that something refers to are this drawing's own; the others, such as `axes_1`, are those of every one.
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', inner))
    inner = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referred else "", inner)
    for stand_in, colour in {INK: "currentColor", **{name: f"var({own})" for name, own in VARIABLES.items()}}.items():
        inner = re.sub(rf"\b(fill|stroke): {stand_in}", rf"\1: {colour}", inner)
    inner = re.sub(r"\n\s*", "\n", inner).strip()
    head = f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="{box[1]}">'
    return f"{head}\n{inner}\n</svg>"


def standalone(svg: str) -> str:
    """A themed ``<svg>`` as a file of its own: with its colours, and a ground to stand on."""
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    _, _, width, height = box[1].split()
    style = (
        f"<style>svg {{ color: #1c1c1c; --ground: #ffffff; {css_colours(LIGHT)} }} "
        "@media (prefers-color-scheme: dark) "
        f"{{ svg {{ color: #e3e5e8; --ground: #15181c; {css_colours(DARK)} }} }} {STROKES}</style>"
        '<rect width="100%" height="100%" style="fill: var(--ground)"/>'
    )
    start = svg.index(">") + 1
    head = svg[: start - 1] + f' xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt">'
    return f"{head}\n{style}{svg[start:]}\n"
