"""The synthetic inspection set: defects on textured parts, drawn by numpy alone.

What varies, and who can undo it: light (gradient, vignette, shadow), colours, polarity and strength of the defect,
position and scale dominate the pixels, and the two views randomise them; texture, rotation of the part, clutter and
sensor noise are nuisances that no view undoes. The class is the shape of a defect that is repeated over the whole
part, so two crops of an image share it, while pixels, colours and an untrained encoder say little about it.

Frozen: an image is a function of (VERSION, split, index, size) and a test holds digests. They are the same on every
machine by construction: raw Philox bits, then float64 and only operations that IEEE 754 rounds exactly (+ - * / sqrt,
floor, minimum, maximum), one array operation each, and no sum or product over an axis, whose order could differ.
Hence triangle waves in place of sines, and rotations from rational points of the circle.
"""

import hashlib

import numpy as np
import numpy.typing as npt

VERSION = 1  # Any change of a pixel is a new version, and new digests in the test.
CLASSES = ("none", "scratch", "dent", "ring", "crack", "chip", "spots", "hatch")
SPLITS = ("train", "test")  # Each draws from its own key, so the two never share an image.
TEST_IMAGES = 2000

Field = npt.NDArray[np.float64]
"""One value a pixel, (S, S), or one an element and pixel, (K, S, S)."""


class SyntheticSource:
    """One split of the synthetic inspection set, as an ``ImageSource``; classes take turns, image by image."""

    def __init__(self, split: str, images: int, size_px: int) -> None:
        """Draw ``images`` images of ``size_px`` pixels a side; split is ``train`` or ``test``."""
        self.split, self.size_px, self._images = split, size_px, images
        self.name = f"synthetic {split} set"
        self.classes: tuple[str, ...] = CLASSES
        self.labels: npt.NDArray[np.int64] | None = np.arange(images, dtype=np.int64) % len(CLASSES)
        key = f"byolt synthetic {VERSION} {split} {images} {size_px}"
        self.fingerprint = self.cache_key = hashlib.sha256(key.encode()).hexdigest()

    def __len__(self) -> int:
        return self._images

    def digest(self, index: int) -> bytes:
        """Empty: the fingerprint says all that an image is drawn from."""
        return b""

    def path(self, index: int) -> str:
        """What to call image ``index`` in a message."""
        return f"{self.name}, image {index}"

    def read(self, index: int, at_least_px: int | None = None) -> npt.NDArray[np.uint8]:
        """Draw image ``index``: uint8 RGB (S, S, 3), S the size of this source whatever is asked for."""
        return draw(self.split, index, self.size_px)


