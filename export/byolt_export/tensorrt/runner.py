"""Run a TensorRT engine on arrays: numpy, the flavour's own Python API and the driver, on the GPU it was built for."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images, as_bytes, check_batch, image_of
from byolt_export.bundle.folder import open_file
from byolt_export.bundle.manifest import Engine
from byolt_export.cuda import Cuda, MissingGpu, find_gpu
from byolt_export.errors import EngineFault, InputError, MissingPart
from byolt_export.tensorrt.flavour import Flavour, choose_flavour
from byolt_export.tensorrt.log import shared_log
from byolt_export.tensorrt.plan import read_plan


def open_engine(folder: Path, entry: Engine) -> "EngineRunner":
    """The engine of a bundle, after its digest, its TensorRT and its GPU were compared with the manifest.

    Raises:
        InputError: The file is missing, not the one that the manifest names, or no plan.
        MissingPart: This machine lacks the TensorRT that built it; ``MissingGpu`` where it lacks the GPU.
        EngineFault: TensorRT does not load it.
    """
    path = open_file(folder, entry.name, entry.sha256)
    flavour = choose_flavour(entry.flavour)
    if flavour.version != entry.version:
        raise MissingPart(
            f"{path.name} was built by version {entry.version}, and {flavour} is installed: plans fit one version "
            "alone, build it again with `byolt build-engine`"
        )
    read_plan(path, flavour)  # What is no plan is refused on a machine without a GPU too.
    gpu = find_gpu(f"{flavour} runs engines on a GPU")
    if gpu.capability not in entry.compute_capabilities:
        raise MissingGpu(
            f"{path.name} is for GPUs of SM {', '.join(map(str, entry.compute_capabilities))}, and this {gpu.name} is "
            f"SM {gpu.capability}: build it for this one with `byolt build-engine`"
        )
    return EngineRunner(path, flavour)


class EngineRunner:
    """An engine, as a function from images (B, H, W, C) to float32 outputs (B, D). For one thread at a time."""

    def __init__(self, path: Path, flavour: Flavour) -> None:
        """Load the engine and take the memory of its largest batch.

        A plan is code for the GPU, and TensorRT notices no flipped bit in it: open bundles with ``open_engine``, which
        compares its digest first. Code for the host inside a plan is never run.

        Raises:
            InputError: The file is no plan of the flavour, or no encoder of a bundle.
            MissingGpu: There is no GPU.
            EngineFault: TensorRT does not load it on this GPU.
        """
        self.path, self.flavour = path, flavour
        plan = read_plan(path, flavour)
        # Before the first call into TensorRT, which crashes the process without a driver.
        self._cuda = Cuda(f"{path.name} is run by {flavour} on a GPU")
        try:
            self._load(plan)
        except BaseException:
            self.close()
            raise

    def _load(self, plan: bytes) -> None:
        trt = self.flavour.trt
        self._log = shared_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._runtime.engine_host_code_allowed = False
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineFault(f"{self.flavour} does not load {self.path}: {self._log.reason()}; build it again here")
        self._input, self._output = self._names()
        least, _, most = self._engine.get_tensor_profile_shape(self._input, 0)
        self.image_shape, self.dtype = image_of(tuple(most)[1:])
        self.min_batch, self.max_batch = int(least[0]), int(most[0])
        self.dim = int(self._engine.get_tensor_shape(self._output)[1])
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineFault(
                f"{self.flavour} cannot prepare {self.path}: {self._log.reason()}; free memory on the GPU"
            )
        self._images = self._cuda.allocate(self.max_batch * int(np.prod(most[1:])))
        self._outputs = self._cuda.allocate(self.max_batch * self.dim * 4)
        for name, address in ((self._input, self._images), (self._output, self._outputs)):
            self._check(self._context.set_tensor_address(name, address), f"takes no memory for `{name}`")

    def _names(self) -> tuple[str, str]:
        """Names of the one input and the one output."""
        trt, engine = self.flavour.trt, self._engine
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        found = sorted(
            (engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT, engine.get_tensor_dtype(n).name, n) for n in names
        )
        shapes = [tuple(engine.get_tensor_shape(name)) for *_, name in found]
        kinds = [(is_output, kind) for is_output, kind, _ in found]
        if (
            kinds != [(False, "UINT8"), (True, "FLOAT")]
            or [len(shape) for shape in shapes] != [4, 2]
            or min(*shapes[0][1:], shapes[1][1]) < 1
            or not image_of(shapes[0][1:])[0]
        ):
            raise InputError(
                f"{self.path} is not an encoder of a bundle: it must map one uint8 input (batch, H, W, 3) to one float "
                "output (batch, D)"
            )
        return found[0][2], found[1][2]

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """Outputs (B, D) of images (B, H, W, C).

        Raises:
            InputError: The images have another type or size, or the batch is out of the engine's range.
            EngineFault: TensorRT or the driver refuses.
        """
        check_batch(images, self.image_shape, self.path.name, self.dtype)
        if not self.min_batch <= len(images) <= self.max_batch:
            raise InputError(
                f"{self.path.name} takes batches of {self.min_batch} to {self.max_batch}, got {len(images)}"
            )
        batch = as_bytes(images)  # Kept until the stream has read it.
        self._log.errors.clear()
        self._cuda.enter()
        self._check(self._context.set_input_shape(self._input, batch.shape), f"refuses a batch of {len(batch)}")
        self._cuda.send(batch, self._images)
        self._check(self._context.execute_async_v3(self._cuda.stream), f"does not run a batch of {len(batch)}")
        outputs: npt.NDArray[np.float32] = self._cuda.fetch(self._outputs, (len(batch), self.dim), np.float32)
        return outputs

    def _check(self, good: bool, what: str) -> None:
        if not good:
            raise EngineFault(f"{self.path.name} {what}: {self._log.reason()}; build it again on this machine")

    def close(self) -> None:
        """Give engine and memory back: first what lives in the context, then the context."""
        self._context = self._engine = self._runtime = None
        self._cuda.close()
