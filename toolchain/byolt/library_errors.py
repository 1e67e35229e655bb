"""What Python, torch and the system raise, as one of ours: one sentence and an exit code."""

import re

from byolt_export.errors import ByoltError, MissingPart, first_line

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
# torch on a CPU and on a GPU, oneDNN, cuDNN and cuBLAS, in their own words.
_OUT_OF_MEMORY = (
    *("DefaultCPUAllocator: ", "not enough memory", "CUDA error: out of memory", "could not create a memory"),
    *("could not create a primitive", "could not execute a primitive"),  # oneDNN's code and scratch found no place.
    *("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),
)
_MEMORY = (
    "lower finetune.batch_size, data.cache_budget_gb, machine.resident_gb or machine.workers, or take a smaller model "
    "or a machine with more"
)


def as_ours(error: Exception) -> ByoltError | None:
    """The fault that ``error`` is to a user, or None where it can only be a mistake of byolt's."""
    if isinstance(error, ByoltError):
        return error
    if isinstance(error, ImportError):
        return _missing(error)
    if is_memory_fault(error):
        where = "the GPU" if "CUDA" in str(error) else "this machine"
        return ByoltError(f"{where} has too little memory{_asked_for(error)}; {_MEMORY}")
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


def is_memory_fault(error: BaseException) -> bool:
    """Whether memory ran out: by name and words, since torch may not be imported here.

    Its CPU allocator, and the libraries under it, raise a plain RuntimeError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _asked_for(error: BaseException) -> str:
    """`` for the 1.5 GB that it asked for``, where the library says how much; its own words are of no use to a user."""
    said = str(error)
    if found := re.search(r"tried to allocate (\d+) bytes", said):
        return f" for the {int(found[1]) / 1e9:,.1f} GB that it asked for"
    if found := re.search(r"(?:[Tt]ried|Unable) to allocate ([\d.]+ [KMGTPE]iB)", said):
        return f" for the {found[1]} that it asked for"
    return ""


def why_not_fetched(error: BaseException) -> str:
    """Why something did not come over the network, without the wrapping and the number."""
    reason = getattr(error, "reason", error)  # urllib's own error holds the system's.
    return str(getattr(reason, "strerror", None) or (reason if isinstance(reason, str) else first_line(reason)))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no more is known"])[0]
