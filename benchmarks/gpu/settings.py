"""What the processes of a run are told: places, sizes, and the recipe's keys that follow from them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from byolt.recipe.schema import Recipe

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = CHECKOUT / "recipes" / "cifar10-gpu.yaml"
TINY = (
    *("model.backbone=timm/resnet18", "model.args={layers: [1, 1, 1, 1], channels: [16, 16, 16, 16]}"),
    *("model.projector={hidden_dim: 16, out_dim: 8}", "model.predictor={hidden_dim: 16, out_dim: 8}"),
    *("optim.batch_size=16", "schedule.warmup_epochs=0", "machine.threads=1"),
    *("evaluation.probe_images=64", "evaluation.knn_k=5", "machine.log_every_steps=1"),
)
VARIANTS = {
    "eager": ("machine.cuda_graph=false", "machine.compile=false"),
    "captured": ("machine.cuda_graph=true", "machine.compile=false"),
    "compiled": ("machine.cuda_graph=false", "machine.compile=encoder"),
    "captured+compiled": ("machine.cuda_graph=true", "machine.compile=encoder"),
}
"""How a step is given to the device: kernel by kernel or as a CUDA graph; encoder and views compiled or not."""


class NeedsGpu(Exception):
    """What was asked has no meaning without a GPU."""


@dataclass(frozen=True)
class Settings:
    """One for all processes of a run."""

    archive: str
    """CIFAR-10's images: an archive, or a folder, of train/ and test/, or torchvision's files."""
    scratch: str
    """Folder for whatever does not stay."""
    tiny: bool = False
    rehearse: bool = False
    """Take the steps that need a GPU on the CPU."""
    matrix: int = 8192
    """Side of the matrices whose product is the ceiling."""
    timed_s: float = 2.0
    """Seconds of timed steps of a variant, at least."""
    lightly_s: float = 20.0
    workers: int = 0
    """Processes of lightly's DataLoader."""
    epochs: int = 200
    """Most epochs."""
    learn_until: float = 0.0
    """On ``time.monotonic``'s clock, which all processes share."""
    sets: tuple[str, ...] = ()
    """Keys of the recipe, after all others."""

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """From ``write``'s file."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(**tree | {"sets": tuple(tree["sets"])})

    def write(self, path: Path) -> None:
        """For ``read``."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def place(self) -> Path:
        """``scratch`` as a path."""
        return Path(self.scratch)

    @property
    def images_are_ready(self) -> Path:
        """A file that is there when the images are unpacked and decoded."""
        return self.place / "images-ready"

    def real(self) -> tuple[str, ...]:
        """Keys for the images that were unpacked."""
        return (*data_keys(images_folder(self)), *self._sizes())

    def generated(self) -> tuple[str, ...]:
        """Keys for generated images, which need no file."""
        images = 256 if self.tiny else 8192
        return ("data.name=synthetic", f"data.synthetic_images={images}", *self._sizes())

    def _sizes(self) -> tuple[str, ...]:
        places = (f"data.cache_dir={self.place / 'cache'}", f"machine.runs_dir={self.place / 'runs'}")
        return (*places, *(TINY if self.tiny else ()))

    def recipe(self, *keys: str) -> "Recipe":
        """The recipe with ``keys``, and after them those that were asked for by name."""
        from byolt.recipe.load import load_recipe

        return load_recipe(RECIPE, [*keys, *self.sets])

    def gpu(self) -> "torch.device":
        """The GPU; the CPU where it stands in for one.

        Raises:
            NeedsGpu: There is none.
        """
        import torch

        if torch.cuda.is_available():
            return torch.device("cuda")
        if self.rehearse:
            return torch.device("cpu")
        raise NeedsGpu


def images_folder(settings: Settings) -> Path:
    """Where the images lie, or will."""
    given = Path(settings.archive).resolve()
    return given if given.is_dir() else settings.place / "images"


def data_keys(folder: Path) -> tuple[str, ...]:
    """Keys of the recipe for the images in ``folder``: sub-folders train and test, or torchvision's files.

    Raises:
        FileNotFoundError: It holds neither.
    """
    if (folder / "train").is_dir():
        return ("data.name=folder", f"data.root={folder / 'train'}", f"data.test_root={folder / 'test'}")
    if any(folder.glob("cifar-10-*")):
        return ("data.name=cifar10", f"data.root={folder}")
    raise FileNotFoundError(f"{folder} holds neither train/ and test/ nor cifar-10-batches-py or its archive")
