"""What a recipe may say: every key, its type, range, default and meaning, and nothing else.

Each key is marked *result* (it changes what is learned, and so belongs to the run's hash) or
*machine* (workers, device, paths, logging: it may change between runs of one result).
The docstring under a key is its help text, its row in ``byolt recipe explain`` and its JSON schema.
Below this file functions take the values they use; nothing else holds a default.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Strict, model_validator

from byolt.sections import FolderPath, Range, Rgb, Section, Share, machine
from byolt.sections_of_methods import ByolMethod, MeanTeacherMethod, Method, MocoV2Method

CameraSize = Annotated[tuple[Annotated[int, Field(ge=8, le=8192)], Annotated[int, Field(ge=8, le=8192)]], Strict(False)]

_URLS = ("http://", "https://", "s3://", "gs://", "file://")


class Data(Section):
    """Which images, where they lie, and how one becomes a square of pixels."""

    name: Literal["folder", "shards", "stl10", "cifar10", "cifar100", "imagenette", "synthetic"]
    """The image set; `folder` is any folder of image files, `shards` what `byolt data pack` made of one, or tar files
    of webdataset's format."""
    root: FolderPath | None = machine(None)
    """Folder of the images (`folder`) or tar files (`shards`), or where a named set is kept and downloaded to."""
    url: str | None = machine(None)
    """In place of `root`, a http, https, s3, gs or file URL of a folder that `byolt data pack` wrote (`shards`)."""
    shard_cache_gb: Annotated[float, Field(gt=0)] = machine(50.0)
    """Most room that shards fetched from a URL take below `cache_dir`; what was used longest ago goes first."""
    test_root: FolderPath | None = machine(None)
    """Labelled folder held out for the test figures; without it `test_share` of a labelled folder is held out, and
    nothing of `shards`, for which it may be a folder of shards too."""
    labels: Literal["auto", "none"] = "auto"
    """`auto`: the first level of sub-folders are classes where every image lies in one; `none`: they are mere folders,
    nothing is held out, and no figure needs labels."""
    download: bool = machine(False)
    """Download a named set where it is missing."""
    image_size_px: Annotated[int, Field(ge=8, le=1024)]
    """Side of the square image that evaluation and the device see."""
    store_size_px: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Side of the decoded square that learning cuts its views from; left out, `image_size_px`."""
    resize: Literal["crop", "squash"] = "crop"
    """How an image becomes square: `crop` scales the shorter side and cuts the centre, `squash` scales both sides."""
    mean: Rgb = (0.485, 0.456, 0.406)
    """Channel means taken off, for pixels in 0 to 1; the defaults are ImageNet's."""
    std: Rgb = (0.229, 0.224, 0.225)
    """Channel standard deviations divided by, for pixels in 0 to 1."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of a labelled folder held out, stratified by class, where there is no `test_root`."""
    synthetic_images: Annotated[int, Field(ge=64)] = 6000
    """Images that the synthetic set draws for learning (data.name: synthetic)."""
    corrupt_limit: Share = machine(0.01)
    """Largest share of unreadable files that is skipped; above it the run is refused, or ended where it streams."""
    cache_dir: FolderPath = machine(Path(".cache/byolt"))
    """Where decoded images are kept between runs."""
    cache_budget_gb: Annotated[float, Field(ge=0)] = machine(8.0)
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
        return self

    @property
    def learn_size_px(self) -> int:
        """Side of the decoded images that the views are cut from."""
        return self.store_size_px or self.image_size_px


class View(Section):
    """The distribution of one augmented view: Table 6 of the paper, applied in this order."""

    crop_area: Range = (0.08, 1.0)
    """Share of the image's area that the crop covers, uniform."""
    crop_aspect: Range = (0.75, 4 / 3)
    """Width over height of the crop, log-uniform."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
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
    blur_sigma_px: Range = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, uniform."""
    solarize: Share = 0.0
    """Probability that pixels above one half are inverted."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "View":
        for key in ("crop_area", "crop_aspect", "blur_sigma_px"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"{key} [{low}, {high}] must hold two positive numbers, the smaller first")
        if self.crop_area[1] > 1:
            raise ValueError(f"crop_area ends at {self.crop_area[1]}; the whole image is 1")
        return self


class SecondView(View):
    """The paper's second distribution: seldom blurred, sometimes solarized."""

    blur: Share = 0.1
    """Probability of a Gaussian blur."""
    solarize: Share = 0.2
    """Probability that pixels above one half are inverted."""


class ExtraTransform(Section):
    """An albumentations transform by name, placed before the normalisation of both views."""

    name: str
    """Class name in albumentations, for example `RandomFog` or `CLAHE`."""
    args: dict[str, Any] = {}
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


