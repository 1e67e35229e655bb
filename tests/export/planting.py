"""Faults put into a bundle on purpose."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from byolt_export.bundle import folder as files

Edit = Callable[[onnx.ModelProto], object]


def reseal(folder: Path) -> None:
    """Make every digest right again: what a fault of the exporter looks like, or an attacker's work."""
    tree = json.loads((folder / "manifest.json").read_text())
    for file in (*tree["files"], *tree["engines"]):
        file["sha256"] = files.sha256(folder / file["name"])
    tree["golden"]["sha256"] = files.sha256(folder / files.GOLDEN)
    tree["parity_sha256"] = files.sha256(folder / files.PARITY)
    (folder / "manifest.json").write_text(json.dumps(tree))


def edited(edit: Edit) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        model = onnx.load(folder / "encoder.onnx")
        edit(model)
        onnx.save(model, folder / "encoder.onnx")
        reseal(folder)

    return plant


def weight(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(model: onnx.ModelProto) -> None:
        (found,) = [w for w in model.graph.initializer if w.name == name]
        found.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(found)), name))

    return edited(apply)
