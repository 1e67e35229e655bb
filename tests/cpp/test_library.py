"""The C++ library's own tests, plain and under sanitizers, and what it computes against Python."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.cpp.conftest import ROOT, Bundles
from tests.export import small
from torch import Tensor, nn

from byolt_export import Encoder, verify
from byolt_export.bundle.folder import GOLDEN, PARITY, read_manifest, write_manifest
from byolt_export.bundle.manifest import NOT_MADE, Speed
from byolt_export.errors import InputError
from byolt_export.files import sha256
from byolt_export.proof.report import Report
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.resize import to_square

pytestmark = pytest.mark.cpp

SHARED = 1e-6  # Both run the same library on the same bytes; the measures differ in the order of sums alone.
SIZES = [
    (640, 480, 96),
    (480, 640, 96),
    (641, 479, 32),
    (33, 31, 32),
    (20, 30, 64),
    (1, 7, 5),
    (1920, 1080, 224),
    (32, 32, 32),
]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's two files of INT8."""
    folder, how = tmp_path_factory.mktemp("int8") / "bundle", {"calibration": small.images(64, seed=1)}
    return small.build(folder, small.encoder(num_classes=5), precisions=("int8",), classes=tuple("abcde"), **how).path


def run(program: Path, *words: object, code: int = 0, **options: Any) -> subprocess.CompletedProcess[bytes]:
    # ONNX Runtime is not instrumented, and keeps memory to the end of the process.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"} | options.pop("env", {})
    found = subprocess.run([program, *map(str, words)], capture_output=True, env=environment, check=False, **options)
    assert found.returncode == code, (found.returncode, found.stdout[-2000:], found.stderr[-4000:])
    return found


def untimed(printed: bytes) -> Any:
    """What `byolt-verify --json` printed, without what it timed."""
    report = json.loads(printed)
    for file in report["files"]:
        file.pop("speeds", None)
    return report


