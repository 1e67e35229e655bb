import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byolt.data.decode import decode_image
from byolt.data.folder import FolderSource
from byolt.data.source import UnreadableImage
from byolt_export.errors import InputError
from byolt_export.runtime.resize import to_square


def save(
    path: Path, colour: object = (10, 20, 30), mode: str = "RGB", size: tuple[int, int] = (3, 2), **options: object
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)  # type: ignore[arg-type]
    return path


def pixel(path: Path) -> tuple[int, ...]:
    pixels = decode_image(path).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 3, 3)  # height, width, channels
    assert (pixels == pixels[0, 0]).all()
    return tuple(int(value) for value in pixels[0, 0])


@pytest.mark.parametrize(
    ("name", "mode", "colour", "seen"),
    [
        ("a.png", "RGB", (10, 20, 30), (10, 20, 30)),
        ("a.png", "L", 100, (100, 100, 100)),
        ("a.png", "LA", (100, 7), (100, 100, 100)),
        ("a.png", "RGBA", (200, 100, 50, 128), (200, 100, 50)),  # alpha is dropped, not blended
        ("a.webp", "RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("a.png", "1", 1, (255, 255, 255)),
        ("a.bmp", "RGB", (1, 2, 3), (1, 2, 3)),
        ("a.ppm", "RGB", (4, 5, 6), (4, 5, 6)),
        ("a.pgm", "L", 9, (9, 9, 9)),
        # (255 - c)(255 - k) / 255: 255 * 0.8 = 204; 204 * 0.8 = 163.2; 204 * 0.6 = 122.4; 204 * 0.4 = 81.6
        ("a.tif", "CMYK", (51, 102, 153, 51), (163, 122, 82)),
        # v / 257 rounded: 100.498 and 100.502 on either side of a half, 65535 / 257 = 255, 4095 / 257 = 15.93
        ("a.png", "I;16", 25828, (100, 100, 100)),
        ("a.tiff", "I;16", 25829, (101, 101, 101)),
        ("a.png", "I;16", 65535, (255, 255, 255)),
        ("a.tif", "I;16", 4095, (16, 16, 16)),
        ("a.tif", "I;16B", 25829, (101, 101, 101)),
        ("a.tif", "I", 25829, (101, 101, 101)),
    ],
)
def test_each_mode_becomes_rgb(tmp_path: Path, name: str, mode: str, colour: object, seen: tuple[int, ...]) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    assert pixel(save(tmp_path / name, colour, mode, **options)) == seen


@pytest.mark.parametrize(
    ("name", "transparency"), [("a.png", None), ("a.png", 1), ("a.png", b"\x00\x80"), ("a.gif", None), ("a.gif", 1)]
)
def test_a_palette_is_looked_up(tmp_path: Path, name: str, transparency: object) -> None:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([9, 9, 9, 70, 80, 90])
    image.save(tmp_path / name, **({} if transparency is None else {"transparency": transparency}))
    assert pixel(tmp_path / name) == (70, 80, 90)


def test_cmyk_jpeg_keeps_its_polarity(tmp_path: Path) -> None:
    seen = pixel(save(tmp_path / "a.jpg", (51, 102, 153, 51), "CMYK", quality=100))
    assert np.abs(np.array(seen) - (163, 122, 82)).max() <= 3  # JPEG rounds


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda upright: upright),
        (2, lambda upright: upright[:, ::-1]),
        (3, lambda upright: upright[::-1, ::-1]),
        (4, lambda upright: upright[::-1]),
        (5, lambda upright: upright.swapaxes(0, 1)),
        (6, lambda upright: np.rot90(upright, 1)),  # the camera was turned: shown after a quarter turn clockwise
        (7, lambda upright: upright[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, stored: object) -> None:
    upright = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored(upright))).save(tmp_path / "a.png", exif=exif)  # type: ignore[operator]
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png").pixels, upright)


