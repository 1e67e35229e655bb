"""`machine.compile: encoder` learns what the plain step learns, and nothing but the step sees it."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from torch import Tensor, nn

from byolt.networks.convolutions import SmallMapConv2d
from byolt.training.compiled import view_maker
from byolt.training.loop import pretrain
from byolt.training.step import Learner

CPU = torch.device("cpu")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that torch.compile makes; each runs as it is, which takes no compiler and gives the same bits."""
    made: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    return made


def learner(compiled: bool | str, **sections: Any) -> Learner:
    recipe = tiny_recipe(machine={"device": "cpu", "threads": 1, "compile": compiled}, **sections)
    return Learner(recipe, CPU, steps=8, steps_per_epoch=4)


def pairs(steps: int) -> Any:
    return torch.randn(steps, 2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sections", [{}, {"optim": {"accumulate": 2}}, {"method": {"name": "simsiam"}}])
def test_a_compiled_encoder_learns_what_the_plain_one_learns(
    sections: dict[str, Any], graphs: list[torch.fx.GraphModule]
) -> None:
    plain, compiled = learner(False, **sections), learner("encoder", **sections)
    for step, views in enumerate(pairs(3)):
        expected, found = plain.step(step, *views), compiled.step(step, *views)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
        compiled.restore(copy.deepcopy(plain.state()))  # One step's rounding grows with each step after it.
    # One with gradients for both views and one without for the target of both, none anew in later steps.
    assert len(graphs) == 1 + (plain.method.target is not None)


def test_the_graph_is_the_whole_encoder_and_no_head(graphs: list[torch.fx.GraphModule]) -> None:
    compiled = learner("encoder")
    compiled.step(0, *pairs(1)[0])
    convolutions = sum(isinstance(module, nn.Conv2d) for module in compiled.method.encoder.modules())
    assert convolutions > 4
    for graph in graphs:
        calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert sum("conv2d" in call for call in calls) == convolutions
        assert not any("linear" in call for call in calls)


def test_nothing_but_a_step_sees_the_compiled_encoder(graphs: list[torch.fx.GraphModule]) -> None:
    plain, compiled = learner(False), learner("encoder")
    compiled.step(0, *pairs(1)[0])
    made = len(graphs)
    for mode in (True, False):
        compiled.method.encoder.train(mode)(pairs(1)[0, 0])
    assert len(graphs) == made
    assert "forward" not in vars(compiled.method.encoder)
    assert compiled.state()["method"].keys() == plain.state()["method"].keys()
    assert any(isinstance(module, SmallMapConv2d) for module in copy.deepcopy(compiled.method).modules())


def test_a_run_goes_on_with_and_without_a_compiled_encoder(
    tmp_path: Path, graphs: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(compiled: bool | str, runs: str) -> Any:
        machine = {"device": "cpu", "threads": 1, "compile": compiled, "runs_dir": tmp_path / runs}
        return tiny_recipe(machine=machine, data={"cache_dir": tmp_path / "cache"})

    whole = pretrain(of(False, "plain"))

    class Cut(Exception):
        pass

    def cut(record: Any) -> None:
        if record.metrics.get("rankme") is not None:
            raise Cut

    with pytest.raises(Cut):
        pretrain(of("encoder", "cut"), on_log=cut)
    assert graphs
    resumed = pretrain(of(False, "cut"), resume="auto")
    assert resumed.path.name == whole.path.name  # A machine key: the hash is the same.
    kept = [torch.load(run.checkpoints / "last.pt", weights_only=True)["method"] for run in (whole, resumed)]
    for name, value in kept[0].items():
        torch.testing.assert_close(kept[1][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_views_are_compiled_on_a_gpu_alone() -> None:
    recipe = tiny_recipe(machine={"compile": "encoder"})
    assert view_maker(recipe, CPU) is None
    assert view_maker(recipe, torch.device("cuda")) is not None
    assert view_maker(tiny_recipe(), torch.device("cuda")) is None
