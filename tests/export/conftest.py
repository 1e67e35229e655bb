from pathlib import Path

import pytest
from tests.export import small

from byolt_export.proof.report import Report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The small encoder's bundle; tests that change it copy it first."""
    return small.build(tmp_path_factory.mktemp("export") / "bundle", precisions=("fp32", "fp16"))


@pytest.fixture
def bundle(report: Report) -> Path:
    return report.path
