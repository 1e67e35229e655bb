"""One ONNX file on its way to a plan: parsed, checked, configured for its GPUs, built where it can be stopped."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from byolt_export.arrays import image_of
from byolt_export.bundle.manifest import Profile
from byolt_export.errors import EngineFault, InputError, Stopped
from byolt_export.tensorrt.flavour import Flavour, Target
from byolt_export.tensorrt.log import Log, shared_log
from byolt_export.tensorrt.plan import plan_fault
from byolt_export.tensorrt.progress import BuildProgress, new_monitor
from byolt_export.tensorrt.timings import TimingCache

_ONNX_BYTES = 2 * 2**30
_LOOK_UP_S = 0.05


class Network:
    """One network on its way to a plan.

    TensorRT's objects stay attributes: a network outlived by its parser, or a builder by its network, ends the process.
    """

    def __init__(self, onnx: Path, flavour: Flavour, progress: BuildProgress | None) -> None:
        trt = flavour.trt
        self.onnx, self.flavour, self.trt = onnx, flavour, trt
        self.log: Log = shared_log(trt)
        self.monitor = new_monitor(trt, progress)
        self.builder = trt.Builder(self.log)
        if self.builder is None:
            raise EngineFault(f"{flavour} gives no builder: {self.log.reason()}")
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        self.parser = trt.OnnxParser(self.network, self.log)
        self.config = self.builder.create_builder_config()

    def parse(self, model: bytes) -> None:
        """Read an ONNX file's bytes, and refuse what is no encoder of a bundle."""
        if not self.parser.parse(model):
            raise self._parse_fault()
        trt, network = self.trt, self.network
        inputs = [network.get_input(k) for k in range(network.num_inputs)]
        outputs = [network.get_output(k) for k in range(network.num_outputs)]
        shapes = [tuple(tensor.shape) for tensor in (*inputs, *outputs)]
        if (
            [(tensor.name, tensor.dtype) for tensor in inputs] != [("images", trt.DataType.UINT8)]
            or [tensor.dtype for tensor in outputs] != [trt.DataType.FLOAT]
            or [len(shape) for shape in shapes] != [4, 2]
            or min(shapes[0][1:]) < 1
            or not image_of(shapes[0][1:])[0]
        ):
            raise InputError(
                f"{self.onnx} is not an encoder of a bundle: it must map one input `images`, uint8 (batch, H, W, 3) (1 "
                "of grey, twice as many above 8 bits), to one float output (batch, D)"
            )
        if shapes[0][0] != -1:
            raise InputError(f"{self.onnx} accepts batches of {shapes[0][0]} alone: export it with a dynamic batch")

    def _parse_fault(self) -> Exception:
        errors = [self.parser.get_error(k) for k in range(self.parser.num_errors)]
        error = next((e for e in errors if e.node() >= 0), errors[0] if errors else None)
        reason = self.log.reason() if error is None else _plain(error.desc())
        if error is None or error.node() < 0:
            return InputError(f"{self.onnx} cannot be read as ONNX: {reason}; export it again")
        if "Plugin not found" in reason or reason == "false":
            reason = "it has no such operator"
        return EngineFault(
            f"{self.onnx} does not become an engine: {self.flavour} refuses node `{error.node_name()}` "
            f"({error.node_operator()}): {reason}; replace that layer, or run the ONNX file itself"
        )

    def configure(self, target: Target, profile: Profile, workspace_mib: int) -> None:
        """Set batch sizes, memory and GPUs."""
        trt, config = self.trt, self.config
        config.clear_flag(trt.BuilderFlag.TF32)  # On by default: fp32 would keep 10 bits of its mantissa.
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
        config.progress_monitor = self.monitor
        images = self.network.get_input(0)
        height, width, channels = tuple(images.shape)[1:]
        batches = (profile.min_batch, profile.opt_batch, profile.max_batch)
        ranges = self.builder.create_optimization_profile()
        ranges.set_shape(images.name, *((batch, height, width, channels) for batch in batches))
        if config.add_optimization_profile(ranges) < 0:
            raise InputError(f"batches of {batches[0]} to {batches[2]}, tuned for {batches[1]}, are no range")
        if self.flavour.name == "tensorrt_rtx":
            config.num_compute_capabilities = len(target.capabilities)
            for index, number in enumerate(target.capabilities):
                capability = getattr(trt.ComputeCapability, f"SM{number}")
                if not config.set_compute_capability(capability, index):
                    raise EngineFault(f"{self.flavour} refuses SM {number}: {self.log.reason()}")

    def use(self, cache: "TimingCache") -> str:
        """Hand the cache to the builder; an old one that does not fit is as good as an empty one."""
        content = cache.load()
        if content and self.config.set_timing_cache(self.config.create_timing_cache(content), False):
            return "reused"
        self.config.set_timing_cache(self.config.create_timing_cache(b""), False)
        return "new"

    def run(self) -> bytes:
        """Build in a second thread: Python handles signals in the first one alone, and between two calls of its own."""
        with ThreadPoolExecutor(1, "engine") as thread:
            future = thread.submit(self.builder.build_serialized_network, self.network, self.config)
            try:
                # A signal may wake the other thread alone: this one looks up now and then.
                while not wait([future], timeout=_LOOK_UP_S).done:
                    pass
                memory = future.result()
            except BaseException:  # Ctrl-C: leaving the block waits until the builder has heard of it.
                self.monitor.stopped = True
                raise
        if self.monitor.fault is not None:
            raise self.monitor.fault
        if self.monitor.stopped:
            raise Stopped(f"stopped while the engine of {self.onnx} was built; nothing was written", signal.SIGINT)
        plan = b"" if memory is None else bytes(memory)
        if not plan:
            raise EngineFault(f"{self.flavour} does not build {self.onnx}: {self.log.reason()}")
        if self.flavour.name == "tensorrt_rtx" and (fault := plan_fault(plan, self.flavour)):
            raise EngineFault(f"{self.flavour} built {self.onnx}, but {fault}: build it again")
        return plan


def read_onnx(path: Path) -> bytes:
    """The file's bytes, of which TensorRT would take none at all for an empty network."""
    try:
        size = path.stat().st_size
        if not 0 < size <= _ONNX_BYTES:
            raise InputError(f"{path} has {size} bytes, which is no ONNX file of a bundle: export it again")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error


def _plain(reason: str) -> str:
    """The last part of a parser's error: what comes before it are lines of its source."""
    lines = reason.strip().splitlines() or ["it does not say why"]
    return lines[0].rpartition("Assertion failed: ")[2].rpartition(": ")[2].rstrip(". ")
