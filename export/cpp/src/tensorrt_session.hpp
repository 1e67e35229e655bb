#pragma once

#include <memory>
#include <vector>

#include "cuda_api.hpp"
#include "device_resizer.hpp"
#include "tensorrt_engine.hpp"

namespace byolt {

/// One thread's stream, buffers and contexts. A batch size's first call is run plainly and then recorded as a CUDA
/// graph of copy in, network, copy out; later calls launch that.
class TensorRtSession final : public Session {
 public:
  explicit TensorRtSession(std::shared_ptr<const TensorRtEngine> engine);
  ~TensorRtSession() override;

  std::uint8_t* images() override { return static_cast<std::uint8_t*>(pinned_images_.get()); }
  const float* run(std::size_t batch) override;

  /// The images must start at a multiple of 256 bytes, as cudaMalloc gives them. They are read and the outputs, in
  /// device memory, written in `stream`'s order; nothing waits for it here.
  const float* run_device(const void* device_images, std::size_t batch, void* stream) override;
  const float* run_device_frames(Span<const Image> frames, Rule rule, void* stream) override;

 private:
  /// A graph holds on to the state of the context it was recorded from: each has one of its own, never touched again.
  struct Recorded {
    std::size_t batch;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    cuda::GraphExec graph;  // Null where the network cannot be recorded: then it is run plainly.
  };

  std::unique_ptr<nvinfer1::IExecutionContext> make_context() const;
  void check_batch(std::size_t batch) const;
  Recorded* find(std::size_t batch);
  void record(std::size_t batch);
  cuda::GraphExec capture(nvinfer1::IExecutionContext& context, std::size_t batch);
  void prepare(nvinfer1::IExecutionContext& context, std::size_t batch, const void* images) const;
  void execute(nvinfer1::IExecutionContext& context, std::size_t batch, cudaStream_t stream) const;
  void enqueue(nvinfer1::IExecutionContext& context, std::size_t batch);
  void drain() const noexcept;
  [[nodiscard]] std::size_t image_bytes() const;

  std::shared_ptr<const TensorRtEngine> engine_;
  cuda::Stream stream_;
  cuda::Event device_done_;  // Recorded behind the caller's streams: buffers and scratch memory are shared with them.
  cuda::PinnedMemory pinned_images_, pinned_outputs_;
  cuda::Memory images_, outputs_, scratch_;
  DeviceResizer resizer_;
  std::unique_ptr<nvinfer1::IExecutionContext> plain_;
  std::vector<Recorded> recorded_;
};

}  // namespace byolt
