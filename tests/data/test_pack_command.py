"""`byolt data pack` as it is typed, and the guide's commands."""

import json
import re
from pathlib import Path

from click.testing import CliRunner
from tests.data.shard_folders import image_folder
from tests.test_documents import ROOT, check_byolt_line

from byolt.cli import cli
from byolt.data.shards import open_folder


def test_pack_tells_what_was_written_and_what_to_type_next(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 12)
    out = tmp_path / "my shards"
    done = CliRunner().invoke(cli, ["data", "pack", str(tmp_path / "images"), str(out), "--shard-mb", "0.02"])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"{out}: 12 images of 3 classes in 4 shards, 0.1 MB",
        f"next     byolt pretrain recipes/folder.yaml --set data.name=shards --set 'data.root={out}'",
    ]
    assert len(open_folder(out, None)) == 12


def test_pack_as_json(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 12, classes=1)
    out = tmp_path / "shards"
    done = CliRunner().invoke(cli, ["data", "pack", str(tmp_path / "images"), str(out), "--json"])
    told = json.loads(done.output)
    size_bytes = (out / "images-000000.tar").stat().st_size
    # No class beside an image: 512 of header and 3,126 in 7 blocks of 512, and two blocks of end.
    assert size_bytes == 12 * (512 + 7 * 512) + 2 * 512
    known = {"folder": str(out), "images": 12, "classes": 0, "shards": 1, "size_bytes": size_bytes}
    assert told == known | {"remarks": []}


def test_the_guides_commands_exist() -> None:
    text = (ROOT / "docs" / "shards.md").read_text()
    lines = re.findall(r"^byolt .*$", text, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        check_byolt_line(line)
