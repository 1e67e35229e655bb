"""The mutations fit the sources, and a misspelt name is told. That each is caught is `make test-full`."""

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
