"""What is wrong with a folder of shards is one sentence; shards that others wrote are read by their headers."""

import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from tests.data.shard_folders import IMAGES, SHARD_BYTES, image_folder, number_in, packed_folder

from byolt.data import FolderSource, open_store
from byolt.data.packing import pack
from byolt.data.shards import open_folder
from byolt_export.errors import ByoltError, InputError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return packed_folder(tmp_path)


def fault_of(root: Path, tmp_path: Path) -> str:
    with pytest.raises(InputError) as fault:
        open_folder(root, tmp_path / "cache")
    assert "\n" not in str(fault.value)
    return str(fault.value)


def test_a_folder_that_exists_is_not_packed_into(shards: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for out in (shards, tmp_path / "images"):
        with pytest.raises(InputError, match=f"{out} exists; name a folder that does not, or remove it"):
            pack(tmp_path / "images", out, SHARD_BYTES)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pack_that_is_killed_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 3000)
    command = [sys.executable, "-m", "byolt", "data", "pack", str(tmp_path / "images"), str(tmp_path / "shards")]
    process = subprocess.Popen([*command, "--shard-mb", "0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".shards.*.part/images-000001.tar")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "shards").exists()
    assert "not found" not in fault_of(tmp_path / "shards", tmp_path)
    assert pack(tmp_path / "images", tmp_path / "shards", 10**6).images == 3000


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ByoltError, match=r"shards could not be written \(File too large\); make room") as fault:
            pack(images, tmp_path / "shards", 10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert fault.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_image_that_went_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FolderSource(image_folder(tmp_path / "images"))
    Path(source.path(7)).unlink()
    monkeypatch.setattr("byolt.data.packing.FolderSource", lambda _: source)  # The folder was listed before.
    with pytest.raises(InputError, match=f"image {source.path(7)} cannot be read: No such file"):
        pack(source.root, tmp_path / "shards", 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", image_folder(tmp_path / "images")):
        assert fault_of(root, tmp_path) == (
            f"{root} is no folder of shards: it has neither index.npz nor tar files; byolt data pack writes one"
        )


def test_a_truncated_and_a_missing_shard_are_named(shards: Path, tmp_path: Path) -> None:
    source = open_folder(shards, tmp_path)
    path = shards / "images-000004.tar"
    of_shard = int(np.flatnonzero(source.index.shard == 4)[-1])
    content = path.read_bytes()
    left = int(source.index.offset[of_shard]) + 100  # In the midst of the shard's last image.
    path.write_bytes(content[:left])
    assert fault_of(shards, tmp_path) == (
        f"shard {path} has {left} bytes, its index says {len(content)}; copy it again, whole"
    )
    with pytest.raises(InputError, match=f"shard {path} is shorter than its index says; copy it again"):
        source.read(of_shard)
    path.unlink()
    assert fault_of(shards, tmp_path).startswith(f"shard {path} is missing, but {shards / 'index.npz'} names it")


def test_a_shard_that_went_while_it_is_read_from_is_named(shards: Path, tmp_path: Path) -> None:
    source = open_folder(shards, tmp_path)
    (shards / "images-000000.tar").unlink()
    with pytest.raises(InputError, match="images-000000.tar is gone since the folder was opened; put it back"):
        source.read(0)


def columns_of(shards: Path) -> dict[str, np.ndarray]:
    with np.load(shards / "index.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("format", np.array(9)),
        ("files", np.array([b"../outside.tar"] * 16)),
        ("shard", np.full(IMAGES, 99)),
        ("shard", np.arange(IMAGES)[::-1] // 3),
        ("offset", np.full(IMAGES, 2**40)),
        ("length", np.full(IMAGES, -1)),
        ("label", np.full(IMAGES, 3)),
        ("file_sha256", np.array([b"x"] * 16)),
        ("names", np.array([b"one"])),
        ("names", np.array([{"a": "pickle"}] * IMAGES)),
    ],
)
def test_an_index_that_does_not_fit_is_refused(shards: Path, tmp_path: Path, column: str, value: np.ndarray) -> None:
    np.savez(shards / "index.npz", **(columns_of(shards) | {column: value}), allow_pickle=True)
    assert "index.npz is no index of shards, or a damaged one (" in fault_of(shards, tmp_path)


@pytest.mark.parametrize("kept_bytes", [0, 10, 500])
def test_a_cut_index_is_refused(shards: Path, tmp_path: Path, kept_bytes: int) -> None:
    path = shards / "index.npz"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    assert "index.npz is no index of shards, or a damaged one (" in fault_of(shards, tmp_path)


def foreign(root: Path, *, labels: bool = True, images: int = 10) -> Path:
    """Two shards as webdataset's own writer makes them: other members beside the images, keys with folders."""
    root.mkdir()
    source = FolderSource(image_folder(root.parent / "theirs", images))
    for number in range(2):
        with tarfile.open(root / f"train-{number}.tar", "w") as tar:
            for k in range(number, images, 2):
                files = {"json": b"{}", "bmp": Path(source.path(k)).read_bytes()}
                if labels:
                    files["cls"] = str(5 * (k % 2) + 2).encode()
                for suffix, content in files.items():
                    member = tarfile.TarInfo(f"some.folder/{k:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return root


def test_shards_of_others_are_read_by_their_headers_and_the_index_is_kept(tmp_path: Path) -> None:
    root = foreign(tmp_path / "foreign")
    source = open_folder(root, tmp_path / "cache")
    theirs = FolderSource(tmp_path / "theirs")
    numbers = [number_in(source.read(k)) for k in range(10)]
    assert numbers == [number_in(theirs.read(k)) for k in (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)]
    assert source.classes == ("2", "7")
    assert source.labels is not None
    assert source.labels.tolist() == [0] * 5 + [1] * 5
    (kept,) = (tmp_path / "cache").iterdir()
    again = open_folder(root, tmp_path / "cache")
    assert again.fingerprint == source.fingerprint
    os.utime(root / "train-1.tar", ns=(0, 1))
    open_folder(root, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert kept.exists()


def test_the_identity_of_others_shards_is_of_the_images_content(tmp_path: Path) -> None:
    root = foreign(tmp_path / "foreign", labels=False)

    def prints() -> tuple[str, str]:
        source = open_folder(root, tmp_path / "cache")
        store = open_store(source, 32, "crop", budget_gb=1, cache_dir=tmp_path / "cache", corrupt_limit=0)
        return source.fingerprint, store.fingerprint

    before = prints()
    path = root / "train-0.tar"
    content = bytearray(path.read_bytes())
    source = open_folder(root, tmp_path / "cache")
    assert source.labels is None
    content[int(source.index.offset[1]) + 1000] ^= 1  # One bit of one pixel.
    path.write_bytes(content)
    os.utime(path, ns=(0, 1))
    after = prints()
    assert before[0] == after[0]  # Names and sizes.
    assert before[1] != after[1]


@pytest.mark.parametrize("left", [1200, 6000, -10240])
def test_a_tar_of_others_that_is_cut_short_is_refused(tmp_path: Path, left: int) -> None:
    path = foreign(tmp_path / "foreign") / "train-1.tar"
    with tarfile.open(path) as tar:
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in tar.getmembers())
    content = path.read_bytes()
    path.write_bytes(content[: left if left > 0 else end])  # The last: between two members.
    assert f"shard {path} cannot be read as a tar file: " in fault_of(path.parent, tmp_path)


def test_tars_without_images_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(Path(__file__), "code.py")
    assert "hold no images" in fault_of(tmp_path, tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no tar at all")
    assert "cannot be read as a tar file" in fault_of(tmp_path, tmp_path)
