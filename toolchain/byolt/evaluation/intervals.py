"""How sure a figure is."""

import math

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


def wilson_95(accuracy: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion seen on ``n`` independent test images.

    Wilson 1927, eq. (4) of Brown, Cai and DasGupta 2001: unlike ``p -/+ z sqrt(p (1-p) / n)`` it keeps its
    coverage near 0 and 1 and for small n. It covers the draw of test images, not the seed of training.

    Args:
        accuracy: Share of correct images, in [0, 1].
        n: Number of test images, at least 1.

    Returns:
        Lower and upper end, in [0, 1].
    """
    z2 = Z_95 * Z_95
    centre = (accuracy + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + z2 / (4 * n * n))
    # In algebra the ends stay in [0, 1]; in floats they may be an ulp outside.
    return max(0.0, centre - half), min(1.0, centre + half)
