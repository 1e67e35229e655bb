"""The `data` section of a recipe: which images, and how one becomes a square of pixels."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from byolt.recipe.section import FolderPath, Gigabytes, Section, Share, Text, later, machine

_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(ge=0.001, le=10)]
_URLS = ("http://", "https://", "s3://", "gs://", "file://")


class Data(Section):
    """Which images, where they lie, and how one becomes a square of pixels."""

    name: Literal["folder", "shards", "stl10", "cifar10", "cifar100", "imagenette", "solar", "synthetic"]
    """The image set; `folder` is any folder of image files, `shards` what `byolt data pack` made of one, or tar files
    of webdataset's format; `solar` is the Python package `elpv-dataset`, which pip fetches."""
    root: FolderPath | None = machine(None)
    """Folder of the images (`folder`) or tar files (`shards`), or where a named set is kept and downloaded to."""
    url: Text | None = machine(None)
    """In place of `root`, a http, https, s3, gs or file URL of a folder that `byolt data pack` wrote (`shards`)."""
    shard_cache_gb: Annotated[float, Field(gt=0, le=1e9)] = machine(50.0)
    """Most room that shards fetched from a URL take below `cache_dir`; what was used longest ago goes first."""
    test_root: FolderPath | None = machine(None)
    """Labelled folder held out for the test metrics; without it `test_share` of a labelled folder is held out, and
    nothing of `shards`, for which it may be a folder of shards too."""
    labels: Literal["auto", "none"] = "auto"
    """`auto`: the first level of sub-folders are classes where every image lies in one; `none`: they are mere folders,
    nothing is held out, and no metric needs labels."""
    download: bool = machine(False)
    """Download a named set where it is missing."""
    image_size_px: Annotated[int, Field(ge=8, le=1024)]
    """Side of the square image that evaluation and the device see."""
    store_size_px: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Side of the decoded square that learning cuts its views from; left out, `image_size_px`."""
    resize: Literal["crop", "squash"] = "crop"
    """How an image becomes square: `crop` scales the shorter side and cuts the centre, `squash` scales both sides."""
    bit_depth: Literal[8, 10, 12, 14, 16, "auto"] | None = later(None)
    """Bits of a pixel (`folder`, `shards`): 2^`bit_depth` - 1 is white, and files with larger values are refused. Above
    8, for cameras that write 10 to 16 bits into files of 16, the images are grey and every level is kept. `auto`: the
    fewest bits that hold the largest value, looked for in every file when a run begins. Left out, pixels become 8 bits,
    those of 16 by their full range."""
    mean: Annotated[tuple[_Mean, _Mean, _Mean], Strict(False)] = (0.485, 0.456, 0.406)
    """Channel means taken off, for pixels in 0 to 1; the defaults are ImageNet's."""
    std: Annotated[tuple[_Std, _Std, _Std], Strict(False)] = (0.229, 0.224, 0.225)
    """Channel standard deviations divided by, for pixels in 0 to 1."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of a labelled folder held out, stratified by class, where there is no `test_root`."""
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = later(None)
    """Seed that draws that share; left out, the recipe's `seed`. Runs of several seeds with one `split_seed` hold out
    the same images."""
    synthetic_images: Annotated[int, Field(ge=64, le=10**8)] = 6000
    """Images that the synthetic set draws for learning (data.name: synthetic)."""
    corrupt_limit: Share = machine(0.01)
    """Largest share of unreadable files that is skipped; above it the run is refused, or ended where it streams."""
    cache_dir: FolderPath = machine(Path(".cache/byolt"))
    """Where decoded images are kept between runs."""
    cache_budget_gb: Gigabytes = machine(8.0)
    """Sets whose decoded size fits are decoded once; larger ones are streamed from the files."""

    @model_validator(mode="after")
    def _store_holds_the_image(self) -> "Data":
        if self.store_size_px is not None and self.store_size_px < self.image_size_px:
            raise ValueError(f"store_size_px {self.store_size_px} is smaller than image_size_px {self.image_size_px}")
        if self.name == "folder" and self.root is None:
            raise ValueError("root is missing: a `folder` set needs the folder's path")
        if self.name == "shards" and (self.root is None) == (self.url is None):
            raise ValueError("a `shards` set needs either root, a local folder, or url, and not both")
        if self.url is not None and (self.name != "shards" or not self.url.startswith(_URLS)):
            raise ValueError(f"url goes with `name: shards` and starts with {', '.join(_URLS)}")
        if self.labels == "none" and self.test_root is not None:
            raise ValueError("test_root goes with labels: leave it out, or set labels: auto")
        if self.bit_depth is not None and self.name not in ("folder", "shards"):
            raise ValueError(
                "bit_depth goes with `name: folder` or `name: shards`, whose files may have more than 8 bits"
            )
        return self

    @property
    def learn_size_px(self) -> int:
        """Side of the decoded images that the views are cut from."""
        return self.store_size_px or self.image_size_px

    @property
    def is_deep(self) -> bool:
        """Whether decoded images are grey and of more than 8 bits."""
        return isinstance(self.bit_depth, int) and self.bit_depth > 8

    @property
    def white(self) -> int:
        """The value of a decoded pixel that is 1."""
        return int(2**self.bit_depth - 1) if isinstance(self.bit_depth, int) else 255

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a decoded pixel: three channels of 8 bits, or one of 16."""
        return 2 if self.is_deep else 3
