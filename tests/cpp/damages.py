"""Damage to a bundle, drawn at random: what a bad disk, a cut copy, another version or an attacker leaves behind.

A variant is a folder of hard links to the whole bundle's files, of which one or a few are replaced. Beside it stands
the folder ``outside``, with whole copies of the same files: a reader that follows a path out of the bundle finds
exactly what the manifest promises there, and takes it.
"""

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cpp.hostile import DOCUMENTS, NAMES, VALUES, Told, change_tree, edit_onnx, hostile_documents

from byolt_export.bundle.folder import GOLDEN, MANIFEST, PARITY
from byolt_export.files import sha256

HUGE = 3 * 2**30  # Above what a file of a bundle may have; sparse, so it takes no room.


@dataclass(frozen=True)
class Damage:
    """What was done to a variant.

    ``told``: who has to refuse it: ``reader``, whoever reads the files; ``runner``, whoever opens the graphs; or
    ``""``: it may be harmless, as a changed word in the manifest is. Then the outputs must be the whole bundle's bit
    for bit, unless it is ``sealed``: digests were made right again, and the files may compute something else, as long
    as it passes the proof.
    """

    kind: str
    told: Told
    sealed: bool = False


class Variant:
    """A damaged copy of a bundle in ``folder``; ``outside`` holds whole files that it must not lead to."""

    def __init__(self, whole: Path, folder: Path, outside: Path, rng: random.Random) -> None:
        self.folder, self.outside, self.rng = folder, outside, rng
        folder.mkdir()
        for path in whole.iterdir():
            os.link(path, folder / path.name)
        self.tree: Any = json.loads((folder / MANIFEST).read_bytes())
        self.onnx = [file["name"] for file in self.tree["files"]]
        self.covered = [*self.onnx, GOLDEN, PARITY, *(engine["name"] for engine in self.tree["engines"])]

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Replace a file; the bundle that it is linked to keeps its own."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_bytes(content)

    def write_tree(self) -> None:
        self.write(MANIFEST, json.dumps(self.tree).encode())

    def seal(self, name: str) -> None:
        """Make a file's digest right again."""
        digest = sha256(self.folder / name)
        if name == GOLDEN:
            self.tree["golden"]["sha256"] = digest
        elif name == PARITY:
            self.tree["parity_sha256"] = digest
        else:
            for file in (*self.tree["files"], *self.tree["engines"]):
                if file["name"] == name:
                    file["sha256"] = digest
                if file.get("onnx") == name:
                    file["onnx_sha256"] = digest
        self.write_tree()


def damage(variant: Variant) -> Damage:
    """One damage of a kind drawn by the variant's own random numbers."""
    kinds, weights = zip(*_KINDS.items(), strict=True)
    return variant.rng.choices(kinds, weights)[0](variant)


def _truncated(variant: Variant) -> Damage:
    rng, name = variant.rng, variant.rng.choice([MANIFEST, *variant.covered])
    content = variant.read(name)
    length = rng.choice([0, 1, 7, 8, 9, len(content) - 2, rng.randrange(len(content) - 1)])
    variant.write(name, content[:length])
    return _maybe_sealed(variant, name, "truncated")