class Head(Section):
    """A perceptron: linear, BatchNorm, ReLU, and so on, and a last linear layer."""

    hidden_dim: PositiveInt = 4096
    """Width of the hidden layers."""
    out_dim: PositiveInt = 256
    """Width of the output."""
    layers: Annotated[int, Field(ge=1, le=4)] = 2
    """Linear layers; 1 is a linear map without hidden layer."""
    hidden_norm: bool = True
    """BatchNorm after each hidden layer."""
    out_norm: bool = False
    """BatchNorm, without scale and shift of its own, after the last layer."""


class Model(Section):
    """The encoder, its stem, and the heads that learning puts on it."""

    backbone: str = "resnet18"
    """A torchvision model by name, or a timm model as `timm/NAME`."""
    args: dict[str, Any] = {}
    """Keyword arguments for the backbone's constructor, for example `channels` of a timm ResNet."""
    stem: Literal["plain", "small", "half"] = "plain"
    """Start of a ResNet. For images up to about 64 px: `small`, a 3 x 3 convolution of stride 1 without pooling, or
    `half`, the same of stride 2."""
    init: Literal["random", "imagenet", "file"] = "random"
    """Where the encoder starts from; the report states it."""
    init_file: FolderPath | None = None
    """An `encoder.safetensors` of the same backbone (init: file)."""
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
        return self


class Optim(Section):
    """The optimizer of the online network."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    """The optimizer; the paper's is LARS."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images a step, over all devices and accumulated parts."""
    base_lr: PositiveFloat = 0.2
    """Learning rate at batch size 256; the run uses base_lr * batch_size / 256."""
    weight_decay: Annotated[float, Field(ge=0)] = 1.5e-6
    """Decay of weights; biases and normalisation parameters are left out."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of LARS and SGD; the first beta of AdamW."""
    trust_coefficient: PositiveFloat = 0.001
    """LARS alone: step length as a share of the weight's norm."""
    accumulate: PositiveInt = 1
    """Parts a batch is split into to save memory; BatchNorm statistics are then per part."""

    @model_validator(mode="after")
    def _parts_are_whole(self) -> "Optim":
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise ValueError(
                f"accumulate {self.accumulate} must cut batch_size {self.batch_size} into equal parts of at least 2"
            )
        return self


class Schedule(Section):
    """How long, and how the learning rate moves."""

    epochs: PositiveInt
    """Passes over the images."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 10
    """Linear warm-up of the learning rate, then cosine decay to 0."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Schedule":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below epochs {self.epochs}")
        return self


class Evaluation(Section):
    """What is measured on the way and at the end; none of it changes what is learned."""

    every_epochs: PositiveInt = machine(10)
    """Epochs between two evaluations on the way (kNN on a validation split, RankMe, verdict)."""
    knn_k: PositiveInt = machine(200)
    """Neighbours that vote."""
    knn_temperature: PositiveFloat = machine(0.07)
    """Votes weigh exp(cosine / temperature)."""
    probe_images: Annotated[int, Field(ge=64)] = machine(2048)
    """Images of the fixed probe set that RankMe is computed on."""
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = machine(0.1)
    """Share of the labelled training images that regularisation is chosen on."""


class Finetune(Section):
    """The downstream classifier: linear probe first, then all weights."""

    epochs: PositiveInt = machine(20)
    """Passes over the labelled images."""
    batch_size: Annotated[int, Field(ge=2)] = machine(64)
    """Images a step."""
    base_lr: PositiveFloat = machine(0.05)
    """Learning rate at batch size 256, for all weights."""
    weight_decay: Annotated[float, Field(ge=0)] = machine(5e-4)
    """Decay of weights."""


class Export(Section):
    """What is delivered."""

    max_batch: PositiveInt = machine(64)
    """Largest batch that the exported graph is stated and proven for."""
    opt_batch: PositiveInt = machine(8)
    """Batch that engines are tuned for; at most `max_batch`."""
    camera_px: CameraSize | None = machine(None)
    """Height and width of whole camera frames that go in, which the graph then resizes; left out, squares go in."""
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


