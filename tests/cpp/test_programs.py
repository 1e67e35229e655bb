"""The C++ lines of docs/cpp.md, and the examples, on files and frames."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps
from tests.cpp.conftest import ROOT, Bundles
from tests.cpp.test_library import run
from tests.export import small

from byolt_export.runtime.onnx_runner import OnnxRunner
from byolt_export.runtime.resize import to_square

pytestmark = pytest.mark.cpp

CAMERA_PX = (640, 480)
SAME = 1e-5  # Six digits are printed.
FLAGS = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"


def photo(seed: int, size: tuple[int, int] = CAMERA_PX) -> npt.NDArray[np.uint8]:
    """A picture of soft blots with some noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    blots = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(blots) + rng.normal(0, 12, (size[1], size[0], 3)), 0, 255).astype(np.uint8)


def outputs_of(bundle: Path, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return OnnxRunner(bundle / "encoder.onnx", threads=1)(to_square(pixels, small.SIZE_PX, "crop")[None])[0]


def class_of(bundle: Path, pixels: npt.NDArray[np.uint8]) -> str:
    return "abcde"[outputs_of(bundle, pixels).argmax()]


def rows_of(output: bytes) -> list[list[str]]:
    return [line.split("\t") for line in output.decode().splitlines()]


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "cpp.md").read_text(), flags=re.DOTALL)
    return found


