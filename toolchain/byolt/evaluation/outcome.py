"""What came out of a run in one plain sentence: the verdict, and kNN beside what no learning gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from byolt.run import Run

_VERDICTS = {
    "healthy": "",
    "dimensional": "few directions carry the representation",
    "complete": "all images fall onto one point",
}
_BESIDE = {"untrained": "the untrained encoder", "colours": "a colour histogram", "pixels": "raw pixels"}


@dataclass(frozen=True)
class Outcome:
    """The sentence, and whether the encoder is one to deliver as it is."""

    sentence: str
    good: bool
    """A healthy verdict, and with labels more accurate than all that no learning gives."""


def outcome_of(run: Run) -> Outcome | None:
    """Of a finished run, by its test images where it was evaluated; None without a verdict."""
    result = run.result or {}
    verdict, beside = result.get("verdict"), result.get("beside", {})
    if result.get("state") != "finished" or verdict not in _VERDICTS:
        return None
    accuracies, against = beside.get("knn", {}), beside.get("against", {})
    images = f"{beside.get('images', 0):,} images held out of learning's"
    measured = {name: metrics for name in ("encoder", *_BESIDE) if (metrics := run.metrics(name)) is not None}
    if "against" in measured.get("encoder", {}):
        accuracies = {name: metrics["knn"]["accuracy"] for name, metrics in measured.items()}
        against = {name: tests["knn"] for name, tests in measured["encoder"]["against"].items()}
        images = f"{measured['encoder']['knn']['n_test']:,} test images"
    said = [_VERDICTS[verdict]] if _VERDICTS[verdict] else []
    if accuracies:
        compared, better = _compared(accuracies, against, images)
        return Outcome("; ".join([*said, compared]), good=better and not said)
    ranks = beside.get("rankme")
    told = f"RankMe {ranks['encoder']:.1f}, untrained {ranks['untrained']:.1f}; " if ranks else ""
    healthy = "" if said else "spread and effective rank are above the limits of collapse; "
    return Outcome("; ".join([*said, f"{healthy}{told}without labels nothing more can be told"]), good=not said)


def _compared(accuracies: Mapping[str, float], against: Mapping[str, Any], images: str) -> tuple[str, bool]:
    """kNN beside what no learning gives, in words, and whether it is better than all of it."""
    others = [name for name in _BESIDE if name in accuracies and name in against]
    figures = ", ".join(f"{_BESIDE[name]} {accuracies[name]:.1%}" for name in others)
    shown = f"(kNN on {images}: {accuracies['encoder']:.1%}; {figures})"
    below = [name for name in others if against[name]["difference"] <= 0]
    open_ = [name for name in others if against[name]["difference"] > 0 >= against[name]["low"]]
    if below:
        return f"no better than {_listed(below)} {shown}", False
    if open_:
        return f"ahead of {_listed(open_)}, but by less than so few images can show {shown}", False
    return f"better than {_listed(others)} {shown}", True


def _listed(names: list[str]) -> str:
    """``a, b and c``."""
    words = [_BESIDE[name] for name in names]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