def assert_close(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for k, value in enumerate(expected):
            assert_close(found[k], value, f"{where}.{k}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=SHARED, rel=0), where
    else:
        assert found == expected, where


@pytest.mark.parametrize("build", ["plain", "address", "thread"])
def test_the_librarys_own_tests(builds: Path, build: str) -> None:
    assert b" 0 failures" in run(builds / build / "tests/byolt-test-library").stdout


@pytest.mark.parametrize("program", ["plain/10", "plain/11", "address/10", "thread/10"])
def test_the_tensorrt_backend_over_its_fake(builds: Path, program: str) -> None:
    """byolt's own logic, each call that can fail failing in turn; no proof of TensorRT."""
    build, major = program.split("/")
    assert b" 0 failures" in run(builds / build / f"tests/byolt-test-tensorrt-{major}").stdout


def configure(builds: Path, build: Path, tensorrt: Path) -> subprocess.CompletedProcess[str]:
    options = {"BYOLT_TENSORRT": "ON", "BYOLT_ONNXRUNTIME": "OFF", "BYOLT_WERROR": "ON", "TensorRT_ROOT": tensorrt}
    words = [f"-D{key}={value}" for key, value in (options | {"ONNXRUNTIME_ROOT": builds / "deps"}).items()]
    command = ["cmake", "-S", ROOT / "export/cpp", "-B", build, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_headers_below_tensorrt_root_are_enough_to_compile(builds: Path, tmp_path: Path) -> None:
    """The fake's headers, found as NVIDIA's are: their own warnings do not count, byolt's are errors."""
    done = configure(builds, tmp_path / "build", ROOT / "export/cpp/tests/fake")
    assert done.returncode == 0, done.stderr
    assert "programs are not" in done.stdout
    make = ["make", "-C", tmp_path / "build", "src/tensorrt_session.cpp.o"]
    compiled = subprocess.run(make, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    flags = (tmp_path / "build/CMakeFiles/byolt.dir/flags.make").read_text()
    assert f"-isystem {ROOT}/export/cpp/tests/fake/include" in flags
    assert "-Werror" in flags


def test_without_headers_the_way_out_is_named(builds: Path, tmp_path: Path) -> None:
    done = configure(builds, tmp_path / "build", tmp_path)
    if done.returncode == 0:
        pytest.skip("this machine has TensorRT's headers")
    assert "set TensorRT_ROOT to the folder that holds TensorRT's" in done.stderr


@pytest.mark.parametrize("build", ["plain", "address"])
def test_engines_are_built_into_a_bundle(builds: Path, bundles: Bundles, tmp_path: Path, build: str) -> None:
    """Over the fake of TensorRT: what is written down of an engine, and that nothing trusts it before it has run."""
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    contract = read_manifest(bundle).contract
    height, width, _ = contract.input.shape
    fake = {"FAKE_NETWORK": f"{height} {width} {contract.output.dim}"}
    words = ("--precision", "fp16", "--workspace-mib", "64", "--cache-dir", tmp_path / "timings")
    done = run(builds / build / "tests/byolt-build-engine-over-fake", bundle, *words, env=fake)
    assert done.stdout.decode().endswith(f"next     byolt-verify {bundle}\n")
    (engine,) = read_manifest(bundle).engines
    assert (engine.name, engine.precision, engine.verdict) == ("encoder.fp16.here.engine", "fp16", "not run here")
    assert (engine.version, engine.compute_capabilities, engine.workspace_mib) == ("10.3.1", (87,), 64)
    assert sha256(bundle / engine.name) == engine.sha256
    assert len(list((tmp_path / "timings").iterdir())) == 1
    refused = run(builds / "plain/programs/byolt-bench", bundle, "--runtime", "tensorrt", code=5)
    assert b"built without TensorRT" in refused.stderr
    (bundle / "encoder.onnx").write_bytes(b"damaged")
    failed = run(builds / build / "tests/byolt-build-engine-over-fake", bundle, "--precision", "fp32", env=fake, code=2)
    assert b"is not the file that manifest.json names" in failed.stderr


@pytest.mark.parametrize("build", ["plain", "address"])
def test_onnx_runtime_below_it(builds: Path, bundles: Bundles, build: str) -> None:
    bundle = {"BYOLT_TEST_BUNDLE": str(bundles.embedding)}
    assert b" 0 failures" in run(builds / build / "tests/byolt-test-onnxruntime", env=bundle).stdout


@pytest.mark.parametrize("build", ["plain", "address"])
@pytest.mark.parametrize("kind", Bundles._fields)
def test_verify_gives_pythons_measures_and_verdict(builds: Path, bundles: Bundles, build: str, kind: str) -> None:
    bundle = getattr(bundles, kind)
    found = run(builds / build / "programs/byolt-verify", bundle, "--json", "--provider", "CPU", "--threads", "1")
    expected = verify_bundle(bundle, ("CPUExecutionProvider",), threads=1)
    assert expected.verdict == "passed"
    assert_close(untimed(found.stdout), json.loads(json.dumps(expected.to_json())))


def test_speeds_are_written_as_python_writes_them(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    words = ("--provider", "CPU", "--threads", "1")
    found = json.loads(run(builds / "plain/programs/byolt-verify", bundle, "--json", *words).stdout)
    ours = [speed for speed in read_manifest(bundle).speeds if speed.threads == 1]
    assert sorted(speed.model_dump_json() for speed in ours) == sorted(
        Speed.model_validate(speed).model_dump_json() for file in found["files"] for speed in file["speeds"]
    )
    report = verify(bundle, ("CPUExecutionProvider",), threads=1)
    theirs = [speed for file in report.files for speed in file.speeds]
    where = [(s.file, s.runtime, s.processor, s.threads, s.batch) for s in theirs]
    assert sorted(where) == sorted((s.file, s.runtime, s.processor, s.threads, s.batch) for s in ours)
    assert [speed for speed in read_manifest(bundle).speeds if speed.threads == 1] == theirs  # Replaced, not added.
    bench = (builds / "plain/programs/byolt-bench", bundle, "--precision", "fastest", "--seconds", "1", "--json")
    fastest = max((s for s in theirs if s.batch == theirs[-1].batch), key=lambda s: s.images_per_s)
    told = json.loads(run(*bench, "--threads", "1", "--batch", "1").stdout)
    assert told["file"] == fastest.file == Encoder(bundle, precision="fastest", threads=1).file
    refused = run(*bench, "--threads", "77", code=5)
    assert b"with 77 threads: run byolt-verify" in refused.stderr


def test_verify_of_the_quickstart_where_it_was_run(builds: Path) -> None:
    found = sorted(ROOT.glob("runs/quickstart-*/export"))
    if not found:
        pytest.skip("make quickstart was not run here")
    words = ("--json", "--provider", "CPU", "--threads", "1")
    expected = verify_bundle(found[-1], ("CPUExecutionProvider",), threads=1).to_json()
    got = untimed(run(builds / "plain/programs/byolt-verify", found[-1], *words).stdout)
    assert_close(got, json.loads(json.dumps(expected)))


def test_a_file_for_a_cpu_runs_on_no_gpu(builds: Path, int8: Path) -> None:
    words = ("--json", "--provider", "CUDA", "--threads", "1")
    found = untimed(run(builds / "plain/programs/byolt-verify", int8, *words).stdout)
    expected = json.loads(json.dumps(verify_bundle(int8, ("CUDAExecutionProvider",), threads=1).to_json()))
    for_tensorrt, for_cpu = found["files"]
    assert for_tensorrt["verdict"] == "not run here"
    assert (for_cpu["provider"], for_cpu["verdict"]) == ("CPUExecutionProvider", "passed")
    assert_close(for_cpu, expected["files"][1])


def failed_alike(
    builds: Path, bundle: Path, golden: dict[str, np.ndarray]
) -> tuple[subprocess.CompletedProcess[bytes], Report]:
    """A bundle of other golden vectors fails, with the same measures in both languages."""
    save_file(golden, bundle / GOLDEN)
    manifest = read_manifest(bundle)
    sealed = manifest.golden.model_copy(update={"sha256": sha256(bundle / GOLDEN)})
    write_manifest(bundle, manifest.model_copy(update={"golden": sealed}))
    words = ("--json", "--provider", "CPU", "--threads", "1")
    failed = run(builds / "plain/programs/byolt-verify", bundle, *words, code=4)
    expected = verify_bundle(bundle, ("CPUExecutionProvider",), threads=1)
    assert_close(untimed(failed.stdout), json.loads(json.dumps(expected.to_json())))
    return failed, expected


def test_what_fails_in_python_fails_in_words_and_code(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    golden = load_file(bundle / GOLDEN)
    golden["outputs.reference"][5] *= 1.2
    golden["outputs.control.reinitialised"] = golden["outputs.reference"]
    failed, expected = failed_alike(builds, bundle, golden)
    assert expected.verdict == "failed"
    assert failed.stderr.decode() == f"{bundle}: parity failed: {expected.reason}\n"


def test_short_outputs_are_measured_as_python_does(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    # Shorter than the median, or nearer to the mean: both divisors have their floors, over filled-up rows too.
    bundle = Path(shutil.copytree(bundles.classes, tmp_path / "bundle"))
    golden = load_file(bundle / GOLDEN)
    reference = golden["outputs.reference"]
    reference[3] *= 1e-3
    reference[::4] = reference.mean(axis=0) + 1e-4 * reference[::4]
    failed_alike(builds, bundle, golden)


def test_int8_files_give_to_the_bit_what_they_gave_in_python(builds: Path, int8: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(int8, tmp_path / "bundle"))
    words = ("--json", "--provider", "CPU", "--threads", "1")
    for build in ("plain", "address"):
        found = untimed(run(builds / build / "programs/byolt-verify", bundle, *words).stdout)
        drifts = {file["name"]: file["drift_mean"] for file in found["files"]}
        assert drifts == {"encoder.int8.onnx": 0.0, "encoder.int8-cpu.onnx": 0.0}
    golden = load_file(bundle / GOLDEN)
    golden["outputs.file.encoder.int8-cpu.onnx"] *= 1.002
    failed, expected = failed_alike(builds, bundle, golden)
    assert expected.reason == (
        "encoder.int8-cpu.onnx (CPUExecutionProvider): mean relative L2 0.0019 from what the file itself gave when it "
        "was made is above 0.00098"
    )
    assert failed.stderr.decode() == f"{bundle}: parity failed: {expected.reason}\n"
    golden["outputs.reference"][5] *= 1.2  # Beside other faults it stands where Python has it.
    _, expected = failed_alike(builds, bundle, golden)
    assert len(expected.files[1].parity.reasons) > 2
    del golden["outputs.file.encoder.int8-cpu.onnx"]
    save_file(golden, bundle / GOLDEN)
    manifest = read_manifest(bundle)
    sealed = manifest.golden.model_copy(update={"sha256": sha256(bundle / GOLDEN)})
    write_manifest(bundle, manifest.model_copy(update={"golden": sealed}))
    refused = run(builds / "plain/programs/byolt-verify", bundle, *words, code=2).stderr.decode()
    with pytest.raises(InputError) as error:
        verify_bundle(bundle)
    assert refused == f"{error.value}\n"


class Collapsed(nn.Module):
    """An encoder that gives every image the same: in float32 nothing is left of what it adds to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = small.encoder()

    def forward(self, x: Tensor) -> Tensor:
        return 3 + 1e-9 * self.encoder(x)  # type: ignore[no-any-return]


def test_a_model_that_tells_nothing_apart_is_blamed_in_pythons_words(builds: Path, tmp_path: Path) -> None:
    bundle = small.build(tmp_path / "bundle", Collapsed()).path
    words = ("--json", "--provider", "CPU", "--threads", "1")
    failed = run(builds / "plain/programs/byolt-verify", bundle, *words, code=4)
    expected = verify_bundle(bundle, ("CPUExecutionProvider",), threads=1)
    made, here = expected.files[0].parity.reasons
    assert made.startswith("failed when it was made (the model is at fault and not the file, which errs by ")
    assert here.startswith("the model is at fault and not the file, which errs by ")
    assert_close(json.loads(failed.stdout), json.loads(json.dumps(expected.to_json())))


def test_gates_loosened_in_the_manifest_are_those_of_parity_json(
    builds: Path, bundles: Bundles, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    loosened = tuple(file.model_copy(update={"gates": {}}) for file in manifest.files)
    write_manifest(bundle, manifest.model_copy(update={"files": loosened}))
    words = (bundle, "--json", "--provider", "CPU", "--threads", "1")
    found = json.loads(run(builds / "plain/programs/byolt-verify", *words).stdout)
    assert [file["gates"] for file in found["files"]] == [
        pytest.approx(file.gates, rel=1e-12) for file in manifest.files
    ]
    tree = json.loads((bundle / PARITY).read_text())
    del tree["files"][1]
    (bundle / PARITY).write_text(json.dumps(tree))
    sealed = {"parity_sha256": sha256(bundle / PARITY)}
    write_manifest(bundle, manifest.model_copy(update=sealed))
    refused = run(builds / "plain/programs/byolt-verify", *words, code=2).stderr.decode()
    with pytest.raises(InputError) as error:
        verify_bundle(bundle)
    assert refused == f"{error.value}\n"


def test_a_file_that_could_not_be_made_is_told_and_the_others_run(
    builds: Path, bundles: Bundles, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    *others, int8 = (file for file in manifest.files if file.placement != "cpu")
    absent = int8.model_copy(update={"sha256": NOT_MADE, "verdict": "failed", "reason": "no layer fits", "shares": {}})
    write_manifest(bundle, manifest.model_copy(update={"files": (*others, absent)}))
    (bundle / int8.name).unlink()
    words = ("--json", "--provider", "CPU", "--threads", "1")
    failed = run(builds / "plain/programs/byolt-verify", bundle, *words, code=4)
    expected = verify_bundle(bundle, ("CPUExecutionProvider",), threads=1)
    assert expected.reason == "encoder.int8.onnx (CPUExecutionProvider): failed when it was made (no layer fits)"
    assert_close(untimed(failed.stdout), json.loads(json.dumps(expected.to_json())))
    refused = run(builds / "plain/programs/byolt-bench", bundle, "--runtime", "cpu", "--precision", "int8", code=5)
    assert b"encoder.int8.onnx could not be made (no layer fits)" in refused.stderr


def test_a_file_named_for_another_precision_is_refused_in_pythons_words(
    builds: Path, bundles: Bundles, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    single, half, *int8 = manifest.files
    swapped = half.model_copy(update={"shares": single.shares})
    write_manifest(bundle, manifest.model_copy(update={"files": (single, swapped, *int8)}))
    words = ("--json", "--provider", "CPU", "--threads", "1")
    failed = run(builds / "plain/programs/byolt-verify", bundle, *words, code=4)
    expected = verify_bundle(bundle, ("CPUExecutionProvider",), threads=1)
    sentence = "it is named fp16, and it multiplies 100% in fp32"
    assert expected.reason == f"encoder.fp16.onnx (CPUExecutionProvider): {sentence}"
    assert_close(untimed(failed.stdout), json.loads(json.dumps(expected.to_json())))
    refused = run(builds / "plain/tests/byolt-build-engine-over-fake", bundle, "--precision", "fp16", code=4)
    assert f"encoder.fp16.onnx becomes no engine: {sentence}".encode() in refused.stderr
    refused = run(builds / "plain/programs/byolt-bench", bundle, "--runtime", "cpu", "--precision", "fp16", code=5)
    assert f"encoder.fp16.onnx is not proven ({sentence})".encode() in refused.stderr


def test_a_bundle_of_schema_version_1_passes(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles.classes, tmp_path / "bundle"))
    tree = json.loads((bundle / "manifest.json").read_text())
    for file in tree["files"]:
        del file["shares"]
    (bundle / "manifest.json").write_text(json.dumps(tree | {"schema_version": 1, "speeds": []}))
    run(builds / "plain/programs/byolt-verify", bundle, "--provider", "CPU", "--threads", "1")


def test_without_onnx_runtime_nothing_is_green(builds: Path, bundles: Bundles) -> None:
    found = run(builds / "thread/programs/byolt-verify", bundles.classes, code=5)
    assert found.stderr.decode().endswith("this byolt was built without ONNX Runtime (-DBYOLT_ONNXRUNTIME=ON)\n")
    refused = run(builds / "thread/programs/byolt-bench", bundles.classes, code=5)
    assert b"holds nothing that may run here" in refused.stderr


@pytest.mark.parametrize("build", ["plain", "address"])
def test_a_damaged_file_is_one_sentence_and_exit_2(builds: Path, bundles: Bundles, tmp_path: Path, build: str) -> None:
    bundle = Path(shutil.copytree(bundles.embedding, tmp_path / "bundle"))
    (bundle / "encoder.onnx").write_bytes(b"damaged")
    found = run(builds / build / "programs/byolt-verify", bundle, code=2)
    assert found.stderr.decode().startswith(f"{bundle}/encoder.onnx is not the file that manifest.json names")
    assert found.stderr.count(b"\n") == 1


@pytest.mark.parametrize("build", ["plain", "address"])
@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_the_resize_is_pillows_byte_for_byte(builds: Path, build: str, width: int, height: int, size: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for rule in ("crop", "squash"):
        found = run(builds / build / "tests/byolt-test-square", width, height, size, rule, input=pixels.tobytes())
        assert found.stdout == to_square(pixels, size, rule).tobytes(), rule


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "usage: "),
        (["--speed"], "--speed is not known; usage: "),
        (["a", "b"], "usage: "),
        (["a", "--threads", "none"], "--threads needs a whole number of at least 1; usage: "),
        (["a", "--threads"], "--threads needs a value; usage: "),
        (["nowhere"], "nowhere holds no bundle: manifest.json is missing"),
    ],
)
@pytest.mark.parametrize("program", ["byolt-verify", "byolt-bench"])
def test_faults_of_a_command_line(builds: Path, program: str, words: list[str], sentence: str) -> None:
    found = run(builds / "plain/programs" / program, *words, code=2)
    assert found.stderr.decode().startswith(sentence)
    assert found.stdout == b""


def test_bench_measures_beside_plain_calls(builds: Path, bundles: Bundles) -> None:
    words = ("--runtime", "cpu", "--threads", 1, "--seconds", 1, "--batch", "1,8", "--json")
    found = json.loads(run(builds / "plain/programs/byolt-bench", bundles.embedding, *words, "--plain").stdout)
    assert [row["batch"] for row in found["rows"]] == [1, 8]
    for row in found["rows"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_s"] > 0
        assert row["peak_mib"] > 1
        assert row["ratio"] > 0.1  # That it is timed at all: the figure itself is for a quiet machine.
