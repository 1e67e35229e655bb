"""What a report says in metrics and tables: heading, accuracies, collapse measures, parity, recipe, environment."""

from typing import Any

from byolt.console.summary import FEATURES, FINETUNED
from byolt.evaluation.collapse import Verdict
from byolt.files import read_json
from byolt.recipe.schema import Recipe
from byolt.recipe.section import MACHINE, leaves
from byolt.reporting.page import FormattedNumber, number, percent
from byolt.run import Run, learned_for_s

MOST_ROWS = 40
"""Evaluations in the table of metrics."""
COLOURS = {
    "healthy": "good",
    "dimensional": "bad",
    "complete": "bad",
    "none": "open",
    "finished": "good",
    "collapsed": "bad",
    "unfinished": "open",
    "passed": "good",
    "failed": "bad",
    "not run here": "open",
}
_COLUMNS = {
    "epoch": ("epoch", "d"),
    "step": ("step", "d"),
    "loss": ("loss", ".3f"),
    "z_std_ratio": ("z-std ratio", ".3f"),
    "rankme": ("RankMe", ".1f"),
    "knn": ("kNN", ".1%"),
    "alignment": ("alignment", ".3f"),
    "uniformity": ("uniformity", ".3f"),
    "projection_rank": ("projections' rank", ".1f"),
    "predictor_alignment": ("predictor's cosine", ".3f"),
    "target_distance": ("target's distance", ".2g"),
    "verdict": ("verdict", ""),
}

Records = list[dict[str, Any]]


def heading(run: Run, recipe: Recipe, records: Records) -> dict[str, Any]:
    """Name, state, verdict with advice, and the metrics that one wants first."""
    evaluated = [record for record in records if "verdict" in record]
    last = (run.result or {}) | (evaluated[-1] if evaluated and run.result is None else {})
    verdict = last.get("verdict")
    started = str(run.environment.get("started", ""))
    return {
        "name": recipe.name,
        "hash": run.environment.get("hash", run.path.name.rpartition("-")[2]),
        "folder": run.path.name,
        "method": recipe.method.name,
        "backbone": recipe.model.backbone,
        "state": (run.result or {}).get("state", "unfinished"),
        "verdict": verdict,
        "advice": Verdict(verdict).advice if verdict else "",
        "date": started.replace("T", " ").replace("Z", " UTC"),
        "tiles": _tiles(run, recipe, records, last),
    }


def _tiles(run: Run, recipe: Recipe, records: Records, last: dict[str, Any]) -> list[tuple[str, FormattedNumber, str]]:
    """(name, metric, small print) of what is known."""
    encoder, finetuned = run.metrics("encoder") or {}, run.metrics("finetune") or {}
    spent_s, epochs = learned_for_s(records), max((record["epoch"] for record in records), default=None)
    rows: list[tuple[str, FormattedNumber | None, str]] = [
        ("linear probe", percent(_accuracy(encoder, "linear")), "test accuracy"),
        ("kNN", percent(_accuracy(encoder, "knn")), "test accuracy"),
        ("fine-tuned", percent(_accuracy(finetuned, "finetuned")), "test accuracy"),
        ("RankMe", number(last.get("rankme"), ".1f"), f"of {last.get('features')} features"),
        ("z-std ratio", number(last.get("z_std_ratio"), ".2f"), "1 is even"),
        ("epochs", number(epochs, "d"), f"of {recipe.schedule.epochs}"),
        ("learning took", *_duration(spent_s)),
    ]
    return [(name, metric, small) for name, metric, small in rows if metric is not None]


def _duration(seconds: float | None) -> tuple[FormattedNumber | None, str]:
    if seconds is None:
        return None, ""
    return (number(seconds / 3600, ".2f"), "hours") if seconds >= 360 else (number(seconds / 60, ".1f"), "minutes")


def _accuracy(metrics: dict[str, Any], kind: str) -> float | None:
    return metrics[kind]["accuracy"] if kind in metrics else None


