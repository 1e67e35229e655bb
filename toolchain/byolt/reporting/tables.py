"""What a report says in numbers: heading, accuracies, collapse measures, fine-tuning, parity, recipe, environment."""

import json
from typing import Any

from markupsafe import Markup

from byolt.console.summary import FEATURES, FINETUNED, delivered_files
from byolt.data.subsets import spread
from byolt.evaluation.collapse import Verdict
from byolt.recipe.schema import Recipe
from byolt.recipe.section import MACHINE, leaves
from byolt.reporting.page import HtmlTable, Number, number
from byolt.run import Run, learned_for_s
from byolt_export.proof.page import visible

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
_IN_WORDS = {
    "healthy": "spread and effective rank stay above the limits of collapse",
    "none": "too early to say",
    "dimensional": "dimensional collapse",
    "complete": "complete collapse",
}
_METRICS = {
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
}

Records = list[dict[str, Any]]


def heading(run: Run, recipe: Recipe, records: Records) -> dict[str, Any]:
    """Name, state, verdict with advice, and the metrics that one wants first."""
    evaluated = [record for record in records if "verdict" in record]
    last = run.result or (evaluated[-1] if evaluated else {})
    state, verdict = (run.result or {}).get("state", "unfinished"), last.get("verdict")
    banner = []
    if state == "unfinished":
        banner.append(_coloured(state) + ": this is what there was when the report was written")
    elif state != "finished":
        banner.append(_coloured(state))
    if verdict:
        banner.append("Verdict: " + _coloured(verdict) + " \u2013 " + _IN_WORDS[verdict])
    return {
        "name": recipe.name,
        "hash": run.environment.get("hash", run.path.name.rpartition("-")[2]),
        "folder": run.path.name,
        "method": recipe.method.name,
        "backbone": recipe.model.backbone,
        "verdict": verdict,
        "state": verdict or state,
        "colour": COLOURS[verdict or state],
        "banner": Markup("; ").join(banner),
        "advice": Verdict(verdict).advice if verdict else "",
        "date": str(run.environment.get("started", "")).replace("T", " ").replace("Z", " UTC"),
        "tiles": _tiles(run, recipe, records, last),
    }


def _coloured(word: str) -> Markup:
    return Markup('<span class="verdict {}">{}</span>').format(COLOURS[word], word)


def _tiles(run: Run, recipe: Recipe, records: Records, last: dict[str, Any]) -> list[tuple[str, Number, str]]:
    """(name, metric, small print) of what is known."""
    encoder, finetuned = run.metrics("encoder") or {}, run.metrics("finetune") or {}
    spent_s = learned_for_s(records)
    unit_s, unit = (3600, "hours") if (spent_s or 0) >= 360 else (60, "minutes")
    rows = [
        ("linear probe", encoder.get("linear", {}).get("accuracy"), ".1%", "test accuracy"),
        ("kNN", encoder.get("knn", {}).get("accuracy"), ".1%", "test accuracy"),
        ("fine-tuned", finetuned.get("finetuned", {}).get("accuracy"), ".1%", "test accuracy"),
        ("RankMe", last.get("rankme"), ".1f", f"of {last.get('features')} features"),
        ("z-std ratio", last.get("z_std_ratio"), ".2f", "1 is even"),
        ("epochs", records[-1]["epoch"] if records else None, "d", f"of {recipe.schedule.epochs}"),
        ("learning took", spent_s and spent_s / unit_s, ".2f" if unit == "hours" else ".1f", unit),
    ]
    return [(name, number(metric, form), small) for name, metric, form, small in rows if metric is not None]


def accuracies(run: Run) -> list[HtmlTable]:
    """kNN and linear probe of each kind of features, with intervals, and over the official folds."""
    kinds = {name: metrics for kind, name in FEATURES.items() if (metrics := run.metrics(kind))}
    if not kinds:
        return []
    first = next(iter(kinds.values()))["knn"]
    test = HtmlTable(
        ["features", f"kNN, k = {first['k']}", "linear probe"],
        [[name, _interval(metrics["knn"]), _interval(metrics["linear"])] for name, metrics in kinds.items()],
        f"Accuracy on {first['n_test']:,} test images, from {first['n_train']:,} labelled training images, with the "
        "95 % interval over the draw of test images (not over seeds).",
    )
    folds = {name: metrics["folds"] for name, metrics in kinds.items() if "folds" in metrics}
    rows = [
        [name, number(len(fold["images"]), "d"), _spread(fold["knn"]), _spread(fold["linear"])]
        for name, fold in folds.items()
    ]
    return [test, HtmlTable(["over the official folds", "folds", "kNN", "linear probe"], rows)] if folds else [test]


