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
        return ByoltError(f"{where} has too little memory ({_first_line(error)}); {_MEMORY}")
    is_exchange = type(error).__name__ in _EXCHANGE
    if (is_exchange or type(error) is RuntimeError) and any(words in str(error) for words in _PEER_GONE):
        return LostProcess(
            "another process of the run ended without a word, killed by the system if memory ran out; the last "
            "checkpoint is whole, go on with --resume"
        )
    if is_exchange:
        return ByoltError(f"the processes of the run cannot exchange data: {_first_line(error)}")
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no more is known"])[0]
