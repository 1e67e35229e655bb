#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "state.hpp"

using fake::Call;

struct CUstream_st {
  std::shared_ptr<fake::Queue> queue = std::make_shared<fake::Queue>();
  std::vector<fake::Work> recorded;
};
struct CUevent_st {
  std::shared_ptr<fake::Queue> queue;  // Null until it is recorded.
  std::size_t end = 0;
};
struct CUgraph_st {
  std::vector<fake::Work> work;
};
struct CUgraphExec_st {
  std::vector<fake::Work> work;
};

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

cudaError_t refuse(cudaError_t error) {
  last_error = error;
  return error;
}

template <typename Handle>
cudaError_t destroy(Call call, Handle* handle) {
  delete handle;  // As in CUDA: what is reported here are often errors of earlier work, and the handle is gone.
  fake::count_live(-1);
  return fake::fails(call) ? refuse(cudaErrorIllegalAddress) : cudaSuccess;
}

}  // namespace

namespace fake {

void Queue::add(Work work) {
  if (recording != nullptr) return recording->push_back(std::move(work));
  if (current_device != device) break_rule("a stream of one device was given work while another was current");
  const std::lock_guard<std::mutex> guard(lock_);
  work_.push_back(std::move(work));
}

std::size_t Queue::size() {
  const std::lock_guard<std::mutex> guard(lock_);
  return work_.size();
}

void Queue::run_until(std::size_t end) {
  for (;;) {
    Work work;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      if (done_ >= end || done_ >= work_.size()) return;
      work = std::move(work_[done_++]);
    }
    work();  // Without the lock: it may wait for another stream's work.
  }
}

std::shared_ptr<Queue> queue_of(cudaStream_t stream) {
  static const auto standard = std::make_shared<Queue>();
  return stream == nullptr ? standard : stream->queue;
}

}  // namespace fake

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (fake::devices() == 0) return refuse(cudaErrorInsufficientDriver);
  if (fake::fails(Call::cudaGetDeviceCount)) return refuse(cudaErrorInsufficientDriver);
  *count = fake::devices();
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (fake::fails(Call::cudaGetDevice)) return refuse(cudaErrorInvalidValue);
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (fake::fails(Call::cudaSetDevice) || device < 0 || device >= fake::devices()) return refuse(cudaErrorInvalidValue);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  if (fake::fails(Call::cudaGetDeviceProperties)) return refuse(cudaErrorInvalidValue);
  std::strcpy(properties->name, "fake GPU");
  properties->major = 8;
  properties->minor = 7;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "an injected fault";
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (fake::fails(Call::cudaMalloc)) return refuse(cudaErrorMemoryAllocation);
  *memory = fake::device_memory().take(bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (!fake::device_memory().give_back(memory)) fake::break_rule("cudaFree of what cudaMalloc did not give");
  return fake::fails(Call::cudaFree) ? refuse(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  if (fake::fails(Call::cudaMallocHost)) return refuse(cudaErrorMemoryAllocation);
  *memory = fake::pinned_memory().take(bytes);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  if (!fake::pinned_memory().give_back(memory)) fake::break_rule("cudaFreeHost of what cudaMallocHost did not give");
  return fake::fails(Call::cudaFreeHost) ? refuse(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const fake::Inside inside;
  if (fake::fails(Call::cudaMemcpyAsync)) return refuse(cudaErrorInvalidValue);
  const bool up = kind == cudaMemcpyHostToDevice;
  fake::queue_of(stream)->add([=] {
    const void *host = up ? from : to, *device = up ? to : from;
    if (!fake::device_memory().holds(device, bytes)) return fake::break_rule("a copy outside of device memory");
    if (!fake::pinned_memory().holds(host, bytes)) return fake::break_rule("a copy outside of pinned memory");
    std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  if (fake::fails(Call::cudaStreamCreateWithFlags)) return refuse(cudaErrorMemoryAllocation);
  if (flags != cudaStreamNonBlocking) fake::break_rule("a stream that waits for the default stream");
  *stream = new CUstream_st;
  (*stream)->queue->device = current_device;
  fake::count_live(1);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->queue->run_until(stream->queue->size());
  return destroy(Call::cudaStreamDestroy, stream);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const fake::Inside inside;
  const auto queue = fake::queue_of(stream);
  if (queue->recording != nullptr) {
    fake::break_rule("a stream that is recorded was waited for");
    return refuse(cudaErrorStreamCaptureInvalidated);
  }
  queue->run_until(queue->size());
  return fake::fails(Call::cudaStreamSynchronize) ? refuse(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  const fake::Inside inside;
  if (fake::fails(Call::cudaStreamWaitEvent)) return refuse(cudaErrorInvalidValue);
  if (event->queue == nullptr || event->queue == fake::queue_of(stream)) return cudaSuccess;
  fake::queue_of(stream)->add([queue = event->queue, end = event->end] { queue->run_until(end); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (fake::fails(Call::cudaStreamBeginCapture)) return refuse(cudaErrorInvalidValue);
  if (mode == cudaStreamCaptureModeGlobal) fake::break_rule("a capture that other threads' allocations would end");
  stream->recorded.clear();
  stream->queue->recording = &stream->recorded;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->queue->recording == nullptr) return refuse(cudaErrorInvalidValue);
  stream->queue->recording = nullptr;
  *graph = nullptr;
  if (fake::fails(Call::cudaStreamEndCapture)) return refuse(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{std::move(stream->recorded)};
  fake::count_live(1);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  if (fake::fails(Call::cudaEventCreateWithFlags)) return refuse(cudaErrorMemoryAllocation);
  *event = new CUevent_st;
  fake::count_live(1);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) { return destroy(Call::cudaEventDestroy, event); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const fake::Inside inside;
  if (fake::fails(Call::cudaEventRecord)) return refuse(cudaErrorInvalidValue);
  event->queue = fake::queue_of(stream);
  event->end = event->queue->size();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const fake::Inside inside;
  if (event->queue != nullptr) event->queue->run_until(event->end);
  return fake::fails(Call::cudaEventSynchronize) ? refuse(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  if (fake::fails(Call::cudaGraphInstantiateWithFlags)) return refuse(cudaErrorMemoryAllocation);
  *ready = new CUgraphExec_st{graph->work};
  fake::count_live(1);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  const fake::Inside inside;
  if (fake::fails(Call::cudaGraphLaunch)) return refuse(cudaErrorInvalidValue);
  fake::count_launch();
  for (const fake::Work& work : graph->work) fake::queue_of(stream)->add(work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy(Call::cudaGraphDestroy, graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return destroy(Call::cudaGraphExecDestroy, graph); }

}  // extern "C"