def _bits_flipped(variant: Variant) -> Damage:
    rng, name = variant.rng, variant.rng.choice([MANIFEST, *variant.covered])
    content = bytearray(variant.read(name))
    reach = rng.choice([len(content), min(len(content), 2048)])  # Half of them where the structure is.
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        content[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    variant.write(name, bytes(content))
    return _maybe_sealed(variant, name, "bits flipped")


def _bytes_moved(variant: Variant) -> Damage:
    """A block repeated, left out, filled, or swapped in from another file."""
    rng, name = variant.rng, variant.rng.choice([MANIFEST, *variant.covered])
    content = variant.read(name)
    start = rng.randrange(len(content) - 1)
    end = min(len(content), start + rng.choice([1, 4, 64, 4096]))
    block = content[start:end]
    other = variant.read(rng.choice(variant.covered))
    new = rng.choice([block * 2, b"", b"\xff" * len(block), b"\0" * len(block), other[: len(block)]])
    if new == block:
        new = bytes(byte ^ 0x55 for byte in block)
    variant.write(name, content[:start] + new + content[end:])
    return _maybe_sealed(variant, name, "bytes moved")


def _maybe_sealed(variant: Variant, name: str, kind: str) -> Damage:
    if name == MANIFEST:  # Nothing seals the manifest itself.
        return Damage(f"{kind}: manifest", told="reader" if kind == "truncated" else "")
    what = "onnx" if name in variant.onnx else name.rpartition(".")[2]
    if variant.rng.random() < 0.5:
        return Damage(f"{kind}: {what}", told="reader")
    variant.seal(name)
    return Damage(f"{kind}: {what}, sealed", told="", sealed=True)


def _digests(variant: Variant) -> Damage:
    rng = variant.rng
    digest = rng.choice(
        [f"{rng.getrandbits(256):064x}", "0" * 64, "", "0" * 63, "0" * 65, "g" * 64, "0x" + "0" * 62, "\0" * 64, None]
    )
    entry, key = rng.choice([(e, "sha256") for e in (*variant.tree["files"], *variant.tree["engines"])] + [
        (variant.tree["golden"], "sha256"),
        (variant.tree, "parity_sha256"),
    ])  # fmt: skip
    entry[key] = entry[key].upper() if rng.random() < 0.1 else digest
    variant.write_tree()
    return Damage("wrong digest", told="reader")


def _document(variant: Variant) -> Damage:
    """The manifest as a text that is not what JSON, or this JSON, should be."""
    text, told = variant.rng.choice(DOCUMENTS)(variant.read(MANIFEST), variant.rng)
    variant.write(MANIFEST, text)
    return Damage("hostile JSON: text", told)


def _values(variant: Variant) -> Damage:
    """Keys and values of the manifest replaced, added, removed."""
    for _ in range(variant.rng.choice([1, 1, 1, 2, 5])):
        change_tree(variant.tree, variant.rng)
    variant.write_tree()
    return Damage("hostile JSON: values", told="")


def _sizes(variant: Variant) -> Damage:
    """Numbers that a reader may allocate by."""
    rng, contract = variant.rng, variant.tree["contract"]
    numbers = [value for value in VALUES if isinstance(value, int) and not isinstance(value, bool)]
    places: list[tuple[Any, str]] = [
        *((contract["input"], key) for key in ("size_px", "max_batch", "opt_batch", "camera_px")),
        (contract["output"], "dim"),
        (variant.tree["golden"], "images"),
        *((engine["profile"], "max_batch") for engine in variant.tree["engines"]),
    ]
    for entry, key in rng.sample(places, rng.choice([1, 2, 3])):
        number = rng.choice([*numbers, 8192, 65536, 65535])
        entry[key] = [number, rng.choice(numbers)] if key == "camera_px" else number
    variant.write_tree()
    return Damage("absurd sizes: manifest", told="")


def _huge(variant: Variant) -> Damage:
    name = variant.rng.choice([MANIFEST, *variant.covered])
    variant.write(name, variant.read(name))
    os.truncate(variant.folder / name, HUGE)
    return Damage("absurd sizes: file", told="reader")


def _names(variant: Variant) -> Damage:
    rng = variant.rng
    entry = rng.choice([*variant.tree["files"], *variant.tree["engines"]])
    key = rng.choice([key for key in ("name", "onnx") if key in entry])
    whole, outside = entry[key], f"../{variant.outside.name}"
    entry[key] = rng.choice(NAMES)(whole, outside, str(variant.outside))
    (variant.folder / "below").mkdir()
    variant.write_tree()
    return Damage("path traversal", told="reader")


def _entries(variant: Variant) -> Damage:
    """Something that is no regular file of the bundle's own where one should be."""
    name = variant.rng.choice([MANIFEST, *variant.covered])
    path, twin = variant.folder / name, variant.outside / name
    path.unlink()
    kind, put = variant.rng.choice(_ENTRIES)
    put(path, twin)
    return Damage(f"no file: {kind}", told="reader")


def _put_socket(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:  # A path of a socket has 107 bytes at most.
        place = os.open(path.parent, os.O_RDONLY)
        try:
            end.bind(f"/proc/self/fd/{place}/{path.name}")
        finally:
            os.close(place)


_ENTRIES: list[tuple[str, Callable[[Path, Path], object]]] = [
    ("missing", lambda path, twin: None),
    ("link to a whole one", lambda path, twin: path.symlink_to(twin)),
    ("relative link", lambda path, twin: path.symlink_to(f"../{twin.parent.name}/{twin.name}")),
    ("link without end", lambda path, twin: path.symlink_to(path)),
    ("link to a device", lambda path, twin: path.symlink_to("/dev/zero")),
    ("folder", lambda path, twin: path.mkdir()),
    ("folder of a whole one", lambda path, twin: (path.mkdir(), shutil.copy(twin, path))),
    ("pipe", lambda path, twin: os.mkfifo(path)),
    ("socket", _put_socket),
]


def _golden_header(variant: Variant) -> Damage:
    """The header of the golden vectors: a length, then JSON with the place of each tensor."""
    rng, content = variant.rng, variant.read(GOLDEN)
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    way = rng.randrange(4)
    if way == 0:
        numbers = [0, 1, 2, length - 1, length + 1, len(content) - 8, len(content), 2**31, 2**32, 2**63, 2**64 - 8]
        variant.write(GOLDEN, rng.choice([*numbers, 2**64 - 1]).to_bytes(8, "little") + content[8:])
    else:
        tree = json.loads(header)
        if way == 1:
            text, _ = rng.choice(hostile_documents)(header, rng)
        else:
            _move_tensor(tree, len(data), rng) if way == 2 else change_tree(tree, rng)
            text = json.dumps(tree).encode()
        variant.write(GOLDEN, len(text).to_bytes(8, "little") + text + data)
    variant.seal(GOLDEN)
    return Damage("golden header, sealed", told="", sealed=True)


def _move_tensor(tree: Any, size: int, rng: random.Random) -> None:
    one, other = rng.sample([name for name in tree if name != "__metadata__"], 2)
    start, end = tree[one]["data_offsets"]
    edge = [0, 1, start, end, size, size + 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
    change = rng.randrange(5)
    if change == 0:
        tree[one]["data_offsets"] = [rng.choice(edge), rng.choice(edge)]
    elif change == 1:  # Two tensors in one place.
        tree[one] = dict(tree[other])
    elif change == 2:  # Sizes whose product wraps around to the true one, or to nothing.
        tree[one]["shape"] = rng.choice([[2**32, 2**32], [2**63, 2], [2**62, 4, 1], [0], [], [1] * 10_000, [-1, -24]])
    elif change == 3:
        tree[one]["dtype"] = rng.choice(["F64", "BF16", "F8_E4M3", "I64", "BOOL", "U8", "F32", "", "x" * 1000, None, 1])
    else:
        tree[rng.choice(["", "\x00", "outputs.control.", "labels", "images ", "__metadata__"])] = tree.pop(one)


def _golden_values(variant: Variant) -> Damage:
    """Numbers that are none in the outputs."""
    rng, content = variant.rng, bytearray(variant.read(GOLDEN))
    length = int.from_bytes(content[:8], "little")
    place = json.loads(content[8 : 8 + length])["outputs.reference"]["data_offsets"]
    at = 8 + length + rng.randrange(place[0], place[1], 4)
    content[at : at + 4] = rng.choice([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\xff"])
    variant.write(GOLDEN, bytes(content))
    variant.seal(GOLDEN)
    return Damage("golden values, sealed", told="reader", sealed=True)


def _onnx_edits(variant: Variant) -> Damage:
    """An ONNX file that is well-formed and means something else."""
    name = variant.rng.choice(variant.onnx)
    content, told = edit_onnx(variant.read(name), variant.rng)
    variant.write(name, content)
    variant.seal(name)
    return Damage("hostile ONNX, sealed", told, sealed=True)


_KINDS: dict[Callable[[Variant], Damage], int] = {
    _truncated: 14,
    _bits_flipped: 24,
    _bytes_moved: 10,
    _digests: 6,
    _document: 6,
    _values: 12,
    _sizes: 6,
    _huge: 1,
    _names: 6,
    _entries: 5,
    _golden_header: 8,
    _golden_values: 2,
    _onnx_edits: 6,
}
