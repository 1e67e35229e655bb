"""What launchers say by variables: torchrun's are taken, those of others told, and none of them is met with silence."""

from pathlib import Path

import pytest

from byolt.launch import Launch, launch, other_launcher, signed, speaks
from byolt_export.errors import InputError
from tests.test_command_line import byolt, draw_folder, write_recipe

NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
    *("TORCHELASTIC_ERROR_FILE", "SLURM_PROCID", "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("PMI_RANK", "PMI_SIZE"),
)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    for word in words.split():
        monkeypatch.setenv(*word.split("=", 1))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("RANK=1", "RANK=1"),
        ("WORLD_SIZE=4", "WORLD_SIZE=4"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a", "RANK=0 and WORLD_SIZE=2"),
        ("SLURM_PROCID=0 SLURM_NTASKS=8", "SLURM_PROCID=0 and SLURM_NTASKS=8"),
        ("OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_RANK=3 and OMPI_COMM_WORLD_SIZE=4"),
        ("RANK=0 PMI_RANK=1", "PMI_RANK=1"),
        ("RANK=0", None),
        ("RANK= WORLD_SIZE=", None),
        ("RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1", None),
        ("LOCAL_RANK=abc SLURM_PROCID=abc SLURM_NTASKS=8x", "SLURM_PROCID=abc and SLURM_NTASKS=8x"),
        ("SLURM_NTASKS=8", None),  # Of a job's shell; no rank belongs to it.
    ],
)
def test_another_launcher_is_told_and_the_process_learns_alone(
    words: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, words)
    told = other_launcher()
    if named is None:
        assert told is None
    else:
        assert str(told).startswith(f"{named}, but torchrun did not start this process: it learns alone")
    assert launch() == Launch(0, 0, 1, 1)
    assert signed("said") == "said"
    assert speaks()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("RANK=abc", "RANK=abc is no whole number from 0 on; unset it"),
        ("RANK=-1", "RANK=-1 is no whole number"),
        ("WORLD_SIZE=1.5", "WORLD_SIZE=1.5 is no whole number"),
        ("RANK=2 WORLD_SIZE=2", "RANK=2 is no rank of WORLD_SIZE=2; unset both"),
        ("RANK=0 WORLD_SIZE=0", "RANK=0 is no rank of WORLD_SIZE=0"),
        (
            "RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1",
            "RANK=1 and WORLD_SIZE=2 describe 2 processes that learn together, which torchrun has to start: torchrun",
        ),
    ],
)
def test_what_cannot_be_is_refused(words: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, words)
    with pytest.raises(InputError) as fault:
        other_launcher()
    assert str(fault.value).startswith(told)
    if "MASTER" not in words:
        given(monkeypatch, "TORCHELASTIC_RUN_ID=job MASTER_ADDR=a MASTER_PORT=1 LOCAL_RANK=0")
        monkeypatch.setenv("WORLD_SIZE", "2") if "WORLD" not in words else None
        monkeypatch.setenv("RANK", "0") if "RANK" not in words else None
        with pytest.raises(InputError) as fault:
            launch()
        assert str(fault.value).startswith(told)


def test_of_torchrun_s_processes_one_speaks_with_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "TORCHELASTIC_RUN_ID=job RANK=5 LOCAL_RANK=1 WORLD_SIZE=8 LOCAL_WORLD_SIZE=4 MASTER_ADDR=a")
    with pytest.raises(InputError, match="torchrun started this process, but MASTER_PORT is not set"):
        launch()
    given(monkeypatch, f"MASTER_PORT=1 TORCHELASTIC_ERROR_FILE={tmp_path}/1/error.json")
    assert launch() == Launch(5, 1, 8, 4)
    assert (speaks(), speaks(), speaks(at_once=True)) == (True, False, False)
    assert signed("said") == "rank 5: said"
    given(monkeypatch, f"RANK=4 LOCAL_RANK=0 TORCHELASTIC_ERROR_FILE={tmp_path}/0/error.json")
    assert not speaks()


def test_a_lone_rank_of_a_launcher_is_never_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path, draw_folder(tmp_path / "images", classes=0, images=32))
    given(monkeypatch, "RANK=1")
    done = byolt("pretrain", recipe, "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RANK=1, but torchrun did not start this process: it learns alone" in done.stderr
    assert "verdict" in done.stdout
    assert byolt("recipe", "show", "gone.yaml", folder=tmp_path).stderr.startswith("recipe gone.yaml not found")
    given(monkeypatch, "RANK=abc")
    assert byolt("pretrain", recipe, folder=tmp_path)[::2][1].startswith("RANK=abc is no whole number from 0 on")
