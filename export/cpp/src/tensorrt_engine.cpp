#include "tensorrt_engine.hpp"

#include <array>
#include <cstring>
#include <utility>

#include "cuda_api.hpp"
#include "tensorrt_log.hpp"

namespace byolt {
namespace {

std::string is_no_encoder(const std::string& name) {
  return name +
         " is not an encoder of a bundle: it must map one uint8 input (batch, H, W, 3) (1 of grey, twice as many above "
         "8 bits) to one float output " +
         "(batch, D); " + TensorRtEngine::kBuildAgain;
}

std::size_t extent(const nvinfer1::Dims& shape, int axis) {
  return axis < shape.nbDims && shape.d[axis] > 0 ? static_cast<std::size_t>(shape.d[axis]) : 0;
}

}  // namespace

TensorRtEngine::TensorRtEngine(std::string name, const void* plan, std::size_t bytes, const Tensors& tensors)
    : name_(std::move(name)), tensors_(tensors) {
  if (bytes >= 4 && std::memcmp(plan, "vtrt", 4) == 0) {
    throw Error(Code::input, name_ + " is a plan of TensorRT for RTX, which TensorRT does not load: " + kBuildAgain);
  }
  gpu_ = find_gpu();  // Before the first call into TensorRT.
  const cuda::Current on(gpu_.device);
  Log& log = Log::shared();
  log.clear();
  runtime_.reset(nvinfer1::createInferRuntime(log));
  if (runtime_ == nullptr) {
    throw Error(Code::machine, "TensorRT does not start on this " + gpu_.name + ": " + log.reason() +
                                   "; install the TensorRT that fits the driver");
  }
  runtime_->setEngineHostCodeAllowed(false);
  engine_.reset(runtime_->deserializeCudaEngine(plan, bytes));
  if (engine_ == nullptr) refuse("is not loaded by TensorRT " + tensorrt_version());
  find_names();
  compare_shapes();
}

std::unique_ptr<nvinfer1::IExecutionContext> TensorRtEngine::context() const {
  Log::shared().clear();
  const std::lock_guard<std::mutex> guard(lock_);
  std::unique_ptr<nvinfer1::IExecutionContext> context(
      engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (context == nullptr) refuse("gets no execution context", "free memory on the GPU");
  return context;
}

std::size_t TensorRtEngine::scratch_bytes() const {
  const std::int64_t bytes = engine_->getDeviceMemorySizeV2();
  return bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
}

void TensorRtEngine::refuse(const std::string& what, const char* way_out) const {
  throw Error(Code::machine, name_ + " " + what + ": " + Log::shared().reason() + "; " + way_out);
}

void TensorRtEngine::find_names() {
  for (std::int32_t k = 0; k < engine_->getNbIOTensors(); ++k) {
    const char* name = engine_->getIOTensorName(k);
    if (name == nullptr) throw Error(Code::input, is_no_encoder(name_));
    const bool goes_in = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    const auto type = goes_in ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
    std::string& place = goes_in ? input_ : output_;
    if (!place.empty() || engine_->getTensorDataType(name) != type) throw Error(Code::input, is_no_encoder(name_));
    place = name;
  }
  if (input_.empty() || output_.empty()) throw Error(Code::input, is_no_encoder(name_));
}

void TensorRtEngine::compare_shapes() const {
  const nvinfer1::Dims in = engine_->getTensorShape(input_.c_str()), out = engine_->getTensorShape(output_.c_str());
  if (in.nbDims != 4 || out.nbDims != 2 || extent(in, 3) != tensors_.pixel_bytes)
    throw Error(Code::input, is_no_encoder(name_));
  if (extent(in, 1) != tensors_.height || extent(in, 2) != tensors_.width || extent(out, 1) != tensors_.dim) {
    throw Error(Code::input, name_ + " maps images of " + std::to_string(extent(in, 2)) + " x " +
                                 std::to_string(extent(in, 1)) + " px to " + std::to_string(extent(out, 1)) +
                                 " values, and the manifest promises " + std::to_string(tensors_.width) + " x " +
                                 std::to_string(tensors_.height) + " px and " + std::to_string(tensors_.dim) + ": " +
                                 kBuildAgain);
  }
  using Selector = nvinfer1::OptProfileSelector;
  const std::size_t least = extent(engine_->getProfileShape(input_.c_str(), 0, Selector::kMIN), 0);
  const std::size_t most = extent(engine_->getProfileShape(input_.c_str(), 0, Selector::kMAX), 0);
  if (least != 1 || most < tensors_.max_batch) {
    throw Error(Code::input, name_ + " takes batches of " + std::to_string(least) + " to " + std::to_string(most) +
                                 ", and the manifest promises 1 to " + std::to_string(tensors_.max_batch) + ": " +
                                 kBuildAgain);
  }
}

std::string tensorrt_version() {
  const std::int32_t version = getInferLibVersion();  // Of the library that is loaded, not of the header.
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace byolt
