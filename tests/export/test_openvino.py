"""OpenVINO runs a bundle's files as ONNX Runtime does, in the precision that they are named for."""

import builtins
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.export.small import images

from byolt_export import Encoder, verify
from byolt_export.bundle.folder import PARITY, read_manifest, write_manifest
from byolt_export.errors import InputError, MissingPart
from byolt_export.files import sha256
from byolt_export.proof.measures import relative_l2
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.onnx_runner import CPU, OnnxRunner, open_onnx
from byolt_export.runtime.openvino_runner import OPENVINO, OpenVinoRunner, has_openvino

needs_openvino = pytest.mark.skipif(
    not has_openvino(), reason='OpenVINO is not installed: pip install "byolt[openvino]"'
)


@needs_openvino
def test_it_computes_what_onnx_runtime_does(bundle: Path) -> None:
    expected, shown = OnnxRunner(bundle / "encoder.onnx", threads=1), images(7)
    found = OpenVinoRunner(bundle / "encoder.onnx", threads=1)
    assert (found.image_shape, found.dtype, found.outputs) == (expected.image_shape, "uint8", {"embedding": (32,)})
    assert found.metadata["byolt.contract"] == expected.metadata["byolt.contract"]
    # In bf16 it would be 1e-3 and more, and is what OpenVINO takes by itself on CPUs with AMX.
    assert relative_l2(expected(shown), found(shown)).max() < 1e-5
    assert found._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    np.testing.assert_array_equal(found(shown[:1]), found(shown[:1]))


@needs_openvino
@pytest.mark.usefixtures("unchecked")
def test_it_refuses_what_onnx_runtime_refuses(bundle: Path, tmp_path: Path) -> None:
    run = OpenVinoRunner(bundle / "encoder.onnx")
    for given in (images(2).astype(np.float32), images(2)[:, :16], images(2)[..., :1]):
        with pytest.raises(InputError, match=r"^encoder.onnx wants uint8 images \(batch, 32, 32, 3\), got "):
            run(given)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InputError, match="cannot be read as ONNX by OpenVINO"):
        OpenVinoRunner(tmp_path / "text.onnx")
    model = onnx.load(bundle / "encoder.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(InputError, match="accepts batches of 4 alone"):
        OpenVinoRunner(tmp_path / "fixed.onnx")
    manifest = read_manifest(bundle)
    other = manifest.contract.model_copy(update={"recipe_hash": "another"})
    with pytest.raises(InputError, match="made for another contract"):
        open_onnx(bundle / "encoder.onnx", other, OPENVINO)


@needs_openvino
def test_encoder_and_verify_run_it(copy: Path) -> None:
    encoder = Encoder(copy, runtime="openvino")
    assert (encoder.file, encoder.runtime) == ("encoder.onnx", "openvino")
    assert relative_l2(Encoder(copy)(images(3)), encoder(images(3))).max() < 1e-5
    report = verify(copy, (CPU, OPENVINO))
    assert [(file.name, file.provider) for file in report.files] == [
        (name, provider) for name in ("encoder.onnx", "encoder.fp16.onnx") for provider in (CPU, OPENVINO)
    ]
    assert report.verdict == "passed"
    timed = {(speed.file, speed.runtime) for speed in read_manifest(copy).speeds}
    assert timed >= {(name, kind) for name in ("encoder.onnx", "encoder.fp16.onnx") for kind in ("cpu", "openvino")}
    assert Encoder(copy, precision="fastest", runtime="openvino").runtime == "openvino"


def test_a_file_runs_where_it_is_placed_for(copy: Path) -> None:
    manifest = read_manifest(copy)
    shutil.copy(copy / "encoder.fp16.onnx", copy / "encoder.int8-openvino.onnx")
    int8: dict[str, Any] = {"name": "encoder.int8-openvino.onnx", "precision": "int8", "shares": {"int8": 1.0}}
    placed = manifest.files[1].model_copy(update=int8 | {"placement": "openvino"})
    parity = (copy / PARITY).read_text().replace("encoder.fp16.onnx", placed.name)
    (copy / PARITY).write_text(parity)
    stated = {"files": (manifest.files[0], placed), "parity_sha256": sha256(copy / PARITY)}
    write_manifest(copy, manifest.model_copy(update=stated))
    found = {(file.name, file.provider) for file in verify_bundle(copy, (CPU,)).files}
    assert found == {("encoder.onnx", CPU), ("encoder.int8-openvino.onnx", OPENVINO)}


def test_without_the_package_it_is_one_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def absent(name: str, *others: Any) -> Any:
        if name == "openvino":
            raise ImportError(name)
        return original(name, *others)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingPart, match=r'^OpenVINO is not installed: pip install "byolt\[openvino\]"$'):
        OpenVinoRunner(bundle / "encoder.onnx")
    report = verify_bundle(bundle, (OPENVINO,))
    assert {file.parity.verdict for file in report.files} == {"not run here"}


@needs_openvino
def test_nothing_is_reported_of_its_use(bundle: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "calls = []\n"
        "asked = ('socket.connect', 'socket.getaddrinfo')\n"
        "sys.addaudithook(lambda event, _: calls.append(event) if event in asked else None)\n"
        "from byolt_export.runtime.openvino_runner import OpenVinoRunner\n"
        f"OpenVinoRunner({str(bundle / 'encoder.onnx')!r})\n"
        "import time; time.sleep(0.5)\n"
        "print(calls, 'torch' in sys.modules)\n"
    )
    environment = {"HOME": str(tmp_path), "PYTHONPATH": "export"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"
    assert list(tmp_path.iterdir()) == []  # No identifier in the home folder.


@needs_openvino
def test_a_signal_is_taken_after_two_files_were_opened_and_left(bundle: Path) -> None:
    """With a core for each of them the process ends with a segmentation fault."""
    program = (
        "import os, signal, sys\n"
        "from byolt_export.runtime.openvino_runner import OpenVinoRunner\n"
        "first, second = OpenVinoRunner(sys.argv[1]), OpenVinoRunner(sys.argv[1])\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('taken'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    words = [sys.executable, "-c", program, str(bundle / "encoder.onnx")]
    done = subprocess.run(words, env={"PYTHONPATH": "export"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n")
