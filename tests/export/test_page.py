"""What a person signs: the page says what the report says, and nothing in a bundle can make it say more."""

import base64
import io
import platform
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.export import small

from byolt_export.bundle.folder import MANIFEST, read_manifest
from byolt_export.bundle.golden import GoldenVectors, read_golden
from byolt_export.bundle.manifest import Calibration, Contract, Engine, Manifest, Output, Profile, Speed
from byolt_export.files import sha256
from byolt_export.proof.gates import GATES
from byolt_export.proof.made import Made
from byolt_export.proof.measures import HISTOGRAM_EDGES, error_histogram
from byolt_export.proof.page import render_page, write_page
from byolt_export.proof.report import Control, FileReport, Parity, Report, Task

_VOID = {"meta", "img", "br", "line"}
_HOSTILE = '<img src=x onerror="alert(1)">&amp;</td>\u202egnp'


class Page(HTMLParser):
    """Tags in order with their attributes and text; fails on a tag that is not closed where it must be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"{tag} closes another tag"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((tuple(name for _, name in self._open), data.strip()))

    def of_class(self, name: str) -> list[str]:
        return [text for classes, text in self.texts if classes and name in classes[-1].split()]


@pytest.fixture
def parts(report: Report) -> tuple[Report, Manifest, GoldenVectors]:
    """One file, so that each thing stands once in the page."""
    manifest = read_manifest(report.path)
    golden = read_golden(report.path, manifest)
    return replace(report, files=report.files[:1]), manifest.model_copy(update={"files": manifest.files[:1]}), golden


def engine(**changes: Any) -> Engine:
    about: dict[str, Any] = {
        "name": "encoder.fp16.rtx.engine",
        "precision": "fp16",
        "onnx": "encoder.fp16.onnx",
        "onnx_sha256": "5" * 64,
        "flavour": "tensorrt_rtx",
        "version": "1.7.1.116",
        "target": "rtx",
        "compute_capabilities": (86, 89, 120),
        "profile": Profile(min_batch=1, opt_batch=4, max_batch=10),
        "workspace_mib": 512,
        "sha256": "e" * 64,
        "verdict": "not run here",
        "reason": "no GPU answers",
    }
    return Engine(**(about | changes))


def test_the_page_is_whole_in_itself(parts: tuple[Report, Manifest, GoldenVectors], tmp_path: Path) -> None:
    write_page(tmp_path / "parity.html", *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["parity.html"]
    html = (tmp_path / "parity.html").read_text(encoding="utf-8")
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?:|//\w|@import|url\(|javascript:", re.sub(r'"data:image/png;base64,[^"]+"', "", html))
    assert not {"script", "link", "iframe", "object", "base", "form", "a"} & {tag for tag, _ in page.tags}
    assert all(
        value.startswith("data:image/png;base64,")
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href") and value
    )
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_the_same_content_gives_the_same_bytes(parts: tuple[Report, Manifest, GoldenVectors], tmp_path: Path) -> None:
    made = Made("2026-11-28 21:00 UTC", "a processor", "tiny-01234567")
    write_page(tmp_path / "a.html", *parts, made)
    report, manifest, golden = parts
    write_page(tmp_path / "b.html", replace(report, path=Path("elsewhere")), manifest, golden, made)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_speeds_stand_beside_the_verdict(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    about = {"file": "encoder.onnx", "runtime": "openvino", "processor": "AMD <EPYC>", "threads": 3}
    speeds = tuple(
        Speed.model_validate(about | {"batch": batch, "images_per_s": rate, "times_fp32": ratio})
        for batch, rate, ratio in ((1, 101.5, 0.25), (8, 812.5, 0.5))
    )
    file = replace(report.files[0], provider="OpenVINO", speeds=speeds)
    page = Page(render_page(replace(report, files=(file,)), manifest, golden))
    texts = [text for _, text in page.texts]
    assert texts.count("; 0.5 x fp32 here, which is slower") == 2  # In the table of files, and in its own heading.
    assert texts.count("AMD <EPYC>") == 2
    shown = {float(attributes["value"] or "nan") for tag, attributes in page.tags if tag == "data"}
    assert shown >= {101.5, 0.25, 812.5, 0.5}
    plain = Page(render_page(replace(report, files=(replace(file, speeds=()),)), manifest, golden))
    assert not [text for _, text in plain.texts if "fp32 here" in text or "times fp32" in text]


def test_figures_equal_the_reports(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    page = Page(render_page(*parts))
    shown = {float(attributes["value"] or "nan") for tag, attributes in page.tags if tag == "data"}
    file = parts[0].files[0]
    assert file.parity.golden is not None
    expected = {
        value
        for name, value in asdict(file.parity.golden).items()
        if name in ("relative_l2_mean", "relative_l2_worst", "centred_cosine_worst", "overlap_at_1", "overlap_at_10")
    }
    expected |= {control.relative_l2_worst for control in file.parity.controls}
    expected |= {check.from_batch_1_worst for check in file.parity.batches}
    assert expected <= shown
    assert f"{file.parity.golden.relative_l2_worst:.2e}" in [text for _, text in page.texts]
    bars = [text.split() for _, text in page.texts if " images from " in text]
    lows = [float(attributes["x"] or "nan") / 11 / 4 - 8 for tag, attributes in page.tags if tag == "rect"]
    counts = file.parity.golden.relative_l2_histogram
    assert [int(bar[0]) for bar in bars] == [count for count in counts if count]
    assert sum(counts) == len(parts[2].images)
    # A bar 11 px further right is a quarter of a decade more, and its title says so.
    assert [(bar[3], bar[5]) for bar in bars] == [(f"{10**low:.1e}", f"{10 ** (low + 0.25):.1e}") for low in lows]
    worst = np.log10(file.parity.golden.relative_l2_worst)
    assert lows[-1] <= worst < lows[-1] + 0.25


def test_what_is_signed_holds_every_digest(report: Report, parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    golden = parts[2]
    text = render_page(report, manifest := read_manifest(report.path), golden)
    digests = {*re.findall(r"[0-9a-f]{64}", manifest.model_dump_json()), sha256(report.path / MANIFEST)}
    assert len(digests) >= 5
    assert [digest for digest in digests if digest not in text] == []
    calibration = Calibration(
        images=64, source="learn", sha256="c" * 64, rule="least error", int8_share=0.875, fp16_layers=("conv1",)
    )
    files = (manifest.files[0].model_copy(update={"calibration": calibration}),)
    text = render_page(report, manifest.model_copy(update={"files": files, "engines": (engine(),)}), golden)
    assert [digest for digest in ("c" * 64, "e" * 64, "5" * 64) if digest not in text] == []
    assert "87.5 %" in text
    assert "least error" in text


def test_the_worst_image_is_shown_in_large_pixels(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, _, golden = parts
    page = Page(render_page(*parts))
    (shown,) = [attributes for tag, attributes in page.tags if tag == "img"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode((shown["src"] or "").partition(",")[2]))))
    assert report.files[0].parity.golden is not None
    worst = report.files[0].parity.golden.worst_image
    assert shown["alt"] == f"golden image {worst}"
    assert picture.shape == (192, 192, 3)
    assert np.array_equal(picture[::6, ::6], golden.images[worst])


def test_a_failed_file_looks_failed(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    file = report.files[0]
    assert file.parity.golden is not None
    worse = replace(file.parity.golden, relative_l2_worst=0.5)
    controls = (*file.parity.controls[1:], Control("swapped_channels", "not noticed", 1e-5))
    parity = replace(file.parity, verdict="failed", reasons=("it is <wrong>",), golden=worse, controls=controls)
    page = Page(render_page(Report(report.path, (replace(file, parity=parity),)), manifest, golden))
    assert page.of_class("good").count("passed") == 0
    assert page.of_class("bad").count("failed") == 3  # The banner, the table of files, the file's own heading.
    assert page.of_class("bad").count("broken") == 1  # The one gate that 0.5 breaks.
    assert page.of_class("bad").count("not noticed") == 1
    assert "it is <wrong>" in page.of_class("bad")
    assert "1 of 1 did not keep its gates" in " ".join(text for _, text in page.texts)


def test_what_has_not_run_is_never_green(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    unproven = FileReport(
        "encoder.fp16.rtx.engine", "fp16", "tensorrt_rtx", Parity("not run here", ("no GPU",), GATES["fp16"])
    )
    manifest = manifest.model_copy(update={"engines": (engine(),)})
    for files in (report.files, (*report.files, unproven), (unproven,)):
        page = Page(render_page(Report(report.path, files), manifest, golden))
        open_words = [classes for classes, text in page.texts if text == "not run here"]
        assert len(open_words) >= 3
        assert all("open" in classes[-1] and "good" not in " ".join(classes) for classes in open_words)
    assert "passed" not in page.of_class("good")


def test_an_engines_verdict_is_the_reports_where_it_has_one(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    failed = FileReport("encoder.fp16.rtx.engine", "fp16", "GPU", Parity("failed", ("too far",), GATES["fp16"]))
    claims = manifest.model_copy(update={"engines": (engine(verdict="passed", reason=""),)})
    page = Page(render_page(Report(report.path, (*report.files, failed)), claims, golden))
    before = Page(render_page(*parts)).of_class("good").count("passed")
    assert page.of_class("good").count("passed") == before - 1  # The banner's.
    assert page.of_class("bad").count("failed") == 4


def test_hostile_names_are_shown_and_do_nothing(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    contract = manifest.contract.model_dump() | {
        "output": Output(name="logits", dim=2, normalized=False),
        "classes": (_HOSTILE, "cat"),
        "recipe_hash": _HOSTILE,
    }
    manifest = manifest.model_copy(update={"contract": Contract(**contract), "tools": {_HOSTILE: _HOSTILE}})
    file = replace(report.files[0], name=_HOSTILE, provider=_HOSTILE)
    file = replace(file, parity=replace(file.parity, verdict="failed", reasons=(_HOSTILE,)))
    golden = replace(golden, labels=np.zeros(len(golden.images), np.int64))
    html = render_page(Report(report.path, (file,)), manifest, golden)
    page = Page(html)
    assert [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src") == "x"] == []
    assert "\u202e" not in html
    assert sum('<img src=x onerror="alert(1)">&amp;</td>\\u202egnp' in text for _, text in page.texts) >= 7


def test_a_task_is_shown_with_its_interval(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    task = Task(500, 0.615, 0.97, -0.005, (-0.021, 0.011), 0.7, 0.99, 0.002, (-0.01, 0.014), 0.01, "undecided")
    parity = replace(report.files[0].parity, task=task)
    page = Page(render_page(Report(report.path, (replace(report.files[0], parity=parity),)), manifest, golden))
    text = " ".join(text for _, text in page.texts)
    assert "kNN 62.00% 61.50% 97.00% -0.50% -2.10% to +1.10%" in text
    assert page.of_class("open")[-1] == "undecided"


def test_a_whole_frame_is_reduced() -> None:
    from byolt_export.proof.drawing import picture

    source, width, height = picture(small.images(1, 32)[0].repeat(60, axis=0).repeat(40, axis=1))
    assert (width, height) == (427, 640)
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (427, 640)


def test_the_histogram_counts_each_error_once() -> None:
    assert HISTOGRAM_EDGES[0] == pytest.approx(1e-8)
    assert HISTOGRAM_EDGES[-1] == pytest.approx(10)
    counts = error_histogram(np.array([0.0, 1e-9, 1.1e-8, 1e-3, 1.5e-3, 0.5, 11.0, np.inf]))
    assert len(counts) == len(HISTOGRAM_EDGES) - 1 == 36
    # 1e-3 is the lower edge of bin 20 (five decades of four); 0.5 lies between 10 ** -0.5 and 10 ** -0.25.
    assert {k: count for k, count in enumerate(counts) if count} == {0: 3, 20: 2, 30: 1, 35: 2}


def test_who_signs_reads_when_where_and_of_what_run(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    said = " ".join(text for _, text in Page(render_page(*parts, Made("2026-11-28 21:00 UTC", "a chip", "t-1"))).texts)
    head = said.partition("Overall verdict")[0]
    for row in ("proven 2026-11-28 21:00 UTC", "run t-1", "processor a chip", f"torch {metadata.version('torch')}"):
        assert row in head
    here = Made.here("t-2")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", here.date)
    assert here.run == "t-2"
    assert here.processor.endswith(f"; {platform.system()}")
    assert platform.node() not in here.processor
    assert "of no run" in render_page(*parts)


def test_every_figure_says_what_it_is(parts: tuple[Report, Manifest, GoldenVectors]) -> None:
    report, manifest, golden = parts
    said = " ".join(text for _, text in Page(render_page(*parts)).texts)
    measured = report.files[0].parity.golden
    assert measured is not None
    furthest = f"Furthest from PyTorch of the {len(golden.images)} golden images: image {measured.worst_image}, counted"
    assert furthest in said
    assert "that went unnoticed none" in said
    assert "has to be none" in said
    assert "0.00% \u2013 at most 0.00%" not in said
    labelled = replace(golden, labels=np.full(len(golden.images), 3))
    assert "counted from 0, of class number 3. Its relative L2 is" in render_page(report, manifest, labelled)


def test_on_a_phone_tables_scroll_and_no_name_or_number_is_broken(
    parts: tuple[Report, Manifest, GoldenVectors],
) -> None:
    html = render_page(*parts)
    assert html.count("<table>") == html.count('<div class="wide"><table>') > 5
    rules = dict(re.findall(r"([^{}]+?) \{ ([^{}]*) \}", html.partition("<style>")[2].partition("@media")[0]))
    rules = {name.strip(): text for name, text in rules.items()}
    assert rules[".wide"] == "overflow-x: auto"
    assert rules["td code, h2 code, td.number, data"] == "white-space: nowrap"
    assert rules["img, svg"] == "max-width: 100%; height: auto"
    assert "width=device-width, initial-scale=1" in html
