"""Words of somebody else's bundle on their way to a terminal and into a manifest."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from byolt.cli import cli
from byolt.console.summary import print_parity
from byolt.console.tables import print_table
from byolt_export.bundle.folder import read_manifest
from byolt_export.errors import ByoltError, InputError, visible
from byolt_export.files import sha256
from byolt_export.proof.report import read_report
from byolt_export.proof.verify import verify_bundle

# Clears the screen; renames the window; the same in one character; goes back a line; turns what follows round.
ESCAPES = "\x1b[2J\x1b]0;passed\x07\x9b31m\r\x08\u202e\u2066\ufeff\u2028"
ACTING = set(ESCAPES) - set("[2J]0;passed31m")


def edit(bundle: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads((bundle / "manifest.json").read_text())
    change(tree)
    (bundle / "manifest.json").write_text(json.dumps(tree))


def test_what_is_plain_stays_and_what_acts_is_spelled_out() -> None:
    plain = "café 日本 😀 ~ [31m\\x1b €"
    assert visible(plain) == plain
    assert visible("a\nb\x1b[2J") == "a\nb\\x1b[2J"
    assert visible("a\nb", keep="") == "a\\nb"
    assert str(ByoltError("a\x9b31m\u202eb\nc")) == "a\\x9b31m\\u202eb\nc"
    assert not (ACTING | {"\udcff"}).intersection(str(InputError(f"{ESCAPES}\udcff")))  # Of a name that is no UTF-8.


def test_a_reason_in_a_manifest_does_not_act_on_the_terminal(copy: Path) -> None:
    """The reason of a file that failed where it was made is repeated by `byolt verify`."""

    def fail(tree: Any) -> None:
        tree["files"][1] |= {"verdict": "failed", "reason": f"worse {ESCAPES} \n{'x' * 100_000}"}

    edit(copy, fail)
    report = verify_bundle(copy)
    assert report.verdict == "failed"
    (reason,) = report.files[1].parity.reasons
    assert reason.startswith(r"failed when it was made (worse \x1b[2J\x1b]0;passed\x07\x9b31m")
    assert not ACTING.union("\n").intersection(reason)
    assert len(reason) < 2200
    done = CliRunner().invoke(cli, ["verify", str(copy)])
    assert "why      encoder.fp16.onnx: failed when it was made (worse \\x1b[2J" in done.output
    assert not ACTING.intersection(done.output)


@pytest.mark.parametrize("path", [("contract", "recipe_hash"), ("tools", "numpy"), ("files", 0, "name"), ("surprise",)])
def test_no_word_of_a_manifest_acts_on_the_terminal(copy: Path, path: tuple[Any, ...]) -> None:
    def plant(tree: Any) -> None:
        *way, last = path
        for key in way:
            tree = tree[key]
        tree[last] = ESCAPES

    edit(copy, plant)
    done = CliRunner().invoke(cli, ["verify", str(copy)])
    told = done.output + str(done.exception or "")
    assert told
    assert not ACTING.intersection(told)


def test_tables_and_lines_of_a_report_do_not_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [(ESCAPES, "plain")], title="of two")
    file = {
        "name": f"n{ESCAPES}",
        "provider": ESCAPES,
        "verdict": ESCAPES,
        "reasons": [ESCAPES],
        "golden": None,
        "task": None,
    }
    bad = {"name": ESCAPES, "operator": ESCAPES, "share": 0.5}
    print_parity({"files": [file | {"controls": [], "bisection": {"first_bad": bad}}]})
    told = capsys.readouterr().out
    assert r"why      n\x1b[2J" in told
    assert "node `\\x1b[2J" in told
    assert not ACTING.intersection(told)


def test_a_byte_order_mark_is_refused_as_in_cpp(copy: Path) -> None:
    whole = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(codecs.BOM_UTF8 + whole)
    for read in (read_manifest, verify_bundle):
        with pytest.raises(InputError, match="manifest.json does not fit: it starts with a byte order mark; export"):
            read(copy)
    for text in (whole.decode().encode("utf-16"), b" " + codecs.BOM_UTF8 + whole):
        (copy / "manifest.json").write_bytes(text)
        with pytest.raises(InputError, match="manifest.json does not fit: the file: no valid JSON"):
            read_manifest(copy)
    (copy / "manifest.json").write_bytes(whole)
    manifest = read_manifest(copy)
    (copy / "parity.json").write_bytes(codecs.BOM_UTF8 + (copy / "parity.json").read_bytes())
    edit(copy, lambda tree: tree.update(parity_sha256=sha256(copy / "parity.json")))
    assert read_manifest(copy) != manifest
    with pytest.raises(InputError, match="parity.json does not fit: it lists no files"):
        read_report(copy, read_manifest(copy))
