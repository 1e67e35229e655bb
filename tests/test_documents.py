"""What the documents say of the code is so."""

import re
from pathlib import Path

import numpy as np
import pytest
import tomllib
from PIL import Image

import byolt

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readmes_files_exist() -> None:
    named = re.findall(r"`((?:toolchain|export|recipes|docs|benchmarks)/[\w./-]*)`", README)
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readmes_commands_and_options_exist() -> None:
    from byolt.cli import cli

    blocks = "".join(re.findall(r"```\n(.*?)```", README, flags=re.DOTALL))
    for line in re.findall(r"^byolt [^#\n]*", blocks, flags=re.MULTILINE):
        words = line.split()
        command = cli.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        if hasattr(command, "commands"):
            command = command.commands[words[2]]
            known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_the_readmes_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX lines on a real bundle, whose resize they follow within a grey level."""
    from byolt.data.source import to_square
    from byolt.networks import build_encoder
    from byolt.schema import Model
    from byolt_export.graph import export_onnx, torch_outputs
    from byolt_export.manifest import Input

    model = Model(backbone="timm/resnet18", args={"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}, stem="half")
    encoder, _ = build_encoder(model, seed=0, image_size_px=32)
    pixels = Input(size_px=32, resize="crop", max_batch=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    (tmp_path / "export").mkdir()
    export_onnx(encoder, tmp_path / "export" / "encoder.onnx", output_name="embedding", pixels=pixels)
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "part.png")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"```python\n(import numpy.*?)```", README, flags=re.DOTALL)[0]
    names: dict[str, np.ndarray] = {}
    exec(lines, names)
    expected = torch_outputs(encoder, to_square(photo, 32, "crop")[None], pixels=pixels)
    assert np.linalg.norm(names["embedding"] - expected) / np.linalg.norm(expected) < 0.01


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == byolt.__version__
    assert f"## {byolt.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_is_plain_names_and_versions() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len(lines) > 50
    assert [line for line in lines if not re.match(r"^[\w.-]+==[\w.]+( ; .+)?$", line)] == []


def test_decisions_are_short_and_numbered() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        text = path.read_text()
        assert re.match(r"^# \d{4} ", text)
        assert text.startswith(f"# {path.name[:4]} ")
        assert len(text.splitlines()) <= 30
