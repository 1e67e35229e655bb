"""The guide to a new method, followed to the letter: its files alone make a method of every command."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^`([\w./-]+)`:.*?```\w+\n(.*?)```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they stand, and the guide's four files beside them."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in ("toolchain", "export"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "cpp"))
    files = dict(BLOCK.findall((ROOT / "docs" / "adding-a-method.md").read_text()))
    assert len(files) == 4
    for name, content in files.items():
        path = copy / name
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return copy


def run(checkout: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'toolchain'}:{checkout / 'export'}"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_its_recipe_is_learned_and_its_keys_are_explained(checkout: Path) -> None:
    learned = json.loads(run(checkout, "byolt", "pretrain", "recipes/invariance.yaml", "--json"))
    assert learned["learning"]["state"] in ("finished", "collapsed")
    assert "Weight of the term; the paper's lambda." in run(checkout, "byolt", "recipe", "explain", "method.weight")


def test_its_test_passes(checkout: Path) -> None:
    assert "1 passed" in run(checkout, "pytest", "-q", "-p", "no:cacheprovider", "tests/methods/test_invariance.py")
