"""The `export` section of a recipe: what is delivered, and which images prove it."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from byolt.recipe.section import Count, Section, machine

CameraSize = Annotated[tuple[Annotated[int, Field(ge=8, le=8192)], Annotated[int, Field(ge=8, le=8192)]], Strict(False)]

_Batch = Annotated[int, Field(ge=1, le=65536)]
_Images = Annotated[int, Field(ge=0, le=10**9)]


class Export(Section):
    """What is delivered."""

    max_batch: _Batch = machine(64)
    """Largest batch that the exported graph is stated and proven for."""
    opt_batch: _Batch | None = machine(None)
    """Batch that engines are tuned for, at most `max_batch`; left out, 8, or `max_batch` where that is smaller."""
    camera_px: CameraSize | None = machine(None)
    """Height and width of whole camera frames that go in, which the graph then resizes; left out, squares go in."""
    channels: Literal[1, 3] | None = machine(None)
    """Channels of the images that go in: 3, RGB, or 1 of a grey camera, which the graph repeats for the encoder; left
    out, 3, and 1 where `data.bit_depth` is above 8."""
    output: Literal["embedding", "features"] = machine("embedding")
    """What the encoder's files give: the `embedding`, one vector an image, or its `features`: the last map (C, H, W), a
    transformer's tokens, for a detector or a segmenter to stand on."""
    normalize: bool = machine(False)
    """Divide the embedding by its Euclidean norm inside the graph."""
    golden_images: Annotated[int, Field(ge=8, le=10**6)] = machine(128)
    """Images whose outputs travel in the bundle as golden vectors."""
    golden: Literal["dataset", "synthetic"] = machine("dataset")
    """Whether golden images are the run's own, or synthetic ones so that no image of yours leaves."""
    gallery_images: _Images = machine(10_000)
    """Most images that neighbours are looked for among at export; they do not travel."""
    query_images: _Images = machine(2_000)
    """Most held-out labelled images that the task is measured on at export; they do not travel."""
    calibration_images: Count | None = machine(None)
    """Images that INT8 is calibrated with, at most a quarter of those there are; nothing is measured on them. 256 find
    its scales, the others decide how much becomes INT8. Left out, 4,096, of images above 64 px fewer, 512 at least."""
    int8_minutes: Annotated[float, Field(gt=0, le=10**4)] = machine(10.0)
    """Minutes that `export --int8 tuned` learns."""
    openvino: bool = machine(False)
    """Where INT8 is made, make a file for OpenVINO too, and prove it there; needs `byolt[openvino]`."""
    workspace_mib: Annotated[int, Field(ge=1, le=10**7)] = machine(1024)
    """Most GPU memory that an engine's layers may use for scratch, in MiB."""

    @model_validator(mode="after")
    def _batches_fit(self) -> "Export":
        if self.opt_batch is not None and self.opt_batch > self.max_batch:
            raise ValueError(f"opt_batch {self.opt_batch} is above max_batch {self.max_batch}")
        return self

    @property
    def tuned_batch(self) -> int:
        """The batch that engines are tuned for."""
        return min(8, self.max_batch) if self.opt_batch is None else self.opt_batch