def test_a_jpeg_decoded_smaller_keeps_twice_the_wanted_size_and_the_same_square(tmp_path: Path) -> None:
    axis = np.linspace(0, 12, 512)
    waves = np.stack([np.sin(axis[:, None] * k) * np.cos(axis[None] * (k + 1)) for k in (1, 2, 3)], axis=2)
    Image.fromarray(((waves + 1) * 127.5).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    assert decode_image(tmp_path / "a.jpg", 64).pixels.shape == (128, 128, 3)  # 512 / 4 = 128 = 2 * 64
    assert decode_image(tmp_path / "a.jpg", 65).pixels.shape == (256, 256, 3)  # 128 would be below 2 * 65
    small = to_square(decode_image(tmp_path / "a.jpg", 64).pixels, 64, "crop").astype(int)
    whole = to_square(decode_image(tmp_path / "a.jpg").pixels, 64, "crop").astype(int)
    assert np.abs(small - whole).mean() < 1


def png_of_size(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    whole = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file it"),
        (b"not an image\n", "cannot identify image file it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file it"),
        (png_of_size(20000, 20000), "decompression bomb"),
    ],
)
def test_what_is_no_image_is_told_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"image .*a\.jpg cannot be read: .*{reason}[^\n]*$"):
        decode_image(path)


@pytest.mark.parametrize(("name", "keep"), [("a.jpg", 0.6), ("a.png", 0.6), ("a.tif", 0.6), ("a.webp", 0.6)])
def test_a_truncated_file_is_unreadable_not_half_an_image(tmp_path: Path, name: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UnreadableImage, match=f"{name} cannot be read"):
        decode_image(tmp_path / name)


@pytest.mark.parametrize(("mode", "value", "reason"), [("F", 0.5, "floating-point"), ("I", 70000, "beyond the range")])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, mode: str, value: float, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode_image(save(tmp_path / "a.tif", value, mode))


def test_a_missing_file_is_no_damage_and_a_link_to_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png is gone") as gone:
        decode_image(tmp_path / "a.png")
    assert not isinstance(gone.value, UnreadableImage)
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UnreadableImage, match="link to nothing"):
        decode_image(tmp_path / "b.png")


def test_listing_is_sorted_recursive_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for name in ("b/2.JPG", "b/1.jpeg", "a/deep/er/x.PNG", "a/10.tiff", "a/9.WebP"):
        save(root / name, format="PNG")
    for name in ("a/notes.txt", ".hidden/x.png", "a/._1.jpg", "readme.md"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    (root / "b" / "folder.png").mkdir()
    os.mkfifo(root / "b" / "pipe.png")  # opening it would wait for ever
    (root / "a" / "loop").symlink_to(root)
    (root / "b" / "gone.png").symlink_to("nowhere.png")
    source = FolderSource(root)
    paths = [str(Path(source.path(k)).relative_to(root)) for k in range(len(source))]
    assert paths == ["a/10.tiff", "a/9.WebP", "a/deep/er/x.PNG", "b/1.jpeg", "b/2.JPG", "b/gone.png"]


def test_labels_come_from_first_sub_folders_only_where_every_image_lies_in_one(tmp_path: Path) -> None:
    for name in ("scratch/1.png", "good/x/2.png", "good/3.png"):
        save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert source.classes == ("good", "scratch")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    save(tmp_path / "loose.png")
    source = FolderSource(tmp_path)
    assert (source.classes, source.labels) == ((), None)


def test_one_sub_folder_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png")
    assert FolderSource(tmp_path).labels is None


def test_the_fingerprint_is_of_names_and_sizes_the_cache_key_of_times_too(tmp_path: Path) -> None:
    save(tmp_path / "one" / "a.bmp", (1, 1, 1))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = FolderSource(tmp_path / "one"), FolderSource(tmp_path / "two")
    assert one.fingerprint == two.fingerprint  # another machine, the same images
    save(tmp_path / "two" / "a.bmp", (2, 2, 2))
    os.utime(tmp_path / "two" / "a.bmp", ns=(0, 1))
    rewritten = FolderSource(tmp_path / "two")
    assert rewritten.fingerprint == two.fingerprint
    assert rewritten.cache_key != two.cache_key
    save(tmp_path / "two" / "b.bmp")
    assert FolderSource(tmp_path / "two").fingerprint != two.fingerprint


FROZEN = (b"B/\xff.webp", b"a!/z-1.jpg", b"a!/z.jpg", b"a-b/y.png", b"a/x.png", b"a/x/1.JPG", b"\xc3\xa4/1.bmp")
"""In the order of their bytes: `a!/`, `a-b/`, `a/`, which is another than that of the folders' names."""


def frozen_folder(root: Path, *loose: bytes) -> Path:
    """Files that no image is read of, each of another size and time, and a link to nothing."""
    for k, name in enumerate(FROZEN + loose):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 37 * k)
        os.utime(path, ns=(0, 1_700_000_000_000_000_000 + k))
    (root / "a" / "link.png").symlink_to("nowhere")
    return root


