"""What can be said of the Dockerfile without an engine; docs/docker.md says what was built, and where."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import check_byolt_line

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
DELIVERED = ("train", "runtime", "jetson")


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its words, lines that go on put together, comments left out."""
    plain = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", plain)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage by its name; what stands before the first one under the empty name."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for word, rest in instructions():
        if word == "FROM":
            found[rest.rpartition(" AS ")[2]] = []
        list(found.values())[-1].append((word, rest))
    return found


def test_there_is_a_stage_for_each_machine() -> None:
    assert set(DELIVERED) <= set(stages())


def test_bases_are_pinned_plain_names() -> None:
    given = dict(rest.split("=", 1) for word, rest in stages()[""] if word == "ARG")
    for base in given.values():
        name, _, tag = base.partition(":")
        assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?", name), base  # No registry's host.
        assert re.search(r"\d+\.\d+", tag), base
    used = {rest.partition(" AS ")[0] for word, rest in instructions() if word == "FROM"}
    assert used - set(stages()) == {f"${{{name}}}" for name in given}


@pytest.mark.parametrize("stage", DELIVERED)
def test_nobody_runs_as_root_and_health_is_byolts_own_check(stage: str) -> None:
    words = dict(stages()[stage])
    assert any(word == "RUN" and f"--uid {words['USER']}" in rest for word, rest in stages()[stage])
    assert int(words["USER"]) > 0
    order = [word for word, _ in stages()[stage]]
    assert "RUN" not in order[order.index("USER") :]
    assert re.search(r'CMD \["byolt(-verify)?", "(doctor|/bundle)"\]$', words["HEALTHCHECK"])
    assert words["ENTRYPOINT"] in ('["byolt"]', '["byolt-verify"]')


def test_what_is_copied_exists_and_is_sent_to_the_build() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[0] == "*"
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert len(copied) >= 6
    for source in (name for names in copied for name in names):
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in sent), source


def test_packages_of_python_come_at_the_locked_versions() -> None:
    lines = re.findall(r"pip install [^\n]*", re.sub(r"\\\n\s*", "", TEXT))
    assert len(lines) == 4
    assert [line for line in lines if not re.search(r"--constraint \S*requirements(-light)?\.lock", line)] == []
    assert "tensorrt-rtx" not in TEXT  # NVIDIA's licence: the user installs it.


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed here")
    command = [hadolint, "--config", ".hadolint.yaml", "Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_guides_commands_name_what_exists() -> None:
    guide = (ROOT / "docs" / "docker.md").read_text()
    (block,) = re.findall(r"```sh device\n(.*?)```", guide, flags=re.DOTALL)
    lines = [line.split() for line in block.splitlines() if line]
    given = {rest.partition("=")[0] for word, rest in stages()[""] if word == "ARG"}
    tags = {}
    for words in (line for line in lines if line[1] == "build"):
        tags[words[words.index("--tag") + 1]] = words[words.index("--target") + 1]
        assert set(re.findall(r"--build-arg (\w+)=", " ".join(words))) <= given
    assert set(tags.values()) == set(DELIVERED)
    programs = {path.stem.replace("_", "-") for path in (ROOT / "export" / "cpp" / "programs").glob("byolt_*.cpp")}
    for words in (line for line in lines if line[1] == "run"):
        (image,) = [word for word in words if word in tags]
        if "--entrypoint" in words:
            assert words[words.index("--entrypoint") + 1] in programs
        elif tags[image] == "train":
            check_byolt_line(f"byolt {' '.join(words[words.index(image) + 1 :])}")
    assert not re.search(r"\b[\w-]+\.(io|com|org)\b", guide)  # No registry's host.
