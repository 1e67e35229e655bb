"""What a report says in numbers: heading, accuracies, collapse measures, fine-tuning, parity, recipe, environment."""

import json
from typing import Any

from markupsafe import Markup

from byolt.console.summary import CHANCE, FEATURES, FINETUNED, area_first, delivered_files, metrics_of_features
from byolt.data.subsets import spread
from byolt.evaluation.collapse import Verdict
from byolt.evaluation.outcome import outcome_of
from byolt.recipe.schema import Recipe
from byolt.recipe.section import MACHINE, leaves
from byolt.reporting.page import HtmlTable, Number, number
from byolt.run import Run, learned_for_s
from byolt_export.proof.page import visible

MOST_ROWS = 40
"""Evaluations in the table of metrics."""
_GOOD, _BAD = ("healthy", "finished", "passed"), ("dimensional", "complete", "collapsed", "failed")
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

_AUC_NOTE = "AUC is the area under the ROC curve: how well the scores order the two classes, whatever their shares."

Records = list[dict[str, Any]]


def heading(run: Run, recipe: Recipe, records: Records) -> dict[str, Any]:
    """State, verdict with advice, and the metrics that one wants first."""
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
    outcome = outcome_of(run)
    if outcome is not None:
        banner.append(Markup("{}").format(outcome.sentence))
    return {
        "hash": run.environment.get("hash", run.path.name.rpartition("-")[2]),
        "date": str(run.environment.get("started", "")).replace("T", " ").replace("Z", " UTC"),
        "state": verdict or state,
        "colour": _colour(verdict or state) if outcome is None or outcome.good or verdict != "healthy" else "open",
        "banner": Markup("; ").join(banner),
        "advice": Verdict(verdict).advice if verdict else "",
        "tiles": _tiles(run, recipe, records, last),
    }


def _colour(word: str) -> str:
    return "good" if word in _GOOD else "bad" if word in _BAD else "open"


def _coloured(word: str) -> Markup:
    return Markup('<span class="verdict {}">{}</span>').format(_colour(word), word)


def _tiles(run: Run, recipe: Recipe, records: Records, last: dict[str, Any]) -> list[tuple[str, Number, str]]:
    """(name, metric, small print) of what is known."""
    encoder, finetuned = run.metrics("encoder") or {}, run.metrics("finetune") or {}
    by_chance = chance_of(run)
    chance = "" if by_chance is None else f", chance {by_chance:.1%}"
    spent_s = learned_for_s(records)
    unit_s, unit = (3600, "hours") if (spent_s or 0) >= 360 else (60, "minutes")
    rows = [
        (
            "linear probe",
            encoder.get("linear", {}).get("auc", {}).get("area"),
            ".1%",
            "area under the ROC curve, chance 50.0%",
        ),
        ("linear probe", encoder.get("linear", {}).get("accuracy"), ".1%", f"test accuracy{chance}"),
        ("kNN", encoder.get("knn", {}).get("accuracy"), ".1%", f"test accuracy{chance}"),
        ("fine-tuned", finetuned.get("finetuned", {}).get("accuracy"), ".1%", "test accuracy"),
        ("RankMe", last.get("rankme"), ".1f", f"of {last.get('features')} features"),
        ("z-std ratio", last.get("z_std_ratio"), ".2f", "1 is even"),
        ("epochs", records[-1]["epoch"] if records else None, "d", f"of {recipe.schedule.epochs}"),
        ("learning took", spent_s and spent_s / unit_s, ".2f" if unit == "hours" else ".1f", unit),
    ]
    return [(name, number(metric, form), small) for name, metric, form, small in rows if metric is not None]


def chance_of(run: Run) -> float | None:
    """Accuracy of naming the most frequent class of the test images every time; None where it is not known."""
    chance: float | None = (run.metrics("encoder") or {}).get("knn", {}).get("chance")
    return chance


def accuracies(run: Run) -> HtmlTable:
    """kNN and linear probe of each kind of features, with intervals."""
    kinds = metrics_of_features(run)
    if not kinds:
        return HtmlTable([])
    first = next(iter(kinds.values()))["knn"]
    headings = {"knn": f"kNN, k = {first['k']}", "linear": "linear probe"}
    rows: list[dict[str, str]] = []
    for name, metrics in kinds.items():
        accuracy = {heading: _interval(metrics[probe]) for probe, heading in headings.items()}
        areas = {
            f"AUC, {heading}": _area(metrics[probe]) for probe, heading in headings.items() if "auc" in metrics[probe]
        }
        rows.append({"features": name} | (areas | accuracy if area_first(first) else accuracy | areas))
    if "chance" in first:
        by_chance = number(first["chance"], ".1%")
        last = {heading: number(0.5, ".1%") if heading.startswith("AUC") else by_chance for heading in rows[0]}
        rows.append(last | {"features": CHANCE})
    note = (
        f"Accuracy on {first['n_test']:,} test images, from {first['n_train']:,} labelled training images, with the "
        "95 % interval over the draw of test images (not over seeds)."
    )
    return HtmlTable(rows, f"{note} {_AUC_NOTE}" if "auc" in first else note)


