"""Engines by the real builder: TensorRT for RTX makes them without a GPU.

What classic TensorRT does beyond it (this machine as target, timing caches) is tried with the same library under the
other flavour's name: one Python API serves both.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tests.export import graphs

from byolt_export.bundle.manifest import Engine, Input, Onnx, Profile
from byolt_export.cuda import MissingGpu, find_gpu
from byolt_export.errors import EngineFault, InputError, MissingPart, ParityFault, Stopped
from byolt_export.files import sha256
from byolt_export.tensorrt import build as engine_module
from byolt_export.tensorrt.build import BuiltEngine, build_engine, build_engines, profile_of
from byolt_export.tensorrt.flavour import Flavour, Target, choose_flavour, resolve_target
from byolt_export.tensorrt.log import plain, shared_log
from byolt_export.tensorrt.plan import plan_fault
from byolt_export.tensorrt.progress import Phases
from byolt_export.tensorrt.runner import EngineRunner, open_engine

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel for this machine")

RTX = choose_flavour("tensorrt_rtx")
CLASSIC = Flavour("tensorrt", trt.__version__, trt)
PROFILE = Profile(min_batch=1, opt_batch=4, max_batch=10)
INT8 = pytest.mark.skipif(RTX.release < (1, 7), reason="INT8 needs TensorRT for RTX 1.7")
AMPERE = Target("rtx30", (86,))
ORIN = Target("here", (87,), "Orin")


def has_gpu() -> bool:
    try:
        find_gpu("the test looks for one")
    except MissingGpu:
        return False
    return True


NO_GPU = pytest.mark.skipif(has_gpu(), reason="shows what a machine without a GPU says")


def write(folder: Path, model: onnx.ModelProto, precision: str = "fp32") -> Onnx:
    name = "encoder.onnx" if precision == "fp32" else f"encoder.{precision}.onnx"
    (folder / name).write_bytes(model.SerializeToString())
    return Onnx(
        name=name,
        precision=precision,
        opset=19,
        sha256=sha256(folder / name),
        verdict="passed",
        reason="",
        gates={},
    )


def build(folder: Path, model: onnx.ModelProto | None = None, precision: str = "fp32", **changes: Any) -> BuiltEngine:
    file = write(folder, graphs.encoder(precision) if model is None else model, precision)
    how: dict[str, Any] = {"flavour": RTX, "targets": [AMPERE]} | changes
    (built,) = build_engines(folder, [file], PROFILE, **how)
    return built


@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("int8", marks=INT8)])
def test_an_engine_of_each_precision(tmp_path: Path, precision: str) -> None:
    built = build(tmp_path, precision=precision)
    entry, name = built.entry, f"encoder.{precision}.rtx30.engine"
    assert built.timings == "none"
    assert (entry.name, entry.precision, entry.flavour) == (name, precision, "tensorrt_rtx")
    assert (entry.version, entry.target, entry.compute_capabilities) == (trt.__version__, "rtx30", (86,))
    assert (entry.profile, entry.workspace_mib, entry.verdict) == (PROFILE, 1024, "not run here")
    plan = (tmp_path / name).read_bytes()
    assert entry.sha256 == sha256(tmp_path / name)
    assert plan_fault(plan, RTX) == ""
    # A plain plan: TensorRT's own mark comes first, and every layer of the graph is in it.
    assert plan[:4] == b"vtrt"
    assert all(f"[ONNX Layer: {layer}]".encode() in plan for layer in ("to_float", "conv0", "conv1", "head"))


def test_fp16_weights_take_half_the_room(tmp_path: Path) -> None:
    wide = 40_000
    sizes = [
        (tmp_path / build(tmp_path, graphs.encoder(precision, dim=wide), precision).entry.name).stat().st_size
        for precision in ("fp32", "fp16")
    ]
    assert sizes[0] - sizes[1] == pytest.approx(graphs.CHANNELS * wide * 2, rel=0.05)


def test_one_engine_serves_several_generations(tmp_path: Path) -> None:
    one = build(tmp_path).entry
    many = build(tmp_path, targets=[resolve_target(RTX, RTX.default_target)]).entry
    assert (many.name, many.compute_capabilities) == ("encoder.fp32.rtx.engine", (86, 89, 120))
    assert sorted(path.name for path in tmp_path.glob("*")) == ["encoder.fp32.rtx.engine", one.name, "encoder.onnx"]


def test_an_fp32_graph_under_the_name_of_another_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityFault, match=r"encoder\.fp16\.onnx .* it is named fp16, and it multiplies 100% in fp32"):
        build(tmp_path, graphs.encoder("fp32"), "fp16")
    with pytest.raises(ParityFault, match=r"named fp32, and it multiplies 100% in fp16"):
        build(tmp_path, graphs.encoder("fp16"), "fp32")
    assert not list(tmp_path.glob("*.engine"))


@INT8
def test_an_fp16_graph_under_the_name_of_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityFault, match=r"named int8, and it multiplies 100% in fp16"):
        build(tmp_path, graphs.encoder("fp16"), "int8")


def test_int8_is_refused_before_the_other_files_are_built(tmp_path: Path) -> None:
    files = [write(tmp_path, graphs.encoder()), write(tmp_path, graphs.encoder("int8"), "int8")]
    early, told = Flavour("tensorrt_rtx", "1.4.0.76", trt), []
    with pytest.raises(MissingPart):
        build_engines(
            tmp_path, files, PROFILE, flavour=early, targets=[AMPERE], progress=lambda phase, _: told.append(phase)
        )
    assert not told


def test_int8_wants_a_later_version_and_says_so(tmp_path: Path) -> None:
    early = Flavour("tensorrt_rtx", "1.4.0.76", trt)
    with pytest.raises(MissingPart, match=r'1\.4\.0\.76 does not build INT8: pip install "tensorrt-rtx-cu13-bind'):
        build(tmp_path, precision="int8", flavour=early)
    with pytest.raises(ParityFault, match=r"it is named fp16, and it multiplies \d+% in fp16, \d+% in int8"):
        build(tmp_path, graphs.encoder("int8"), "fp16", flavour=early)


def renamed(operator: str) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if n.name == "relu0"]
        node.op_type = operator

    return apply


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def double_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def no_output(model: onnx.ModelProto) -> None:
    model.graph.ClearField("output")


def weights_elsewhere(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[1]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")


def lost_input(model: onnx.ModelProto) -> None:
    (node,) = [n for n in model.graph.node if n.name == "relu0"]
    node.input[0] = "nowhere"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (renamed("Nonsense"), EngineFault, r"refuses node `relu0` \(Nonsense\): .*replace that layer"),
        (renamed("Det"), EngineFault, r"refuses node `relu0` \(Det\): it has no such operator; replace"),
        (lost_input, EngineFault, r"refuses node `relu0` \(Relu\): Node input was not registered; replace"),
        (fixed_batch, InputError, "accepts batches of 4 alone: export it with a dynamic batch"),
        (double_input, InputError, "is not an encoder of a bundle: it must map one input `images`, uint8"),
        (no_output, InputError, "is not an encoder of a bundle"),
        (weights_elsewhere, InputError, r"cannot be read as ONNX: .*conv0_weights; export it again"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path, damage: Callable[[onnx.ModelProto], None], error: type[Exception], message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = graphs.encoder()
    damage(model)
    with pytest.raises(error, match=message) as caught:
        build(tmp_path, model)
    assert "\n" not in str(caught.value)
    assert "cuda" not in str(caught.value).lower()
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


@pytest.mark.parametrize("content", [b"", b"no onnx at all", "half"])
def test_damaged_onnx_is_bad_input(tmp_path: Path, content: bytes | str) -> None:
    whole = graphs.encoder().SerializeToString()
    path = tmp_path / "encoder.onnx"
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"has 0 bytes|cannot be read as ONNX: Failed to parse the ONNX model; export"):
        build_engine(path, flavour=RTX, target=AMPERE, precision="fp32", profile=PROFILE)


def test_a_file_that_the_manifest_does_not_know_is_not_built(tmp_path: Path) -> None:
    file = write(tmp_path, graphs.encoder())
    (tmp_path / file.name).write_bytes(graphs.encoder(size_px=8).SerializeToString())
    with pytest.raises(InputError, match="SHA-256"):
        build_engines(tmp_path, [file], PROFILE, flavour=RTX, targets=[AMPERE])


def test_a_fault_leaves_no_engine_and_keeps_the_old_ones(tmp_path: Path) -> None:
    old = tmp_path / "encoder.fp32.rtx30.engine"
    old.write_bytes(b"from before")
    bad = graphs.encoder("fp16")
    renamed("Nonsense")(bad)
    files = [write(tmp_path, graphs.encoder()), write(tmp_path, bad, "fp16")]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EngineFault):
        build_engines(tmp_path, files, PROFILE, flavour=RTX, targets=[AMPERE])
    assert sorted(tmp_path.iterdir()) == before
    assert old.read_bytes() == b"from before"


def test_too_small_a_workspace_is_told_by_the_builders_own_words(tmp_path: Path) -> None:
    with pytest.raises(EngineFault, match=r"does not build .*workspace memory greater than 0"):
        build(tmp_path, workspace_mib=0)


def test_one_logger_a_process_emptied_for_each_build() -> None:
    log = shared_log(trt)
    log.errors.append("of an earlier build")
    assert shared_log(trt) is log
    assert log.errors == []
    assert log.reason() == "it does not say why"


def test_a_network_keeps_to_its_types_and_limits(tmp_path: Path) -> None:
    file = write(tmp_path, graphs.encoder())
    build = engine_module._Build(tmp_path / file.name, RTX, None)
    build.parse((tmp_path / file.name).read_bytes())
    assert build.config.get_flag(trt.BuilderFlag.TF32)  # TensorRT's own default.
    build.configure(AMPERE, PROFILE, 64)
    assert not build.config.get_flag(trt.BuilderFlag.TF32)
    assert build.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert build.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 * 2**20
    assert [build.config.get_compute_capability(k).name for k in range(build.config.num_compute_capabilities)] == [
        "SM86"
    ]


def test_engines_need_neither_torch_nor_onnx(tmp_path: Path) -> None:
    write(tmp_path, graphs.encoder())
    script = (
        "import sys; from pathlib import Path\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript'): sys.modules[name] = None\n"
        "from byolt_export.tensorrt.build import build_engine\n"
        "import byolt_export.tensorrt.runner\n"
        "from byolt_export.tensorrt.flavour import choose_flavour, resolve_target\n"
        "from byolt_export.bundle.manifest import Profile\n"
        "flavour = choose_flavour('tensorrt_rtx')\n"
        "profile = Profile(min_batch=1, opt_batch=4, max_batch=10)\n"
        f"plan = build_engine(Path({str(tmp_path / 'encoder.onnx')!r}), flavour=flavour, precision='fp32',\n"
        "    target=resolve_target(flavour, 'rtx30'), profile=profile)\n"
        "print(len(plan.plan) > 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_profile_out_of_order_is_bad_input(tmp_path: Path) -> None:
    file = write(tmp_path, graphs.encoder())
    with pytest.raises(InputError, match="batches of 1 to 4, tuned for 8, are no range"):
        build_engines(
            tmp_path,
            [file],
            Profile(min_batch=1, opt_batch=8, max_batch=4),
            flavour=RTX,
            targets=[AMPERE],
        )


def test_the_profile_is_the_contracts() -> None:
    pixels = Input(size_px=16, resize="crop", opt_batch=4, max_batch=10, mean=(0, 0, 0), std=(1, 1, 1))
    assert profile_of(pixels) == PROFILE


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    build(tmp_path, progress=lambda phase, share: told.append((phase, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert shares[-1] > 0.8
    assert len({phase for phase, _ in told}) > 3


def test_phases_are_nested_shares() -> None:
    phases = Phases()
    phases.start("all", None, 2)
    phases.start("first", "all", 4)
    assert phases.step("first", 0) == 1 / 8
    assert phases.step("first", 3) == 1 / 2
    phases.finish("first")
    assert phases.step("all", 0) == 1 / 2
    assert phases.step("of nobody", 0) == 1 / 2
    assert phases.step("all", 1) == 1


def test_progress_that_says_no_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"stopped while the engine of .*encoder\.onnx was built; nothing was") as stopped:
        build(tmp_path, progress=lambda _phase, share: share < 0.1)
    assert stopped.value.exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_ctrl_c_stops_the_build(tmp_path: Path) -> None:
    steps: list[str] = []

    def interrupt(phase: str, _share: float) -> None:
        steps.append(phase)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # The building thread is here, the waiting one hears of the signal.

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, progress=interrupt)
    assert len(steps) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_what_progress_raises_arrives(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(_phase: str, _share: float) -> None:
        raise ZeroDivisionError("of the caller")

    with pytest.raises(ZeroDivisionError, match="of the caller"):
        build(tmp_path, progress=broken)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_timings_are_kept_for_the_same_build_alone(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    how: dict[str, Any] = {"flavour": CLASSIC, "targets": [ORIN], "cache_dir": cache}

    def timings(model: onnx.ModelProto | None = None, **changes: Any) -> str:
        return build(tmp_path, model, **how | changes).timings

    assert timings() == "new"
    (kept,) = cache.iterdir()
    assert (kept.suffix, kept.stat().st_size > 0) == (".timing", True)
    assert timings() == "reused"
    assert list(cache.iterdir()) == [kept]
    later = Flavour("tensorrt", "99.1", trt)
    xavier = Target("here", (72,), "Xavier")
    assert timings(graphs.encoder(size_px=8)) == "new"
    assert timings(workspace_mib=512) == "new"
    assert timings(flavour=later) == "new"
    assert timings(targets=[xavier]) == "new"
    assert len(list(cache.iterdir())) == 5
    kept.write_bytes(b"")
    assert timings() == "new"
    assert build(tmp_path, cache_dir=tmp_path / "unused").timings == "none"
    assert not (tmp_path / "unused").exists()


def test_a_cache_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache cannot hold timing caches: Not a directory"):
        build(tmp_path, flavour=CLASSIC, targets=[ORIN], cache_dir=tmp_path / "file" / "cache")


def test_targets_by_name() -> None:
    assert resolve_target(RTX, "rtx40") == Target("rtx40", (89,))
    assert resolve_target(RTX, "RTX") == Target("rtx", (86, 89, 120))
    assert resolve_target(RTX, "sm75") == Target("sm75", (75,))
    assert {75, 80, 86, 89, 120} <= set(RTX.capabilities)
    assert (121 in RTX.capabilities) == (RTX.release >= (1, 5))
    assert (RTX.default_target, CLASSIC.default_target) == ("rtx", "here")


JETSON = "run `byolt build-engine BUNDLE` on the Jetson itself"
DATA_CENTRE = "run `byolt build-engine BUNDLE` with classic TensorRT on the machine of that GPU"
REFUSED = [
    (RTX, "orin", r"TensorRT for RTX [\d.]+ does not build for orin \(SM 87\): " + JETSON),
    (RTX, "sm87", r"does not build for sm87: " + JETSON),
    (RTX, "thor", r"does not build for thor \(SM 110\): " + JETSON),
    (RTX, "sm110", r"does not build for sm110: " + JETSON),
    (RTX, "xavier", r"does not build for xavier \(SM 72\): " + JETSON),
    (RTX, "h100", r"does not build for h100 \(SM 90\): " + DATA_CENTRE),
    (RTX, "h200", r"does not build for h200 \(SM 90\): " + DATA_CENTRE),
    (RTX, "sm100", r"does not build for sm100: " + DATA_CENTRE),
    (RTX, "sm99", r"does not build for sm99, only for SM 75, 80, 86, 89, 120.*: name one of these"),
    (RTX, "rtx41", r"target 'rtx41' is not known: it is one of here, rtx20, .*; did you mean 'rtx40'"),
    (RTX, "../../x", r"target '../../x' is not known"),
    (Flavour("tensorrt", "10.3.0", None), "rtx40", r"TensorRT 10\.3\.0 does not build for rtx40 \(SM 89\), only for "
     r"the machine it runs on: use the target `here` there, or pip install \"byolt\[rtx\]\""),
    (Flavour("tensorrt", "10.3.0", None), "orin", r"does not build for orin \(SM 87\): " + JETSON),
]  # fmt: skip


@pytest.mark.parametrize(("flavour", "name", "message"), REFUSED)
def test_targets_that_are_refused(flavour: Flavour, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        resolve_target(flavour, name)
    assert "\n" not in str(refused.value)


@NO_GPU
@pytest.mark.parametrize("flavour", [RTX, CLASSIC])
def test_here_needs_a_gpu(flavour: Flavour) -> None:
    with pytest.raises(MissingGpu, match=r"builds for the GPU of this machine, and there is no CUDA driver"):
        resolve_target(flavour, "here")


def test_no_flavour_is_told_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPart, match=r'TensorRT is not installed: pip install "byolt\[rtx\]" for engines of RTX'):
        choose_flavour()
    with pytest.raises(MissingPart, match=r"TensorRT for RTX is not installed"):
        choose_flavour("tensorrt_rtx")


def test_a_flavour_that_does_not_load_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert choose_flavour().name == "tensorrt_rtx"
    with pytest.raises(MissingPart, match=r"TensorRT does not load: libnvinfer\.so\.10: cannot open .*; pip install"):
        choose_flavour("tensorrt")


def test_log_lines_without_their_places() -> None:
    assert plain(
        "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network must have at least one output. "
        "In validate at /_src/optimizer/api/network.cpp:3810)"
    ) == "Network must have at least one output"  # fmt: skip
    assert plain("Error reading CUDA GPU properties (cudaError 35: CUDA driver version is insufficient)") == ""
    assert plain("[x.cpp::catchCudaError::229] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:229)") == ""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Engine]:
    folder = tmp_path_factory.mktemp("engine")
    return folder, build(folder).entry


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: b"", "its plan has 0 bytes"),
        (lambda plan: plan[:-1], r"its plan has \d+ bytes and should have \d+"),
        (lambda plan: b"ftrt" + plan[4:], "its plan is none of TensorRT for RTX"),
        (lambda plan: plan[:24] + bytes([1, 3, 0, 9]) + plan[28:], r"its plan is of version 1\.3\.0\.9, not"),
    ],
)
def test_a_damaged_plan_is_refused_before_a_gpu_is_looked_for(
    tmp_path: Path, engine: tuple[Path, Engine], damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / engine[1].name
    path.write_bytes(damage((engine[0] / engine[1].name).read_bytes()))
    with pytest.raises(InputError, match=message):
        EngineRunner(path, RTX)


def test_a_plan_of_the_other_flavour_is_refused(engine: tuple[Path, Engine]) -> None:
    with pytest.raises(InputError, match=r"is no engine for TensorRT [\d.]+: its plan is one of TensorRT for RTX"):
        EngineRunner(engine[0] / engine[1].name, CLASSIC)
    with pytest.raises(InputError, match="absent cannot be read: No such file"):
        EngineRunner(engine[0] / "absent", RTX)


@NO_GPU
def test_without_a_gpu_an_engine_is_not_run(engine: tuple[Path, Engine]) -> None:
    folder, entry = engine
    assert entry.reason.startswith(f"{RTX} runs engines on a GPU, and there is no CUDA driver (libcuda.so.1)")
    with pytest.raises(MissingGpu, match=r"rtx30\.engine is run by TensorRT for RTX .*, and there is no CUDA driver"):
        EngineRunner(folder / entry.name, RTX)
    with pytest.raises(MissingGpu, match="there is no CUDA driver"):
        open_engine(folder, entry)


def test_an_engine_is_opened_as_the_manifest_names_it(engine: tuple[Path, Engine]) -> None:
    folder, entry = engine
    with pytest.raises(InputError, match="SHA-256"):
        open_engine(folder, entry.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(MissingPart, match=r"was built by version 1\.3\.0\.9, and TensorRT for RTX .* is installed"):
        open_engine(folder, entry.model_copy(update={"version": "1.3.0.9"}))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("int8", marks=INT8)])
def test_an_engine_computes_what_onnxruntime_computes(tmp_path: Path, precision: str) -> None:
    from byolt_export.runtime.onnx_runner import OnnxRunner

    flavour = choose_flavour()
    try:
        here = resolve_target(flavour, "here")
    except EngineFault as error:
        pytest.skip(str(error))
    entry = build(tmp_path, precision=precision, flavour=flavour, targets=[here]).entry
    reference = OnnxRunner(tmp_path / entry.onnx)
    images = np.random.default_rng(1).integers(0, 256, (10, graphs.SIZE_PX, graphs.SIZE_PX, 3), np.uint8)
    with open_engine(tmp_path, entry) as run:
        for batch in (1, 3, 10):
            expected = reference(images[:batch])
            tolerance = {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}[precision] * np.abs(expected).max()
            np.testing.assert_allclose(run(images[:batch]), expected, rtol=0, atol=tolerance)
        with pytest.raises(InputError, match="takes batches of 1 to 10, got 11"):
            run(np.concatenate([images, images[:1]]))
