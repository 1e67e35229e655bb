"""What goes into a bundle's files, as its manifest states it."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from byolt_export.wording import shown

BATCH_BYTES = 2**30  # A bundle is somebody else's file: nothing larger is run in one batch.
Side = Annotated[int, Field(ge=1, le=8192)]
Batch = Annotated[int, Field(ge=1, le=65536)]
Rgb = tuple[float, float, float]


def _whole(value: Any) -> int:
    """A whole number: among the values of a ``Literal`` pydantic takes true and 1.0 for 1."""
    if type(value) is not int:
        raise ValueError(f"should be a whole number, got {shown(value)}")
    return value


class ManifestSection(BaseModel):
    """Strict and closed: a manifest is read from anywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Input(ManifestSection):
    """What goes in, and how the graph makes it ready: the one copy of the preprocessing.

    ``size_px`` is the side of the square that the encoder sees. Without ``camera_px`` such squares go in, made by the
    rule ``resize`` from an image of another shape. With ``camera_px`` (height, width) whole frames of that size go in
    and the graph resizes. ``mean`` and ``std`` are for pixels in 0 to 1, where 2^``bit_depth`` - 1 is 1.

    Above 8 bits the images are uint16, and a file's tensor has each sample as two uint8 in the ``byte_order`` stated:
    (B, H, W, 2 ``channels``). One channel is repeated inside the graph. Channels, depth and order of the bytes came
    with schema version 2, and stand in a manifest only where they are not those of 8 bits in three channels.
    """

    name: Literal["images"] = "images"
    dtype: Literal["uint8", "uint16"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    colour_order: Literal["RGB", "grey"] = "RGB"
    channels: Annotated[Literal[1, 3], BeforeValidator(_whole)] = 3
    bit_depth: Annotated[Literal[8, 10, 12, 14, 16], BeforeValidator(_whole)] = 8
    byte_order: Literal["little"] | None = None
    size_px: Annotated[int, Field(ge=1, le=4096)]
    camera_px: tuple[Side, Side] | None = None
    resize: Literal["crop", "squash"]
    opt_batch: Batch = 1
    max_batch: Batch
    mean: Rgb
    std: Rgb

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image that goes in."""
        height, width = self.camera_px or (self.size_px, self.size_px)
        return height, width, self.channels

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        """Of the same image as the files take it, uint8: see ``arrays.as_bytes``."""
        height, width, channels = self.shape
        return height, width, channels * (2 if self.dtype == "uint16" else 1)

    @property
    def white(self) -> int:
        """The value of a pixel that is 1."""
        return int(2**self.bit_depth - 1)

    @model_validator(mode="after")
    def _samples_are_of_one_kind(self) -> "Input":
        deep = self.bit_depth > 8
        if (self.dtype, self.byte_order) != (("uint16", "little") if deep else ("uint8", None)):
            raise ValueError("above a bit_depth of 8 dtype is uint16 and byte_order little, else uint8 without one")
        if (self.colour_order == "grey") != (self.channels == 1):
            raise ValueError("a colour_order of grey goes with 1 of the channels, and RGB with 3")
        return self

    @model_validator(mode="after")
    def _batch_is_bounded(self) -> "Input":
        height, width, samples = self.tensor_shape
        if self.max_batch * height * width * samples > BATCH_BYTES:
            raise ValueError(f"max_batch {self.max_batch} of {width} x {height} px images is more than 1 GiB")
        if self.opt_batch > self.max_batch:
            raise ValueError(f"opt_batch {self.opt_batch} is above max_batch {self.max_batch}")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether schema version 1 could say it: 8 bits in three channels."""
        return (self.channels, self.bit_depth) == (3, 8)

    @model_serializer(mode="wrap")
    def _as_before(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what is as in schema version 1: readers of plain images know no more."""
        new = {"channels": 3, "bit_depth": 8, "byte_order": None}
        return {key: value for key, value in write(self).items() if key not in new or value != new[key]}