class Draws:
    """Uniform numbers of one image, in a fixed order, from raw Philox bits keyed by (VERSION, split, index)."""

    def __init__(self, split: str, index: int) -> None:
        self._bits = np.random.Philox(key=np.array([VERSION * 16 + SPLITS.index(split), index], np.uint64))

    def many(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Field:
        """Numbers in [low, high)."""
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(11)
        unit: Field = raw.astype(np.float64) * 2.0**-53
        return (unit * (high - low) + low).reshape(shape)

    def one(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return float(self.many(1, low=low, high=high)[0])

    def turn(self) -> tuple[float, float]:
        """Cosine and sine of an angle, nearly uniform: a rational point within 45 degrees, and a quadrant."""
        t = self.one(-0.4142, 0.4142)
        x, y = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return ((x, y), (-y, x), (-x, -y), (y, -x))[int(self.one(0, 4))]


def draw(split: str, index: int, size_px: int) -> npt.NDArray[np.uint8]:
    """Image ``index`` of a split: uint8 RGB (size_px, size_px, 3); its class is ``index % len(CLASSES)``."""
    draws = Draws(split, index)
    axis = (2.0 * np.arange(size_px) + 1 - size_px) / size_px
    x, y = np.meshgrid(axis, axis)  # -1 to 1 over the image
    cos, sin = draws.turn()
    scale = draws.one(0.95, 1.3)
    dx, dy = x - draws.one(-0.15, 0.15), y - draws.one(-0.15, 0.15)
    p, q = (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale  # -1 to 1 over the part
    part = _inside(np.maximum(np.abs(p), np.abs(q)) - 1, 0.05)

    surface = 1 + draws.one(0.04, 0.16) * _texture(draws, p, q)
    defect = DEFECTS[CLASSES[index % len(CLASSES)]](draws, p, q)
    strength = draws.one(0.22, 0.5) * (1 if draws.one() < 0.5 else -1)
    tint = draws.many(3, low=0.6, high=1.0)
    part_colour = _colour(draws)
    background = _colour(draws)[:, None, None] * (1 + draws.one(0.1, 0.4) * _grain(draws, x, y, cells=5))
    foreground = part_colour[:, None, None] * surface + (strength * tint)[:, None, None] * defect
    image = (background + part * (foreground - background)) * _light(draws, x, y)
    image = image + draws.one(0.01, 0.05) * (draws.many(3, size_px, size_px) - draws.many(3, size_px, size_px))
    return np.floor(np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()


def _inside(distance: Field, softness: float) -> Field:
    """1 where the signed distance is well below 0, 0 well above, a ramp of width ``softness`` between."""
    return np.clip(0.5 - distance / softness, 0.0, 1.0)


def _wave(t: Field) -> Field:
    """Triangle wave of period 1, from -1 to 1."""
    return 4 * np.abs(t - np.floor(t) - 0.5) - 1


def _length(a: Field, b: Field) -> Field:
    return np.sqrt(a * a + b * b)


def _colour(draws: Draws) -> Field:
    """RGB of a material: some grey level and some hue around it."""
    return draws.one(0.3, 0.7) + draws.many(3, low=-0.2, high=0.2)


def _grain(draws: Draws, a: Field, b: Field, cells: int) -> Field:
    """Smooth noise from -1 to 1: random values on a lattice of ``cells`` a unit, blended between its points."""
    lattice = draws.many(16, 16, low=-1.0, high=1.0)
    column, row = np.floor(a * cells), np.floor(b * cells)
    s, t = a * cells - column, b * cells - row
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    i, j = row.astype(np.int64) % 16, column.astype(np.int64) % 16
    below, right = (i + 1) % 16, (j + 1) % 16
    top = lattice[i, j] * (1 - s) + lattice[i, right] * s
    bottom = lattice[below, j] * (1 - s) + lattice[below, right] * s
    return top * (1 - t) + bottom * t


def _texture(draws: Draws, p: Field, q: Field) -> Field:
    """The part's surface, from -1 to 1: brushed, woven, grainy or dotted; fine and faint beside defects."""
    family = int(draws.one(0, 4))
    if family == 0:  # brushed: noise stretched along the part
        return _grain(draws, p * 0.15, q, cells=9)
    if family == 1:  # woven: over and under
        return _wave(p * 4) * _wave(q * 4)
    if family == 2:  # grainy
        return _grain(draws, p, q, cells=8)
    return 2 * _inside(_length(_wave(p * 3.5), _wave(q * 3.5)) - 0.6, 0.4) - 1  # dotted


def _light(draws: Draws, x: Field, y: Field) -> Field:
    """Brightness of the light at each pixel: level, gradient, vignette, and the edge of a shadow."""
    cos, sin = draws.turn()
    level = draws.one(0.6, 1.25) + draws.one(0.0, 0.4) * (cos * x + sin * y)
    vignette = 1 - draws.one(0.0, 0.2) * (x * x + y * y)
    cos, sin = draws.turn()
    shadow = 1 - draws.one(0.0, 0.5) * _inside(cos * x + sin * y - draws.one(-0.9, 0.9), draws.one(0.2, 1.0))
    return level * vignette * shadow


def _scatter(draws: Draws, p: Field, q: Field, per_side: int) -> tuple[Field, Field]:
    """Offsets (K, S, S) from K = per_side**2 centres, each near the middle of a cell of a grid on the part."""
    k = np.arange(per_side * per_side)
    shift = draws.many(2, len(k), low=0.25, high=0.75)
    a = (k % per_side + shift[0]) * (2 / per_side) - 1
    b = (k // per_side + shift[1]) * (2 / per_side) - 1
    return p - a[:, None, None], q - b[:, None, None]


def _lines(draws: Draws, p: Field, q: Field, half_width: float) -> Field:
    """Long straight lines, nearly parallel."""
    t = draws.one(0.0, 1.0)
    nearest = np.minimum.reduce(
        [np.abs(q + draws.one(-0.2, 0.2) * p - (-0.9 + 0.45 * (k + t) + draws.one(-0.08, 0.08))) for k in range(4)]
    )
    return _inside(nearest - half_width, 0.08)


def _none(draws: Draws, p: Field, q: Field) -> Field:
    """No defect."""
    return np.zeros_like(p)


def _scratch(draws: Draws, p: Field, q: Field) -> Field:
    """Scratches: straight lines in one direction."""
    return _lines(draws, p, q, draws.one(0.04, 0.07))


def _dent(draws: Draws, p: Field, q: Field) -> Field:
    """Dents: discs in relief, bright on one side and dark on the other."""
    a, b = _scatter(draws, p, q, 3)
    cos, sin = draws.turn()
    radius = draws.one(0.22, 0.3)
    bowl = _inside(_length(a, b) - radius, 0.08) * (cos * a + sin * b) / radius
    relief: Field = np.maximum.reduce(bowl) + np.minimum.reduce(bowl)
    return 1.3 * relief


def _ring(draws: Draws, p: Field, q: Field) -> Field:
    """Stains that dried from the outside: rings."""
    a, b = _scatter(draws, p, q, 3)
    radius = draws.one(0.19, 0.26)
    return _inside(np.minimum.reduce(np.abs(_length(a, b) - radius)) - draws.one(0.04, 0.07), 0.08)


def _crack(draws: Draws, p: Field, q: Field) -> Field:
    """Cracks: jagged lines."""
    period, height, half_width = draws.one(1.2, 1.8), draws.one(0.14, 0.2), draws.one(0.04, 0.07)
    nearest = np.minimum.reduce(
        [
            np.abs(q - height * _wave(p * period + draws.one()) - (-0.75 + 0.5 * k + draws.one(-0.08, 0.08)))
            for k in range(4)
        ]
    )
    return _inside(nearest * 0.75 - half_width, 0.08)  # 0.75: a steep line is nearer than its height says


def _chip(draws: Draws, p: Field, q: Field) -> Field:
    """Chipped places: filled triangles."""
    a, b = _scatter(draws, p, q, 3)
    size = draws.one(0.13, 0.18)
    return _inside(np.minimum.reduce(np.maximum(np.abs(a) * 0.87 + b * 0.5, -b) - size), 0.08)


def _spots(draws: Draws, p: Field, q: Field) -> Field:
    """Burrs: many small spots."""
    a, b = _scatter(draws, p, q, 6)
    return _inside(np.minimum.reduce(_length(a, b)) - draws.one(0.06, 0.1), 0.08)


def _hatch(draws: Draws, p: Field, q: Field) -> Field:
    """A misprint: lines in two directions."""
    half_width = draws.one(0.03, 0.06)
    return np.maximum(_lines(draws, p, q, half_width), _lines(draws, q, p, half_width))


DEFECTS = {
    "none": _none,
    "scratch": _scratch,
    "dent": _dent,
    "ring": _ring,
    "crack": _crack,
    "chip": _chip,
    "spots": _spots,
    "hatch": _hatch,
}
