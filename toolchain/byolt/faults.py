"""What Python, torch and the system raise, as one of ours: one sentence and an exit code."""

from byolt_export.errors import ByoltError, MissingPart

# The extra that brings a module, by the name it is imported under.
_EXTRAS = {
    "train": (
        *("albumentations", "cv2", "jaxtyping", "jinja2", "matplotlib", "PIL", "scipy", "sklearn", "timm", "torch"),
        "torchvision",
    ),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "trt": ("tensorrt",),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorboard": ("tensorboard",),
}
_MEMORY = (
    "lower optim.batch_size or raise optim.accumulate (learning), finetune.batch_size, data.cache_budget_gb or "
    "machine.workers, or take a machine with more"
)


def as_ours(error: Exception) -> ByoltError | None:
    """The fault that ``error`` is to a user, or None where it can only be a mistake of byolt's."""
    if isinstance(error, ByoltError):
        return error
    if isinstance(error, ImportError):
        return _missing(error)
    if isinstance(error, MemoryError) or _is_torchs_memory_fault(error):
        where = "the GPU" if "CUDA" in str(error) else "this machine"
        return ByoltError(f"{where} has too little memory ({_first_line(error)}); {_MEMORY}")
    if isinstance(error, OSError):
        return ByoltError(f"{error.filename or 'this machine'}: {error.strerror or error}")
    return None


def _missing(error: ImportError) -> MissingPart | None:
    module = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if module in modules:
            why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
            return MissingPart(f'{module} {why}: pip install "byolt[{extra}]"')
    return None


def _is_torchs_memory_fault(error: Exception) -> bool:
    """By name and words, since torch may not be imported here; its CPU allocator raises a plain RuntimeError."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no more is known"])[0]
