"""Shards from a real web server: fetched when needed, checked, kept up to a size, and every fault one sentence."""

import multiprocessing
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fsspec.registry import _registry
from safetensors.torch import load_file
from tests.conftest import tiny_recipe
from tests.data.shard_folders import IMAGES, number_in, packed_folder

from byolt.data import open_store, shard_cache
from byolt.data.shard_index import INDEX
from byolt.data.shards import ShardSource, open_folder, open_url
from byolt.run import Run
from byolt.training.loop import pretrain
from byolt_export.errors import ByoltError, InputError, MissingPart


class Server(ThreadingHTTPServer):
    """Serves a folder; counts what was asked for, and answers as it is told to."""

    def __init__(self, root: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.answers: dict[str, list[int | bytes]] = {}
        """Status codes or bodies by name, each given once before the file itself is."""
        self.declared_bytes: int | None = None
        """The Content-Length that goes with such a body."""
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(root)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server
    error_message_format = "<Error><Code>NoSuchKey</Code></Error>"  # S3's answer, and read for a 404 alone.

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked[name] += 1
        planned = self.server.answers.get(name)
        if not planned:
            return super().do_GET()
        answer = planned.pop(0)
        if isinstance(answer, int):
            return self.send_error(answer)
        self.send_response(200)
        if self.server.declared_bytes is not None:
            self.send_header("Content-Length", str(self.server.declared_bytes))
        self.end_headers()
        self.wfile.write(answer)
        return None

    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return packed_folder(tmp_path)


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(shard_cache, "BACKOFF_S", 0.0)
    with serving(shards) as server:
        yield server


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def opened(server: Server, tmp_path: Path, budget_gb: float = 1.0) -> ShardSource:
    return open_url(server.url, tmp_path / "cache", budget_gb)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "shards").glob("*.tar"))


def test_a_url_gives_the_same_set_and_fetches_each_shard_once(shards: Path, server: Server, tmp_path: Path) -> None:
    source, local = opened(server, tmp_path), open_folder(shards, tmp_path)
    assert sum(server.asked.values()) == 1  # The index alone.
    assert source.fingerprint == local.fingerprint
    assert all(source.content(k) == local.content(k) for k in range(IMAGES))
    other = opened(server, tmp_path)
    assert sorted(number_in(other.read(k)) for k in range(IMAGES)) == list(range(IMAGES))
    assert server.asked == {"index.npz": 2} | {path.name: 1 for path in shards.glob("*.tar")}
    assert {path.read_bytes() for path in kept(tmp_path)} == {path.read_bytes() for path in shards.glob("*.tar")}
    assert source.path(0).startswith(f"{server.url}/images-000000.tar/class ")


def test_a_run_from_a_url_is_the_run_from_the_folder(shards: Path, server: Server, tmp_path: Path) -> None:
    def run_of(**place: Any) -> Run:
        recipe = tiny_recipe(
            machine={"runs_dir": tmp_path / "-".join(place), "threads": 1, "workers": 2},
            data={"name": "shards", "image_size_px": 32, "cache_budget_gb": 0, "cache_dir": tmp_path / "cache"} | place,
            schedule={"epochs": 1, "warmup_epochs": 0},
        )
        return pretrain(recipe)

    local, fetched = run_of(root=shards), run_of(url=server.url + "/")
    assert local.path.name == fetched.path.name
    one, other = (load_file(run.path / "encoder.safetensors") for run in (local, fetched))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(server.asked[path.name] == 1 for path in shards.glob("*.tar"))


def test_a_file_url_is_one_too(shards: Path, tmp_path: Path) -> None:
    source = open_url(shards.as_uri(), tmp_path / "cache", 1.0)
    assert number_in(source.read(5)) == number_in(open_folder(shards, tmp_path).read(5))
    with pytest.raises(InputError, match=f"^{tmp_path.as_uri()}/index.npz cannot be fetched: no such file; mend"):
        open_url(tmp_path.as_uri(), tmp_path / "cache", 1.0)
    shards.rename(tmp_path / "my shards")
    source = open_url((tmp_path / "my shards").as_uri(), tmp_path / "other", 1.0)
    assert number_in(source.read(5)) == number_in(open_folder(tmp_path / "my shards", tmp_path).read(5))


