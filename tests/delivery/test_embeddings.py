"""Embeddings beside the file that made them, and what may be compared with what."""

from pathlib import Path

import numpy as np
import pytest

from byolt.delivery.embed import Embeddings
from byolt_export.errors import InputError

FP32, INT8 = ("encoder.onnx", "1" * 64), ("encoder.int8-cpu.onnx", "2" * 64)


def made(rows: list[list[float]], file: tuple[str, str]) -> Embeddings:
    return Embeddings(np.array(rows, np.float32), tuple(f"{k}.png" for k in range(len(rows))), *file)


def test_the_file_is_written_beside_the_vectors(tmp_path: Path) -> None:
    vectors = made([[3, 4], [0, 1]], INT8)
    vectors.save(tmp_path / "a.npz")
    found = Embeddings.load(tmp_path / "a.npz")
    assert (found.files, found.file, found.file_sha256) == (("0.png", "1.png"), *INT8)
    np.testing.assert_array_equal(found.embeddings, vectors.embeddings)
    with np.load(tmp_path / "a.npz") as arrays:
        assert (str(arrays["made_by"]), str(arrays["made_by_sha256"])) == INT8


def test_the_nearest_by_cosine() -> None:
    gallery = made([[10, 0], [3, 4], [0, -1]], FP32)
    places, cosines = made([[1, 0], [0, 2]], FP32).nearest(gallery, 2)
    assert places.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(cosines, [[1, 0.6], [0.8, 0]], atol=1e-7)


def test_a_gallery_of_another_file_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^the gallery was made by encoder\.onnx, and encoder\.int8-cpu\.onnx runs now"
    ):
        made([[1, 0]], INT8).nearest(made([[1, 0]], FP32))
    again = ("encoder.onnx", "3" * 64)
    with pytest.raises(InputError, match="made by encoder.onnx, and another one of that name runs now"):
        made([[1, 0]], again).nearest(made([[1, 0]], FP32))
    with pytest.raises(InputError, match="of a file that it does not name"):
        made([[1, 0]], FP32).nearest(made([[1, 0]], ("", "")))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"])
def test_what_holds_no_embeddings_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="holds no embeddings of `byolt embed`"):
        Embeddings.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    with pytest.raises(InputError, match="holds no embeddings"):
        Embeddings.load(tmp_path / "b.npz")
