import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byolt.data.folder_check import check_folder
from byolt_export.errors import InputError


def save(path: Path, colour: object, mode: str = "RGB", size: tuple[int, int] = (2, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    save(root / "good" / "black.png", (0, 0, 51))
    save(root / "good" / "white.png", (255, 0, 51), size=(4, 3))
    save(root / "good" / "again.bmp", (0, 0, 51))  # the pixels of black.png in another format
    save(root / "bad" / "grey.tif", 25829, "I;16", size=(6, 2))
    (root / "bad" / "text.jpg").write_text("no image")
    return root


def test_the_report_of_a_folder(parts: Path) -> None:
    report = check_folder(parts)
    assert report.images == 4
    assert report.classes == {"bad": 1, "good": 3}
    assert report.width_px == (2, 3.0, 6)  # 2, 2, 4, 6
    assert report.height_px == (2, 2.0, 3)
    assert report.common_sizes[0] == (2, 2, 2)
    assert report.modes == {"RGB": 3, "I;16": 1}
    assert [(Path(path).name, "cannot identify" in reason) for path, reason in report.unreadable] == [
        ("text.jpg", True)
    ]
    assert [[Path(path).name for path in group] for group in report.duplicates] == [["again.bmp", "black.png"]]
    assert (report.test_folder, report.test_images, report.leaked) == (None, None, None)


def test_mean_and_std_are_over_all_pixels(parts: Path) -> None:
    report = check_folder(parts)
    # 4 + 4 pixels of (0, 0, 51), 12 of (255, 0, 51), 12 of grey 101 (25829 / 257 = 100.502): 32 in all.
    red = np.repeat([0, 255, 101], [8, 12, 12]) / 255
    green = np.repeat([0, 0, 101], [8, 12, 12]) / 255
    # 101 / 255 = 0.39608. Means: red (12 + 12 * 0.39608) / 32 = 0.5235, green 12 * 0.39608 / 32 = 0.1485,
    # blue (20 * 0.2 + 12 * 0.39608) / 32 = 0.2735.
    assert report.mean == (0.5235, 0.1485, 0.2735)
    assert report.std is not None
    assert report.std[:2] == (round(float(red.std()), 4), round(float(green.std()), 4))


def test_an_image_in_both_folders_has_leaked(parts: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    save(test / "good" / "copy.ppm", (255, 0, 51), size=(4, 3))
    save(test / "good" / "new.png", (255, 0, 51), size=(3, 4))  # as many pixels, another shape
    report = check_folder(parts, test)
    assert report.test_images == 2
    assert report.leaked == [(str(test / "good" / "copy.ppm"), str(parts / "good" / "white.png"))]
    assert f"leaked      1\n  {test}/good/copy.ppm = {parts}/good/white.png" in report.to_text()


def test_text_and_json_say_the_same(parts: Path) -> None:
    report = check_folder(parts)
    assert json.loads(json.dumps(report.to_dict()))["classes"] == {"bad": 1, "good": 3}
    lines = report.to_text().splitlines()
    assert lines[0] == f"{parts}: 4 images"
    assert lines[1:4] == ["labels      2 classes", "         1 bad", "         3 good"]
    assert "width       2 to 6 px, median 3" in lines
    assert "mean        [0.5235, 0.1485, 0.2735]" in lines
    assert "unreadable  1" in lines


def test_a_folder_without_a_readable_image_has_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    report = check_folder(tmp_path)
    assert (report.images, report.classes, report.width_px, report.mean, report.std) == (0, None, None, None, None)
    assert "mean" not in report.to_text()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        check_folder(tmp_path / "nowhere")


def test_it_works_without_torch() -> None:
    code = "import sys, byolt.data, byolt.data.folder_check; sys.exit('torch' in sys.modules)"
    paths = [path for path in sys.path if path]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"], check=True)
