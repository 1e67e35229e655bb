"""What the documents say of the code is so."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import numpy as np
import pytest
import tomllib
import torch
from PIL import Image

import byolt
from byolt_export.bundle.image_input import Input
from tests.test_command_line import TINY, draw_folder, write_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
HERE = [ROOT / folder for folder in ("", "toolchain", "toolchain/byolt", "export", "export/byolt_export", "export/cpp")]
NEW = "invariance"  # The method that docs/adding-a-method.md writes.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text().partition("## Sources")[0]  # Those of docs/exporters.md are other projects'.
    roots = r"toolchain|export/(?:byolt_export|cpp)|recipes|docs|benchmarks|tests|byolt|training|networks|evaluation"
    named = re.findall(rf"`((?:{roots})/[\w./-]*)`", text)
    assert [name for name in named if NEW not in name and not any((at / name).exists() for at in HERE)] == []


def test_the_walk_from_the_command_to_the_maths_is_five_files() -> None:
    walk = re.findall(r"^\d\. `([\w./]+\.py)`", (DOCS / "reading-the-code.md").read_text(), flags=re.MULTILINE)
    assert len(walk) == 5
    assert [name for name in walk if not (ROOT / name).is_file()] == []


def prose(page: Path) -> str:
    """The page without its blocks and quoted words, in which brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What can stand behind ``#``: its headings in lower case, without punctuation, joined by hyphens."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if not path.startswith(("https://", "http://")):
            there = page.parent / path if path else page
            assert there.is_file(), target
            assert not anchor or anchor in anchors(there), target


