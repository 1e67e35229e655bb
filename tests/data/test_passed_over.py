"""Which files are taken for images, and what is told of those that are not."""

import io
import json
import logging
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from byolt.data.decode import decode_image, readable_formats, readable_suffixes, unreadable_because
from byolt.data.folder import FolderSource, tell_remarks
from byolt.data.folder_check import check_folder
from byolt.data.folder_listing import told_passed_over
from byolt.data.packing import pack
from byolt.data.shards import open_folder
from byolt_export.errors import InputError


def save(path: Path, kind: str = "PNG", size: tuple[int, int] = (16, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path, format=kind)
    return path


def listed(root: Path) -> list[str]:
    source = FolderSource(root)
    return [str(Path(source.path(k)).relative_to(root)) for k in range(len(source))]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.JPE", "JPEG"),
        ("a.jpg", "MPO"),
        ("a.jp2", "JPEG2000"),
        ("a.J2K", "JPEG2000"),
        ("a.Avif", "AVIF"),
        ("a.tga", "TGA"),
        ("a.dib", "BMP"),
        ("a.pnm", "PPM"),
        ("a.jpg_large", "JPEG"),
        ("a.jpeg.1", "JPEG"),
        ("a", "PNG"),
        ("a.png?width=640", "WEBP"),
    ],
)
def test_an_image_is_read_under_any_name(tmp_path: Path, name: str, kind: str) -> None:
    codec = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(kind)
    if codec and not features.check(codec):
        pytest.skip(f"Pillow here has no {kind}")
    save(tmp_path / name, kind)
    assert listed(tmp_path) == [name]
    pixels = FolderSource(tmp_path).read(0)
    assert pixels.shape == (12, 16, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 8  # Of the lossy formats.


def test_what_is_no_image_or_a_copy_or_a_thumbnail_is_counted_by_suffix(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", "JPEG")
    for name in ("a.jpg_original", "a.jpg~", "a.thm", "a.txt", "b.TXT", "raw.bin"):
        save(tmp_path / name, "JPEG" if name != "raw.bin" else "PNG")
    (tmp_path / "raw.bin").write_bytes(b"BM is how a sentence may begin, and P5 another")
    save(tmp_path / "raw.nef", "TIFF")  # As in a camera's raw file: the first of its images is a thumbnail.
    save(tmp_path / ".hidden.jpg", "JPEG")
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    source = FolderSource(tmp_path)
    assert len(source) == 1
    counts = {".txt": 2, ".jpg_original": 1, ".jpg~": 1, ".thm": 1, ".bin": 1, ".nef": 1, "no suffix": 1}
    assert source.passed_over == counts
    assert told_passed_over(counts) == ".txt 2, .bin 1, .jpg_original 1, .jpg~ 1, .nef 1, others 2"


def test_heic_is_read_with_its_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    pixels = np.full((64, 80, 3), (200, 100, 50), np.uint8)
    heif.from_bytes("RGB", (80, 64), pixels.tobytes()).save(tmp_path / "a.HEIC", quality=90)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.HEIC").read_bytes())  # As phones' exports may be called.
    assert listed(tmp_path) == ["a.HEIC", "b.jpg"]
    for name in ("a.HEIC", "b.jpg"):
        assert np.abs(decode_image(tmp_path / name).pixels.astype(int) - pixels).max() <= 8


def test_without_it_the_extra_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    head = b"\0\0\0\x18ftypheic" + bytes(20)
    for name in ("a.heic", "b.HEIF", "c.jpg"):
        (tmp_path / name).write_bytes(head)
    program = f"""if True:
        import sys
        sys.modules["pillow_heif"] = None
        from byolt.data.folder_check import check_folder
        print(check_folder({str(tmp_path)!r}).to_text())
    """
    told = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    extra = 'pip install "byolt[heic]" reads HEIC'
    assert f"passed over .heic 1 ({extra}), .heif 1 ({extra})" in told.splitlines()
    assert f"c.jpg cannot be read: it is a HEIC image; {extra}" in told


def test_a_format_that_pillow_was_built_without_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    cached = readable_formats, readable_suffixes
    for function in cached:
        function.cache_clear()
    try:
        assert "here reads no AVIF" in unreadable_because(".avif")
        assert unreadable_because(".jpg") == unreadable_because(".txt") == ""
    finally:
        for function in cached:
            function.cache_clear()


def labelled(root: Path) -> Path:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        save(root / name)
    return root


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["cover.jpg"], "cover.jpg lies beside the sub-folders cat, dog: move into one, or away"),
        (["a.png", "b.png", "c"], "a.png and 2 more lie beside the sub-folders cat, dog: move into one, or away"),
    ],
)
def test_a_stray_image_is_named_where_it_takes_the_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: list[str], why: str
) -> None:
    labelled(tmp_path)
    for name in more:
        save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert (source.labels, source.why_no_labels) == (None, why)
    tell_remarks(source)
    assert f"folder {tmp_path}: no labels: {why}" in caplog.text
    assert f"labels      none: {why}" in check_folder(tmp_path).to_text().splitlines()


