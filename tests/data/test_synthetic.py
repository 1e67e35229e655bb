import hashlib

import numpy as np
import pytest

from byolt.data.synthetic import CLASSES, SyntheticSource, draw


# SHA-256 of images 0 to 15 one after the other: two of each class. Never regenerated to make a test pass: a changed
# pixel is a new VERSION of the set, and metrics on it are not comparable.
@pytest.mark.parametrize(
    ("split", "size_px", "digest"),
    [
        ("train", 32, "0a7de36b883a6393cad24ba4963b42112f4efae21ce968038e0ac4d9a309bc3d"),
        ("train", 48, "941bba2598fd634fb29187b4ac1eb06667845b3c65dece837fbe37cf5aa63cab"),
        ("test", 32, "b4074cc12dd01ed3efbc95ed45f99ff730541e653a736d1fad23941a997b99c9"),
        ("test", 48, "d80a3d9d84c5ba8c57f39fcf92eeebd9503dc6e65538a2e22a27f8c3fc054e10"),
    ],
)
def test_the_set_is_frozen(split: str, size_px: int, digest: str) -> None:
    pixels = b"".join(draw(split, k, size_px).tobytes() for k in range(16))
    assert hashlib.sha256(pixels).hexdigest() == digest


def test_an_image_depends_on_nothing_but_its_key() -> None:
    few, many = SyntheticSource("train", 64, 24), SyntheticSource("train", 6000, 24)
    later = many.read(40)
    few.read(3)
    np.testing.assert_array_equal(few.read(40), later)
    assert few.fingerprint != many.fingerprint
    assert few.fingerprint != SyntheticSource("train", 64, 25).fingerprint
    assert few.fingerprint != SyntheticSource("test", 64, 24).fingerprint
    assert few.fingerprint == SyntheticSource("train", 64, 24).fingerprint


def test_classes_take_turns() -> None:
    source = SyntheticSource("test", 20, 16)
    assert source.labels is not None
    assert source.labels.tolist() == [*range(8), *range(8), *range(4)]
    assert source.classes == CLASSES


def test_pixels_and_colours_say_little_about_the_class() -> None:
    # Chance is 1/8. A learned encoder is judged against these baselines, so they must stay low.
    train = np.stack([draw("train", k, 16) for k in range(1600)]).reshape(1600, -1).astype(np.float64)
    test = np.stack([draw("test", k, 16) for k in range(400)]).reshape(400, -1).astype(np.float64)

    def nearest(gallery: np.ndarray, queries: np.ndarray) -> float:
        distances = (gallery**2).sum(1) - 2 * queries @ gallery.T
        return float((distances.argmin(1) % 8 == np.arange(400) % 8).mean())

    def colours(images: np.ndarray) -> np.ndarray:
        values = images.reshape(len(images), -1, 3)
        return np.concatenate([values.mean(1), values.std(1)], axis=1)

    assert nearest(train, test) < 0.25
    assert nearest(colours(train), colours(test)) < 0.3
