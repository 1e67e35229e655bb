"""The `model` section of a recipe: the encoder and the heads that are put on it."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from byolt.recipe.section import FolderPath, Section, Settings, Text, later

_Width = Annotated[int, Field(ge=1, le=10**12)]


class Head(Section):
    """A perceptron: linear, BatchNorm, ReLU, and so on, and a last linear layer."""

    hidden_dim: _Width = 4096
    """Width of the hidden layers."""
    out_dim: _Width = 256
    """Width of the output."""
    layers: Annotated[int, Field(ge=1, le=4)] = 2
    """Linear layers; 1 is a linear map without hidden layer."""
    hidden_norm: bool = True
    """BatchNorm after each hidden layer."""
    out_norm: bool = False
    """BatchNorm, without scale and shift of its own, after the last layer."""


class Model(Section):
    """The encoder, its stem, and the heads that learning puts on it."""

    backbone: Text = "resnet18"
    """A torchvision model by name, or a timm model as `timm/NAME`; `timm/NAME.TAG` names its ImageNet weights too."""
    args: Settings = {}
    """Keyword arguments for the backbone's constructor, for example `channels` of a timm ResNet."""
    stem: Literal["plain", "small", "half"] = "plain"
    """Start of a ResNet. For images up to about 64 px: `small`, a 3 x 3 convolution of stride 1 without pooling, or
    `half`, the same of stride 2."""
    init: Literal["random", "imagenet", "file"] = "random"
    """Where the encoder starts from; the report states it."""
    init_file: FolderPath | None = None
    """Weights of the same backbone (init: file): the folder of a run, or a file of torchvision, timm, Lightning or
    plain torch (`.safetensors`, `.pth`, `.pt`, `.bin`, `.ckpt`), whose classifier is left out; `package:NAME/PATH` is a
    file in an installed Python package."""
    frozen_norms: bool = later(False)
    """The encoder's BatchNorm keeps the statistics of the initial weights (init: file or imagenet), in learning and
    after it; scale and shift are learned. For few images of another kind than those of the initial weights."""
    frozen_parts: Annotated[tuple[Text, ...], Strict(False)] = later(())
    """Parts of the encoder, by their names in it, whose weights stay the initial ones, for example
    `[conv_stem, bn1, blocks.0]` of a timm EfficientNet: of few images, what the first layers know is better kept."""
    zero_init_residual: bool = False
    """Start each residual block at zero; the paper's results did not, its published code does."""
    projector: Head = Head()
    """Head on both networks."""
    predictor: Head = Head()
    """Head on the online network alone; its `out_dim` must equal the projector's."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "Model":
        if self.projector.out_dim != self.predictor.out_dim:
            raise ValueError(
                f"predictor.out_dim {self.predictor.out_dim} must equal projector.out_dim {self.projector.out_dim}"
            )
        if (self.init == "file") != (self.init_file is not None):
            raise ValueError("init_file goes with `init: file`, and `init: file` needs it")
        if self.frozen_norms and self.init == "random":
            raise ValueError("frozen_norms keeps statistics that random weights lack: take `init: imagenet` or `file`")
        if self.frozen_parts and self.init == "random":
            raise ValueError("frozen_parts keeps initial weights, and random ones know nothing: take `init: imagenet`")
        return self
