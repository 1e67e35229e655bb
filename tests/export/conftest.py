import shutil
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from tests.export import small

from byolt_export.proof.report import Report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The small encoder's bundle; tests that change it copy it first."""
    return small.build(tmp_path_factory.mktemp("export") / "bundle", precisions=("fp32", "fp16"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Arguments of other types than the annotated ones reach the code, as they do outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def bundle(report: Report) -> Path:
    return report.path


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))
