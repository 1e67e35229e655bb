"""What ``build_bundle`` takes besides module and images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from byolt_export.bundle.image_input import Input, Rgb
from byolt_export.bundle.manifest import LEAST_NAMED, first_fault
from byolt_export.errors import InputError
from byolt_export.quantize.int8 import CHOICES, Choice


@dataclass(frozen=True)
class BundleOptions:
    """What else ``build_bundle`` takes; the defaults fit an encoder of torchvision or timm.

    Attributes:
        mean, std: Of each channel, for pixels in 0 to 1: what the module's training normalised with. ImageNet's.
        resize: How a frame of another shape becomes a square: ``crop`` cuts out the centre, ``squash`` keeps all of it.
        camera_px: Height and width of whole frames of one camera, which the graph then resizes; else squares go in.
        opt_batch: Batch that engines are tuned for.
        max_batch: Largest batch that the files are stated and proven for.
        normalize: Divide the embedding by its norm inside the graph.
        recipe_hash: Which training the module comes from, for the manifest.
        run: Name of that training, for the page that is signed.
        metadata: Further properties of the ONNX files: text or numbers.
        bisect: Compare the tensors on the way too, and name the first node whose error jumps.
        channels: 1 where grey images go in, which the graph repeats for the module's three.
        bit_depth: Of the images, 8, 10, 12, 14 or 16: 2^``bit_depth`` - 1 is white. Above 8 they are uint16.
        int8: How much becomes INT8 (see docs/int8.md): ``fastest`` tries all of it first, ``safest`` takes
            ``least_share`` at once, ``plain`` begins with what is fast on the engine; ``tuned`` does the same and
            lets the file learn the encoder's embeddings, which comes out a little different from run to run.
        least_share: Of the multiply-adds, what becomes INT8 at least, 0.5 to 1.
        minutes: That ``tuned`` takes, all files together.
        openvino: INT8 for OpenVINO too, a file of its own that is proven there.
        output: ``features`` delivers what the module gives as it is: a map (B, C, H, W), tokens (B, tokens, C), or
            several of them by name in a dict, tuple or list, with which neighbours are those of the pooled maps.
    """

    mean: Rgb = (0.485, 0.456, 0.406)
    std: Rgb = (0.229, 0.224, 0.225)
    resize: Literal["crop", "squash"] = "crop"
    camera_px: tuple[int, int] | None = None
    opt_batch: int = 8
    max_batch: int = 64
    normalize: bool = False
    recipe_hash: str = ""
    run: str = ""
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    bisect: bool = False
    output: Literal["embedding", "features"] = "embedding"
    channels: int = 3
    bit_depth: int = 8
    int8: Choice = "plain"
    least_share: float = LEAST_NAMED
    minutes: float = 10.0
    openvino: bool = False

    def input_of(self, size_px: int) -> Input:
        """What goes in, as the manifest states it.

        Raises:
            InputError: The sizes do not fit one another.
        """
        names = ("mean", "std", "resize", "camera_px", "opt_batch", "max_batch", "channels", "bit_depth")
        stated = {name: _plain(getattr(self, name)) for name in names}
        if stated["channels"] == 1:
            stated["colour_order"] = "grey"
        if isinstance(stated["bit_depth"], int) and stated["bit_depth"] > 8:
            stated |= {"dtype": "uint16", "byte_order": "little"}
        for name in ("mean", "std"):
            if not isinstance(stated[name], tuple) or len(stated[name]) != 3:
                raise InputError(f"export: {name} is {getattr(self, name)!r}: give three numbers, one a channel")
        if isinstance(stated["opt_batch"], int) and isinstance(stated["max_batch"], int):
            stated["opt_batch"] = min(stated["opt_batch"], stated["max_batch"])
        try:
            return Input(size_px=_plain(size_px), **stated)
        except ValidationError as error:
            raise InputError(f"export: {first_fault(error)}") from error

    def check(self, classes: Sequence[str]) -> None:
        """Refuse what does not fit together, before any work.

        Raises:
            InputError: ``output``, ``int8``, ``least_share``, ``minutes`` or ``metadata`` do not fit.
        """
        self.properties()
        if self.int8 not in CHOICES:
            raise InputError(f"export: int8 is {self.int8!r}: it is {', '.join(CHOICES)}")
        if not LEAST_NAMED <= self.least_share <= 1:
            raise InputError(
                f"export: least_share is {self.least_share}: give a share of {LEAST_NAMED} to 1, "
                "a file with less of it in INT8 is not taken for an INT8 file"
            )
        if not 0 < self.minutes < math.inf:
            raise InputError(f"export: minutes is {self.minutes}: give a number above 0")
        if self.output not in ("embedding", "features"):
            raise InputError(f"export: output is {self.output!r}: it is embedding or features")
        if self.output == "features" and (len(classes) or self.normalize):
            raise InputError("export: features are neither classes nor normalized: leave out classes and normalize")

    def properties(self) -> dict[str, str]:
        """``metadata`` as an ONNX file holds it: text; numbers are written out.

        Raises:
            InputError: A value is neither.
        """
        given = {key: _plain(value) for key, value in dict(self.metadata).items()}
        for key, value in given.items():
            if not isinstance(key, str) or not isinstance(value, str | int | float):
                raise InputError(f"export: metadata {key!r} is {type(value).__name__}: give text or a number")
        return {key: str(value) for key, value in given.items()}


def _plain(value: Any) -> Any:
    """Arrays, tensors, their numbers, and lists as plain tuples and numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
