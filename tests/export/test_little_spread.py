"""A model whose outputs hardly differ from image to image: parity may fail, and the file is not called wrong."""

import numpy as np
import pytest
from tests.export.test_parity import BATCHES, FP32, IMAGES, linear

from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.golden import GoldenVectors
from byolt_export.proof.measures import spread
from byolt_export.proof.parity import prove
from byolt_export.proof.report import Parity
from byolt_export.proof.task import Gallery

ERROR = 5e-5  # Of an output's length: half of what fp32 may err.


def model(images: Images, common: float) -> Outputs:
    """What tells images apart, of length about 1 an output, on top of what all have in common."""
    return (linear(images) / 1000 + np.float32(common)).astype(np.float32)


def proven(common: float, error: float = ERROR, gallery: bool = False) -> Parity:
    return proven_of(model(IMAGES, common), error, model(IMAGES, common) * np.float32(1.01) if gallery else None)


def proven_of(reference: Outputs, error: float, in_gallery: Outputs | None = None, logits: bool = False) -> Parity:
    """A file whose every output is off by a share of its length, at right angles as likely as not."""
    sides = np.random.default_rng(5).normal(size=reference.shape)
    sides *= error * np.linalg.norm(reference, axis=1, keepdims=True) / np.linalg.norm(sides, axis=1, keepdims=True)
    by_image = {image.tobytes(): row for image, row in zip(IMAGES, reference + sides, strict=True)}

    def run(images: Images) -> Outputs:
        return np.stack([by_image[image.tobytes()] for image in images]).astype(np.float32)

    controls = {} if logits else {"shuffled_rows": np.roll(reference, 1, axis=0)}
    golden = GoldenVectors(IMAGES, reference, controls)
    among = None if in_gallery is None else Gallery(IMAGES, in_gallery)
    return prove(run, golden, gates=FP32, batches=BATCHES, logits=logits, gallery=among)


def test_spread_by_hand() -> None:
    # (3, 0), (-3, 0): all of the length lies apart. (4, 3), (4, -3): mean (4, 0), 3 of 5 apart.
    assert spread(np.array([[3, 0], [-3, 0]], np.float32)) == pytest.approx(1)
    assert spread(np.array([[4, 3], [4, -3]], np.float32)) == pytest.approx(0.6)
    assert spread(np.full((5, 4), 2, np.float32)) == spread(np.zeros((5, 4), np.float32)) == 0
    # The median is (3, 4): distances 1, 0, 2, 1 and 5, lengths sqrt(20), 5, sqrt(13), sqrt(32), and 10.
    rows = np.array([[2, 4], [3, 4], [3, 2], [4, 4], [6, 8]], np.float32)
    assert spread(rows) == pytest.approx(1 / 5)
    # One far off does not make a crowd in one point more: about the mean it would be 0.15.
    assert spread(np.array([[4, 0]] * 4 + [[4, 3]], np.float32)) == 0


def test_an_exact_file_of_a_model_that_tells_nothing_apart_is_not_blamed() -> None:
    assert proven(common=0).verdict == "passed"
    parity = proven(common=100)
    assert parity.verdict == "failed"
    (reason,) = parity.reasons
    assert reason.startswith("the model is at fault and not the file, which errs by 5e-05 of an output")
    assert "BatchNorm statistics that lag behind" in reason


CROWD = np.full((len(IMAGES), 6), 3.0, np.float32)


@pytest.mark.parametrize("error", [1e-7, 1e-6, ERROR])
def test_every_kind_of_collapse_is_called_that(error: float) -> None:
    """The same for every image; to a hair; but for a few images; and of classes."""
    noise = np.random.default_rng(6).normal(size=CROWD.shape).astype(np.float32)
    few = CROWD.copy()
    few[:3] = -noise[:3]
    collapsed = [
        proven_of(CROWD, error),
        proven_of(CROWD + 1e-6 * noise, error),
        proven_of(few + 1e-4 * noise, ERROR),  # At less it passes: the few tell the wrong model, the rest are ties.
        proven_of(CROWD + 1e-4 * noise, ERROR, logits=True),
    ]
    for parity in collapsed:
        assert parity.verdict == "failed"
        (reason,) = parity.reasons
        assert reason.startswith("the model is at fault and not the file")


def test_outputs_that_are_all_0_are_of_the_model() -> None:
    (reason,) = proven_of(np.zeros_like(CROWD), 0.0).reasons
    assert reason.startswith("the model is at fault and not the file, which errs by 0 of an output's length")


def test_classes_that_no_float_tells_apart_are_kept() -> None:
    """Logits all alike but for rounding: any of them is the largest."""
    parity = proven_of(np.tile(np.float32([5, 5, 5, -5]), (len(IMAGES), 1)), 1e-7, logits=True)
    assert parity.golden is not None
    assert parity.golden.top_1_agreement == 1


def test_a_file_that_errs_by_more_than_it_may_is_blamed_whatever_the_model() -> None:
    for parity in (proven(common=100, error=2e-4), proven(common=100, gallery=True), proven(common=0, error=2e-4)):
        assert parity.verdict == "failed"
        assert not any("the model is at fault" in reason for reason in parity.reasons)
