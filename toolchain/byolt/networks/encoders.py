"""Encoders from torchvision and timm by name, the stem for small images, and the heads of BYOL.

An encoder is the plain library module with its classifier taken off: its weights load ``strict=True``
into that module again (``load_snippet`` gives the lines).
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from byolt.library_errors import why_not_fetched
from byolt.networks.feature_dim import feature_dim
from byolt.networks.initial_weights import load_initial_weights
from byolt_export.errors import InputError, first_line, not_written
from byolt_export.files import replacing

if TYPE_CHECKING:
    from byolt.recipe.model import Head, Model
    from byolt.recipe.schema import Recipe

# Attributes that hold the classifier of torchvision's families; the features are what enters it.
_CLASSIFIERS = ("fc", "classifier", "heads", "head")
# First convolution and pooling of torchvision's and timm's ResNets, and of timm's pre-activation ResNets.
_STEMS = (("conv1", "maxpool"), ("stem.conv", "stem.pool"))
STEM_STRIDES = {"small": 1, "half": 2}
_DROPPING = ("Dropout", "Dropout2d", "StochasticDepth", "DropPath")


def build_encoder(model: "Model", *, seed: int, image_size_px: int) -> tuple[nn.Module, int]:
    """An encoder by the recipe, and the width D of its features.

    Maps normalised images (B, 3, H, W) to features (B, D). Dropout and stochastic depth are set to 0:
    no random state is carried through learning.

    Raises:
        InputError: An unknown backbone or argument, a stem that the backbone lacks, weights that do not fit.
    """
    with seeded(seed):
        encoder = _timm(model) if model.backbone.startswith("timm/") else _torchvision(model)
        if model.stem != "plain":
            _replace_stem(encoder, model)
        if model.zero_init_residual:
            _zero_init_residual(encoder, model.backbone)
    for module in encoder.modules():
        if type(module).__name__ in _DROPPING:
            for name in ("p", "drop_prob"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)
    if model.init_file is not None:
        own_stem = None if model.stem == "plain" else f"{_stem_of(encoder, model.backbone)[0]}.weight"
        load_initial_weights(encoder, model.init_file, own_stem=own_stem)
    return encoder, feature_dim(encoder, model, image_size_px)


def untrained_encoder(recipe: "Recipe") -> nn.Module:
    """The recipe's encoder with random weights of its seed, whatever the run starts from: no download, no file."""
    model, size_px = without_initial_weights(recipe.model), recipe.data.image_size_px
    return build_encoder(model, seed=weight_seed(recipe.seed), image_size_px=size_px)[0]


def without_initial_weights(model: "Model") -> "Model":
    """The same networks from random weights, whatever the run starts from: no download, no initial file.

    Random weights have nothing to keep, so nothing is frozen.
    """
    bare = {"init": "random", "init_file": None, "frozen_norms": False, "frozen_parts": ()}
    return model.model_copy(update=bare)


