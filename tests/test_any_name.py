"""Files whose names are no UTF-8, or no single line, from the folder to everything that is printed and written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byolt.data.folder import FolderSource
from byolt.data.folder_listing import shown
from byolt.data.packing import pack
from byolt.data.shards import open_folder
from byolt.files import append_text, write_text
from tests.test_command_line import byolt, draw_folder, only_run, write_recipe

LATIN = os.fsdecode(b"caf\xe9")
"""As an old camera or archive wrote it: Latin-1."""


@pytest.fixture
def named(tmp_path: Path) -> Path:
    root = draw_folder(tmp_path / "images", classes=2, images=64)
    (root / "class-0").rename(root / LATIN)
    (root / LATIN / "0000.png").rename(root / LATIN / os.fsdecode(b"\xff\xfe.png"))
    (root / LATIN / "0002.png").rename(root / LATIN / "two\nlines \x1b[31m.png")
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_data_check_prints_them_in_any_terminal(named: Path, encoding: str) -> None:
    (named / LATIN / os.fsdecode(b"damaged\xe4.jpg")).write_text("no image")
    (named / LATIN / "copy.png").write_bytes((named / LATIN / "two\nlines \x1b[31m.png").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "byolt", "data", "check", os.fsencode(named)],
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode("ascii")
    assert r"      32 caf\xe9" in told or r"      33 caf\xe9" in told
    assert r"damaged\xe4.jpg cannot be read" in told
    assert rf"{named}/caf\xe9/copy.png = {named}/caf\xe9/two\x0alines \x1b[31m.png" in told


def test_a_run_on_them_is_written_whole(named: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, named)
    steps = ("--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0")
    for command in (("pretrain", recipe, *steps), ("evaluate",), ("finetune", "--data", named), ("report",)):
        done = byolt(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert json.loads((run / "evaluation" / "finetune.json").read_text())["classes"] == [r"caf\xe9", "class-1"]
    assert r"caf\xe9" in (run / "report.html").read_text(encoding="utf-8")
    done = byolt("embed", run, named, "-o", "e.npz", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    files = np.load(tmp_path / "e.npz")["files"].tolist()
    assert str(named / LATIN / os.fsdecode(b"\xff\xfe.png")) in files  # The very name: it can be opened again.


def test_classes_are_text_and_paths_the_very_bytes(named: Path, tmp_path: Path) -> None:
    source = FolderSource(named)
    assert source.classes == (r"caf\xe9", "class-1")
    assert all(Path(source.path(k)).is_file() for k in range(len(source)))
    pack(named, tmp_path / "shards", 10**6)
    assert open_folder(tmp_path / "shards", None).classes == source.classes
    assert FolderSource(named).name == f"folder {named}"
    odd = tmp_path / os.fsdecode(b"r\xf6\xf6t")
    named.rename(odd)
    assert FolderSource(odd).name == rf"folder {tmp_path}/r\xf6\xf6t"
    Image.open(FolderSource(odd).path(0)).close()


def test_what_is_shown_is_one_line_of_text() -> None:
    assert shown(os.fsdecode("Ä猫\u3000 e\u0301".encode() + b"\xff\n\x9b")) == "Ä猫\u3000 e\u0301" + r"\xff\x0a\x9b"


def test_texts_with_such_names_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", f"Ä {LATIN}\n")
    append_text(tmp_path / "a.txt", LATIN)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Ä caf\\udce9\ncaf\\udce9"
