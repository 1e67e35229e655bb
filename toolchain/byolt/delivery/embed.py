"""Embeddings of a folder of images, by a run's encoder or by a bundle.

Axes: N images, D features.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from byolt.data import FolderSource, ImageStore
from byolt.data.folder import tell_remarks
from byolt.data.progress import ImageProgress
from byolt.delivery.proof_images import with_channels
from byolt.environment import command
from byolt.evaluation.evaluate import embed_store, evaluation_store
from byolt.evaluation.features import refuse_non_finite
from byolt.files import write_bytes
from byolt.preflight import check_machine, refuse_unwritable
from byolt.recipe.data import Data
from byolt.recipe.load import Overrides, with_overrides
from byolt.recipe.optim import Schedule
from byolt.recipe.schema import Recipe
from byolt.run import Run, open_run
from byolt.working import working
from byolt_export.arrays import pooled
from byolt_export.bundle.folder import MANIFEST, read_manifest
from byolt_export.bundle.manifest import Precision
from byolt_export.errors import InputError
from byolt_export.files import sha256
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.encoder import Encoder

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """What an encoder makes of a folder's images."""

    embeddings: Vectors
    """(N, D)."""
    files: tuple[str, ...]
    """Path of each image."""
    file: str = ""
    """Name of the file that made them: of a bundle's ONNX file or engine, or of a run's encoder."""
    file_sha256: str = ""

    @classmethod
    def load(cls, path: str | Path) -> "Embeddings":
        """What ``save`` wrote.

        Raises:
            InputError: The file is missing, damaged, or holds no embeddings.
        """
        try:
            # Of a damaged file NumPy leaves its own handle open.
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as arrays:
                embeddings, files = arrays["embeddings"], arrays["files"]
                known = "made_by" in arrays  # Not of an earlier byolt.
                made_by = (str(arrays["made_by"]), str(arrays["made_by_sha256"])) if known else ("", "")
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} holds no embeddings of `byolt embed`: write them again") from error
        if embeddings.ndim != 2 or embeddings.dtype != np.float32 or len(files) != len(embeddings):
            raise InputError(f"{path} holds no embeddings of `byolt embed`: write them again")
        return cls(embeddings, tuple(map(str, files)), *made_by)

    def check_same_file(self, name: str, file: str, sha256: str) -> None:
        """Refuse to be compared with what another file makes: fp32 and INT8 place an image differently.

        Args:
            name: What these embeddings are called.
            file: Name of the other embeddings' file.
            sha256: Its digest.

        Raises:
            InputError: It is another one.
        """
        if self.file_sha256 != sha256:
            made = f"made by {self.file}" if self.file else "of a file that it does not name"
            other = "another one of that name" if file == self.file else file
            raise InputError(f"{name} was {made}, and {other} runs now: embed its images again by that one")

    def nearest(self, gallery: "Embeddings", count: int = 5) -> tuple[npt.NDArray[np.int64], Vectors]:
        """The most similar images of a gallery: their places (N, count) there, and the cosines (N, count).

        Raises:
            InputError: Another file made the gallery.
        """
        gallery.check_same_file("the gallery", self.file, self.file_sha256)
        queries, crowd = (
            v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
            for v in (
                self.embeddings,
                gallery.embeddings,
            )
        )
        cosines = queries @ crowd.T
        places = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return places, np.take_along_axis(cosines, places, axis=1)

    def save(self, path: str | Path) -> None:
        """Write them to an ``.npz`` file, whole or not at all: ``embeddings`` (N, D), ``files`` (N,), and as texts
        ``made_by`` and ``made_by_sha256``, the file and its digest.

        Raises:
            InputError: ``refuse_output`` refuses the path.
            ByoltError: The disk is full or cannot be written; what ``path`` held before stays.
        """
        path = Path(path)
        refuse_output(path)
        content = io.BytesIO()
        np.savez_compressed(
            content,
            embeddings=self.embeddings,
            files=np.array(self.files),
            made_by=np.array(self.file),
            made_by_sha256=np.array(self.file_sha256),
        )
        write_bytes(path, content.getvalue())


def refuse_output(path: Path) -> None:
    """Refuse a file that embeddings cannot be saved as, before they are computed.

    Raises:
        InputError: It is not named ``.npz``, or its folder does not exist.
    """
    if path.suffix != ".npz":
        raise InputError(f"{path}: embeddings are written as .npz; name a file that ends in .npz")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first, or name another file")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    refuse_unwritable(path.absolute().parent, "-o DIR/FILE.npz")


