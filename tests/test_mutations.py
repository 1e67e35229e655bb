"""The mutations fit the sources, and a misspelt name is told. That each is caught is `make test-full`."""

from pathlib import Path

import pytest

from tests import mutations
from tests.mutations import __main__ as runner


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_a_mutation_replaces_stands_once(mutation: mutations.Mutation) -> None:
    text = (mutations.ROOT / mutation.file).read_text()
    assert text.count(mutation.right) == 1
    assert (mutations.ROOT / mutation.tests.partition("::")[0]).exists()


def test_names_are_not_used_twice() -> None:
    assert len({mutation.name for mutation in mutations.MUTATIONS}) == len(mutations.MUTATIONS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("step uphil", "no mutation 'step uphil'; did you mean 'step uphill'?"),
        ("xyz", "no mutation 'xyz'; known: BYOL: sign"),
    ],
)
def test_an_unknown_name_is_told(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mutations", name])
    assert runner.main() == 2
    assert capsys.readouterr().out.startswith(said)


RIGHT = "def answer(x):\n    assert x\n    return 42\n"
TWO_TESTS = "import product, pytest\ndef test_1(): assert product.answer(1) == 42\ndef test_2(): product.answer(2)\n"


@pytest.mark.parametrize(
    ("right", "wrong", "test", "verdict", "why"),
    [
        ("42", "41", TWO_TESTS, "caught", "AssertionError: assert 41 == 42"),
        (
            "assert x",
            "pass",
            "with pytest.raises(AssertionError): product.answer(0)",
            "caught",
            "Failed: DID NOT RAISE",
        ),
        ("42", "1 / 0", f"{TWO_TESTS}def test_3(): assert product.answer(3)\n", "CRASHED", "ZeroDivisionError: "),
        ("return", "x == 2 or {}[x]; return", f"{TWO_TESTS}def test_3(): assert 0\n", "caught", "AssertionError: asse"),
        ("42", "fortytwo", f"{TWO_TESTS}def test_3(): assert 0\n", "CRASHED", "NameError: name 'fortytwo'"),
        ("def", "fed", TWO_TESTS, "CRASHED", "SyntaxError: "),
        ("assert x", "assert not x", TWO_TESTS, "CRASHED", "AssertionError: "),
        ("42", "42 + 0", TWO_TESTS, "SURVIVED", "-"),
        ("42", "41", "", "CRASHED", "no test ran"),
    ],
)
def test_a_mutation_is_caught_by_a_value_alone(
    right: str, wrong: str, test: str, verdict: str, why: str, tmp_path: Path
) -> None:
    for folder in ("toolchain", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "toolchain" / "product.py").write_text(RIGHT.replace(right, wrong))
    body = f"import product, pytest\ndef test_1():\n    {test}\n" if test.startswith("with") else test
    (tmp_path / "tests" / "test_product.py").write_text(body)
    outcome = runner._trial(tmp_path, "product", ["tests/test_product.py"])
    assert (outcome.verdict, outcome.why[: len(why)]) == (verdict, why)
