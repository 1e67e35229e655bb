#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fake.hpp"

// What the two halves of the fake share. Counters are relaxed atomics: a lock here would hide races of byolt's.
namespace fake {

// clang-format off
#define FAKE_CALLS(X) \
  X(cudaGetDeviceCount) X(cudaGetDevice) X(cudaSetDevice) X(cudaGetDeviceProperties) X(cudaMalloc) X(cudaFree) \
  X(cudaMallocHost) X(cudaFreeHost) X(cudaMemcpyAsync) X(cudaStreamCreateWithFlags) X(cudaStreamDestroy) \
  X(cudaStreamSynchronize) X(cudaStreamWaitEvent) X(cudaStreamBeginCapture) X(cudaStreamEndCapture) \
  X(cudaEventCreateWithFlags) X(cudaEventDestroy) X(cudaEventRecord) X(cudaEventSynchronize) \
  X(cudaGraphInstantiateWithFlags) X(cudaGraphLaunch) X(cudaGraphDestroy) X(cudaGraphExecDestroy) \
  X(launch_resize) X(createInferRuntime) X(deserializeCudaEngine) X(getIOTensorName) X(createExecutionContext) \
  X(setInputShape) X(setTensorAddress) X(setDeviceMemoryV2) X(enqueueV3) X(createInferBuilder) \
  X(createNetworkV2) X(createParser) X(createBuilderConfig) X(createOptimizationProfile) X(setDimensions) \
  X(addOptimizationProfile) X(parse) X(createTimingCache) X(setTimingCache) X(getTimingCache) X(serialize) \
  X(buildSerializedNetwork)
// clang-format on

enum class Call : int {
#define FAKE_NAME(name) name,
  FAKE_CALLS(FAKE_NAME)
#undef FAKE_NAME
      count
};

/// Stands where the fake itself works: what it allocates is not byolt's.
class Inside {
 public:
  Inside();
  ~Inside();
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

/// Whether the calling thread is inside the fake.
bool inside();

/// Counts a call; true where a test wants this one to fail.
bool fails(Call call);

void break_rule(const std::string& words);
void count_live(int change);
void count_execution();
void count_launch();
[[nodiscard]] int devices();

/// Memory at addresses of its own, never given out twice: what belongs to whom is known without a lock.
class Arena {
 public:
  explicit Arena(std::size_t bytes);
  void* take(std::size_t bytes);
  bool give_back(void* memory);
  /// Whether all of it lies inside one block that was not given back.
  [[nodiscard]] bool holds(const void* memory, std::size_t bytes) const;
  void forget();

 private:
  struct Block {
    std::atomic<std::size_t> begin{0}, size{0};
    std::atomic<bool> live{false};
  };
  static constexpr std::size_t kBlocks = 8192;

  char* base_;
  std::size_t bytes_;
  std::atomic<std::size_t> next_{0}, blocks_{0};
  std::unique_ptr<Block[]> table_;
};

Arena& device_memory();
Arena& pinned_memory();

using Work = std::function<void()>;

/// What a stream was given, run in order when somebody waits for it.
class Queue {
 public:
  void add(Work work);
  [[nodiscard]] std::size_t size();
  void run_until(std::size_t end);
  std::vector<Work>* recording = nullptr;  // Where a graph is being recorded.
  int device = 0;

 private:
  std::mutex lock_;
  std::vector<Work> work_;
  std::size_t done_ = 0;
};

/// The queue behind a stream's handle; null is the default stream's.
std::shared_ptr<Queue> queue_of(cudaStream_t stream);

}  // namespace fake
