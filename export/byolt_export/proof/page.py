"""``parity.html``: the verdict on a bundle as one page that a person can read and sign.

The page is whole in itself: no script, no font, no address; images are data URIs. Names and reasons come from
anywhere: every one is escaped, and characters that cannot be seen are spelled out. The same content, the same bytes.
"""

import hashlib
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from byolt_export.arrays import as_rgb
from byolt_export.bundle.folder import GOLDEN, MANIFEST, PARITY, manifest_bytes
from byolt_export.bundle.golden import PERTURBATIONS, GoldenVectors
from byolt_export.bundle.manifest import Gates, Manifest
from byolt_export.errors import MissingPart
from byolt_export.errors import visible as spelled_out
from byolt_export.files import write_whole
from byolt_export.proof.agreement import SHARES
from byolt_export.proof.drawing import HEIGHT_PX, WIDTH_PX, bars, picture, position
from byolt_export.proof.made import Made
from byolt_export.proof.report import FileReport, Measures, Parity, Report

# What has not run is neither good nor bad, and must look like neither.
_COLOURS = {"passed": "good", "failed": "bad", "not run here": "open"}
_LABELS = {
    "relative_l2_mean_max": "relative L2, mean",
    "relative_l2_worst_max": "relative L2, worst image",
    "centred_cosine_worst": "centred cosine, worst image",
    "overlap_at_1": "neighbour overlap@1",
    "overlap_at_10": "neighbour overlap@10",
    "top_1_agreement": "top-1 agreement",
    "drift_mean_max": "relative L2, mean, from what the file itself gave when it was made",
    "unnoticed_perturbation_max": "noise on the largest kernel, in parts of its spread, that went unnoticed",
}
_CONTROLS = {
    "swapped_channels": "red and blue swapped",
    "no_normalisation": "normalisation left out",
    "reinitialised": "weights drawn anew",
    "shuffled_rows": "rows shuffled",
} | {name: f"largest kernel with noise of {share:.0%} of its spread" for name, share in PERTURBATIONS.items()}
_STATES = {
    "fails": ("noticed", "good"),
    "below the limit": ("below the limit of the precision", "open"),
    "not noticed": ("not noticed", "bad"),
    "not applicable": ("not applicable", "open"),
}
_UNNOTICED = ("below the limit", "not noticed")


def write_page(path: Path, report: Report, manifest: Manifest, golden: GoldenVectors, made: Made | None = None) -> None:
    """Write the page whole, or leave what was there.

    Raises:
        MissingPart: jinja2 or Pillow is not installed.
    """
    write_whole(path, render_page(report, manifest, golden, made))


