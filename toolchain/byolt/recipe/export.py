"""The `export` section of a recipe: what is delivered, and which images prove it."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, Strict

from byolt.recipe.section import Section, machine

CameraSize = Annotated[tuple[Annotated[int, Field(ge=8, le=8192)], Annotated[int, Field(ge=8, le=8192)]], Strict(False)]


class Export(Section):
    """What is delivered."""

    max_batch: PositiveInt = machine(64)
    """Largest batch that the exported graph is stated and proven for."""
    opt_batch: PositiveInt = machine(8)
    """Batch that engines are tuned for; at most `max_batch`."""
    camera_px: CameraSize | None = machine(None)
    """Height and width of whole camera frames that go in, which the graph then resizes; left out, squares go in."""
    output: Literal["embedding", "features"] = machine("embedding")
    """What the encoder's files give: the `embedding`, one vector an image, or its `features`: the last map (C, H, W), a
    transformer's tokens, for a detector or a segmenter to stand on."""
    normalize: bool = machine(False)
    """Divide the embedding by its Euclidean norm inside the graph."""
    golden_images: Annotated[int, Field(ge=8)] = machine(128)
    """Images whose outputs travel in the bundle as golden vectors."""
    golden: Literal["dataset", "synthetic"] = machine("dataset")
    """Whether golden images are the run's own, or synthetic ones so that no image of yours leaves."""
    gallery_images: Annotated[int, Field(ge=0)] = machine(10_000)
    """Most images that neighbours are looked for among at export; they do not travel."""
    query_images: Annotated[int, Field(ge=0)] = machine(2_000)
    """Most held-out labelled images that the task is measured on at export; they do not travel."""
    calibration_images: PositiveInt = machine(512)
    """Images that INT8 scales are found on, at most a quarter of those there are; nothing is measured on them."""
    workspace_mib: PositiveInt = machine(1024)
    """Most GPU memory that an engine's layers may use for scratch, in MiB."""
