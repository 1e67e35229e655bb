#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "byolt/error.hpp"

// The CUDA runtime as byolt uses it: each call checked, each thing freed by its owner.
namespace byolt::cuda {

/// Forget the error of a refused call, which CUDA would give once more to whoever asks next.
inline void forget_error() noexcept { static_cast<void>(cudaGetLastError()); }

/// @throws Error(machine) with CUDA's own words unless the call went well
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  forget_error();
  throw Error(Code::machine, std::string("the GPU refuses ") + call + ": " + cudaGetErrorString(status) +
                                 " (CUDA error " + std::to_string(static_cast<int>(status)) +
                                 "); free memory on it, or start the program again");
}

struct Free {
  void operator()(void* memory) const noexcept { static_cast<void>(cudaFree(memory)); }
};
struct FreeHost {
  void operator()(void* memory) const noexcept { static_cast<void>(cudaFreeHost(memory)); }
};
struct Destroy {
  void operator()(cudaStream_t stream) const noexcept { static_cast<void>(cudaStreamDestroy(stream)); }
  void operator()(cudaEvent_t event) const noexcept { static_cast<void>(cudaEventDestroy(event)); }
  void operator()(cudaGraph_t graph) const noexcept { static_cast<void>(cudaGraphDestroy(graph)); }
  void operator()(cudaGraphExec_t graph) const noexcept { static_cast<void>(cudaGraphExecDestroy(graph)); }
};

using Memory = std::unique_ptr<void, Free>;
using PinnedMemory = std::unique_ptr<void, FreeHost>;
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Destroy>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy>;

inline Memory allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "cudaMalloc");
  return Memory(memory);
}

inline PinnedMemory allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return PinnedMemory(memory);
}

/// A stream that does not wait for the default one.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}

inline Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return Event(event);
}

/// Makes a GPU the calling thread's for as long as it lives: CUDA keeps one a thread, and threads start with the first.
class Current {
 public:
  explicit Current(int device) : wanted_(device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != wanted_) check(cudaSetDevice(wanted_), "cudaSetDevice");
  }
  ~Current() {
    if (before_ != wanted_) static_cast<void>(cudaSetDevice(before_));
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int wanted_, before_ = 0;
};

}  // namespace byolt::cuda
