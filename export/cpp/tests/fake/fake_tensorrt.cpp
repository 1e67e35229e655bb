#include <NvInfer.h>

#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "state.hpp"

using fake::Call;
using nvinfer1::Dims;

extern "C" std::int32_t getInferLibVersion() noexcept { return FAKE_TENSORRT_MAJOR * 10000 + 3 * 100 + 1; }

namespace fake {

void say(nvinfer1::ILogger& logger, const char* function) {
  const std::string words = std::string("IFake::") + function + ": Error Code 4: API Usage Error (injected fault in " +
                            function + ". In " + function + " at /build/fake.cpp:12)";
  logger.log(nvinfer1::ILogger::Severity::kERROR, words.c_str());
  logger.log(nvinfer1::ILogger::Severity::kERROR, "a fault that follows from the first");
}

}  // namespace fake

namespace {

bool is_images(const char* name) { return std::strcmp(name, "images") == 0; }

/// A context as the graphs that were recorded from it know it.
struct State {
  std::atomic<bool> alive{true};
  std::atomic<int> changes{0};
};

/// One execution, as it was when it was queued.
struct Execution {
  fake::Plan plan;
  const void* images;
  void* embeddings;
  void* scratch;
  std::size_t batch;

  void operator()() const {
    const auto image_bytes = static_cast<std::size_t>(plan.height * plan.width * plan.channels);
    const auto dim = static_cast<std::size_t>(plan.dim);
    if (!fake::device_memory().holds(images, batch * image_bytes) ||
        !fake::device_memory().holds(embeddings, batch * dim * sizeof(float)) ||
        !fake::device_memory().holds(scratch, static_cast<std::size_t>(plan.scratch))) {
      return fake::break_rule("a network ran outside of device memory");
    }
    fake::count_execution();
    const auto* from = static_cast<const std::uint8_t*>(images);
    auto* to = static_cast<float*>(embeddings);
    for (std::size_t row = 0; row < batch; ++row) {
      for (std::size_t k = 0; k < dim; ++k) {
        to[row * dim + k] = fake::expected(from + row * image_bytes, image_bytes, k);
      }
    }
  }
};

class Context final : public nvinfer1::IExecutionContext {
 public:
  Context(nvinfer1::ILogger& logger, const fake::Plan& plan, std::shared_ptr<int> engine)
      : logger_(logger), plan_(plan), engine_(std::move(engine)) {
    fake::count_live(1);
  }
  ~Context() override {
    state_->alive = false;
    fake::count_live(-1);
  }

  bool setInputShape(const char* name, const Dims& shape) noexcept override {
    const std::int64_t wanted[] = {shape.d[0], plan_.height, plan_.width, plan_.channels};
    if (fake::fails(Call::setInputShape) || !is_images(name) || shape.nbDims != 4 ||
        std::memcmp(shape.d, wanted, sizeof wanted) != 0 || shape.d[0] < plan_.least || shape.d[0] > plan_.most) {
      return refuse("setInputShape");
    }
    if (batch_ != static_cast<std::size_t>(shape.d[0])) ++state_->changes;
    batch_ = static_cast<std::size_t>(shape.d[0]);
    return true;
  }

  bool setTensorAddress(const char* name, void* address) noexcept override {
    if (fake::fails(Call::setTensorAddress)) return refuse("setTensorAddress");
    void*& place = is_images(name) ? images_ : embeddings_;
    if (place != address) ++state_->changes;
    place = address;
    return true;
  }

  void setDeviceMemoryV2(void* memory, std::int64_t bytes) noexcept override {
    if (fake::fails(Call::setDeviceMemoryV2) || bytes < plan_.scratch) {
      refuse("setDeviceMemoryV2");
    } else {
      scratch_ = memory;
    }
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    const fake::Inside inside;
    const auto queue = fake::queue_of(stream);
    if (fake::fails(Call::enqueueV3) || batch_ == 0 || images_ == nullptr || embeddings_ == nullptr ||
        scratch_ == nullptr) {
      return refuse("enqueueV3");
    }
    // TensorRT prepares a shape when it first runs it, with calls that a capture does not allow.
    const bool recorded = queue->recording != nullptr;
    if (recorded && (!plan_.recordable || prepared_ != batch_)) return refuse("enqueueV3");
    prepared_ = batch_;
    const Execution execution{plan_, images_, embeddings_, scratch_, batch_};
    queue->add([execution, state = state_, changes = state_->changes.load(), recorded] {
      if (!state->alive) fake::break_rule("a network ran whose context was gone");
      if (recorded && state->changes != changes) fake::break_rule("a graph ran whose context had been changed");
      execution();
    });
    return true;
  }