class Study(Section):
    """What `byolt study` compares, and what it tries for each method before."""

    methods: dict[str, dict[str, Any]] = machine({})
    """A method by name, and the keys that it sets for this recipe, for example `simclr: {method.temperature: 0.5}`;
    `byol` is the recipe as it stands, with these."""
    tuning: dict[str, Annotated[tuple[dict[str, Any], ...], Strict(False)]] = machine({})
    """Settings that are tried for a method besides its own, on a validation split and `tuning_seed`; the same number
    for each method."""
    tuning_seed: Annotated[int, Field(ge=0, lt=2**31)] = machine(1000)
    """Seed of the runs that settings are chosen on; the study's own seeds count from `seed`."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] = machine(0.1)
    """Share of the labels that Mean Teacher, fine-tuning and supervised learning alone are given."""

    @model_validator(mode="after")
    def _tuning_is_equal(self) -> "Study":
        tried = {name: len(settings) for name, settings in self.tuning.items()}
        if len(set(tried.values())) > 1:
            raise ValueError(f"tuning must try the same number of settings for each method, not {tried}")
        return self


class Machine(Section):
    """The machine at hand; it may change between runs of one result, which then agree within rounding."""

    device: Literal["auto", "cpu", "cuda"] = machine("auto")
    """Where it runs; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = machine("auto")
    """Arithmetic of forward and backward; `auto` is bf16 on a GPU that has it, else fp32. bf16 rounds more coarsely."""
    workers: Annotated[int, Field(ge=0)] = machine(0)
    """Processes that read and decode images; 0 reads in the main process."""
    threads: PositiveInt | None = machine(None)
    """CPU threads of torch; left out, as many as torch itself takes."""
    channels_last: bool = machine(True)
    """Keep images and convolution weights channels-last."""
    resident_gb: Annotated[float, Field(ge=0)] = machine(8.0)
    """Decoded sets up to this size are copied to the GPU once (views.backend: batched)."""
    cuda_graph: bool = machine(True)
    """On one GPU: capture the step as a CUDA graph, so that the host launches it as a whole."""
    compile: bool = machine(False)
    """torch.compile encoder, heads and loss; the first steps are slow."""
    recompute: bool = machine(False)
    """Keep no activations inside the encoder's blocks and compute them again in the backward pass: less memory, about
    a third more time."""
    deterministic: bool = machine(False)
    """Bit-equal results on a GPU, at some cost in speed; CPU runs always are, at the same thread count."""
    log_every_steps: PositiveInt = machine(20)
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every_s: PositiveFloat = machine(300.0)
    """Seconds between two checkpoints; one is also written at each evaluation and at the end."""
    keep_checkpoints: PositiveInt = machine(2)
    """Checkpoints kept besides the last."""
    tensorboard: bool = machine(False)
    """Write TensorBoard event files too (byolt[tensorboard])."""
    runs_dir: FolderPath = machine(Path("runs"))
    """Where run folders are made."""


class Recipe(Section):
    """A whole run, from images to a proven encoder."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the run's folder, before the hash; left out, the file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Key of every random choice: weights, data order, views, splits."""
    data: Data
    """The images."""
    views: Views = Views()
    """The augmented views."""
    model: Model = Model()
    """The networks."""
    method: Method = ByolMethod()
    """The method."""
    optim: Optim = Optim()
    """The optimizer."""
    schedule: Schedule
    """The length of the run."""
    evaluation: Evaluation = Evaluation()
    """The measurements."""
    finetune: Finetune = Finetune()
    """The downstream classifier."""
    export: Export = Export()
    """The delivery."""
    study: Study = Study()
    """What `byolt study` and `byolt ablate` compare."""
    machine: Machine = Machine()
    """The machine."""

    @model_validator(mode="after")
    def _batches_fit_the_method(self) -> "Recipe":
        part = self.optim.batch_size // self.optim.accumulate
        if isinstance(self.method, MocoV2Method):
            if part % self.method.norm_groups or part // self.method.norm_groups < 2:
                raise ValueError(
                    f"method.norm_groups {self.method.norm_groups} must cut a batch of {part} into equal parts of at "
                    "least 2"
                )
            if self.method.queue_size < 2 * part:
                raise ValueError(
                    f"method.queue_size {self.method.queue_size} must hold the {2 * part} keys of a batch of {part}"
                )
        if isinstance(self.method, MeanTeacherMethod):
            labelled = self.method.labelled_in(self.optim.batch_size)
            if not 2 <= labelled <= self.optim.batch_size - 2 or self.optim.accumulate > 1:
                raise ValueError(
                    f"method.batch_share {self.method.batch_share:g} of a batch of {self.optim.batch_size} must leave "
                    "at least 2 images on either side, and mean_teacher takes a batch whole (optim.accumulate: 1)"
                )
        return self

    @property
    def view_size_px(self) -> int:
        """Side of the views that learning ends with."""
        return self.views.size_px or self.data.image_size_px

    def view_size_px_of(self, epoch: int) -> int:
        """Side of the views of an epoch, counted from 0."""
        early = epoch < self.views.early_share * self.schedule.epochs
        return self.views.early_size_px if early and self.views.early_size_px else self.view_size_px