@pytest.fixture(scope="module")
def embed(builds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's program, built in another folder against an installed byolt."""
    folder = tmp_path_factory.mktemp("embed")
    prefix, build = folder / "prefix", folder / "build"
    (folder / "embed.cpp").write_text(block("cpp"))
    (folder / "CMakeLists.txt").write_text(block("cmake"))
    options = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_CXX_FLAGS={FLAGS}"]
    for words in (
        ["cmake", "--install", builds / "plain", "--prefix", prefix],
        ["cmake", "-S", folder, "-B", build, *options],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "embed"


def test_the_guides_program_gives_pythons_embedding(embed: Path, bundles: Bundles, tmp_path: Path) -> None:
    assert len(block("cpp").splitlines()) <= 20
    pixels = photo(1)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    found = np.array(run(embed, bundles.embedding, tmp_path / "photo.png").stdout.split(), dtype=np.float64)
    np.testing.assert_allclose(found, outputs_of(bundles.embedding, pixels), rtol=SAME, atol=SAME)
    other = outputs_of(bundles.embedding, pixels[..., ::-1])
    assert np.abs(found - other).max() > 100 * SAME  # The comparison tells colours in another order.


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(embed: Path, bundles: Bundles, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = Image.fromarray(photo(2, (60, 40)))
    lying.save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    want = outputs_of(bundles.embedding, upright)
    lying.save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    for name, limit in (("photo.png", SAME), ("photo.jpg", 0.03)):  # JPEG: its losses, and another decoder.
        found = np.array(run(embed, bundles.embedding, tmp_path / name).stdout.split(), dtype=np.float64)
        assert np.linalg.norm(found - want) / np.linalg.norm(want) < limit, name


def test_the_guides_program_in_doubt(embed: Path, bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    assert run(embed, code=2).stderr == b"usage: embed BUNDLE IMAGE\n"
    assert b"cannot be read: name a JPEG" in run(embed, bundles.embedding, tmp_path / "none.png", code=2).stderr
    assert b"cannot be read as JPEG or PNG" in run(embed, bundles.embedding, tmp_path / "text.png", code=2).stderr
    assert b"holds no bundle" in run(embed, tmp_path, tmp_path / "text.png", code=2).stderr
    os.mkfifo(tmp_path / "pipe.png")  # Nobody writes into it.
    for name, why in {".": "Is a directory", "pipe.png": "it is no plain file"}.items():
        refused = run(embed, bundles.embedding, tmp_path / name, code=2, timeout=60).stderr.decode()
        assert refused == f"{tmp_path / name} cannot be read: name a JPEG or PNG file ({why})\n"


def test_installed_programs_find_their_libraries(embed: Path, bundles: Bundles) -> None:
    assert b"passed" in run(embed.parents[1] / "prefix/bin/byolt-verify", bundles.classes).stdout


def test_a_folder_is_classified_and_embedded(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    photos = [photo(seed, (50, 40)) for seed in range(3)]
    for seed, pixels in enumerate(photos):
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    program = builds / "plain/examples/byolt-example-folder"
    rows = rows_of(run(program, bundles.classes, tmp_path).stdout)
    assert rows == [[str(tmp_path / f"{k}.png"), class_of(bundles.classes, photos[k])] for k in range(3)]
    rows = rows_of(run(program, bundles.embedding, tmp_path).stdout)
    found = np.array([row[1:] for row in rows], dtype=np.float64)
    want = np.stack([outputs_of(bundles.embedding, pixels) for pixels in photos])
    np.testing.assert_allclose(found, want, rtol=SAME, atol=SAME)


def test_a_row_is_a_line_whatever_a_file_is_called(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    """Of a newline, a quote, a tab, an escape and line ends that only some readers know; a folder is no picture."""
    names = ["a\nb.png", 'c"d,e.png', "f\tg.png", "h\x1b[2J.png", "i\\n.png", "j\x85\u2028k.png", "lä€.png"]
    shown = [r"a\nb", r"c\"d,e", r"f\tg", r"h\x1b[2J", r"i\\n", r"j\xc2\x85\xe2\x80\xa8k", "lä€"]
    for name in names:
        Image.fromarray(photo(1, (50, 40))).save(tmp_path / name)
    (tmp_path / "m.png").mkdir()
    os.mkfifo(tmp_path / "n.jpg")
    expected = [f"{tmp_path}/{name}.png" for name in shown]
    rows = rows_of(run(builds / "plain/examples/byolt-example-folder", bundles.classes, tmp_path, timeout=60).stdout)
    assert rows == [[name, class_of(bundles.classes, photo(1, (50, 40)))] for name in expected]
    words = (bundles.embedding, tmp_path, tmp_path / names[0])
    rows = rows_of(run(builds / "plain/examples/byolt-example-search", *words, timeout=60).stdout)
    assert len(rows) == 5
    assert {name for _, name in rows} <= set(expected)


def test_a_gallery_is_searched(builds: Path, bundles: Bundles, tmp_path: Path) -> None:
    photos = [photo(seed, (50, 40)) for seed in range(7)]
    for seed, pixels in enumerate(photos):
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    program = builds / "plain/examples/byolt-example-search"
    rows = rows_of(run(program, bundles.embedding, tmp_path, tmp_path / "3.png").stdout)
    outputs = np.stack([outputs_of(bundles.embedding, pixels).astype(np.float64) for pixels in photos])
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    cosines = unit @ unit[3]
    nearest = np.argsort(-cosines)[:5]
    assert [path for _, path in rows] == [str(tmp_path / f"{k}.png") for k in nearest]
    np.testing.assert_allclose([float(cosine) for cosine, _ in rows], cosines[nearest], atol=SAME)
    refused = run(program, bundles.classes, tmp_path, tmp_path / "3.png", code=2)
    assert refused.stderr.endswith(b"with an encoder's bundle\n")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_frames_come_through_a_pipe(builds: Path, bundles: Bundles, order: str) -> None:
    frames = [photo(seed, (64, 48)) for seed in range(3)]
    stream = b"".join((f if order == "rgb" else np.ascontiguousarray(f[..., ::-1])).tobytes() for f in frames)
    program = builds / "plain/examples/byolt-example-camera"
    rows = rows_of(run(program, bundles.classes, "64x48", order, input=stream).stdout)
    assert [row[1] for row in rows] == [class_of(bundles.classes, frame) for frame in frames]


def test_nv12_frames_of_grey_are_grey(builds: Path, bundles: Bundles) -> None:
    """Video range: 16 is black, 235 white, so the luma 16 + 219 v / 255 of a grey v comes back as v, to a rounding."""
    program = builds / "plain/examples/byolt-example-camera"
    grey = photo(5, (64, 48))[..., 0]
    luma = np.rint(16 + 219 * grey.astype(np.float64) / 255).astype(np.uint8)
    nv12 = luma.tobytes() + bytes([128]) * (48 * 64 // 2)
    rows = rows_of(run(program, bundles.embedding, "64x48", "nv12", input=nv12 * 2).stdout)
    assert [float(row[1]) for row in rows] == pytest.approx([0, 0], abs=1e-6)
    rows = rows_of(run(program, bundles.classes, "64x48", "nv12", input=nv12).stdout)
    assert rows[0][1] == class_of(bundles.classes, np.repeat(grey[..., None], 3, axis=2))
