"""Grey images of more than 8 bits: every level that a camera counts comes in, and what does not fit is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from byolt.data import FolderSource, ImageStore, open_store, store_of
from byolt.data.bit_depth import with_bit_depth
from byolt.data.decode import decode_image
from byolt.data.folder_check import check_folder
from byolt.recipe.data import Data
from byolt.recipe.identity import result_keys
from byolt.recipe.optim import Schedule
from byolt.recipe.schema import Recipe
from byolt_export.errors import InputError
from byolt_export.runtime.resize import to_square

ALL_LEVELS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def save(path: Path, values: npt.NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pgm(path: Path, values: npt.NDArray[np.uint16], white: int) -> Path:
    height, width = values.shape
    path.write_bytes(b"P5 %d %d %d\n" % (width, height, white) + values.astype(">u2").tobytes())
    return path


def opened(root: Path, bit_depth: int | None, **how: Any) -> ImageStore:
    how = {"budget_gb": 1.0, "cache_dir": root.parent / "cache", "corrupt_limit": 0.0} | how
    return open_store(FolderSource(root), 64, "crop", bit_depth=bit_depth, **how)


def recipe(**data: Any) -> Recipe:
    return Recipe(name="grey", data=Data(image_size_px=64, **data), schedule=Schedule(epochs=1, warmup_epochs=0))


@pytest.mark.parametrize("budget_gb", [1.0, 0.0], ids=["cached", "streamed"])
def test_every_level_comes_in(tmp_path: Path, budget_gb: float) -> None:
    save(tmp_path / "images" / "a.png", ALL_LEVELS)
    save(tmp_path / "images" / "b.tif", ALL_LEVELS[::-1])
    squares = opened(tmp_path / "images", 12, budget_gb=budget_gb).batch(np.array([1, 0]))
    assert (squares.dtype, squares.shape) == (np.uint16, (2, 64, 64, 1))
    np.testing.assert_array_equal(squares[1, :, :, 0], ALL_LEVELS)
    np.testing.assert_array_equal(squares[0, :, :, 0], ALL_LEVELS[::-1])


def test_left_out_16_bits_become_8_and_no_cache_is_shared(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", ALL_LEVELS)
    assert len(np.unique(opened(tmp_path / "images", 12).batch(np.array([0])))) == 4096
    squares = opened(tmp_path / "images", None).batch(np.array([0]))
    assert (squares.dtype, squares.shape) == (np.uint8, (1, 64, 64, 3))
    assert np.unique(squares).tolist() == list(range(17))  # 4095 / 257 = 15.9
    assert opened(tmp_path / "images", 12).fingerprint == opened(tmp_path / "images", None).fingerprint


def test_files_of_8_bits_have_their_white_at_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1, 128, 255]], np.uint8))
    # 4095 / 255 = 16.06: 16.06, 2055.5 -> 2056 and 4095.
    assert decode_image(path, bit_depth=12).pixels[0, :, 0].tolist() == [0, 16, 2056, 4095]
    assert decode_image(path, bit_depth=8).pixels[0, 2].tolist() == [128, 128, 128]


def test_a_pgm_that_states_its_white_is_read_as_it_is_written(tmp_path: Path) -> None:
    for white in (4095, 65535):  # Pillow scales the first to 65535.
        decoded = decode_image(pgm(tmp_path / f"{white}.pgm", ALL_LEVELS, white), bit_depth=12)
        np.testing.assert_array_equal(decoded.pixels[:, :, 0], ALL_LEVELS)
        assert decoded.largest == 4095
    # Without a depth it stays what it was: white is 255.
    assert decode_image(tmp_path / "4095.pgm").pixels.max() == 255


def test_8_bits_in_files_of_16_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels = decode_image(save(tmp_path / "a.png", ALL_LEVELS % 256), bit_depth=8).pixels
    assert (pixels.dtype, pixels.shape) == (np.uint8, (64, 64, 3))
    np.testing.assert_array_equal(pixels, np.repeat((ALL_LEVELS % 256)[:, :, None], 3, axis=2))


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    above = save(tmp_path / "above" / "a.png", ALL_LEVELS)
    with pytest.raises(
        InputError, match=r"a\.png holds 4095, and data\.bit_depth 10 ends at 1023: give data\.bit_depth=12"
    ):
        opened(above.parent, 10)  # It ends the run, whatever corrupt_limit allows.
    colour = save(tmp_path / "colour" / "b.png", np.eye(3, dtype=np.uint8)[None] * 9)
    with pytest.raises(InputError, match=r"b\.png is colour, of which 8 bits a channel are read"):
        opened(colour.parent, 12)
    assert decode_image(save(tmp_path / "grey.png", np.full((2, 2, 3), 9, np.uint8)), bit_depth=12).pixels.max() == 145


def test_auto_is_the_fewest_bits_and_the_run_is_the_same(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", ALL_LEVELS // 5)
    save(tmp_path / "images" / "b.png", np.zeros((4, 4), np.uint8))
    auto = recipe(name="folder", root=tmp_path / "images", bit_depth="auto")
    assert with_bit_depth(auto).data.bit_depth == 10  # 819
    save(tmp_path / "test" / "c.png", ALL_LEVELS)
    tested = recipe(name="folder", root=tmp_path / "images", test_root=tmp_path / "test", bit_depth="auto")
    (tmp_path / "images" / "one").mkdir()
    assert with_bit_depth(tested.model_copy(update={"data": auto.data})).data.bit_depth == 10
    (tmp_path / "images" / "a.png").unlink()
    assert with_bit_depth(auto).data.bit_depth is None  # Nothing has more than 8 bits: as if it were left out.
    with pytest.raises(InputError, match=r"data\.bit_depth auto is looked for where byolt pretrain begins a run"):
        store_of(FolderSource(tmp_path / "images"), auto.data, 64)


def test_the_key_enters_the_hash_only_where_it_is_given(tmp_path: Path) -> None:
    plain, deep = recipe(name="folder", root=tmp_path), recipe(name="folder", root=tmp_path, bit_depth=12)
    assert "data.bit_depth" not in result_keys(plain)
    assert result_keys(deep) == result_keys(plain) | {"data.bit_depth": 12}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"data": {"name": "folder", "root": "a", "bit_depth": 13}},
            r"data\.bit_depth: 13 is not one of 8, 10, 12, 14, 16, auto",
        ),
        ({"data": {"name": "synthetic", "bit_depth": 12}}, "bit_depth goes with `name: folder` or `name: shards`"),
        ({"views": {"backend": "albumentations"}}, "views.backend albumentations works on 8 bits"),
        ({"export": {"channels": 3}}, "export.channels 3 goes with 8 bits"),
        ({"export": {"channels": 2}}, r"export\.channels: 2 is not one of 1, 3"),
    ],
)
def test_keys_that_do_not_fit(changes: dict[str, Any], fault: str) -> None:
    data = changes.get("data", {"name": "folder", "root": "a", "bit_depth": 12}) | {"image_size_px": 32}
    with pytest.raises(InputError, match=fault):
        Recipe(name="a", schedule={"epochs": 1, "warmup_epochs": 0}, **(changes | {"data": data}))


def test_data_check_says_what_16_bits_leave(tmp_path: Path) -> None:
    save(tmp_path / "a.png", ALL_LEVELS)
    report = check_folder(tmp_path)
    assert report.largest == 4095
    assert (
        "bit depth   12 in files of 16: values end at 4095, so that 17 grey levels are left of 8 bits; give "
        "data.bit_depth: 12\n            mean and std are then about 0.50 and 0.29\n"  # 1 / sqrt(12) = 0.289
    ) in report.to_text()
    save(tmp_path / "a.png", ALL_LEVELS * 16)
    assert "bit depth   16: values end at 65520; 8 bits of them are kept" in check_folder(tmp_path).to_text()
    save(tmp_path / "a.png", (ALL_LEVELS // 16).astype(np.uint8))
    assert check_folder(tmp_path).largest is None
    assert "bit depth" not in check_folder(tmp_path).to_text()


def test_16_bits_are_resized_by_the_arithmetic_of_bytes() -> None:
    # As in test_store: (3a + 3b + c) / 7 and (b + 3c + 3d) / 7 of 4095, 7, 4000, 1: 2329.4 and 1715.7.
    row = np.broadcast_to(np.array([4095, 7, 4000, 1], np.uint16)[None, :, None], (4, 4, 1))
    np.testing.assert_array_equal(to_square(row, 2, "crop")[:, :, 0], [[2329, 1716], [2329, 1716]])
    rng = np.random.default_rng(0)
    for size, side in (((90, 120), 32), ((40, 40), 24), ((20, 30), 48)):
        image = rng.integers(0, 256, (*size, 1), dtype=np.uint8)
        expected = to_square(image, side, "crop")
        np.testing.assert_array_equal(to_square(image.astype(np.uint16), side, "crop"), expected)
        np.testing.assert_array_equal(to_square(np.repeat(image, 3, axis=2), side, "crop")[..., :1], expected)
    white = np.full((300, 300, 1), 65535, np.uint16)
    np.testing.assert_array_equal(to_square(white, 7, "crop"), white[:7, :7])
