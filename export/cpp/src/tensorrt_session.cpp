#include "tensorrt_session.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "tensorrt_log.hpp"

namespace byolt {
namespace {

constexpr std::size_t kMostGraphs = 8;  // Each keeps a context; batch sizes beyond them are run plainly.
constexpr std::uintptr_t kAlignment = 256;

}  // namespace

TensorRtSession::TensorRtSession(std::shared_ptr<const TensorRtEngine> engine)
    : engine_(std::move(engine)),
      resizer_(engine_->tensors().width, engine_->tensors().height, engine_->tensors().pixel_bytes) {
  const cuda::Current on(engine_->gpu().device);
  const Tensors& tensors = engine_->tensors();
  const std::size_t output_bytes = tensors.max_batch * tensors.dim * sizeof(float);
  stream_ = cuda::make_stream();
  device_done_ = cuda::make_event();
  pinned_images_ = cuda::allocate_pinned(tensors.max_batch * image_bytes());
  pinned_outputs_ = cuda::allocate_pinned(output_bytes);
  images_ = cuda::allocate(tensors.max_batch * image_bytes());
  outputs_ = cuda::allocate(output_bytes);
  scratch_ = cuda::allocate(std::max(engine_->scratch_bytes(), std::size_t{1}));
  plain_ = make_context();
  recorded_.reserve(kMostGraphs);
}

TensorRtSession::~TensorRtSession() {
  try {
    const cuda::Current on(engine_->gpu().device);
    drain();
    recorded_.clear();
    plain_.reset();
  } catch (const Error&) {
    // A GPU that cannot be made current any more has nothing left to wait for.
  }
}

// What is still queued, here or behind a caller's stream, uses this session's memory.
void TensorRtSession::drain() const noexcept {
  static_cast<void>(cudaEventSynchronize(device_done_.get()));
  static_cast<void>(cudaStreamSynchronize(stream_.get()));
}

std::size_t TensorRtSession::image_bytes() const { return engine_->tensors().image_bytes(); }

std::unique_ptr<nvinfer1::IExecutionContext> TensorRtSession::make_context() const {
  auto context = engine_->context();
  // One call runs at a time, so all contexts of a session work in the same memory.
  context->setDeviceMemoryV2(scratch_.get(), static_cast<std::int64_t>(engine_->scratch_bytes()));
  if (Log::shared().told()) engine_->refuse("takes no scratch memory");  // The call itself returns nothing.
  if (!context->setTensorAddress(engine_->output().c_str(), outputs_.get())) {
    engine_->refuse("takes no memory for its outputs");
  }
  return context;
}

void TensorRtSession::check_batch(std::size_t batch) const {
  if (batch >= 1 && batch <= engine_->tensors().max_batch) return;
  throw Error(Code::input, engine_->name() + " takes batches of 1 to " + std::to_string(engine_->tensors().max_batch) +
                               ", got " + std::to_string(batch) + ": give it fewer images a call");
}

const float* TensorRtSession::run(std::size_t batch) {
  check_batch(batch);
  const cuda::Current on(engine_->gpu().device);
  Log::shared().clear();
  cuda::check(cudaStreamWaitEvent(stream_.get(), device_done_.get(), 0), "cudaStreamWaitEvent");
  Recorded* recorded = find(batch);
  const bool is_new = recorded == nullptr && recorded_.size() < kMostGraphs;
  if (recorded != nullptr && recorded->graph != nullptr) {
    cuda::check(cudaGraphLaunch(recorded->graph.get(), stream_.get()), "cudaGraphLaunch");
  } else {
    prepare(*plain_, batch, images_.get());
    enqueue(*plain_, batch);
  }
  cuda::check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  if (is_new) record(batch);
  return static_cast<const float*>(pinned_outputs_.get());
}

const float* TensorRtSession::run_device(const void* device_images, std::size_t batch, void* stream) {
  check_batch(batch);
  if (device_images == nullptr || reinterpret_cast<std::uintptr_t>(device_images) % kAlignment != 0) {
    throw Error(Code::input,
                "images in device memory must start at a multiple of 256 bytes: take cudaMalloc's address");
  }
  const cuda::Current on(engine_->gpu().device);
  const auto order = static_cast<cudaStream_t>(stream);
  Log::shared().clear();
  cuda::check(cudaStreamWaitEvent(order, device_done_.get(), 0), "cudaStreamWaitEvent");
  prepare(*plain_, batch, device_images);
  execute(*plain_, batch, order);
  cuda::check(cudaEventRecord(device_done_.get(), order), "cudaEventRecord");
  return static_cast<const float*>(outputs_.get());
}

const float* TensorRtSession::run_device_frames(Span<const Image> frames, Rule rule, void* stream) {
  check_batch(frames.size());
  const cuda::Current on(engine_->gpu().device);
  const auto order = static_cast<cudaStream_t>(stream);
  Log::shared().clear();
  cuda::check(cudaStreamWaitEvent(order, device_done_.get(), 0), "cudaStreamWaitEvent");
  auto* to = static_cast<std::uint8_t*>(images_.get());
  for (const Image& frame : frames) {
    resizer_(frame, rule, to, order);
    to += image_bytes();
  }
  prepare(*plain_, frames.size(), images_.get());
  execute(*plain_, frames.size(), order);
  cuda::check(cudaEventRecord(device_done_.get(), order), "cudaEventRecord");
  return static_cast<const float*>(outputs_.get());
}

TensorRtSession::Recorded* TensorRtSession::find(std::size_t batch) {
  const auto place = std::find_if(recorded_.begin(), recorded_.end(),
                                  [batch](const Recorded& recorded) { return recorded.batch == batch; });
  return place == recorded_.end() ? nullptr : &*place;
}

void TensorRtSession::prepare(nvinfer1::IExecutionContext& context, std::size_t batch, const void* images) const {
  const Tensors& tensors = engine_->tensors();
  const auto side = [](std::size_t value) { return static_cast<std::int64_t>(value); };
  const nvinfer1::Dims shape{4, {side(batch), side(tensors.height), side(tensors.width), side(tensors.pixel_bytes)}};
  const char* input = engine_->input().c_str();
  // TensorRT takes inputs as changeable too, and does not change them.
  if (!context.setInputShape(input, shape) || !context.setTensorAddress(input, const_cast<void*>(images))) {
    engine_->refuse("refuses a batch of " + std::to_string(batch));
  }
}

void TensorRtSession::execute(nvinfer1::IExecutionContext& context, std::size_t batch, cudaStream_t stream) const {
  if (!context.enqueueV3(stream)) engine_->refuse("does not run a batch of " + std::to_string(batch));
}

void TensorRtSession::enqueue(nvinfer1::IExecutionContext& context, std::size_t batch) {
  const std::size_t output_bytes = batch * engine_->tensors().dim * sizeof(float);
  cuda::check(cudaMemcpyAsync(images_.get(), pinned_images_.get(), batch * image_bytes(), cudaMemcpyHostToDevice,
                              stream_.get()),
              "cudaMemcpyAsync");
  execute(context, batch, stream_.get());
  cuda::check(
      cudaMemcpyAsync(pinned_outputs_.get(), outputs_.get(), output_bytes, cudaMemcpyDeviceToHost, stream_.get()),
      "cudaMemcpyAsync");
}

// A graph makes calls faster and changes nothing else: what stands in its way is no fault of the call, whose outputs
// are there already.
void TensorRtSession::record(std::size_t batch) {
  Recorded recorded{batch, nullptr, nullptr};
  try {
    recorded.context = make_context();
    prepare(*recorded.context, batch, images_.get());
    // TensorRT prepares a new shape in its first call, which may not be recorded.
    enqueue(*recorded.context, batch);
    cuda::check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
    recorded.graph = capture(*recorded.context, batch);
  } catch (const Error&) {
    drain();
    cuda::forget_error();
  }
  if (recorded.graph == nullptr) recorded.context.reset();
  recorded_.push_back(std::move(recorded));
}

cuda::GraphExec TensorRtSession::capture(nvinfer1::IExecutionContext& context, std::size_t batch) {
  // Of this thread alone: others go on allocating.
  cuda::check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  bool queued = true;
  try {
    enqueue(context, batch);
  } catch (const Error&) {
    queued = false;  // The stream stays useless until its capture has ended.
  }
  cudaGraph_t raw = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &raw);
  const cuda::Graph graph(raw);
  if (!queued || ended != cudaSuccess || graph == nullptr) {
    cuda::forget_error();
    return nullptr;
  }
  cudaGraphExec_t ready = nullptr;
  cuda::check(cudaGraphInstantiateWithFlags(&ready, graph.get(), 0), "cudaGraphInstantiateWithFlags");
  return cuda::GraphExec(ready);
}

}  // namespace byolt