def test_s3_buckets_are_read_too(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(shards.parent) as bucket:  # As S3 does, it gives out <bucket>/<key>.
        for name, value in {"ENDPOINT_URL": bucket.url, "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        source, local = open_url("s3://shards", tmp_path / "cache", 1.0), open_folder(shards, tmp_path)
        bucket.answers["shards/images-000000.tar"] = [changed(shards / "images-000000.tar")]
        assert all(source.content(k) == local.content(k) for k in range(6))
        assert bucket.asked == {
            f"shards/{n}": k for n, k in [(INDEX, 1), ("images-000000.tar", 2), ("images-000001.tar", 1)]
        }
        with pytest.raises(InputError, match=r"^s3://nowhere/index.npz cannot be fetched: no such file; mend that"):
            open_url("s3://nowhere", tmp_path / "cache", 1.0)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("s3://a/b", "s3fs", "s3"), ("gs://a/b", "gcsfs", "gcs"), ("https://a/b", "aiohttp", "train")],
)
def test_a_library_that_is_missing_is_named(url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # It keeps what was imported once.
    with pytest.raises(MissingPart) as fault:
        shard_cache.fetch_index(url)
    assert str(fault.value) == f'{url}/index.npz needs {module}, which is not installed: pip install "byolt[{extra}]"'
    assert fault.value.exit_code == 5


@pytest.mark.parametrize("spoilt", [b"", b"short", 503, 429, "changed", "cut"])
def test_a_spoilt_answer_is_asked_for_again(
    shards: Path, server: Server, tmp_path: Path, spoilt: bytes | int | str
) -> None:
    name, source = "images-000000.tar", opened(server, tmp_path)
    if isinstance(spoilt, str):
        server.declared_bytes = (shards / name).stat().st_size
        spoilt = changed(shards / name)[: 3000 if spoilt == "cut" else None]
    server.answers[name] = [spoilt, spoilt]
    assert source.content(0) == open_folder(shards, tmp_path).content(0)
    assert server.asked[name] == 3


def changed(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (503, " in 3 attempts: the server answers 503 Service Unavailable"),
        (404, ": no such file"),
        (403, ": the server answers 403 Forbidden"),
        (b"short", " in 3 attempts: 5 bytes came, its index says "),
        (b"x" * 30_000, r" in 3 attempts: \d+ bytes came, its index says "),
        ("changed", " in 3 attempts: its SHA-256 is "),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_and_is_not_kept(
    shards: Path, server: Server, tmp_path: Path, answer: int | bytes | str, cause: str
) -> None:
    name, source = "images-000000.tar", opened(server, tmp_path)
    content = changed(shards / name) if isinstance(answer, str) else answer
    server.answers[name] = [content] * 3
    with pytest.raises(InputError) as fault:
        source.content(0)
    assert re.match(f"{server.url}/{name} cannot be fetched{cause}", str(fault.value))
    assert str(fault.value).endswith("; mend that, and give the command again")
    assert server.asked[name] == (1 if answer in (403, 404) else 3)
    assert kept(tmp_path) == []
    assert not list((tmp_path / "cache" / "shards").glob("*.part"))


def test_a_server_that_is_not_there_and_an_index_that_is_none(server: Server, tmp_path: Path) -> None:
    server.answers["index.npz"] = [b"<html>"]
    with pytest.raises(InputError, match=f"{server.url}/index.npz is no index of shards, or a damaged one"):
        opened(server, tmp_path)
    with pytest.raises(
        InputError, match="^http://127.0.0.1:9/index.npz cannot be fetched in 3 attempts: Cannot connect to host"
    ):
        open_url("http://127.0.0.1:9", tmp_path / "cache", 1.0)


def test_a_cache_too_small_for_the_shards_in_use_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError) as fault:
        opened(server, tmp_path, budget_gb=0.0001)
    assert "data.shard_cache_gb 0.0001 is too small" in str(fault.value)
    least = float(str(fault.value).partition("--set data.shard_cache_gb=")[2].split()[0])
    assert len(opened(server, tmp_path, budget_gb=least)) == IMAGES


def test_what_was_opened_longest_ago_is_evicted_and_can_be_read_on(
    shards: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("byolt.data.shards.LEAST_KEPT", 4)
    size_bytes = max(path.stat().st_size for path in shards.glob("*.tar"))
    source = opened(server, tmp_path, budget_gb=4 * size_bytes / 1e9)
    first = [int(np.flatnonzero(source.index.shard == number)[0]) for number in range(16)]
    for number in (0, 1, 2, 3):
        source.read(first[number])
        assert len(kept(tmp_path)) == number + 1
    fresh = opened(server, tmp_path, budget_gb=4 * size_bytes / 1e9)
    for path in kept(tmp_path):
        os.utime(path, ns=(0, 10**9 * (1 + ["0", "1", "2", "3"].index(number_of(path, fresh)))))
    fresh.read(first[0])  # Opened anew, so 1 is now the oldest.
    fresh.read(first[4])
    assert sorted(number_of(path, fresh) for path in kept(tmp_path)) == ["0", "2", "3", "4"]
    assert number_in(source.read(first[1])) == number_in(open_folder(shards, tmp_path).read(first[1]))
    for k in first * 2:  # In any case it stays below.
        fresh.read(k)
        assert sum(path.stat().st_size for path in kept(tmp_path)) <= 4 * size_bytes


def number_of(path: Path, source: ShardSource) -> str:
    return str(source.index.file_sha256.index(path.stem))


def test_processes_that_need_the_same_shard_fetch_it_once(server: Server, tmp_path: Path) -> None:
    source = opened(server, tmp_path)
    processes = [multiprocessing.get_context("fork").Process(target=source.content, args=(0,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert server.asked["images-000000.tar"] == 1


def test_shards_are_fetched_before_they_are_read(server: Server, tmp_path: Path) -> None:
    source = opened(server, tmp_path)
    store = open_store(source, 32, "crop", budget_gb=0, cache_dir=tmp_path / "cache", corrupt_limit=0)
    for path in kept(tmp_path):
        path.unlink()
    server.asked.clear()
    assert store.prefetch_images == 3  # A shard's worth.
    store.prefetch(np.flatnonzero(source.index.shard == 11))
    until_s = time.monotonic() + 20
    while not kept(tmp_path) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert [number_of(path, source) for path in kept(tmp_path)] == ["11"]
    assert server.asked == {"images-000011.tar": 1}


def test_a_cache_that_cannot_be_written_is_one_sentence(server: Server, tmp_path: Path) -> None:
    source = opened(server, tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "shards").write_text("a file")
    with pytest.raises(ByoltError, match=r"cache/shards could not be written \(File exists\); make room"):
        source.read(0)