def test_empty_class_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled(tmp_path)
    (tmp_path / "ant").mkdir()
    (tmp_path / "bee" / "deep").mkdir(parents=True)
    (tmp_path / "bee" / "deep" / "readme.md").write_text("none")
    with caplog.at_level(logging.WARNING):
        tell_remarks(FolderSource(tmp_path))
    assert f"folder {tmp_path}: no images in the sub-folders ant, bee" in caplog.text
    report = check_folder(tmp_path)
    assert (report.classes, report.empty_folders) == ({"cat": 2, "dog": 1}, ["ant", "bee"])
    assert json.loads(json.dumps(report.to_dict()))["passed_over"] == {".md": 1}
    lines = report.to_text().splitlines()
    assert "empty       ant, bee" in lines
    assert "passed over .md 1" in lines


def test_one_class_of_many_folders_says_which(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    assert FolderSource(tmp_path).remarks() == (
        "no images in the sub-folders dog",
        "no labels: of the sub-folders only cat holds images",
    )


def test_a_plain_folder_has_nothing_to_be_told(tmp_path: Path) -> None:
    save(tmp_path / "session" / "1.png")
    assert FolderSource(tmp_path).remarks() == ()
    assert check_folder(tmp_path).passed_over == {}


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.cr3").write_bytes(b"\0\0\0\x18ftypcrx ")
    with pytest.raises(InputError, match=r"holds no images \(\.jpg, .*\); \.cr3 1 passed over"):
        FolderSource(tmp_path)


def test_packing_tells_what_it_leaves_out_and_the_shards_know_it(tmp_path: Path) -> None:
    root = labelled(tmp_path / "images")
    save(root / "cat" / "no-suffix", "JPEG")
    (root / "cat" / "notes.txt").write_text("none")
    packed = pack(root, tmp_path / "shards", 10**6)
    assert packed.remarks == ("files passed over: .txt 1",)
    assert "note     files passed over: .txt 1" in packed.to_text()
    source = open_folder(tmp_path / "shards", None)
    assert (len(source), source.passed_over, source.remarks()) == (4, {".txt": 1}, packed.remarks)
    assert source.read(3).shape == (12, 16, 3)
    assert check_folder(tmp_path / "shards").passed_over == {".txt": 1}


def test_others_shards_are_read_by_content_too(tmp_path: Path) -> None:
    content = save(tmp_path / "a.jp2", "JPEG2000").read_bytes()
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "x.tar", "w") as tar:
        for name in ("1.jp2", "1.json", "2.image", "2.bin", "3.JFIF"):
            body = content if name.endswith(("jp2", "image", "JFIF")) else b"{}"
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    for _ in range(2):  # Made, then read from the cache.
        source = open_folder(tmp_path / "shards", tmp_path / "cache")
        assert [Path(source.path(k)).name for k in range(len(source))] == ["1.jp2", "2.image", "3.JFIF"]
        assert source.passed_over == {".json": 1, ".bin": 1}
