"""Embeddings of a folder of images, by a run's encoder or by a bundle.

Axes: N images, D features.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from byolt_export.bundle.folder import MANIFEST, read_manifest
from byolt_export.errors import InputError
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.onnx_runner import OnnxRunner

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """What an encoder makes of a folder's images."""

    embeddings: Vectors
    """(N, D)."""
    files: tuple[str, ...]
    """Path of each image."""

    def save(self, path: str | Path) -> None:
        """Write the arrays ``embeddings`` (N, D) and ``files`` (N,) to an ``.npz`` file, whole or not at all.

        Raises:
            InputError: ``refuse_output`` refuses the path.
            ByoltError: The disk is full or cannot be written; what ``path`` held before stays.
        """
        path = Path(path)
        refuse_output(path)
        content = io.BytesIO()
        np.savez_compressed(content, embeddings=self.embeddings, files=np.array(self.files))
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


def embed(run: Run | str | Path, folder: str | Path, overrides: Overrides = ()) -> Embeddings:
    """Embeddings of every readable image below ``folder``.

    Args:
        run: A finished run, or its folder, whose encoder is taken; or a bundle's folder, whose ONNX file is taken after
            it was verified.
        folder: Images.
        overrides: Of machine keys.

    Raises:
        InputError: Run, folder or an override do not fit, the bundle does not pass, or it holds a classifier.
        NonFiniteFeatures: An embedding is NaN or infinite.
    """
    if not isinstance(run, Run) and (Path(run) / MANIFEST).is_file():
        recipe, function = _of_bundle(Path(run), Path(folder), overrides)
    else:
        run = open_run(run)
        recipe = with_overrides(run.recipe, overrides)
        check_machine(recipe.machine, run.recipe.machine)
        encoder = run.encoder()

        def function(images: ImageStore) -> Vectors:
            return embed_store(encoder, images, recipe).numpy()

    with working(f"listing {folder}"):
        source = FolderSource(Path(folder))
    tell_remarks(source, labels_wanted=False)
    images = evaluation_store(source, recipe)
    vectors = function(images)
    refuse_non_finite(torch.from_numpy(vectors), f"{folder} by {run.path if isinstance(run, Run) else run}")
    return Embeddings(vectors, tuple(images.path(i) for i in range(len(images))))


def _of_bundle(bundle: Path, folder: Path, overrides: Overrides) -> tuple[Recipe, Callable[[ImageStore], Vectors]]:
    """A recipe that says how a bundle's images are read, and the function from them to embeddings."""
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
    run = OnnxRunner(bundle / manifest.files[0].name, placement=manifest.files[0].placement)

    def function(images: ImageStore) -> Vectors:
        order, step = np.arange(len(images)), contract.max_batch
        progress = ImageProgress("the images", "embedding", live=True)
        parts: list[Vectors] = []
        for k in range(0, len(order), step):
            squares = images.batch(order[k : k + step])
            parts.append(run(with_channels(squares, contract.channels, images, order[k : k + step])))
            progress(min(k + step, len(order)), len(order))
        return np.concatenate(parts)

    return recipe, function
