"""Forty networks of torchvision and timm: two steps of learning, then three precisions; a verdict or a sentence each.

Ten of them run in `make test-full`, all in `make test-long`. Small images and narrow variants: what is asked is that
every kind of layer comes through, or is refused in one sentence; not how exact random weights are.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import byolt
from byolt.recipe.schema import Recipe
from byolt_export.errors import ByoltError

THIN: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64]}
FLAT: dict[str, Any] = {"img_size": 64, "depth": 2}


class Case(NamedTuple):
    kind: str
    backbone: str
    args: Mapping[str, Any] = MappingProxyType({})
    size_px: int = 64
    refused: str = ""
    """What the sentence says, where there is no export of it."""


IN_CI = (
    Case("dilated", "timm/resnet18", THIN | {"output_stride": 8}, 32),
    Case("squeeze and excite", "timm/seresnet18", THIN, 32),
    Case("1-d convolution", "timm/ecaresnet26t", THIN, 32),
    Case("tuple in train mode", "googlenet", {"init_weights": False}, 32, "model.args: {aux_logits: false}"),
    Case("list of maps", "timm/resnet18", THIN | {"features_only": True}, 32, "leave features_only out of model.args"),
    Case("plain ViT", "timm/vit_tiny_patch16_224", FLAT | {"embed_dim": 48, "num_heads": 3}),
    Case("learned query", "timm/vit_base_patch16_siglip_224", FLAT | {"embed_dim": 64, "num_heads": 2}),
    Case(
        "shifted windows",
        "timm/swin_tiny_patch4_window7_224",
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 1, 1, 1]},
    ),
    Case("ConvNeXt", "timm/convnext_atto", {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]}),
    Case("versioned weights", "mnasnet0_5", {}, 32),
)
OTHERS = (
    Case("auxiliary heads off", "googlenet", {"aux_logits": False, "init_weights": False}, 32),
    Case("hard swish", "mobilenet_v3_small"),
    Case("channel shuffle", "shufflenet_v2_x0_5"),
    Case("fire", "squeezenet1_1"),
    Case("flattening classifier", "convnext_tiny", {}, 32),
    Case("RegNet", "timm/regnety_002"),
    Case("DenseNet", "timm/densenet121", {"growth_rate": 8, "block_config": [2, 2, 2, 2]}, 32),
    Case("grouped", "timm/resnext50_32x4d", {"layers": [1, 1, 1, 1]}, 32),
    Case("weight standardisation", "timm/nf_resnet26", {}, 32),
    Case("weight standardisation, gated", "timm/nf_regnet_b0", {}, 32),
    Case("NFNet with ECA", "timm/eca_nfnet_l0", {}, 32),
    Case("re-parametrised", "timm/repvgg_a0", {}, 32),
    Case("re-parametrised, SE", "timm/mobileone_s0", {}, 32),
    Case("re-parametrised, attention", "timm/fastvit_t8"),
    Case("two tokens", "timm/deit_tiny_distilled_patch16_224", FLAT),
    Case(
        "cosine attention",
        "timm/swinv2_tiny_window8_256",
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 1, 1, 1]},
    ),
    Case("MaxViT", "timm/maxvit_pico_rw_256", {"img_size": 64}),
    Case("EfficientFormer", "timm/efficientformer_l1", {}, 64, "does not take 64 px images"),
    Case("GhostNet", "timm/ghostnet_050"),
    Case("LeViT", "timm/levit_128s", {"img_size": 64}, 64),
    Case("mixed kernels", "timm/mixnet_s"),
    Case("split attention", "timm/resnest14d", {}, 32),
    Case("selective kernel", "timm/skresnet18", THIN, 32),
    Case("hierarchical residual", "timm/res2net50_14w_8s", {"layers": [1, 1, 1, 1]}, 32),
    Case("tree of layers", "timm/dla46_c"),
    Case("transposed attention", "timm/xcit_nano_12_p16_224", {"depth": 2}),
    Case("mobile attention", "timm/mobilevit_xxs"),
    Case("mixer", "timm/mixer_s32_224", {"img_size": 64}),
    Case("lambda, 3-d convolution", "timm/lambda_resnet26t", {"img_size": 64}),
    Case("LayerNorm of responses", "timm/convnextv2_atto", {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]}),
)


def outcome(case: Case, folder: Path) -> str:
    """The verdict of each precision, or the sentence."""
    recipe = Recipe.model_validate(
        {
            "name": "network",
            "data": {"name": "synthetic", "image_size_px": case.size_px, "synthetic_images": 64}
            | {"cache_dir": folder / "cache"},
            "model": {"backbone": case.backbone, "args": dict(case.args)}
            | {head: {"hidden_dim": 16, "out_dim": 8} for head in ("projector", "predictor")},
            "optim": {"name": "sgd", "batch_size": 32, "base_lr": 0.05, "momentum": 0.9, "weight_decay": 0.0},
            "schedule": {"epochs": 1, "warmup_epochs": 0},
            "evaluation": {"probe_images": 64},
            "export": {"max_batch": 4, "opt_batch": 2, "golden_images": 16, "gallery_images": 16, "query_images": 0},
            "machine": {"device": "cpu", "workers": 0, "runs_dir": folder / "runs"},
        }
    )
    try:
        run = byolt.pretrain(recipe)
        report = byolt.export(run, precisions=("fp32", "fp16", "int8")).report
    except ByoltError as error:
        return str(error)
    assert [file.precision for file in report.files][:3] == ["fp32", "fp16", "int8"]  # One for a CPU where it is kept.
    assert all(file.parity.verdict == "passed" or file.parity.reasons for file in report.files)
    return "; ".join(
        f"{file.precision} {' and '.join((file.parity.verdict, *file.parity.reasons))}" for file in report.files
    )


def check(case: Case, folder: Path) -> None:
    told = outcome(case, folder)
    sys.stdout.write(f"| {case.backbone} | {case.kind} | {told} |\n")
    assert told.isprintable()
    assert "Traceback" not in told
    if case.refused:
        assert case.refused in told
    else:
        assert told.startswith("fp32 "), told


def named(case: Case) -> str:
    return f"{case.backbone.removeprefix('timm/')}, {case.kind}"


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Of the networks' libraries, which a user's command holds back.
@pytest.mark.parametrize("case", IN_CI, ids=named)
def test_a_network_of_the_sample_has_a_verdict_or_a_sentence(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", OTHERS, ids=named)
def test_a_network_has_a_verdict_or_a_sentence(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_there_are_forty_of_different_kinds() -> None:
    cases = (*IN_CI, *OTHERS)
    assert (len(IN_CI), len(cases)) == (10, 40)
    assert len({case.kind for case in cases}) == 40
