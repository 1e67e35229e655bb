"""A build's progress, how it is stopped, and the timings that it keeps."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.export import graphs
from tests.export.engines import AMPERE, CLASSIC, ORIN, PROFILE, RTX, build, trt, write

from byolt_export.errors import InputError, Stopped
from byolt_export.tensorrt.build_engine import build_engine
from byolt_export.tensorrt.flavour import Flavour, Target
from byolt_export.tensorrt.progress import Phases


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
    how: dict[str, Any] = {"flavour": CLASSIC, "target": ORIN, "cache_dir": cache, "profile": PROFILE}

    def timings(model: onnx.ModelProto | None = None, **changes: Any) -> str:
        file = write(tmp_path, graphs.encoder() if model is None else model)
        return build_engine(tmp_path / file.name, **how | changes).timings

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
    assert timings(target=xavier) == "new"
    assert len(list(cache.iterdir())) == 5
    kept.write_bytes(b"")
    assert timings() == "new"
    assert timings(flavour=RTX, target=AMPERE, cache_dir=tmp_path / "unused") == "none"
    assert not (tmp_path / "unused").exists()


def test_a_cache_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache cannot hold timing caches: Not a directory"):
        build(tmp_path, flavour=CLASSIC, targets=[ORIN], cache_dir=tmp_path / "file" / "cache")