def _interval(metric: dict[str, Any]) -> Markup:
    ends = (number(end, ".1%") for end in metric["interval_95"])
    return Markup('{} <span class="note">[{}, {}]</span>').format(number(metric["accuracy"], ".1%"), *ends)


def _spread(metric: dict[str, Any]) -> Markup:
    return Markup("{} &plusmn; {}").format(number(metric["mean"], ".1%"), number(metric["std"], ".1%"))


def finetuning(run: Run) -> list[HtmlTable]:
    """Probe, fine-tuned and from scratch."""
    metrics = run.metrics("finetune")
    if metrics is None:
        return []
    rows = [[name, _interval(metrics[key])] for key, name in FINETUNED.items() if key in metrics]
    note = f"Trained on {metrics['data']}, tested on {metrics['test']}. {metrics['protocol']}."
    return [HtmlTable([f"{metrics['n_train']:,} labels", "test accuracy [95 % interval]"], rows, note)]


def collapse_measures(run: Run) -> list[HtmlTable]:
    """Measures of the frozen encoder beside those of what it started from."""
    rows = [
        [
            FEATURES[name],
            number(metrics["rankme"], ".1f"),
            number(min(metrics["images"], metrics["features"]), "d"),
            *(number(metrics[key], ".2f") for key in ("z_std_ratio", "alignment", "uniformity")),
        ]
        for name, metrics in (run.metrics("collapse") or {}).items()
    ]
    note = (
        "No labels are needed for these. Higher RankMe and z-std, lower alignment and uniformity are better, each "
        "beside the untrained encoder's."
    )
    columns = ["features", "RankMe", "at most", "z-std ratio", "alignment", "uniformity"]
    return [HtmlTable(columns, rows, note)] if rows else []


def parity(run: Run) -> list[HtmlTable]:
    """Verdict on every file of the run's bundles."""
    rows = [
        [_code(name), _coloured(file["verdict"]), file["precision"], file.get("reason") or ""]
        for name, file in delivered_files(run).items()
    ]
    note = "Whether each file computes what the PyTorch model computes; parity.html in the bundle has the proof."
    return [HtmlTable(["file", "parity", "precision", "reason"], rows, note)] if rows else []


def metrics_at_evaluations(log: Records) -> list[HtmlTable]:
    """Every measured key at the evaluations, or at some of them where they are many."""
    records = [record for record in log if "rankme" in record]
    if not records:
        return []
    chosen = [records[k] for k in spread(len(records), MOST_ROWS)]
    columns = {key: column for key, column in _METRICS.items() if any(key in record for record in chosen)}
    rows = [
        [*(number(record.get(key), form) for key, (_, form) in columns.items()), _coloured(record["verdict"])]
        for record in chosen
    ]
    note = f"{len(chosen)} of {len(records)} evaluations, evenly spread; metrics.jsonl has them all."
    names = [name for name, _ in columns.values()]
    return [HtmlTable([*names, "verdict"], rows, note if len(chosen) < len(records) else "")]


def environment(run: Run) -> list[HtmlTable]:
    """What made the run, as it was written down when it started."""
    rows = [[name, _code(_plain(value))] for name, value in run.environment.items() if value not in (None, [], {})]
    return [HtmlTable(["environment", ""], rows)] if rows else []


def recipe_keys(recipe: Recipe) -> HtmlTable:
    """Every key with its value; those that are part of the run's hash are marked."""
    rows = []
    for path, field, value in leaves(recipe):
        is_result = field.json_schema_extra != MACHINE and path != ("name",)
        form = "<strong><code>&bull; {}</code></strong>" if is_result else "<code>&nbsp; {}</code>"
        rows.append([Markup(form).format(".".join(path)), _code(_plain(value))])
    return HtmlTable(["key", "value"], rows)


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(visible(text))


def _plain(value: Any) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value)