def test_the_readmes_numbers_and_commits_stand_in_the_results() -> None:
    table = (ROOT / "README.md").read_text().partition("## What was measured")[2].partition("\n## ")[0]
    results = (DOCS / "results.md").read_text()
    said = re.findall(r"(?<![\w-])-?\d+\.\d+(?:e-\d+)?|\b(?=\w*\d)[0-9a-f]{7}\b", table)
    assert len(said) >= 30
    assert [number for number in said if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", results)] == []


def test_the_readmes_python_is_that_of_the_page_whose_lines_are_run() -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert lines.startswith("import byolt\n")
    assert [line for line in lines.splitlines() if line not in (DOCS / "python.md").read_text()] == []


def check_byolt_line(line: str) -> None:
    """The command and each of its options exist."""
    from byolt.cli import cli

    words = line.split()
    command = cli.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    if hasattr(command, "commands"):
        command = command.commands[words[2]]
        known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    blocks = "".join(re.findall(r"```(?:sh.*)?\n(.*?)```", page.read_text(), flags=re.DOTALL))
    for line in re.findall(r"^byolt [^#\n]*", blocks, flags=re.MULTILINE):
        check_byolt_line(line)


def block(page: str, first_line: str) -> str:
    """The page's block of Python that begins so."""
    (lines,) = re.findall(rf"```python\n({first_line}.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    return lines


SMALL = {"pixels": Input(size_px=32, resize="crop", max_batch=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A folder that holds ``export/encoder.onnx``, and the encoder in it."""
    from byolt.networks.encoders import build_encoder
    from byolt.recipe.model import Model
    from byolt_export.onnx.export import export_onnx

    folder = tmp_path_factory.mktemp("exported")
    model = Model(backbone="timm/resnet18", args={"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}, stem="half")
    encoder, _ = build_encoder(model, seed=0, image_size_px=32)
    (folder / "export").mkdir()
    path = folder / "export" / "encoder.onnx"
    export_onnx(encoder, path, output_name="embedding", **SMALL)
    return folder, encoder


@pytest.mark.parametrize(("height", "width"), [(60, 90), (61, 90), (90, 61), (33, 32), (32, 32), (32, 45), (29, 20)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_onnx_lines_see_the_pipelines_pixels(
    exported: tuple[Path, torch.nn.Module], monkeypatch: pytest.MonkeyPatch, height: int, width: int, orientation: int
) -> None:
    from byolt.data.decode import decode_image
    from byolt_export.onnx.reference import torch_outputs
    from byolt_export.runtime.resize import to_square

    folder, encoder = exported
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "part.png", exif=exif)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(block("own-images.md", "import numpy"), names)
    square = to_square(decode_image(folder / "part.png").pixels, 32, "crop")
    assert np.array_equal(np.asarray(names["image"]), square)
    np.testing.assert_allclose(names["embedding"], torch_outputs(encoder, square[None], **SMALL), rtol=1e-3, atol=1e-5)


def test_the_lines_load_the_weights_into_the_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    from byolt.networks.encoders import build_encoder, load_snippet
    from byolt.recipe.load import load_recipe

    model = load_recipe(ROOT / "recipes" / "stl10.yaml").model
    encoder, _ = build_encoder(model, seed=0, image_size_px=96)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block("own-images.md", "import safetensors"), names)
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(names["encoder"].eval()(images), encoder.eval()(images))
    own = load_snippet(model).replace("'", '"')  # What each run's own metadata says.
    assert own in block("own-images.md", "import safetensors")


def test_the_lines_deliver_any_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.export.small import encoder, images

    monkeypatch.chdir(tmp_path)
    frames = [images(1, 96)[0], images(1, 128, seed=7)[0, :, :104]]
    names: dict[str, Any] = {"module": encoder(), "images": images(640, 96), "frames": frames}
    exec(block("deliver.md", "from byolt_export"), names)
    assert {file.precision: file.parity.verdict for file in names["report"].files} == {
        "fp32": "passed",
        "int8": "passed",
    }
    assert names["embeddings"].shape == (2, 32)


# In the middle of pretrain, at the start of evaluate, and while export writes the bundle.
SIGNS = ("runs/tiny-*/metrics.jsonl", "runs/tiny-*/result.json", "runs/tiny-*/.export.*/new/encoder.onnx")


@pytest.mark.parametrize("interrupted_at", [(), pytest.param(SIGNS, marks=pytest.mark.full)], ids=["whole", "cut"])
def test_make_quickstart_goes_on_with_its_own_run(tmp_path: Path, interrupted_at: tuple[str, ...]) -> None:
    """With a small recipe in the place of the shipped one, beside another run that is later than any."""
    (tmp_path / "recipes").mkdir()
    images = draw_folder(tmp_path / "images", classes=2, images=80)
    recipe = write_recipe(tmp_path, images, TINY.replace("epochs: 3", "epochs: 30"))
    recipe.rename(tmp_path / "recipes" / "quickstart.yaml")
    other = tmp_path / "runs" / "later-0"
    other.mkdir(parents=True)
    (other / "recipe.resolved.yaml").touch()
    os.utime(other / "recipe.resolved.yaml", (2e9, 2e9))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "install", "quickstart"]
    command += [f"VENV={tmp_path / 'venv'}", f"BYOLT={sys.executable} -m byolt"]
    for sign in interrupted_at:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=DEVNULL, stderr=PIPE, text=True, start_new_session=True
        )
        while not list(tmp_path.glob(sign)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
        assert process.communicate(timeout=60)[1]
        assert process.returncode != 0
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("tiny-*")
    first, *resumed = re.findall(r"learning from step (\d+) of 120", (run / "train.log").read_text())
    assert (first, len(resumed), "0" in resumed) == ("0", bool(interrupted_at), False)
    assert (run / "evaluation" / "encoder.json").exists()
    assert f"byolt verify {run.relative_to(tmp_path)}/export" in done.stdout


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == byolt.__version__
    assert f"## {byolt.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    wheels = re.findall(r"byolt-([\d.]+)-py3-none-any\.whl", "".join(page.read_text() for page in PAGES))
    assert (len(wheels), set(wheels)) == (3, {byolt.__version__})


@pytest.mark.parametrize(
    ("lock", "least"), [("requirements.lock", 50), ("requirements-light.lock", 8), ("requirements-docs.lock", 20)]
)
def test_a_lock_is_plain_names_and_versions(lock: str, least: int) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    assert len(lines) > least
    assert [line for line in lines if not re.match(r"^[\w.-]+==[\w.]+( ; .+)?$", line)] == []


def test_decisions_are_short_and_numbered() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        text = path.read_text()
        assert re.match(r"^# \d{4} ", text)
        assert text.startswith(f"# {path.name[:4]} ")
        assert len(text.splitlines()) <= 30
