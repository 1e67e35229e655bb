"""The GPU of this machine through the driver's own library: no CUDA toolkit, no torch, no Python binding."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt_export.errors import EngineFault, MissingPart

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: a stream that does not wait for the default one.

_Handle, _Pointer, _Size = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
# Without them ctypes would cut a 64-bit pointer to 32 bits. Names as the library exports them, versions included.
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "cuDeviceGetCount": (ctypes.POINTER(ctypes.c_int),),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_Handle), ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_Handle,),
    "cuStreamCreate": (ctypes.POINTER(_Handle), ctypes.c_uint),
    "cuStreamSynchronize": (_Handle,),
    "cuStreamDestroy_v2": (_Handle,),
    "cuMemAlloc_v2": (ctypes.POINTER(_Pointer), _Size),
    "cuMemFree_v2": (_Pointer,),
    "cuMemcpyHtoDAsync_v2": (_Pointer, ctypes.c_void_p, _Size, _Handle),
    "cuMemcpyDtoHAsync_v2": (ctypes.c_void_p, _Pointer, _Size, _Handle),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class MissingGpu(MissingPart):
    """No GPU answers on this machine, and one is needed."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU; ``capability`` is its compute capability, 86 for 8.6."""

    name: str
    capability: int


def find_gpus() -> tuple[tuple[int, int] | None, tuple[Gpu, ...]]:
    """The latest CUDA that the driver serves, as (major, minor), ``None`` without a driver; and every GPU."""
    try:
        driver = _library()
    except (OSError, AttributeError):
        return None, ()
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        count.value = 0
    release = version.value // 1000, version.value % 1000 // 10
    return release, tuple(_gpu(driver, index) for index in range(count.value))


def find_gpu(why: str) -> Gpu:
    """The first GPU of this machine.

    Args:
        why: Opens the error's sentence: who needs a GPU.

    Raises:
        MissingGpu: There is no driver, or no GPU answers it.
    """
    return _gpu(_driver(why), 0)


def _gpu(driver: Any, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)


class Cuda:
    """The first GPU's context, a stream of its own, and buffers; freed by ``close``. For one thread at a time."""

    def __init__(self, why: str) -> None:
        """Retain the context that TensorRT uses too.

        Raises:
            MissingGpu: There is no driver, or no GPU answers it; ``why`` opens the sentence.
            EngineFault: The driver refuses.
        """
        self._driver = _driver(why)
        self._buffers: list[int] = []
        self._context, self._stream = _Handle(), _Handle()
        _call(self._driver, "cuDevicePrimaryCtxRetain", ctypes.byref(self._context), 0)
        try:
            self.enter()
            _call(self._driver, "cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        except EngineFault:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return self._stream.value or 0

    def enter(self) -> None:
        """Make the context that of the calling thread."""
        _call(self._driver, "cuCtxSetCurrent", self._context)

    def allocate(self, nbytes: int) -> int:
        """Address of new memory on the GPU."""
        address = _Pointer()
        _call(self._driver, "cuMemAlloc_v2", ctypes.byref(address), nbytes)
        self._buffers.append(address.value)
        return address.value

    def send(self, array: npt.NDArray[Any], address: int) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""
        _call(self._driver, "cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self._stream)

    def fetch(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array from the GPU, after all that the stream was given before is done."""
        array = np.empty(shape, dtype)
        _call(self._driver, "cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self._stream)
        _call(self._driver, "cuStreamSynchronize", self._stream)
        return array

    def close(self) -> None:
        """Free buffers, stream and context; a fault here has nothing left to harm and is not raised."""
        if not self._context:
            return
        self._driver.cuCtxSetCurrent(self._context)
        for address in self._buffers:
            self._driver.cuMemFree_v2(address)
        if self._stream:
            self._driver.cuStreamDestroy_v2(self._stream)
        self._driver.cuDevicePrimaryCtxRelease_v2(0)
        self._buffers, self._context, self._stream = [], _Handle(), _Handle()


def _library() -> Any:
    driver = ctypes.CDLL(_LIBRARY)
    for name, arguments in _ARGUMENTS.items():
        getattr(driver, name).argtypes = arguments
    return driver


def _driver(why: str) -> Any:
    """The driver's library, initialised, with at least one GPU."""
    elsewhere = "do it on the machine whose GPU will run the engine"
    try:
        driver = _library()
    except (OSError, AttributeError) as error:
        raise MissingGpu(f"{why}, and there is no CUDA driver ({_LIBRARY}): {elsewhere}") from error
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise MissingGpu(f"{why}, and no GPU answers the CUDA driver: see `nvidia-smi`, or {elsewhere}")
    return driver


def _call(driver: Any, name: str, *arguments: Any) -> None:
    code = getattr(driver, name)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        words = (text.value or b"unknown error").decode(errors="replace")
        raise EngineFault(f"the GPU's driver refuses {name}: {words} (CUDA error {code}); see `nvidia-smi`")
