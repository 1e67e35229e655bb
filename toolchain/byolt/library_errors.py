"""What Python, torch and the system raise, as one of ours: one sentence and an exit code; what they warn of, unsaid."""

import logging
import os
import re
import sys
import warnings

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
# gloo's, NCCL's and the store's, where a process at the other end has gone; and what they raise for all else.
_PEER_GONE = (
    *("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe"),
    *("ncclRemoteError", "remote process exited"),
)
_EXCHANGE = ("DistBackendError", "DistNetworkError", "DistStoreError")
_MEMORY = (
    "lower finetune.batch_size, data.cache_budget_gb, machine.resident_gb or machine.workers, or take a smaller model "
    "or a machine with more"
)


# That log by themselves, of fonts or of kernels that are not there.
_TALKATIVE = ("huggingface_hub", "matplotlib", "onnx", "onnxscript", "onnx_ir", "PIL", "sklearn", "timm", "torch")


def quiet_libraries() -> None:
    """Keep what libraries warn of from the user of the command line, who can mend none of it; what they raise stays.

    byolt itself logs what it has to say. ``python -W`` or PYTHONWARNINGS asks for warnings, and then they are shown.
    """
    if sys.warnoptions:
        return
    os.environ["PYTHONWARNINGS"] = "ignore"  # For processes that this one starts.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # To be set before torch is imported.
    warnings.simplefilter("ignore")
    warnings.showwarning = _unheard  # Some libraries set filters of their own when they are imported.
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


def _unheard(*_: object, **__: object) -> None:
    """In place of what would print a warning."""


class LostProcess(ByoltError):
    """Another process of the run has ended; what ended it is its own to tell."""


def as_ours(error: Exception) -> ByoltError | None:
    """The fault that ``error`` is to a user, or None where it can only be a mistake of byolt's."""
    if isinstance(error, ByoltError):
        return error
    if isinstance(error, ImportError):
        return _missing(error)
    if is_memory_fault(error):
        where = "the GPU" if "CUDA" in str(error) else "this machine"
        return ByoltError(f"{where} has too little memory{_asked_for(error)}; {_MEMORY}")
    is_exchange = type(error).__name__ in _EXCHANGE
    if (is_exchange or type(error) is RuntimeError) and any(words in str(error) for words in _PEER_GONE):
        return LostProcess(
            "another process of the run ended without a word, killed by the system if memory ran out; the last "
            "checkpoint is whole, go on with --resume"
        )
    if is_exchange:
        return ByoltError(f"the processes of the run cannot exchange data: {first_line(error)}")
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
