"""The `method` section of a recipe: one set of keys a method, told apart by `name`.

Defaults are the published ones of ImageNet, whatever the recipe's data; a recipe says where it departs.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from byolt.recipe.section import Section, Share

Unit = Annotated[float, Field(gt=0, lt=1)]


class MovingTarget(Section):
    """Keys of every method with a target that is a moving average."""

    tau_base: Share = 0.996
    """Target decay at the first step."""
    tau_schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` raises tau from tau_base to 1 over the run (section 3.3 of BYOL); `constant` keeps it."""


class ByolMethod(MovingTarget):
    """BYOL and its switches; the defaults are the paper's (arXiv:2006.07733)."""

    name: Literal["byol"] = "byol"
    """Bootstrap Your Own Latent."""
    target: Literal["ema", "copy", "frozen"] = "ema"
    """`ema`: moving average of the online weights; `copy`: the online weights themselves; `frozen`: the first weights,
    for ever."""
    predictor: Literal["mlp", "linear", "none"] = "mlp"
    """`linear` is one layer; `none` leaves it out, and with `target: ema` is Mean Teacher without labels."""
    stop_gradient: bool = True
    """False lets the gradient into the target too (target: copy alone)."""
    predictor_lr_multiplier: Annotated[float, Field(ge=0)] = 1.0
    """Learning rate of the predictor over that of the rest (Table 21)."""
    normalisation: Literal["l2", "layer", "batch", "none"] = "l2"
    """What prediction and target go through before they are compared (Table 20)."""
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the negatives, the other images of the batch; 0 is BYOL, 1 without predictor near SimCLR (Table 5b)."""
    temperature: PositiveFloat = 0.1
    """Of the negatives (beta above 0)."""

    @model_validator(mode="after")
    def _switches_fit(self) -> "ByolMethod":
        if not self.stop_gradient and self.target != "copy":
            raise ValueError("stop_gradient: false needs target: copy; the weights of another target are not learned")
        if self.beta and self.normalisation != "l2":
            raise ValueError("beta needs normalisation: l2, since negatives are compared by cosine")
        return self


class SimClrMethod(Section):
    """SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

    name: Literal["simclr"]
    """Contrastive learning within the batch."""
    temperature: PositiveFloat = 0.1
    """Cosines are divided by it; 0.1 for ImageNet, 0.5 for CIFAR-10 (appendix B.9)."""


class SimSiamMethod(Section):
    """SimSiam (Chen and He 2021, arXiv:2011.10566)."""

    name: Literal["simsiam"]
    """BYOL's prediction of a copied target."""
    predictor_rate: Literal["constant", "cosine"] = "constant"
    """Whether the predictor's learning rate stays at its peak, or decays with the rest (Table 1)."""


class MocoV2Method(Section):
    """MoCo v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297)."""

    name: Literal["moco_v2"]
    """Contrastive learning against a queue of keys."""
    tau: Share = 0.999
    """Decay of the key network, constant; the papers' m."""
    temperature: PositiveFloat = 0.2
    """Cosines are divided by it."""
    queue_size: PositiveInt = 65536
    """Keys that are kept as negatives; at least those of one batch."""
    norm_groups: PositiveInt = 8
    """Parts of a batch with BatchNorm statistics of their own, as on as many devices."""
    shuffle: bool = True
    """Spread a query's part over all parts of the keys, so that BatchNorm's statistics do not give the answer away."""


class MocoV3Method(MovingTarget):
    """MoCo v3 (Chen et al. 2021, arXiv:2104.02057)."""

    name: Literal["moco_v3"]
    """Contrastive learning within the batch against a moving average."""
    tau_base: Share = 0.99
    """Target decay at the first step; 0.996 for 1000 epochs."""
    temperature: PositiveFloat = 1.0
    """Cosines are divided by it; 1.0 for ResNet-50, 0.2 for ViT."""


class MeanTeacherMethod(Section):
    """Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): few labels, many images."""

    name: Literal["mean_teacher"]
    """Supervised learning whose predictions must agree with those of a moving average."""
    tau: Share = 0.999
    """Decay of the teacher, constant; the paper's alpha."""
    labelled_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the labels that is used, stratified by class; a function of the seed."""
    batch_share: Unit = 0.25
    """Share of each batch that is labelled."""
    consistency: Annotated[float, Field(ge=0)] = 100.0
    """Weight of the consistency loss after its ramp-up; 0 leaves supervised learning alone."""
    rampup_share: Share = 0.2
    """Share of the run over which that weight rises."""

    def labelled_in(self, batch_size: int) -> int:
        """Labelled images of a batch."""
        return round(self.batch_share * batch_size)


METHODS: dict[str, type[Section]] = {
    "byol": ByolMethod,
    "simclr": SimClrMethod,
    "simsiam": SimSiamMethod,
    "moco_v2": MocoV2Method,
    "moco_v3": MocoV3Method,
    "mean_teacher": MeanTeacherMethod,
}


def _name_of(method: Any) -> str:
    """Which method a mapping or a section is of; BYOL where it does not say."""
    name = method.get("name", "byol") if isinstance(method, dict) else getattr(method, "name", "byol")
    return str(name)


Method = Annotated[
    Annotated[ByolMethod, Tag("byol")]
    | Annotated[SimClrMethod, Tag("simclr")]
    | Annotated[SimSiamMethod, Tag("simsiam")]
    | Annotated[MocoV2Method, Tag("moco_v2")]
    | Annotated[MocoV3Method, Tag("moco_v3")]
    | Annotated[MeanTeacherMethod, Tag("mean_teacher")],
    Discriminator(_name_of),
]