def build_head(in_dim: int, head: "Head", *, seed: int) -> nn.Sequential:
    """``layers`` - 1 times linear to ``hidden_dim``, BatchNorm, ReLU; then linear to ``out_dim``.

    BYOL's: "This MLP consists in a linear layer with output size 4096 followed by batch normalization, rectified
    linear units (ReLU), and a final linear layer with output dimension 256" (section 3.3); the last has no BatchNorm.
    """
    with seeded(seed):
        layers: list[nn.Module] = []
        for _ in range(head.layers - 1):
            layers.append(nn.Linear(in_dim, head.hidden_dim))
            layers += [nn.BatchNorm1d(head.hidden_dim)] if head.hidden_norm else []
            layers.append(nn.ReLU(inplace=True))
            in_dim = head.hidden_dim
        layers.append(nn.Linear(in_dim, head.out_dim))
        layers += [nn.BatchNorm1d(head.out_dim, affine=False)] if head.out_norm else []
        return nn.Sequential(*layers)


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """A module's weights as a safetensors file, whole or not at all.

    Raises:
        ByoltError: The disk is full or cannot be written; what ``path`` held before stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: value.contiguous().cpu() for name, value in module.state_dict().items()}
    try:
        with replacing(path) as beside:
            save_file(weights, beside, metadata=metadata)
    except (OSError, SafetensorError) as error:  # safetensors has a kind of its own for a full disk.
        raise not_written(path, error) from error


def load_snippet(model: "Model") -> str:
    """Lines of Python that rebuild the plain module without byolt and load ``encoder.safetensors`` strictly."""
    library, _, name = model.backbone.rpartition("/")
    args = "".join(f", {key}={value!r}" for key, value in model.args.items())
    if library == "timm":
        plain = _timm(without_initial_weights(model))
        lines = [f"encoder = timm.create_model({name!r}, num_classes=0{args})"]
    else:
        plain = _torchvision_builder(name)(weights=None, **model.args)
        lines = [f"encoder = torchvision.models.get_model({name!r}{args})"]
        kept = _without_weights(plain.get_submodule(_classifier_of(plain)))
        parts = ", ".join(f"torch.nn.{part!r}" for part in kept.children())
        instead = f"Sequential({parts})" if parts else "Identity()"
        lines += [f"encoder.{_classifier_of(plain)} = torch.nn.{instead}"]
    if model.stem != "plain":
        conv, pool = _stem_of(plain, model.backbone)
        stride = STEM_STRIDES[model.stem]
        lines += [
            f"width = encoder.{conv}.out_channels",
            f"encoder.{conv} = torch.nn.Conv2d(3, width, 3, stride={stride}, padding=1, bias=False)",
            f"encoder.{pool} = torch.nn.Identity()",
        ]
    if plain._version == 1:
        lines += ['encoder.load_state_dict(safetensors.torch.load_file("encoder.safetensors"), strict=True)']
    else:  # It reads its version, which the file does not hold.
        lines += [
            'weights = type(encoder.state_dict())(safetensors.torch.load_file("encoder.safetensors"))',
            "weights._metadata = encoder.state_dict()._metadata",
            "encoder.load_state_dict(weights, strict=True)",
        ]
    return "\n".join(lines)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw weights from ``seed`` and leave torch's own random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def weight_seed(seed: int, part: int = 0) -> int:
    """Seed of the weights of the encoder (part 0), projector (1), or predictor or queue (2) of a run."""
    return 3 * seed + part


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a timm model is written timm/NAME"
        raise InputError(f"model.backbone: torchvision has no model {name!r}; {hint}")
    builder: Callable[..., nn.Module] = models.get_model_builder(name)
    return builder


def _torchvision(model: "Model") -> nn.Module:
    builder = _torchvision_builder(model.backbone)
    weights = "DEFAULT" if model.init == "imagenet" else None
    encoder = _construct(lambda: builder(weights=weights, **model.args), model)
    name = _classifier_of(encoder)
    setattr(encoder, name, _without_weights(getattr(encoder, name)))
    return encoder


def _timm(model: "Model") -> nn.Module:
    import timm

    name = model.backbone.removeprefix("timm/")
    known = timm.list_pretrained() if "." in name else timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean 'timm/{near[0]}'?" if near else ""
        raise InputError(f"model.backbone: timm has no model {name!r}{hint}")
    imagenet = model.init == "imagenet"
    return _construct(lambda: timm.create_model(name, pretrained=imagenet, num_classes=0, **model.args), model)


def _construct(build: Callable[[], Any], model: "Model") -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of GoogLeNet's initial weights, which are as the recipe has them.
            encoder: nn.Module = build()
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"model.args do not fit {model.backbone}: {_about_arguments(error)}") from error
    except (OSError, RuntimeError) as error:
        if model.init != "imagenet":
            raise
        raise InputError(
            f"ImageNet weights of {model.backbone} could not be fetched ({why_not_fetched(error)}); "
            f"{_by_hand(model.backbone)}"
        ) from error
    return encoder


def _by_hand(backbone: str) -> str:
    """Which file to put where in place of a download."""
    from torchvision import models

    library, _, name = backbone.rpartition("/")
    if library != "timm":
        file, folder = Path(models.get_model_weights(name).DEFAULT.url).name, Path(torch.hub.get_dir(), "checkpoints")
        return f"put {file} into {folder}, or give a file of your own with model.init=file and model.init_file=FILE"
    import timm

    source = timm.get_pretrained_cfg(name)
    file = f"model.safetensors of {source.hf_hub_id}" if source and source.hf_hub_id else "a file of them"
    return f"fetch {file} on a machine with a network, and give it with model.init=file and model.init_file=FILE"


def _about_arguments(error: Exception) -> str:
    """Python's refusal of an argument as a user would say it; what else a constructor says as it stands."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    twice = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error))
    if unknown:
        return f"it takes no {unknown[1]!r}"
    return f"{twice[1]!r} is byolt's to set" if twice else first_line(error)


def _classifier_of(encoder: nn.Module) -> str:
    for name in _CLASSIFIERS:
        if isinstance(getattr(encoder, name, None), nn.Module):
            return name
    raise InputError(
        f"model.backbone: {type(encoder).__name__} has no classifier to take off; pick a classification model"
    )


def _without_weights(classifier: nn.Module) -> nn.Module:
    """What stays of a classifier: of one that flattens the features itself, what it pools and flattens them with."""
    parts = list(classifier) if isinstance(classifier, nn.Sequential) else []
    last = next((k for k, part in enumerate(parts) if isinstance(part, nn.Flatten)), -1)
    kept = [part for part in parts[: last + 1] if not list(part.parameters())]
    return nn.Sequential(*kept) if kept else nn.Identity()


def _replace_stem(encoder: nn.Module, model: "Model") -> None:
    """A 3 x 3 convolution without pooling in place of the stem (SimCLR, appendix B.9, for CIFAR-10)."""
    conv_path, pool_path = _stem_of(encoder, model.backbone)
    conv = encoder.get_submodule(conv_path)
    assert isinstance(conv, nn.Conv2d)
    stride = STEM_STRIDES[model.stem]
    smaller = nn.Conv2d(3, conv.out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
    encoder.set_submodule(conv_path, smaller)
    encoder.set_submodule(pool_path, nn.Identity())


def _stem_of(encoder: nn.Module, backbone: str) -> tuple[str, str]:
    """Where the first convolution and the pooling after it stand in a ResNet of torchvision or timm."""
    modules = dict(encoder.named_modules())
    for conv, pool in _STEMS:
        if isinstance(modules.get(conv), nn.Conv2d) and pool in modules:
            return conv, pool
    raise InputError(f"model.stem: {backbone} has no ResNet stem to replace; use stem: plain")


def _zero_init_residual(encoder: nn.Module, backbone: str) -> None:
    # The last norm of a block is bn3 in a bottleneck and bn2 in a basic block.
    named = dict(encoder.named_modules())
    deepest = [m for n, m in named.items() if n.endswith(".bn3")] or [m for n, m in named.items() if n.endswith(".bn2")]
    if not deepest:
        raise InputError(f"model.zero_init_residual: {backbone} has no residual BatchNorm; leave it false")
    for norm in deepest:
        nn.init.zeros_(norm.weight)
