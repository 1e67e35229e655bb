"""What commit b5692c5 wrote is still read: its checkpoint resumes, its bundle verifies, its hashes are the same."""

import json
import shutil
from pathlib import Path

import pytest

from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.load import load_recipe
from byolt.studies.ablations import ablation_arms
from byolt.studies.ledger import Key, Ledger, key_of
from byolt.studies.plan import Arm, Job, Role, method_arm, tuning_arms
from tests.test_command_line import byolt

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "b5692c5"

# A result key added since then must not change them: it enters a hash only where it differs from its default.
HASHES = {
    "cifar10": "4bb82d72",
    "cifar10-cpu": "0a87c1b8",
    "cifar10-gpu": "e6cf683c",
    "cifar10-study": "8206999f",
    "folder": "79efec2f",
    "mean-teacher": "0d6025b4",
    "mean-teacher-unlabelled": "9cdfd7e3",
    "moco-v2": "4af2fbb5",
    "moco-v3": "7c989bbf",
    "quickstart": "cbd27e23",
    "simclr": "ac6a12f8",
    "simsiam": "950ed9a6",
    "stl10": "3ca94182",
    "tiny": "8969abb5",
}
STUDY = ROOT / "recipes" / "cifar10-study.yaml"
CIFAR10_JPEG = "91fa8265bd5e9907df2a29da1cb1b81f7fdc49f3da45641fcb9c858276f8b0ef"


def losses(metrics: Path) -> dict[str, float]:
    """Loss by step and kind of line: an epoch ends with a second line of the same step."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {f"{line['step']} {'knn' in line}": line["loss"] for line in lines}


def test_its_interrupted_run_goes_on_to_the_losses_of_the_uninterrupted_one(tmp_path: Path) -> None:
    run = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    whole, before = losses(GOLDEN / "whole.metrics.jsonl"), losses(run / "metrics.jsonl")
    done = byolt("pretrain", GOLDEN / "tiny.yaml", "--resume", run, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "learning from step 12 of 20" in (run / "train.log").read_text()
    after = losses(run / "metrics.jsonl")
    assert after.keys() == whole.keys()
    assert {step: after[step] for step in before} == before
    assert after == pytest.approx(whole, rel=1e-4)  # Of what other processors' kernels change, see the README.
    assert (run / "encoder.safetensors").stat().st_size > 0


def test_its_bundle_is_verified(tmp_path: Path) -> None:
    bundle = shutil.copytree(GOLDEN / "bundle", tmp_path / "bundle")
    done = byolt("verify", bundle, "--provider", "CPUExecutionProvider", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    verdicts = {file["precision"]: file["verdict"] for file in json.loads(done.stdout)["files"]}
    assert verdicts == {"fp32": "passed", "fp16": "passed", "int8": "passed"}


@pytest.mark.parametrize(("name", "expected"), HASHES.items())
def test_a_recipe_has_the_hash_that_it_had(name: str, expected: str) -> None:
    path = GOLDEN / "tiny.yaml" if name == "tiny" else ROOT / "recipes" / f"{name}.yaml"
    assert recipe_hash(result_keys(load_recipe(path)), "images") == expected


def test_a_later_key_enters_the_hash_where_it_is_not_its_default() -> None:
    recipe = load_recipe(ROOT / "recipes" / "folder.yaml", {"data.split_seed": 0})
    assert recipe_hash(result_keys(recipe), "images") != HASHES["folder"]
    assert result_keys(recipe)["data.split_seed"] == 0


def test_the_recipe_that_a_run_holds_has_the_runs_hash() -> None:
    made = json.loads((GOLDEN / "run" / "environment.json").read_text())
    resolved = load_recipe(GOLDEN / "run" / "recipe.resolved.yaml")
    assert recipe_hash(result_keys(resolved), made["images"]) == made["hash"] == "015e345a"


@pytest.mark.parametrize(
    ("arm", "seed", "role", "run", "protocol"),
    [
        (method_arm(load_recipe(STUDY), "mean_teacher"), 4, "study", "cbdb705a", "d594babb"),
        (method_arm(load_recipe(STUDY), "byol"), 0, "finetune", "883f8294", "8380a3f5"),
        (tuning_arms(load_recipe(STUDY), "byol")[0], 1000, "tuning", "af9224ce", "8fdb2603"),
        (ablation_arms(load_recipe(STUDY), "target")[2], 0, "study", "3e9add57", "d594babb"),
    ],
    ids=["study", "finetune", "tuning", "ablation"],
)
def test_a_job_of_the_study_has_the_hashes_of_its_row(arm: Arm, seed: int, role: Role, run: str, protocol: str) -> None:
    job = Job(arm.name, arm.with_seed(seed), role)
    assert key_of(job, CIFAR10_JPEG, protocol=1)[:2] == (run, protocol)
    assert key_of(job, CIFAR10_JPEG).run == run
    assert key_of(job, CIFAR10_JPEG).protocol != protocol  # Now measured with BatchNorm statistics taken anew.
    row = Ledger(ROOT / "docs" / "results" / "cifar10-study.csv").rows()[Key(run, protocol, "0.1.0")]
    assert (row["arm"], row["role"], row["seed"]) == (arm.name, role, str(seed))
