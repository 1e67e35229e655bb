"""The public API: the lines of its page and of the notebook run, what they give, and what is refused."""

import inspect
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import byolt as api
from byolt.locks import sole_writer
from byolt_export import Encoder
from byolt_export.errors import InputError
from tests.studies.test_study import _Inline
from tests.test_command_line import byolt, draw_folder, one_sentence, write_recipe

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "python.md").read_text()


class Session(NamedTuple):
    """What a reader has who typed every line of the page: files, names, and what was printed."""

    folder: Path
    names: dict[str, Any]
    printed: list[str]


def typed(blocks: list[str], folder: Path) -> Session:
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with chdir(folder), redirect_stdout(printed), redirect_stderr(printed):
        for block in blocks:
            exec(compile(block, "block", "exec"), names)
    return Session(folder, names, printed.getvalue().splitlines())


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("python")
    draw_folder(folder / "images", classes=3, images=96)
    (folder / "recipes").mkdir()
    write_recipe(folder, Path("elsewhere")).rename(folder / "recipes" / "folder.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byolt.studies.runner.ProcessPoolExecutor", _Inline)
        return typed(re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE), folder)


def test_the_page_has_every_name_and_no_function_takes_more_than_eight_arguments() -> None:
    assert [name for name in api.__all__ if name not in re.findall(r"\w+", PAGE)] == []
    assert set(api.__all__) <= set(dir(api))
    functions = [getattr(api, name) for name in api.__all__ if name not in ("Recipe", "Run")]
    assert [one.__name__ for one in functions if len(inspect.signature(one).parameters) > 8] == []
    with pytest.raises(AttributeError, match="module 'byolt' has no attribute 'train'"):
        _ = api.train


def test_nothing_is_printed_but_what_on_log_prints(session: Session) -> None:
    steps = [re.match(r"epoch (\d)/3  step (\d+)/12  [\d,]+ images/s  ETA ", line) for line in session.printed]
    assert all(steps), session.printed
    # A line every two steps, and one for the evaluation at the end of the second and of the last of three epochs.
    assert [int(step[2]) for step in steps if step] == [2, 4, 6, 8, 8, 10, 12, 12]
    assert "verdict" not in session.printed[0]
    assert "verdict healthy  kNN " in session.printed[-1]


def test_lengths_are_told_of_the_runs_of_the_study(session: Session) -> None:
    lengths, methods = session.names["lengths"], session.names["methods"]
    assert (lengths.lengths, session.names["gaps"]) == ((3,), [])
    accuracies = [[(arm.name, arm.accuracies) for arm in study.tables[0].arms] for study in (lengths, methods)]
    assert accuracies[0] == accuracies[1]


def test_metrics_are_those_of_the_command(session: Session) -> None:
    run, metrics = session.names["run"], session.names["metrics"]
    assert json.loads(json.dumps(metrics)) == metrics
    assert set(metrics) == {"run", "learning", "collapse", "encoder", "untrained", "pixels", "colours"}
    assert metrics["learning"] == api.Run(session.folder / run.path).result
    assert session.names["accuracy"] == metrics["encoder"]["linear"]["accuracy"]
    assert session.names["difference"] == 0
    told = json.loads(byolt("evaluate", run.path, "--json", folder=session.folder).stdout)
    assert {name: told[name] for name in metrics} == metrics
    assert set(told) - set(metrics) == {"finetune", "parity"}  # Of the lines below on the page.
    assert told["finetune"] == session.names["tuned"]
    assert session.names["tuned"]["train_share"] == 0.5


def test_the_bundle_gives_the_embeddings_of_the_run(session: Session) -> None:
    vectors, bundle, encoder = (session.names[name] for name in ("vectors", "bundle", "encoder"))
    assert (vectors.embeddings.shape, vectors.embeddings.dtype, len(vectors.files)) == ((96, 16), np.float32, 96)
    with np.load(session.folder / "embeddings.npz") as kept:
        np.testing.assert_array_equal(kept["embeddings"], vectors.embeddings)
        assert tuple(kept["files"]) == vectors.files
    assert session.names["verdict"] == ("passed", "")
    assert {file.precision for file in bundle.report.files} == {"fp32", "int8"}
    frames = np.stack([np.asarray(Image.open(session.folder / name)) for name in vectors.files[:8]])
    delivered = Encoder(session.folder / bundle.path, precision="fp32")(frames)
    np.testing.assert_allclose(delivered, vectors.embeddings[:8], rtol=1e-3, atol=1e-5)
    assert not encoder.training
    assert encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 16)
    assert session.names["features"].shape == (2, 16)
    assert {row["batch"] for row in session.names["speed"]} == {1}
    assert session.names["chosen"][0] in {file.name for file in bundle.report.files}
    assert session.names["places"].shape == (96, 3)
    np.testing.assert_allclose(session.names["cosines"][:, 0], 1, atol=1e-5)  # An image is its own neighbour.