def accuracies_over_folds(run: Run) -> HtmlTable:
    """The same over the official folds, where the set has them."""
    rows = [
        {
            "over the official folds": name,
            "folds": number(len(metrics["folds"]["images"]), "d"),
            "kNN": _spread(metrics["folds"]["knn"]),
            "linear probe": _spread(metrics["folds"]["linear"]),
        }
        for name, metrics in metrics_of_features(run).items()
        if "folds" in metrics
    ]
    return HtmlTable(rows)


def _interval(metric: dict[str, Any]) -> Markup:
    ends = (number(end, ".1%") for end in metric["interval_95"])
    return Markup('{} <span class="note">[{}, {}]</span>').format(number(metric["accuracy"], ".1%"), *ends)


def _area(metric: dict[str, Any]) -> Markup:
    """Area under the ROC curve, nothing where there are more classes than two."""
    if "auc" not in metric:
        return Markup("")
    return _interval({"accuracy": metric["auc"]["area"], "interval_95": metric["auc"]["interval_95"]})


def _spread(metric: dict[str, Any]) -> Markup:
    return Markup("{} &plusmn; {}").format(number(metric["mean"], ".1%"), number(metric["std"], ".1%"))


def finetuning(run: Run) -> HtmlTable:
    """Probe, fine-tuned and from scratch."""
    metrics = run.metrics("finetune")
    if metrics is None:
        return HtmlTable([])
    note = f"Trained on {metrics['data']}, tested on {metrics['test']}. {metrics['protocol']}."
    with_area = "auc" in metrics.get("finetuned", {})
    rows = [
        {f"{metrics['n_train']:,} labels": name, "test accuracy [95 % interval]": _interval(metrics[key])}
        | ({"AUC [95 % interval]": _area(metrics[key])} if with_area else {})
        for key, name in FINETUNED.items()
        if key in metrics
    ]
    if "chance" in metrics:
        chance = (CHANCE, number(metrics["chance"], ".1%"), *[number(0.5, ".1%")] * with_area)
        rows.append(dict(zip(rows[0], chance, strict=True)))
    return HtmlTable(rows, f"{note} {_AUC_NOTE}" if with_area else note)


def collapse_measures(run: Run) -> HtmlTable:
    """Measures of the frozen encoder beside those of what it started from."""
    rows = [
        {
            "features": FEATURES[name],
            "RankMe": number(metrics["rankme"], ".1f"),
            "at most": number(min(metrics["images"], metrics["features"]), "d"),
            "z-std ratio": number(metrics["z_std_ratio"], ".2f"),
            "alignment": number(metrics["alignment"], ".2f"),
            "uniformity": number(metrics["uniformity"], ".2f"),
        }
        for name, metrics in (run.metrics("collapse") or {}).items()
    ]
    return HtmlTable(rows)


def parity(run: Run) -> HtmlTable:
    """Verdict on every file of the run's bundles."""
    rows = [
        {
            "file": _code(name),
            "parity": _coloured(file["verdict"]),
            "precision": file["precision"],
            "reason": file.get("reason") or "",
        }
        for name, file in delivered_files(run).items()
    ]
    return HtmlTable(rows)


def metrics_at_evaluations(log: Records) -> HtmlTable:
    """Every measured key at the evaluations, or at some of them where they are many."""
    records = [record for record in log if "rankme" in record]
    chosen = [records[k] for k in spread(len(records), MOST_ROWS)]
    rows = [
        {name: number(record[key], form) if key in record else "" for key, (name, form) in _METRICS.items()}
        | {"verdict": _coloured(record["verdict"])}
        for record in chosen
    ]
    note = f"{len(chosen)} of {len(records)} evaluations, evenly spread; metrics.jsonl has them all."
    return HtmlTable(rows, note if len(chosen) < len(records) else "")


def environment(run: Run) -> HtmlTable:
    """What made the run, as it was written down when it started."""
    known = {name: value for name, value in run.environment.items() if value not in (None, [], {})}
    rows = [{"environment": name, "": _code(_plain(value))} for name, value in known.items()]
    return HtmlTable(rows)


def recipe_keys(recipe: Recipe) -> HtmlTable:
    """Every key with its value; those that are part of the run's hash are marked."""
    rows = []
    for path, field, value in leaves(recipe):
        is_result = field.json_schema_extra != MACHINE and path != ("name",)
        form = "<strong><code>&bull; {}</code></strong>" if is_result else "<code>&nbsp; {}</code>"
        rows.append({"key": Markup(form).format(".".join(path)), "value": _code(_plain(value))})
    return HtmlTable(rows)


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(visible(text))


def _plain(value: Any) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list) and value:
        return " ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)