def render_page(report: Report, manifest: Manifest, golden: GoldenVectors, made: Made | None = None) -> str:
    """The page as HTML.

    Args:
        report: The verdicts, from the export or from ``verify_bundle``.
        manifest: As it stands in the bundle: the page holds its digest and those in it.
        golden: The bundle's golden vectors, for the images shown.
        made: When and where it was proven; left out, now and here.

    Raises:
        MissingPart: jinja2 or Pillow is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingPart('jinja2 is not installed, which writes the page: pip install "byolt[export]"') from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        resources.files("byolt_export.proof").joinpath("page.html.jinja").read_text("utf-8")
    )
    shown = [_file(file, manifest, golden) for file in report.files]
    reported = {file.name: file.parity for file in report.files}
    listed = [*(file.name for file in manifest.files), *(engine.name for engine in manifest.engines)]
    absent = [name for name in listed if name not in reported]
    return template.render(
        report=report,
        manifest=manifest,
        made=(made or Made.here()).rows(manifest),
        files=shown,
        absent=absent,
        colours=_COLOURS,
        unproven=sum(file.parity.verdict == "not run here" for file in report.files) + len(absent),
        failed=sum(file.parity.verdict == "failed" for file in report.files),
        engines=[(engine, *_engine_verdict(engine, reported.get(engine.name))) for engine in manifest.engines],
        digests=_digests(manifest),
        decades=[(position(10.0**k), k) for k in range(-8, 2)],
        plot_width=WIDTH_PX,
        plot_height=HEIGHT_PX,
    )


@dataclass(frozen=True)
class _Number:
    """A number as it is read, and as it is exactly."""

    text: str
    exact: str


@dataclass(frozen=True)
class _Gate:
    """A gate beside what was measured on the golden images and in the gallery."""

    label: str
    golden: _Number | None
    gallery: _Number | None
    relation: str
    limit: _Number
    kept: bool


def _file(file: FileReport, manifest: Manifest, golden: GoldenVectors) -> dict[str, Any]:
    """All that the page says of one file on one provider."""
    parity = file.parity
    measured = parity.gallery or parity.golden
    return {
        "report": file,
        "provider": file.provider.removesuffix("ExecutionProvider"),
        "parity": parity,
        "metrics": None if measured is None else _metrics(measured),
        "images": None if measured is None else measured.images,
        "gates": _gates(parity),
        "agreement": _agreement(parity),
        "histograms": [
            (name, measures.images, bars(measures.relative_l2_histogram))
            for name, measures in (("golden images", parity.golden), ("gallery", parity.gallery))
            if measures is not None
        ],
        "limit_x": position(parity.gates.relative_l2_worst_max),
        "worst": _worst(parity, manifest, golden),
        "task": None if parity.task is None else _task(asdict(parity.task)),
        "batches": [(check, _l2(check.relative_l2_worst), _l2(check.from_batch_1_worst)) for check in parity.batches],
        "controls": [
            (_CONTROLS.get(control.name, control.name), *_STATES[control.state], _l2(control.relative_l2_worst))
            for control in parity.controls
        ],
        "detection_limit": _share(parity.detection_limit),
        "speed": file.verdict_with_speed.removeprefix(parity.verdict),
        "speeds": [(s, _number(s.images_per_s, ".4g"), _number(s.times_fp32, ".2f")) for s in file.speeds],
        "bisection": "" if file.bisection is None else file.bisection.to_text(),
    }


def _metrics(measures: Measures) -> list[_Number | None]:
    """In the order of the table of files."""
    return [
        _l2(measures.relative_l2_mean),
        _l2(measures.relative_l2_worst),
        _number(measures.centred_cosine_worst, ".7f"),
        _share(measures.overlap_at_1),
        _share(measures.overlap_at_10),
        _share(measures.top_1_agreement),
    ]


def _gates(parity: Parity) -> list[_Gate]:
    """Every gate that has a meaning for the outputs, beside what was measured."""
    found = []
    for name in (field.name for field in fields(Gates)):
        limit, upper = getattr(parity.gates, name), name.endswith("_max")
        if name == "unnoticed_perturbation_max":
            unnoticed = [PERTURBATIONS.get(c.name, 0.0) for c in parity.controls if c.state in _UNNOTICED]
            values = [max(unnoticed, default=0.0) if parity.controls else None, None]
        elif name == "drift_mean_max":
            values = [parity.drift_mean, None]
        else:
            measure = name.removesuffix("_max")
            values = [None if m is None else getattr(m, measure) for m in (parity.golden, parity.gallery)]
        known = [value for value in values if value is not None]
        if not known:
            continue
        read = _l2 if name.startswith(("relative_l2", "drift")) else _cosine if "cosine" in name else _share
        read = _noise if name == "unnoticed_perturbation_max" else read
        exact_limit = read(limit)
        assert exact_limit is not None
        relation = "has to be" if exact_limit.text == "none" else "at most" if upper else "at least"
        kept = all(value <= limit if upper else value >= limit for value in known)
        found.append(_Gate(_LABELS[name], read(values[0]), read(values[1]), relation, exact_limit, kept))
    return found


def _agreement(parity: Parity) -> list[dict[str, Any]]:
    """The shares of all images with their intervals and the gates that they are judged by."""
    found = {name: getattr(parity.agreement, name, None) for name in SHARES}
    return [
        {
            "label": _LABELS[name],
            "value": _share(share.value),
            "low": _share(share.interval_95[0]),
            "high": _share(share.interval_95[1]),
            "queries": share.queries,
            "gate": _share(share.gate),
            "kept": share.value >= share.gate,
        }
        for name, share in found.items()
        if share is not None
    ]


def _task(task: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, label in (("knn", "kNN"), ("linear", "linear classifier")):
        low, high = task[f"{name}_interval_95"]
        difference = task[f"{name}_difference"]
        rows.append(
            {
                "label": label,
                "reference": f"{task[f'{name}_accuracy'] - difference:.2%}",
                "accuracy": _share(task[f"{name}_accuracy"]),
                "agreement": _share(task[f"{name}_agreement"]),
                "difference": _number(difference, "+.2%"),
                "low": _number(low, "+.2%"),
                "high": _number(high, "+.2%"),
            }
        )
    colour = {"not worse": "good", "undecided": "open", "worse": "bad"}[task["verdict"]]
    return {"rows": rows, "queries": task["queries"], "margin": _share(task["margin"]), "colour": colour} | {
        "verdict": task["verdict"]
    }


def _engine_verdict(engine: Any, parity: Parity | None) -> tuple[str, str]:
    """What this report says of an engine; where it is silent, what the manifest does."""
    if parity is None:
        return engine.verdict, engine.reason
    return parity.verdict, "; ".join(parity.reasons)


def _digests(manifest: Manifest) -> list[tuple[str, str]]:
    """What a signature under the page stands for: each file with its SHA-256."""
    return [
        (MANIFEST, hashlib.sha256(manifest_bytes(manifest)).hexdigest()),
        *((file.name, file.sha256) for file in manifest.files),
        *((engine.name, engine.sha256) for engine in manifest.engines),
        (GOLDEN, manifest.golden.sha256),
        (PARITY, manifest.parity_sha256),
    ]


def _worst(parity: Parity, manifest: Manifest, golden: GoldenVectors) -> dict[str, Any] | None:
    """The golden image that was furthest off, as a data URI."""
    if parity.golden is None:
        return None
    index, classes = parity.golden.worst_image, manifest.contract.classes
    label = None if golden.labels is None else int(golden.labels[index])
    known = label is not None and 0 <= label < len(classes)
    source, width, height = picture(as_rgb(golden.images[index], manifest.contract.input.white))
    return {
        "index": index,
        "of": len(golden.images),
        "error": _l2(parity.golden.relative_l2_worst),
        "name": classes[label] if known and label is not None else None if label is None else f"number {label}",
        "source": source,
        "width": width,
        "height": height,
    }


def _number(value: float | None, form: str) -> _Number | None:
    return None if value is None else _Number(format(value, form), repr(value))


def _l2(value: float | None) -> _Number | None:
    return _number(value, ".2e")


def _cosine(value: float | None) -> _Number | None:
    return _number(value, ".7f")


def _share(value: float | None) -> _Number | None:
    return _number(value, ".2%")


def _noise(value: float | None) -> _Number | None:
    return _Number("none", repr(value)) if value == 0 else _share(value)


def visible(value: Any) -> Any:
    """Text in which characters that cannot be seen, or turn round what stands beside them, are spelled out."""
    return value if not isinstance(value, str) or hasattr(value, "__html__") else spelled_out(value, keep="")
