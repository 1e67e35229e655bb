"""What is refused before an image is opened: each recipe here has a fault and images that are not there."""

import os
from pathlib import Path
from typing import Any

import pytest

from byolt.cores import quota_cores, usable_cores
from byolt.delivery.embed import refuse_output
from byolt.preflight import check_recipe, check_run_folder, refuse_unwritable
from byolt.studies.study import study
from byolt_export.errors import ByoltError, InputError
from tests.conftest import tiny_recipe
from tests.test_command_line import byolt, one_sentence, write_recipe

NOWHERE = {"name": "folder", "root": Path("no-such-folder")}
PLAIN: dict[str, Any] = {"args": {}, "stem": "plain"}
MOST = max(32, 4 * usable_cores())
CORES = "the one core" if usable_cores() == 1 else f"the {usable_cores()} cores"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.backbone=resnet81", "model.backbone: torchvision has no model 'resnet81'; did you mean 'resnet18'?"),
        ("model.backbone=timm/resnet81", "model.backbone: timm has no model 'resnet81'; did you mean 'timm/resnet18'?"),
        ("model.args={layers: 3}", "model.args do not fit timm/resnet18: 'int' object is not iterable"),
        ("model.args={channels: [-1, 16, 16, 16]}", "cannot be built: Trying to create tensor with negative"),
        ("model.backbone=timm/vit_tiny_patch16_224", "model.args do not fit timm/vit_tiny_patch16_224: "),
        ("machine.threads=100000", f"machine.threads: 100,000 threads are too many for {CORES} here"),
        (f"machine.threads={MOST + 1}", f"take {MOST} at most"),
        ("machine.workers=100000", f"machine.workers: 100,000 processes are too many for {CORES} here"),
        ("name=" + "a" * 240, "has 240 characters, and a run's folder can take 23"),
        (
            "machine.runs_dir=tiny.yaml",
            "tiny.yaml cannot be written (Not a directory); name another folder: --set mach",
        ),
        ("machine.runs_dir=tiny.yaml/runs", "tiny.yaml/runs cannot be written below "),
        ("optim.batch_size=2", "no-such-folder"),  # Nothing else is wrong: then it is told of the images.
    ],
)
def test_before_the_images_are_opened(tmp_path: Path, setting: str, said: str) -> None:
    recipe = write_recipe(tmp_path, Path("no-such-folder"))
    done = byolt("pretrain", recipe, "--set", setting, folder=tmp_path)
    assert said in one_sentence(done, done.returncode), done.stderr
    assert done.returncode in (1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"projector": {"hidden_dim": 10**9, "out_dim": 8}}}, "weights take 288 GB to learn, and this mach"),
        ({"model": {"predictor": {"hidden_dim": 10**12, "out_dim": 8}}}, "weights take 192,"),
        ({"model": {"init": "file", "init_file": Path("no.safetensors")}}, "encoder weights no.safetensors cannot be"),
        (
            {"model": PLAIN | {"backbone": "timm/vit_tiny_patch16_224", "args": {"img_size": 16, "depth": 1}},
             "views": {"size_px": 32}},
            "timm/vit_tiny_patch16_224 does not take views of 32 px (views.size_px, views.early_size_px): Input height",
        ),
        (
            {"model": PLAIN | {"backbone": "inception_v3"}},
            "model.backbone: inception_v3 does not take 16 px images: ",
        ),
        ({"machine": {"threads": 10**6}}, "machine.threads: 1,000,000 threads are too many"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The default weight init")
def test_networks_that_cannot_be_learned_here(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as fault:
        check_recipe(tiny_recipe(data=NOWHERE, **sections))
    assert said in str(fault.value)


def test_what_fits_is_not_refused_and_nothing_is_left(tmp_path: Path) -> None:
    recipe = tiny_recipe(machine={"threads": MOST, "workers": MOST, "runs_dir": tmp_path / "a" / "b"})
    check_recipe(recipe)
    check_run_folder(recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_refused_as_a_whole_before_its_first_run(tmp_path: Path) -> None:
    def refused(said: str, methods: tuple[str, ...] = ("byol",), jobs: int = 1, **sections: Any) -> None:
        recipe = tiny_recipe(**{"data": NOWHERE, "machine": {"runs_dir": tmp_path / "runs"}} | sections)
        with pytest.raises(ByoltError) as fault:
            study(recipe, methods, seeds=2, jobs=jobs, results=tmp_path / "results")
        assert said in str(fault.value)

    refused("--methods barlow: known are", ("byol", "barlow"))
    refused("model.backbone: torchvision has no model 'resnet81'", model=PLAIN | {"backbone": "resnet81"})
    refused("--jobs: 100,000 runs are too many", jobs=100_000)
    # A setting that validation would come to after the first runs.
    refused("study.methods.simclr", ("byol", "simclr"), study={"tuning": {"simclr": [{"method.no_such_key": 1}]}})
    refused("study.methods.simclr", ("byol", "simclr"), study={"methods": {"simclr": {"optim.base_lr": -1}}})
    (tmp_path / "results").write_text("a file")
    refused("results cannot be written (Not a directory); name another folder: --results DIR")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "file/below", "link/below", "/proc/runs"):
        with pytest.raises(ByoltError, match=r"cannot be written.*; name another folder: --there"):
            refuse_unwritable(tmp_path / name, "--there")
    refuse_unwritable(tmp_path / "new" / "deep", "--there")
    (tmp_path / "e.npz").mkdir()
    for name, said in {"e.npz": "is a folder", "file/e.npz": "there is no folder", "e.txt": "ends in .npz"}.items():
        with pytest.raises(ByoltError, match=said):
            refuse_output(tmp_path / name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "--data", "images", "--labels", "nan"],
        ["bench", "--seconds", "inf"],
        ["bench", "--seconds", "1e20"],
        ["data", "pack", "images", "out", "--shard-mb", "nan"],
        ["study", "tiny.yaml", "--seeds", "1000000000"],
    ],
)
def test_numbers_of_the_command_line_are_bounded(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "runs" / "a-12345678").mkdir(parents=True)
    (tmp_path / "runs" / "a-12345678" / "recipe.resolved.yaml").touch()
    done = byolt(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "Invalid value" in done.stderr


@pytest.mark.parametrize("number", ["--threads=100000"])
def test_threads_of_bench(tmp_path: Path, number: str) -> None:
    assert "--threads: 100,000 threads are too many" in one_sentence(byolt("bench", ".", number, folder=tmp_path), 2)


def test_the_quota_of_a_control_group(tmp_path: Path) -> None:
    assert quota_cores(tmp_path, "/") is None
    inner = tmp_path / "pod" / "one"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert quota_cores(tmp_path, "/pod/one") is None
    (tmp_path / "pod" / "cpu.max").write_text("150000 100000\n")
    assert quota_cores(tmp_path, "/pod/one") == 1.5
    assert quota_cores(tmp_path, "/") is None  # Another group's is not ours.
    (inner / "cpu.max").write_text("50000 100000\n")
    assert quota_cores(tmp_path, "/pod/one") == 0.5
    version_1 = tmp_path / "cpu" / "docker"
    version_1.mkdir(parents=True)
    (version_1 / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("-1\n", None), ("400000\n", 4.0)):
        (version_1 / "cpu.cfs_quota_us").write_text(quota)
        assert quota_cores(tmp_path, "/docker") == cores
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
