"""Studies are tested on few test images."""

import pytest


@pytest.fixture(autouse=True)
def _few_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byolt.data.splits.TEST_IMAGES", 64)