def listed(source: FolderSource) -> list[bytes]:
    return [os.fsencode(Path(source.path(k)).relative_to(source.root)) for k in range(len(source))]


# Computed by the code that kept every file in a list and sorted it whole: the hashes of runs depend on these.
def test_the_identity_of_a_labelled_folder_is_what_it_was(tmp_path: Path) -> None:
    source = FolderSource(frozen_folder(tmp_path))
    assert listed(source) == sorted([*FROZEN, b"a/link.png"])
    assert source.fingerprint == "e8a05e7e602ee286aa1d55ff889672b133a6ebe5cc36c904cb1ff9453d41fa0d"
    assert source.cache_key == "2e95e8d5d4568cc6e3d06449ccf017ad2c4d7e1bdf152ecb4007db7c547f5101"
    assert source.classes == ("B", "a", "a!", "a-b", "ä")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 2, 2, 3, 1, 1, 1, 4]


def test_the_identity_of_a_folder_with_loose_images_is_what_it_was(tmp_path: Path) -> None:
    source = FolderSource(frozen_folder(tmp_path, b"a.png", b"ab.gif"))
    assert listed(source) == sorted([*FROZEN, b"a/link.png", b"a.png", b"ab.gif"])
    assert source.fingerprint == "1a221ccf2952ba2d440b736409372ffb259d6b43078d166ace04637741469f8a"
    assert source.cache_key == "b1fa26787b30d299513a412aa79a3b75688177f7f6a0c45d5e3be17ff35881e6"
    assert (source.classes, source.labels) == ((), None)


def test_numbers_past_the_last_image_are_refused_and_those_below_the_first_count_from_the_end(tmp_path: Path) -> None:
    source = FolderSource(frozen_folder(tmp_path))
    assert source.path(-1) == source.path(7) == str(tmp_path / "ä" / "1.bmp")
    with pytest.raises(IndexError):
        source.path(8)


def test_the_benchmark_of_a_large_folder_gives_its_metrics(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "folder.py"
    options = ["--images=2000", "--workers=2", "--steps=40", "--batch-size=4", "--first-batch-size=16"]
    paths = os.pathsep.join(path for path in sys.path if path)
    told = subprocess.run(
        [sys.executable, script, f"--dir={tmp_path}", *options],
        env=os.environ | {"PYTHONPATH": paths},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()
    assert len(told) == 3
    cells = [float(cell) for cell in told[2].strip("| ").split("|")]
    images, workers, opened_s, cpu_s, peak_mb, _, first_s, _, last_mb, _, largest_mb, images_per_s = cells
    assert (images, workers) == (2000, 2)
    assert min(opened_s, cpu_s, peak_mb, first_s, last_mb, images_per_s) > 0
    assert largest_mb >= last_mb
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    target = save(tmp_path / "a.png", (1, 2, 3))
    target.rename(tmp_path / os.fsdecode(b"\xff.png"))
    source = FolderSource(tmp_path)
    assert source.read(0)[0, 0].tolist() == [1, 2, 3]


def test_a_missing_folder_and_one_of_text_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image folder .*nowhere not found; give a folder"):
        FolderSource(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"holds no images \(\.jpg, "):
        FolderSource(tmp_path)
