"""Engines by the real builder: TensorRT for RTX makes them without a GPU.

What classic TensorRT does beyond it (this machine as target, timing caches) is tried with the same library under the
other flavour's name: one Python API serves both.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from tests.export import graphs
from tests.export.engines import AMPERE, INT8, PROFILE, RTX, build, trt, write

from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import Profile
from byolt_export.errors import EngineFault, InputError, MissingPart, ParityFault
from byolt_export.files import sha256
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.tensorrt.build_engine import build_engine, build_engines, profile_of
from byolt_export.tensorrt.flavour import Flavour, resolve_target
from byolt_export.tensorrt.log import shared_log
from byolt_export.tensorrt.network import Network
from byolt_export.tensorrt.plan import plan_fault


@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("int8", marks=INT8)])
def test_an_engine_of_each_precision(tmp_path: Path, precision: str) -> None:
    entry, name = build(tmp_path, precision=precision), f"encoder.{precision}.rtx30.engine"
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
        (tmp_path / build(tmp_path, graphs.encoder(precision, dim=wide), precision).name).stat().st_size
        for precision in ("fp32", "fp16")
    ]
    assert sizes[0] - sizes[1] == pytest.approx(graphs.CHANNELS * wide * 2, rel=0.05)


def test_one_engine_serves_several_generations(tmp_path: Path) -> None:
    one = build(tmp_path)
    many = build(tmp_path, targets=[resolve_target(RTX, RTX.default_target)])
    assert (many.name, many.compute_capabilities) == ("encoder.fp32.rtx.engine", (86, 89, 120))
    assert sorted(path.name for path in tmp_path.glob("*")) == ["encoder.fp32.rtx.engine", one.name, "encoder.onnx"]


def mislabelled(folder: Path, precision: str, name: str, **how: Flavour) -> None:
    """A build from a graph of one precision under the name of another, its shares as they are counted at export."""
    model = graphs.encoder(precision)
    build(folder, model, name, shares=precision_shares(model), **how)


def test_an_fp32_graph_under_the_name_of_another_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityFault, match=r"encoder\.fp16\.onnx .* it is named fp16, and it multiplies 100% in fp32"):
        mislabelled(tmp_path, "fp32", "fp16")
    with pytest.raises(ParityFault, match=r"named fp32, and it multiplies 100% in fp16"):
        mislabelled(tmp_path, "fp16", "fp32")
    assert not list(tmp_path.glob("*.engine"))


@INT8
def test_an_fp16_graph_under_the_name_of_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityFault, match=r"named int8, and it multiplies 100% in fp16"):
        mislabelled(tmp_path, "fp16", "int8")


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
        mislabelled(tmp_path, "int8", "fp16", flavour=early)


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
        (renamed("Nonsense"), InputError, r"runs the operator `Nonsense`, which byolt never writes"),
        (renamed("Det"), EngineFault, r"refuses node `relu0` \(Det\): it has no such operator; replace"),
        (lost_input, EngineFault, r"refuses node `relu0` \(Relu\): Node input was not registered; replace"),
        (fixed_batch, InputError, "accepts batches of 4 alone: export it with a dynamic batch"),
        (double_input, InputError, "is not an encoder of a bundle: it must map one input `images`, uint8"),
        (no_output, InputError, "is not an encoder of a bundle"),
        (weights_elsewhere, InputError, r"keeps `conv0_weights` in a file outside of itself"),
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
    with pytest.raises(InputError, match=r"has 0 bytes|cannot be read as ONNX: it [a-z ]+.*; export"):
        build_engine(path, flavour=RTX, target=AMPERE, profile=PROFILE)


def test_a_file_that_the_manifest_does_not_know_is_not_built(tmp_path: Path) -> None:
    file = write(tmp_path, graphs.encoder())
    (tmp_path / file.name).write_bytes(graphs.encoder(size_px=8).SerializeToString())
    with pytest.raises(InputError, match="SHA-256"):
        build_engines(tmp_path, [file], PROFILE, flavour=RTX, targets=[AMPERE])


def test_a_fault_leaves_no_engine_and_keeps_the_old_ones(tmp_path: Path) -> None:
    old = tmp_path / "encoder.fp32.rtx30.engine"
    old.write_bytes(b"from before")
    bad = graphs.encoder("fp16")
    renamed("Det")(bad)
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
    build = Network(tmp_path / file.name, RTX, None)
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
        "from byolt_export.tensorrt.build_engine import build_engine\n"
        "import byolt_export.tensorrt.runner\n"
        "from byolt_export.tensorrt.flavour import choose_flavour, resolve_target\n"
        "from byolt_export.bundle.manifest import Profile\n"
        "flavour = choose_flavour('tensorrt_rtx')\n"
        "profile = Profile(min_batch=1, opt_batch=4, max_batch=10)\n"
        f"plan = build_engine(Path({str(tmp_path / 'encoder.onnx')!r}), flavour=flavour,\n"
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