def embed(
    run: Run | str | Path,
    folder: str | Path,
    overrides: Overrides = (),
    *,
    precision: Precision | Literal["fastest"] | None = None,
    gallery: Embeddings | None = None,
) -> Embeddings:
    """Embeddings of every readable image below ``folder``.

    Args:
        run: A finished run, or its folder, whose encoder is taken; or a bundle's folder, whose ONNX file is taken after
            it was verified.
        folder: Images.
        overrides: Of machine keys.
        precision: Of a bundle, which of its files runs, as ``Encoder`` takes it; left out, fp32 or what is there, in
            ONNX Runtime on the CPU.
        gallery: Embeddings that these are to be compared with.

    Raises:
        InputError: Run, folder or an override do not fit, the bundle does not pass, or it holds a classifier; or
            another file made the gallery.
        MissingPart: No speeds of this machine are known, which ``fastest`` asks for.
        NonFiniteFeatures: An embedding is NaN or infinite.
    """
    if not isinstance(run, Run) and (Path(run) / MANIFEST).is_file():
        recipe, function, file = _of_bundle(Path(run), Path(folder), overrides, precision)
    else:
        if precision is not None:
            raise InputError(f"precision {precision} is of a bundle's files, and {run} is a run: give its bundle")
        run = open_run(run)
        recipe = with_overrides(run.recipe, overrides)
        check_machine(recipe.machine, run.recipe.machine)
        encoder = run.encoder()

        def function(images: ImageStore) -> Vectors:
            return embed_store(encoder, images, recipe).numpy()

        file = (run.encoder_file.name, sha256(run.encoder_file))
    if gallery is not None:
        gallery.check_same_file("the gallery", *file)
    with working(f"listing {folder}"):
        source = FolderSource(Path(folder))
    tell_remarks(source, labels_wanted=False)
    images = evaluation_store(source, recipe)
    vectors = function(images)
    refuse_non_finite(torch.from_numpy(vectors), f"{folder} by {run.path if isinstance(run, Run) else run}")
    return Embeddings(vectors, tuple(images.path(i) for i in range(len(images))), *file)


def _of_bundle(
    bundle: Path, folder: Path, overrides: Overrides, precision: Precision | Literal["fastest"] | None
) -> tuple[Recipe, Callable[[ImageStore], Vectors], tuple[str, str]]:
    """A recipe that says how a bundle's images are read, the function from them to embeddings, and the file."""
    manifest = read_manifest(bundle)
    contract = manifest.contract.input
    if manifest.contract.output.name == "logits":
        raise InputError(
            f"{bundle} holds a classifier, whose output are logits and no embeddings; give the encoder's bundle "
            "(byolt export without --classifier) or the run"
        )
    with working(f"proving {bundle}"):
        report = verify_bundle(bundle)
    if report.verdict != "passed":
        raise InputError(f"{bundle} does not pass here ({report.reason}); see {command('verify', bundle)}")
    recipe = Recipe(
        name="bundle",
        data=Data(
            name="folder",
            root=folder,
            image_size_px=contract.size_px,
            resize=contract.resize,
            bit_depth=None if contract.bit_depth == 8 else contract.bit_depth,
        ),
        schedule=Schedule(epochs=1, warmup_epochs=0),
    )
    if contract.camera_px is not None:
        raise InputError(f"{bundle} takes whole frames of one camera: embed with the run itself")
    recipe = with_overrides(recipe, overrides)
    check_machine(recipe.machine)
    encoder = Encoder(bundle, runtime="cpu" if precision is None else "auto", precision=precision)

    def function(images: ImageStore) -> Vectors:
        order, step = np.arange(len(images)), contract.max_batch
        progress = ImageProgress("the images", "embedding", live=True)
        parts: list[Vectors] = []
        for k in range(0, len(order), step):
            squares = images.batch(order[k : k + step])
            outputs = encoder(with_channels(squares, contract.channels, images, order[k : k + step]))
            parts.append(pooled(outputs if isinstance(outputs, dict) else {"": outputs}))
            progress(min(k + step, len(order)), len(order))
        return np.concatenate(parts)

    return recipe, function, (encoder.file, encoder.sha256)
