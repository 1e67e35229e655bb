"""Modules as people have them: wrapped, lazy, weight-normalised, faulty; each is exported, or refused in a sentence."""

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export import small
from tests.export.small import HOW, PIXELS, images
from torch import Tensor, nn

from byolt_export.bundle.folder import read_manifest
from byolt_export.errors import InputError
from byolt_export.onnx.controls import wrong_outputs
from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.faults import reason_of
from byolt_export.onnx.plain import plain_copy
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.measures import relative_l2
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.onnx_runner import OnnxRunner


class Then(nn.Module):
    """A convolution, then whatever is tried."""

    def __init__(self, rest: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rest = nn.Conv2d(3, 8, 3, stride=2), rest

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.rest(self.first(x))
        return outputs


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def weight_normalised(norm: Any = torch.nn.utils.weight_norm) -> nn.Module:
    torch.manual_seed(0)
    module = Then(nn.Sequential(norm(nn.Conv2d(8, 8, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)))
    module(torch.zeros(2, 3, 32, 32))  # As after learning: the kernel has a history.
    return module


def compiled_inside() -> nn.Module:
    return Then(nn.Sequential(torch.compile(nn.ReLU(), backend="eager"), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)))


def compiled_method() -> nn.Module:
    module = Then(pooled)
    module.forward = torch.compile(module.forward, backend="eager")  # type: ignore[method-assign]
    return module


WRAPPED = {
    "torch.compile": lambda: torch.compile(Then(pooled), backend="eager"),
    "DataParallel": lambda: nn.DataParallel(Then(pooled)),
    "both": lambda: torch.compile(nn.DataParallel(Then(pooled)), backend="eager"),
    "a compiled layer": compiled_inside,
    "a compiled method": compiled_method,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_module_is_exported_as_what_it_wraps(name: str, tmp_path: Path) -> None:
    module = WRAPPED[name]()
    export_onnx(module, tmp_path / "m.onnx", output_name="embedding", **HOW)
    expected = torch_outputs(Then(pooled) if name != "a compiled layer" else plain_copy(module), images(4), **HOW)
    assert relative_l2(expected, OnnxRunner(tmp_path / "m.onnx")(images(4))).max() < 1e-5
    assert {type(layer).__name__ for layer in plain_copy(module).modules()}.isdisjoint(
        {"OptimizedModule", "DataParallel"}
    )
    # A copy of its own: what is done to it does not reach the caller's module.
    other = plain_copy(module)
    with torch.no_grad():
        other.first.weight.zero_()  # type: ignore[union-attr, operator]
        other.first.bias.zero_()  # type: ignore[union-attr, operator]
        assert other(torch.ones(1, 3, 32, 32)).abs().max() == 0


@pytest.mark.parametrize(
    "norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm, torch.nn.utils.parametrizations.weight_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_kernel_that_is_computed_can_be_copied_and_drawn_anew(norm: Any) -> None:
    module = weight_normalised(norm)
    reference = torch_outputs(module, images(8), **HOW)
    assert reference == pytest.approx(module.eval()(normalised(images(8))).detach().numpy(), rel=1e-5, abs=1e-6)
    wrong = wrong_outputs(module, images(8), reference, **HOW)
    assert relative_l2(reference, wrong["reinitialised"]).max() > 0.1
    alone = Then(nn.Sequential(module.rest[0], nn.AdaptiveAvgPool2d(1), nn.Flatten(1)))  # type: ignore[index]
    alone.first = nn.Identity()  # type: ignore[assignment]
    kernel = max(alone.parameters(), key=Tensor.numel)
    from byolt_export.onnx.controls import _reinitialised

    redrawn = max(_reinitialised(alone).parameters(), key=Tensor.numel)
    assert not torch.equal(kernel, redrawn)


def normalised(shown: Any) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PIXELS.mean, PIXELS.std))
    return (torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.library.custom_op("mine::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Red(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise RuntimeError("\x1b[31mno way\x1b[0m\nand a second line")
        return x.mean((2, 3))


UNEXPORTABLE: dict[str, tuple[Any, str]] = {
    "AdaptiveMaxPool2d": (nn.Sequential(nn.AdaptiveMaxPool2d((4, 3)), nn.Flatten(1)), "aten.adaptive_max_pool2d"),
    "median": (lambda x: x.flatten(2).median(2)[0], "aten.median"),
    "an operator of one's own": (lambda x: twice(x).mean((2, 3)), "mine.twice"),
    "a batch that is read once": (lambda x: x.reshape(2, 8, -1).mean(2), "takes the batch for a constant (2)"),
    "a branch by value": (lambda x: pooled(x) if x.sum() > 0 else -pooled(x), "depends on the images' values"),
    "an error in colours": (Red(), "RuntimeError: no way"),
}


@pytest.mark.parametrize("name", UNEXPORTABLE)
def test_the_reason_names_the_operator_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rest, reason = UNEXPORTABLE[name]
    with pytest.raises(InputError) as caught:
        export_onnx(Then(rest), tmp_path / "m.onnx", output_name="embedding", **HOW)
    told = str(caught.value)
    assert told.startswith("Then cannot be exported with images of 32 px and a dynamic batch: ")
    assert reason in told
    assert told.isprintable()
    assert capfd.readouterr() == ("", "")


def test_the_first_cause_is_told_where_no_operator_is_named() -> None:
    inner, outer = ValueError("the cause"), RuntimeError("\x1b[96mstep 3/3\x1b[0m of it")
    outer.__cause__ = inner
    assert reason_of(outer) == "ValueError: the cause"
    outer.__cause__ = None
    assert reason_of(outer) == "RuntimeError: step 3/3 of it"


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "an export is of a torch.nn.Module, got NoneType: give the module itself"),
    "a class": (nn.Conv2d, "got the class Conv2d"),
    "a lazy module": (
        nn.Sequential(nn.LazyConv2d(8, 3)),
        "Sequential has parameters without values yet (0, LazyConv2d)",
    ),
    "a lazy norm in a wrapper": (nn.DataParallel(nn.LazyBatchNorm2d()), "without values yet (LazyBatchNorm2d)"),
    "a lock": (Locked(), "Locked cannot be copied (cannot pickle"),
    "TorchScript": (torch.jit.ScriptModule(), "give the torch.nn.Module that it was made from"),
    "another size": (nn.Sequential(nn.Flatten(1), nn.Linear(5, 2)), "does not run on images (batch, 3, 32, 32): "),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_bundle_is_one_sentence(name: str, tmp_path: Path) -> None:
    module, reason = REFUSED[name]
    with pytest.raises(InputError) as caught:
        small.build(tmp_path / "bundle", module) if module is not None else export_onnx(
            module, tmp_path / "m.onnx", output_name="embedding", **HOW
        )
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("unchecked")
def test_lists_arrays_numbers_and_strings_are_taken_for_what_they_mean(tmp_path: Path) -> None:
    report = small.build(
        tmp_path / "bundle",
        Then(pooled),
        precisions="fp32",
        size_px=np.int64(32),
        mean=[0.5, 0.25, 0],
        std=np.array([0.5, 0.5, 1]),
        max_batch=np.int32(4),
        metadata={"epoch": 3, "lr": 0.1},
    )
    pixels = read_manifest(str(report.path)).contract.input
    assert (pixels.mean, pixels.std, pixels.max_batch) == ((0.5, 0.25, 0.0), (0.5, 0.5, 1.0), 4)
    run = OnnxRunner(str(report.path / "encoder.onnx"))
    assert (run.metadata["epoch"], run.metadata["lr"]) == ("3", "0.1")
    expected = torch_outputs(Then(pooled), images(3), pixels=pixels)
    assert relative_l2(expected, run(images(3))).max() < 1e-5
    assert verify_bundle(str(report.path)).verdict == "passed"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean": 0.5}, "mean is 0.5: give three numbers, one a channel"),
        ({"std": [0.5, 0.5]}, "std is [0.5, 0.5]: give three numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean.2: "),
        ({"max_batch": "8"}, "max_batch: "),
        ({"metadata": {"epoch": None}}, "metadata 'epoch' is NoneType: give text or a number"),
        ({"metadata": {3: "epoch"}}, "metadata 3 is"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        small.build(tmp_path / "bundle", Then(pooled), **copy.deepcopy(changes))
    assert str(caught.value).startswith("export: ")
    assert reason in str(caught.value)
