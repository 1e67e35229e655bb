"""What a command says to type next is a whole line: program, the user's own arguments, paths quoted for a shell."""

import logging
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from byolt.console.status import StatusHandler
from byolt.data.folder_check import check_folder
from byolt.environment import command, typed, typed_again
from byolt.run import Run, command_to_go_on, create_run, open_run
from byolt.working import working
from byolt_export.errors import InputError
from tests.conftest import tiny_recipe
from tests.test_command_line import byolt, draw_folder, one_sentence, write_recipe


def test_a_run_that_was_started_before_names_the_whole_command(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    recipe = write_recipe(folder, draw_folder(folder / "the images", classes=0, images=32))
    sets = ("--set", "schedule.epochs=2", "--set", "machine.runs_dir=a b")
    assert byolt("pretrain", recipe, *sets, folder=folder).returncode == 0
    (run,) = (folder / "a b").iterdir()
    (run / "result.json").unlink()
    line = one_sentence(byolt("pretrain", recipe, *sets, "--json", folder=folder), 2)
    told = line.partition("go on with ")[2].partition(", or remove")[0]
    words = shlex.split(told)
    assert words == ["byolt", "pretrain", str(recipe), *sets, "--json", "--resume", f"a b/{run.name}"]
    done = byolt(*words[1:], folder=folder)  # It is what a shell would run.
    assert done.returncode == 0, done.stderr
    assert (run / "result.json").exists()
    # Of an option that was given before, in either of its forms, the new one alone is left.
    for before in (("--resume", "elsewhere"), ("--resume=elsewhere",)):
        typed(["pretrain", str(recipe), *before])
        assert shlex.split(command_to_go_on(run))[3:] == ["--resume", str(run)]
    typed([])


def test_from_python_it_is_the_runs_own_recipe(tmp_path: Path) -> None:
    run = tmp_path / "tiny's run"
    typed(["evaluate", str(run)])  # Another command is not the one that goes on.
    said = shlex.split(command_to_go_on(run))
    typed([])
    assert said == ["byolt", "pretrain", str(run / "recipe.resolved.yaml"), "--resume", str(run)]
    with create_run(tiny_recipe(machine={"runs_dir": tmp_path / "it's"}), "0" * 64, "") as made:
        pass
    (path,) = (tmp_path / "it's").iterdir()
    with pytest.raises(InputError) as fault:
        Run(path).encoder()
    words = shlex.split(str(fault.value).partition("go on with ")[2])
    assert words == ["byolt", "pretrain", str(path / "recipe.resolved.yaml"), "--resume", str(path)]
    assert made.path.name.endswith(".part")


def test_the_other_lines_of_the_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start one with: byolt pretrain recipes/quickstart.yaml"):
        open_run(None, tmp_path)
    typed(["--debug", "study", "my recipe.yaml", "--jobs", "8", "--seeds", "3"])
    said = typed_again("--jobs", 1, of=("study", "ablate"), without="--jobs")
    typed([])
    assert said == "byolt --debug study 'my recipe.yaml' --seeds 3 --jobs 1"
    images = draw_folder(tmp_path / "in", classes=2, images=4)
    packed = byolt("data", "pack", images, tmp_path / "out put", folder=tmp_path)
    line = packed.stdout.splitlines()[-1].removeprefix("next     ")
    assert shlex.split(line)[-3:] == ["data.name=shards", "--set", f"data.root={tmp_path / 'out put'}"]


def test_the_program_is_named_as_a_shell_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin dir" / "byolt"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command("verify", "a b") == f"'{program}' verify 'a b'"  # As after `make quickstart`, which sets no PATH.
    monkeypatch.setenv("PATH", str(program.parent))
    assert command("verify", "a b") == "byolt verify 'a b'"
    monkeypatch.setattr("sys.argv", ["/x/byolt/__main__.py"])
    assert command("doctor") == f"{sys.executable} -m byolt doctor"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command("doctor") == "torchrun --nproc-per-node=4 -m byolt doctor"


def test_live_lines_are_for_a_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, logger = StatusHandler(), logging.getLogger("byolt")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    monkeypatch.setattr("byolt.data.progress.QUIET_S", -1.0)  # As if each image took more than two seconds.
    images = draw_folder(tmp_path / "in", classes=0, images=3)
    try:
        check_folder(images)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        check_folder(images)
        shown = capsys.readouterr().err
        assert f"listing {images}"[:60] in shown
        assert "checking folder" in shown
        assert shown.endswith("\r\x1b[K")  # Nothing is left of it.
        assert "\n" not in shown
        with working("x" * 500):
            logger.warning("left out: a.png")
        shown = capsys.readouterr().err
        assert all(len(line) < 90 for line in shown.replace("\r\x1b[K", "\n").splitlines())
        assert "\r\x1b[Kleft out: a.png\n" in shown
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.mark.full
def test_a_library_that_warns_is_not_heard_and_one_that_fails_is(tmp_path: Path) -> None:
    """In a process of its own: what is set there is for the whole program."""
    code = (
        "import logging, sys, warnings\n"
        "from byolt import cli\n"
        "def warn(*_, **__):\n"
        "    warnings.simplefilter('always'); warnings.warn('a future of torch', FutureWarning)\n"
        "    logging.getLogger('matplotlib.font_manager').warning('findfont: none')\n"
        "    raise OSError(28, 'No space left on device', 'here')\n"
        "cli.cli.commands['doctor'].callback = warn\n"
        "sys.argv = ['byolt', *{words}]\n"
        "cli.main()\n"
    )
    quiet, loud = (
        subprocess.run([sys.executable, "-c", code.format(words=words)], capture_output=True, text=True, check=False)
        for words in (["doctor"], ["--debug", "doctor"])
    )
    assert quiet.stderr == "here: No space left on device\n"
    assert quiet.returncode == 1
    assert "a future of torch" in loud.stderr
    assert StringIO(loud.stderr).read().count("Traceback") == 1
