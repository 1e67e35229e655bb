"""The `views` section of a recipe: the distributions that the two views of an image are drawn from."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from byolt.recipe.section import Section, Settings, Share, Text, later

_Area = Annotated[float, Field(ge=1e-4, le=1)]
_Aspect = Annotated[float, Field(ge=0.01, le=100)]
_Sigma = Annotated[float, Field(ge=0.01, le=100)]


class View(Section):
    """The distribution of one augmented view: Table 6 of the paper, applied in this order."""

    crop_area: Annotated[tuple[_Area, _Area], Strict(False)] = (0.08, 1.0)
    """Share of the image's area that the crop covers, uniform."""
    crop_aspect: Annotated[tuple[_Aspect, _Aspect], Strict(False)] = (0.75, 4 / 3)
    """Width over height of the crop, log-uniform."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    quarter_turn: Share = later(0.0)
    """Probability of a turn by 90, 180 or 270 degrees, each as likely (the paper has none): for images without an up,
    such as industrial parts. With 0.75 and `flip: 0.5` all eight positions of a square are as likely."""
    jitter: Share = 0.8
    """Probability of colour jitter; its four parts come in random order."""
    brightness: Share = 0.4
    """Brightness factor is uniform in 1 -/+ this."""
    contrast: Share = 0.4
    """Contrast factor is uniform in 1 -/+ this."""
    saturation: Share = 0.2
    """Saturation factor is uniform in 1 -/+ this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Hue shift is uniform in -/+ this, in turns of the colour circle."""
    grey: Share = 0.2
    """Probability that the colours are dropped."""
    blur: Share = 1.0
    """Probability of a Gaussian blur."""
    blur_sigma_px: Annotated[tuple[_Sigma, _Sigma], Strict(False)] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, uniform."""
    solarize: Share = 0.0
    """Probability that pixels above one half are inverted."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "View":
        for key in ("crop_area", "crop_aspect", "blur_sigma_px"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key} [{low}, {high}] must hold two positive numbers, the smaller first")
        return self


class SecondView(View):
    """The paper's second distribution: seldom blurred, sometimes solarized."""

    blur: Share = 0.1
    """Probability of a Gaussian blur."""
    solarize: Share = 0.2
    """Probability that pixels above one half are inverted."""


class ExtraTransform(Section):
    """An albumentations transform by name, placed before the normalisation of both views."""

    name: Text
    """Class name in albumentations, for example `RandomFog` or `CLAHE`."""
    args: Settings = {}
    """Keyword arguments of that class."""


class Views(Section):
    """The two augmented views of each image, and what makes them."""

    backend: Literal["batched", "albumentations"] = "batched"
    """`batched` makes a whole batch in torch on the device; `albumentations` makes each image in a worker."""
    size_px: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Side of the views; left out, the image size."""
    early_size_px: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Side of the views in the first epochs, smaller and so cheaper (backend: batched); left out, `size_px`."""
    early_share: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Share of the epochs that see `early_size_px`."""
    view_1: View = View()
    """The paper's first distribution: always blurred, never solarized."""
    view_2: SecondView = SecondView()
    """The paper's second distribution: seldom blurred, sometimes solarized."""
    extra: Annotated[tuple[ExtraTransform, ...], Strict(False)] = ()
    """Further albumentations transforms (backend: albumentations)."""

    @model_validator(mode="after")
    def _keys_fit_the_backend(self) -> "Views":
        if self.extra and self.backend != "albumentations":
            raise ValueError("extra needs `backend: albumentations`")
        if self.early_size_px is not None and self.backend != "batched":
            raise ValueError("early_size_px needs `backend: batched`")
        return self