 private:
  bool refuse(const char* function) {
    fake::say(logger_, function);
    return false;
  }

  nvinfer1::ILogger& logger_;
  fake::Plan plan_;
  std::shared_ptr<int> engine_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
  std::size_t batch_ = 0, prepared_ = 0;
  void *images_ = nullptr, *embeddings_ = nullptr, *scratch_ = nullptr;
};

class Engine final : public nvinfer1::ICudaEngine {
 public:
  Engine(nvinfer1::ILogger& logger, const fake::Plan& plan) : logger_(logger), plan_(plan) { fake::count_live(1); }
  ~Engine() override {
    if (token_.use_count() > 1) fake::break_rule("an engine went before its contexts");
    fake::count_live(-1);
  }

  std::int32_t getNbIOTensors() const noexcept override { return 1 + plan_.outputs; }
  const char* getIOTensorName(std::int32_t index) const noexcept override {
    if (fake::fails(Call::getIOTensorName)) return nullptr;
    return index == 0 ? "embedding" : index == plan_.outputs ? "images" : "another";
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return is_images(name) ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
  }
  nvinfer1::DataType getTensorDataType(const char* name) const noexcept override {
    return static_cast<nvinfer1::DataType>(is_images(name) ? plan_.input_type : plan_.output_type);
  }
  Dims getTensorShape(const char* name) const noexcept override { return shape(name, -1); }
  Dims getProfileShape(const char* name, std::int32_t, nvinfer1::OptProfileSelector select) const noexcept override {
    return shape(name, select == nvinfer1::OptProfileSelector::kMIN ? plan_.least : plan_.most);
  }
  std::int64_t getDeviceMemorySizeV2() const noexcept override { return plan_.scratch; }

  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override {
    if (strategy != nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED) {
      fake::break_rule("a context took memory of its own");
    }
    if (fake::fails(Call::createExecutionContext)) {
      fake::say(logger_, "createExecutionContext");
      return nullptr;
    }
    return new Context(logger_, plan_, token_);
  }

 private:
  Dims shape(const char* name, std::int64_t batch) const {
    if (is_images(name)) return {plan_.rank, {batch, plan_.height, plan_.width, plan_.channels}};
    return {2, {batch, plan_.dim}};
  }

  nvinfer1::ILogger& logger_;
  fake::Plan plan_;
  std::shared_ptr<int> token_ = std::make_shared<int>(0);  // Each context holds it too.
};

class Runtime final : public nvinfer1::IRuntime {
 public:
  explicit Runtime(nvinfer1::ILogger& logger) : logger_(logger) { fake::count_live(1); }
  ~Runtime() override { fake::count_live(-1); }

  void setEngineHostCodeAllowed(bool allowed) noexcept override {
    if (allowed) fake::break_rule("code for the host was allowed");
  }

  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* content, std::size_t bytes) noexcept override {
    fake::Plan plan;
    std::istringstream text(std::string(static_cast<const char*>(content), bytes));
    const std::string magic = "a plan of the fake TensorRT:";
    std::string begin(magic.size(), ' ');
    text.read(begin.data(), static_cast<std::streamsize>(begin.size()));
    text >> plan.height >> plan.width >> plan.channels >> plan.dim >> plan.least >> plan.most >> plan.input_type >>
        plan.output_type >> plan.rank >> plan.outputs >> plan.scratch >> plan.recordable;
    if (fake::fails(Call::deserializeCudaEngine) || begin != magic || !text) {
      fake::say(logger_, "deserializeCudaEngine");
      return nullptr;
    }
    return new Engine(logger_, plan);
  }

 private:
  nvinfer1::ILogger& logger_;
};

}  // namespace

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& logger) noexcept {
  if (fake::devices() == 0) return reinterpret_cast<IRuntime*>(0x228);  // What TensorRT 11.4 really gives.
  if (fake::fails(Call::createInferRuntime)) {
    fake::say(logger, "createInferRuntime");
    return nullptr;
  }
  return new Runtime(logger);
}

}  // namespace nvinfer1
