"""Weights of a file for an encoder: a run's own, strictly, or what other libraries and frameworks have saved.

A file of somebody else's holds the encoder's weights under longer names, beside a classifier and an optimiser's state:
the names are looked for wherever they stand, and what is left out is told. It is read without running code of it.
"""

import re
import warnings
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byolt.library_errors import is_memory_fault
from byolt.log import inform_once, warn_once
from byolt.recipe.initial_file import initial_file
from byolt_export.errors import InputError, quoted

Weights = Mapping[str, Tensor]

# Top-level parts of torchvision's and timm's models that make classes of the features, or of an inner layer's.
_HEADS = ("fc", "classifier", "head", "heads", "head_dist", "aux1", "aux2", "AuxLogits")
_COUNTER = "num_batches_tracked"
_UNKNOWN_KIND = re.compile(r"unsupported global:? (?:GLOBAL )?([\w.]+)", re.IGNORECASE)


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Load an ``encoder.safetensors`` strictly: every name and shape must fit.

    Raises:
        InputError: The file is missing, damaged, or of another backbone, or holds NaN or infinity.
    """
    weights = _read(path, path)
    _refuse_differences(encoder.state_dict(), weights, path)
    _load(encoder, weights, path)


def load_initial_weights(encoder: nn.Module, init_file: Path, *, own_stem: str | None = None) -> None:
    """Load what ``model.init_file`` names: of a run, torchvision, timm, Lightning, or any dict of tensors.

    Args:
        encoder: Without a classifier; that of the file is left out.
        init_file: As the recipe has it.
        own_stem: Weight of a first convolution that the recipe has put in place of the library's: it stays as drawn
            where the file holds the library's.

    Raises:
        InputError: The file is missing, damaged, not of weights alone, or of another backbone, or holds NaN.
        MissingPart: It lies in a package that is not installed.
    """
    found = _read(initial_file(init_file), init_file)
    if not found:
        raise InputError(f"encoder weights {init_file} hold no tensor; give a file with a model's state_dict()")
    ours = encoder.state_dict()
    start = _where(ours, found)
    is_there = all(start + name in found for name in ours if not name.endswith(_COUNTER))
    weights = None if is_there or ours.keys() & found.keys() else _in_order(ours, found, init_file)
    _load(encoder, weights or _by_name(ours, found, start, own_stem, init_file), init_file)


def with_versions(module: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """Weights of a file with the versions of the layers, which safetensors does not keep and MnasNet asks for."""
    versioned = OrderedDict(weights)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return versioned


def _read(path: Path, called: Path) -> dict[str, Tensor]:
    """Every tensor of a file by its name, dotted where it lies in a dict of a dict; ``called`` is the file in words."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Training scripts keep their arguments in a Namespace: data, and no code.
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(_flat(torch.load(path, map_location="cpu", weights_only=True)))
    except OSError as error:
        raise InputError(f"encoder weights {called} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # A damaged pickle raises anything at all.
        if is_memory_fault(error):
            raise
        raise InputError(f"encoder weights {called} {_why_unread(error, path)}") from error


def _why_unread(error: Exception, path: Path) -> str:
    if unknown := _UNKNOWN_KIND.search(str(error)):
        return (
            f"hold more than weights ({unknown[1]}), and to read that could run code of the file; where it is trusted, "
            "save its state_dict() alone"
        )
    if "TorchScript" in str(error):
        return "are a TorchScript archive; save its state_dict() alone"
    kind = "no safetensors file" if path.suffix == ".safetensors" else "no file that torch.save wrote"
    return f"cannot be read: damaged, or {kind}; copy them again"


def _flat(node: Any, before: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested mappings; a layer that torch.compile has wrapped under its plain name."""
    if isinstance(node, Tensor):
        yield before.replace("_orig_mod.", ""), node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{before}.{key}" if before else str(key))


def _where(ours: Weights, found: Weights) -> str:
    """What stands before the encoder's names in a file: where most of them are, at best nearest to the top, or first.

    Of a model and its moving average this is the model.
    """
    counts: Counter[str] = Counter()
    for name in found:
        parts = name.split(".")
        for k in range(len(parts)):
            if ".".join(parts[k:]) in ours:
                counts["".join(f"{part}." for part in parts[:k])] += 1
    return min(counts, key=lambda start: (-counts[start], start.count(".")), default="")


def _by_name(ours: Weights, found: Weights, start: str, own_stem: str | None, called: Path) -> dict[str, Tensor]:
    """The encoder's weights from below ``start``, without a classifier; what was left out is told."""
    inside = {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}
    heads = [name for name in inside if name not in ours and name.partition(".")[0] in _HEADS]
    weights = {name: value for name, value in inside.items() if name not in heads}
    # Files older than the counter do without; a norm with a momentum has no use for it.
    weights |= {name: value for name, value in ours.items() if name.endswith(_COUNTER) and name not in inside}
    drawn = [name for name in weights if name == own_stem and weights[name].shape != ours[name].shape]
    weights |= {name: ours[name] for name in drawn}
    _refuse_differences(ours, weights, called)
    elsewhere = [name for name in found if not name.startswith(start)]
    _tell(called, start, {"the classifier": heads, "besides": elsewhere, "replaced by model.stem": drawn})
    return weights


def _in_order(ours: Weights, found: Weights, called: Path) -> dict[str, Tensor] | None:
    """The encoder's weights from a file that names them otherwise, None where their order does not fit as well.

    Shape and kind must agree one by one: the four vectors of a norm have one shape, and are told apart by the last
    part of their names. A classifier may follow.
    """
    names, theirs = ([name for name in each if not name.endswith(_COUNTER)] for each in (ours, found))
    rest = [found[name].ndim for name in theirs[len(names) :]]
    if len(theirs) < len(names) or rest not in ([], [2], [2, 1]):
        return None
    pairs = list(zip(names, theirs[: len(names)], strict=True))
    if not all(ours[a].shape == found[b].shape and _kind(a) == _kind(b) for a, b in pairs):
        return None
    warn_once(
        f"encoder weights {called} have other names than the backbone: {len(pairs)} tensors were matched by their "
        f"order ({quoted(theirs[0], 80)} is {names[0]}), since number, shapes and kinds agree; "
        f"left out: {'the classifier' if rest else 'nothing'}"
    )
    return {**ours, **{a: found[b] for a, b in pairs}}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _refuse_differences(ours: Weights, weights: Weights, called: Path) -> None:
    """Refuse weights of another backbone, with three of the names in which they differ."""
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)} there, and {tuple(ours[name].shape)} here"
        if name in weights
        else f"{name} is not in them"
        for name in ours
        if name not in weights or weights[name].shape != ours[name].shape
    ]
    more = [f"{quoted(name, 80)} is not in the backbone" for name in weights if name not in ours]
    if wrong or more:
        told = "; ".join([*wrong[: 2 if more else 3], *more][:3])
        raise InputError(f"encoder weights {called} are of another backbone: {told}")


def _load(encoder: nn.Module, weights: Weights, called: Path) -> None:
    odd = next((name for name, value in weights.items() if not bool(torch.isfinite(value).all())), None)
    if odd is not None:
        raise InputError(f"encoder weights {called} hold numbers that are not finite, in {odd}; take another file")
    encoder.load_state_dict(with_versions(encoder, weights), strict=True)


def _tell(called: Path, start: str, left_out: Mapping[str, Sequence[str]]) -> None:
    """One line on what of a file was taken and what was not, none where all of it was."""
    said = [
        f"{what} ({', '.join(quoted(name, 80) for name in names[:2])}{', ...' * (len(names) > 2)})"
        for what, names in left_out.items()
        if names
    ]
    if start or said:
        taken = f"taken from under {quoted(start, 80)}" if start else "taken"
        left = f"; left out: {', '.join(said)}" if said else ""
        inform_once(f"encoder weights {called}: {taken}{left}")