def accuracies(run: Run) -> dict[str, Any] | None:
    """kNN and linear probe of each kind of features, with intervals, and over the official folds."""
    kinds = {name: metrics for name in FEATURES if (metrics := run.metrics(name))}
    if not kinds:
        return None
    first = next(iter(kinds.values()))
    return {
        "k": first["knn"]["k"],
        "n_test": first["knn"]["n_test"],
        "n_train": first["knn"]["n_train"],
        "rows": [(FEATURES[name], _interval(f["knn"]), _interval(f["linear"])) for name, f in kinds.items()],
        "folds": [
            (FEATURES[name], len(f["folds"]["images"]), *(_spread(f["folds"][kind]) for kind in ("knn", "linear")))
            for name, f in kinds.items()
            if "folds" in f
        ],
    }


def _interval(metric: dict[str, Any]) -> tuple[FormattedNumber | None, ...]:
    return (percent(metric["accuracy"]), *(percent(end) for end in metric["interval_95"]))


def _spread(metric: dict[str, Any]) -> tuple[FormattedNumber | None, ...]:
    return percent(metric["mean"]), percent(metric["std"])


def collapse_rows(run: Run) -> list[tuple[Any, ...]]:
    """Measures of the frozen encoder beside those of what it started from."""
    return [
        (
            FEATURES[name],
            number(metrics["rankme"], ".1f"),
            min(metrics["images"], metrics["features"]),
            *(number(metrics[key], ".2f") for key in ("z_std_ratio", "alignment", "uniformity")),
        )
        for name, metrics in (run.metrics("collapse") or {}).items()
    ]


def finetuning(run: Run) -> dict[str, Any] | None:
    """Probe, fine-tuned and from scratch."""
    metrics = run.metrics("finetune")
    if metrics is None:
        return None
    rows = [(name, _interval(metrics[key])) for key, name in FINETUNED.items() if key in metrics]
    return {
        "rows": rows,
        "n_train": metrics["n_train"],
        "data": metrics["data"],
        "test": metrics["test"],
        "protocol": metrics["protocol"],
    }


def parity_rows(run: Run) -> list[tuple[str, str, str, str]]:
    """(file, precision, verdict, reason) of every file of the run's bundles."""
    rows = []
    for bundle in (run.bundle, run.classifier_bundle):
        manifest = read_json(bundle / "manifest.json") or {}
        for file in (*manifest.get("files", []), *manifest.get("engines", [])):
            name = f"{bundle.name}/{file['name']}"
            rows.append((name, file["precision"], file["verdict"], file.get("reason") or ""))
    return rows


def recipe_rows(recipe: Recipe) -> list[tuple[str, str, bool]]:
    """(key, value, whether it is part of the run's hash) of every key."""
    return [
        (".".join(path), _told(value), field.json_schema_extra != MACHINE and path != ("name",))
        for path, field, value in leaves(recipe)
    ]


def environment_rows(run: Run) -> list[tuple[str, str]]:
    """What made the run, as it was written down when it started."""
    return [(name, _told(value)) for name, value in run.environment.items() if value not in (None, [], {})]


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(_told(one) for one in value) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def metric_table(log: Records) -> dict[str, Any] | None:
    """Every measured key at the evaluations, or at some of them where they are many."""
    records = [record for record in log if "rankme" in record]
    if not records:
        return None
    count = min(MOST_ROWS, len(records))
    chosen = [records[round(k * (len(records) - 1) / max(1, count - 1))] for k in range(count)]
    columns = {key: column for key, column in _COLUMNS.items() if any(key in record for record in chosen)}
    rows = [
        [(key, number(r.get(key), form) if form else r.get(key, "")) for key, (_, form) in columns.items()]
        for r in chosen
    ]
    return {"names": [name for name, _ in columns.values()], "rows": rows, "shown": count, "all": len(records)}
