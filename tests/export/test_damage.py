"""A bundle from anywhere: every damage is one sentence, and nothing of it is run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from tests.export.planting import edited, reseal
from tests.export.test_bundle import edit_manifest

from byolt_export.errors import InputError
from byolt_export.proof.verify import verify_bundle

Tree = dict[str, Any]


def set_key(*path: Any, value: Any) -> Callable[[Path], None]:
    def edit(tree: Tree) -> None:
        part: Any = tree
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return lambda folder: edit_manifest(folder, edit)


def set_bytes(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def sealed(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        damage(folder)
        reseal(folder)

    return both


def shorten(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def linked(folder: Path, name: str = "encoder.onnx") -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def retensor(edit: Callable[[Tree], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "golden.safetensors")
        edit(tensors)
        save_file(tensors, folder / "golden.safetensors")
        reseal(folder)

    return apply


def onnx_with(edit: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    return edited(edit)


def fixed_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "NoSuchOperator"


def double_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def external_data(model: onnx.ModelProto) -> None:
    kernel = next(weight for weight in model.graph.initializer if weight.name == "module.conv1.weight")
    kernel.ClearField("raw_data")
    kernel.data_location = onnx.TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="weights.bin")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "holds no bundle: manifest.json is missing"),
    "truncated manifest": (shorten("manifest.json"), "does not fit: the file: no valid JSON"),
    "empty manifest": (set_bytes("manifest.json", b""), "no valid JSON"),
    "binary manifest": (set_bytes("manifest.json", b"\xff\xfe\x00"), "no valid JSON"),
    "a list": (set_bytes("manifest.json", b"[]"), "does not fit"),
    "deep nesting": (set_bytes("manifest.json", b"[" * 100_000), "no valid JSON"),
    "huge manifest": (set_bytes("manifest.json", b" " * (5 * 2**20)), "larger than a manifest may be"),
    "newer schema": (lambda f: (set_key("schema_version", value=4)(f), set_key("new", value=1)(f)), "schema_version"),
    "an older schema's number": (set_key("schema_version", value=1), "none has them in version 1"),
    "no shares": (set_key("files", 0, "shares", value=None), "every file has `shares` from schema version 2 on"),
    "a share above one": (set_key("files", 0, "shares", "fp32", value=1.5), "files.0.shares.fp32"),
    "a share of another type": (set_key("files", 0, "shares", "bf16", value=0.5), "files.0.shares.bf16"),
    "unknown key": (set_key("surprise", value=1), "surprise: unknown key"),
    "lines in a key": (set_key("one\ntwo\x1b[31m", value=1), r"does not fit: one\ntwo\x1b[31m: unknown key"),
    "a long key": (set_key("k" * 200_000, value=1), f"does not fit: {'k' * 300}...; export"),
    "a linked manifest": (lambda folder: linked(folder, "manifest.json"), "manifest.json is missing"),
    "huge batch": (set_key("contract", "input", "max_batch", value=10**12), "contract.input.max_batch"),
    "huge number": (set_key("contract", "input", "size_px", value=10**400), "contract.input.size_px"),
    "batch beyond memory": (set_key("contract", "input", "max_batch", value=65536 * 6), "contract.input.max_batch"),
    "batch of gigabytes": (
        lambda f: (
            set_key("contract", "input", "size_px", value=4096)(f),
            set_key("contract", "input", "max_batch", value=60000)(f),
        ),
        "is more than 1 GiB",
    ),
    "flat channel": (set_key("contract", "input", "std", value=[0.2, 0.0, 0.2]), "must be positive"),
    "no images": (set_key("golden", "images", value=0), "golden.images"),
    "text for a number": (set_key("contract", "output", "dim", value="32"), "contract.output.dim"),
    "infinite gate": (set_key("files", 0, "gates", "relative_l2_worst_max", value=float("inf")), "files.0.gates"),
    "unknown gate": (set_key("files", 0, "gates", "luck", value=1.0), "gates ['luck'] are not known"),
    "no files": (set_key("files", value=[]), "files"),
    "path traversal": (set_key("files", 0, "name", value="../copy/encoder.onnx"), "files.0.name"),
    "absolute path": (set_key("files", 0, "name", value="/etc/passwd.onnx"), "files.0.name"),
    "a file twice": (lambda f: edit_manifest(f, lambda tree: tree["files"].append(tree["files"][0])), "stands twice"),
    "missing file": (lambda f: (f / "encoder.onnx").unlink(), "encoder.onnx is missing from the bundle"),
    "a link": (linked, "encoder.onnx is missing from the bundle"),
    "wrong digest": (set_key("files", 0, "sha256", value="0" * 64), "encoder.onnx is not the file that manifest.json"),
    "truncated onnx": (shorten("encoder.onnx"), "is not the file that manifest.json names"),
    "truncated parity": (shorten("parity.json"), "is not the file that manifest.json names"),
    "truncated golden": (shorten("golden.safetensors"), "is not the file that manifest.json names"),
    "zero-byte onnx, sealed": (sealed(set_bytes("encoder.onnx", b"")), "cannot be read as ONNX"),
    "truncated onnx, sealed": (sealed(shorten("encoder.onnx")), "cannot be read as ONNX"),
    "unknown operator": (onnx_with(unknown_operator), "cannot be read as ONNX"),
    "double input": (onnx_with(double_input), "is not an encoder of a bundle"),
    "missing external data": (onnx_with(external_data), "keeps `module.conv1.weight` in a file outside of itself"),
    "a folder for a file": (
        lambda f: ((f / "encoder.onnx").unlink(), (f / "encoder.onnx").mkdir()),
        "encoder.onnx is missing from the bundle",
    ),
    "fixed batch": (onnx_with(fixed_batch), "accepts batches of 2 alone"),
    "other names": (onnx_with(lambda m: onnx.compose.add_prefix_graph(m.graph, "x", inplace=True)), "not an encoder"),
    "other metadata": (onnx_with(lambda m: m.ClearField("metadata_props")), "made for another contract"),
    "other resize rule": (set_key("contract", "input", "resize", value="squash"), "made for another contract"),
    "zero-byte golden, sealed": (sealed(set_bytes("golden.safetensors", b"")), "cannot be read as safetensors"),
    "hostile golden header": (sealed(set_bytes("golden.safetensors", b"\xff" * 64)), "cannot be read as safetensors"),
    "missing control": (retensor(lambda t: t.pop("outputs.control.reinitialised")), "does not hold the tensors"),
    "surplus tensor": (retensor(lambda t: t.update(more=np.zeros(1))), "does not hold the tensors"),
    "fewer images": (retensor(lambda t: t.update(images=t["images"][:8])), "does not hold the tensors"),
    "not a number": (retensor(lambda t: t["outputs.reference"].fill(np.nan)), "not finite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_told_in_one_sentence(damage: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    apply, expected = DAMAGES[damage]
    apply(copy)
    with pytest.raises(InputError) as raised:
        verify_bundle(copy)
    message = str(raised.value)
    assert expected in message
    assert "\n" not in message
    assert message.startswith(str(copy))
    assert raised.value.exit_code == 2
    assert capfd.readouterr().err == ""