def test_what_looks_and_compares(session: Session) -> None:
    names = session.names
    (row,) = names["rows"]
    assert (row.key, row.value) == ("optim.base_lr", names["small"].optim.base_lr)
    assert (names["found"].images, set(names["found"].classes.values())) == (96, {32})
    assert names["estimate"].finish_s > 0
    assert [arm.name for arm in names["methods"].tables[0].arms] == ["byol", "simsiam"]
    assert len(names["sentences"]) == 1
    assert names["ablation"].tables[0].arms[0].states == ("finished",)
    assert (session.folder / names["page"]).stat().st_size > 0
    assert "optim.base_rl: unknown key; did you mean 'base_lr'?" in names["sentence"]
    assert {finding.what for finding in api.examine()} >= {"byolt", "GPU"}


def test_a_run_is_refused_in_the_command_s_sentence_or_returned(session: Session, tmp_path: Path) -> None:
    recipe, run = session.names["recipe"], session.names["run"]
    with chdir(session.folder):
        again = api.pretrain(recipe)
        assert (again, api.open_run(str(run.path))) == (run, run)
        assert again.result == run.result
        shutil.copytree(run.path, tmp_path / run.path.name)
    (tmp_path / run.path.name / "result.json").unlink()
    (tmp_path / run.path.name / "encoder.safetensors").unlink()
    stopped = api.load_recipe(session.folder / "recipes" / "folder.yaml", {"machine.runs_dir": tmp_path})
    stopped = stopped.model_copy(update={"data": recipe.data})
    with chdir(session.folder), pytest.raises(InputError, match="has not ended; go on with byolt") as refused:
        api.pretrain(stopped)
    settings = ("--set", "data.root=images", "--set", f"machine.runs_dir={tmp_path}")
    said = byolt("pretrain", "recipes/folder.yaml", *settings, folder=session.folder)
    # From Python the whole command is of the run's own recipe; on the command line it is the one that was typed.
    fault, own = (text.partition("go on with ") for text in (one_sentence(said, 2), str(refused.value)))
    assert (fault[0], refused.value.exit_code) == (own[0], 2)
    assert fault[2].startswith(f"byolt pretrain recipes/folder.yaml {' '.join(settings)} --resume {tmp_path}/")
    assert own[2].startswith(f"byolt pretrain {tmp_path}/{run.path.name}/recipe.resolved.yaml --resume ")
    with pytest.raises(InputError, match="has no encoder yet: go on with byolt pretrain"):
        api.open_run(tmp_path / run.path.name).encoder()
    with sole_writer(session.folder / run.path, "fine-tuned"), chdir(session.folder):
        with pytest.raises(InputError, match="is being fine-tuned now by process"):
            api.finetune(run, "images")
        assert api.pretrain(recipe, resume=run.path) == run  # It has ended: nothing is written.
    with pytest.raises(InputError, match=r"images is not a run's folder \(it holds no recipe.resolved.yaml\)"):
        api.pretrain(recipe, resume=session.folder / "images")
    with pytest.raises(InputError, match="recipe gone.yaml not found"):
        api.pretrain(recipe, source="gone.yaml")


def test_a_place_for_embeddings_is_refused_before_the_work(session: Session) -> None:
    run = session.names["run"].path
    for output, said in (("a.npy", "are written as .npz"), ("nowhere/a.npz", "there is no folder nowhere; make it")):
        done = byolt("embed", run, "no images", "-o", output, folder=session.folder)  # Else the images were missed.
        assert said in one_sentence(done, 2)
        with pytest.raises(InputError, match=said), chdir(session.folder):
            session.names["vectors"].save(output)


def test_the_packages_import_nothing_heavy() -> None:
    line = [sys.executable, "-X", "importtime", "-c", "import byolt, byolt_export"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    imported = {row.rpartition("|")[2].strip() for row in told.splitlines()}
    assert {"byolt", "byolt_export"} <= imported
    assert not imported & {"torch", "numpy", "pydantic", "click", "rich", "onnx", "onnxruntime"}


def test_the_notebook_runs_and_holds_no_output(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads((DOCS / "tour.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    names = typed(["".join(cell["source"]) for cell in cells], tmp_path).names
    assert names["run"].path == Path("runs") / names["run"].path.name
    assert names["metrics"]["learning"]["state"] == "finished"
    assert names["nearest"][:, 0].tolist() == names["queries"].tolist()  # An image is its own nearest.
    assert names["bundle"].report.verdict == "passed"
    np.testing.assert_allclose(names["features"], names["vectors"].embeddings[names["queries"]], rtol=1e-3, atol=1e-4)
