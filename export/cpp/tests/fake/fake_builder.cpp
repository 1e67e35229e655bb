#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "state.hpp"

using fake::Call;
using nvinfer1::Dims;

namespace fake {

void say(nvinfer1::ILogger& logger, const char* function);

namespace {

Plan parsed;  // What the next parse gives.
bool is_set = false;
std::string node;
Built last;

/// FAKE_NETWORK="HEIGHT WIDTH DIM" stands in for `set_network` in programs.
Plan network_to_parse() {
  Plan plan = parsed;
  if (const char* text = std::getenv("FAKE_NETWORK"); text != nullptr && !is_set) {
    std::istringstream(text) >> plan.height >> plan.width >> plan.dim;
  }
  return plan;
}

}  // namespace

void set_network(const Plan& plan, const std::string& refused_node) {
  parsed = plan;
  is_set = true;
  node = refused_node;
}

Built built() { return last; }

}  // namespace fake

namespace {

class Memory final : public nvinfer1::IHostMemory {
 public:
  explicit Memory(std::string content) : content_(std::move(content)) { fake::count_live(1); }
  ~Memory() override { fake::count_live(-1); }
  void* data() const noexcept override { return const_cast<char*>(content_.data()); }
  std::size_t size() const noexcept override { return content_.size(); }

 private:
  std::string content_;
};

class Tensor final : public nvinfer1::ITensor {
 public:
  Tensor(std::string name, int type, Dims shape) : name_(std::move(name)), type_(type), shape_(shape) {}
  ~Tensor() override = default;
  const char* getName() const noexcept override { return name_.c_str(); }
  Dims getDimensions() const noexcept override { return shape_; }
  nvinfer1::DataType getType() const noexcept override { return static_cast<nvinfer1::DataType>(type_); }

 private:
  std::string name_;
  int type_;
  Dims shape_;
};

class Network final : public nvinfer1::INetworkDefinition {
 public:
  explicit Network(std::shared_ptr<int> builder) : builder_(std::move(builder)) { fake::count_live(1); }
  ~Network() override {
    if (token_.use_count() > 1) fake::break_rule("a network went before its parser");
    fake::count_live(-1);
  }

  void fill(const fake::Plan& plan) {
    plan_ = plan;
    const std::int64_t batch = plan.least == plan.most ? plan.most : -1;
    inputs_.push_back(std::make_unique<Tensor>(plan.input, plan.input_type,
                                               Dims{plan.rank, {batch, plan.height, plan.width, plan.channels}}));
    for (int k = 0; k < plan.outputs; ++k) {
      outputs_.push_back(std::make_unique<Tensor>("embedding", plan.output_type, Dims{2, {batch, plan.dim}}));
    }
  }

  std::int32_t getNbInputs() const noexcept override { return static_cast<std::int32_t>(inputs_.size()); }
  std::int32_t getNbOutputs() const noexcept override { return static_cast<std::int32_t>(outputs_.size()); }
  nvinfer1::ITensor* getInput(std::int32_t k) const noexcept override { return inputs_[std::size_t(k)].get(); }
  nvinfer1::ITensor* getOutput(std::int32_t k) const noexcept override { return outputs_[std::size_t(k)].get(); }
  [[nodiscard]] const fake::Plan& plan() const { return plan_; }
  [[nodiscard]] std::shared_ptr<int> token() const { return token_; }

 private:
  fake::Plan plan_;
  std::shared_ptr<int> builder_, token_ = std::make_shared<int>(0);
  std::vector<std::unique_ptr<Tensor>> inputs_, outputs_;
};

class ParserError final : public nvonnxparser::IParserError {
 public:
  explicit ParserError(std::string node) : node_(std::move(node)) {}
  ~ParserError() override = default;
  const char* desc() const noexcept override {
    return node_.empty() ? "onnx.cpp:7: In parse: Assertion failed: Failed to parse the ONNX model."
                         : "Assertion failed: creator && \"Plugin not found, are the plugin name correct?\"";
  }
  int node() const noexcept override { return node_.empty() ? -1 : 3; }
  const char* nodeName() const noexcept override { return node_.c_str(); }
  const char* nodeOperator() const noexcept override { return "FakeOp"; }

 private:
  std::string node_;
};

class Parser final : public nvonnxparser::IParser {
 public:
  Parser(Network& network, nvinfer1::ILogger& logger) : network_(network), logger_(logger), token_(network.token()) {
    fake::count_live(1);
  }
  ~Parser() override { fake::count_live(-1); }

  bool parse(const void* model, std::size_t bytes, const char*) noexcept override {
    const bool injected = fake::fails(Call::parse);
    if (injected) fake::say(logger_, "parse");
    if (bytes == 0) fake::break_rule("an empty model was parsed");
    if (!injected && bytes >= 7 && std::memcmp(model, "garbage", 7) == 0) errors_.emplace_back("");
    if (!fake::node.empty()) {
      errors_.emplace_back("");
      errors_.emplace_back(fake::node);
    }
    if (injected || !errors_.empty()) return false;
    network_.fill(fake::network_to_parse());
    return true;
  }
  int getNbErrors() const noexcept override { return static_cast<int>(errors_.size()); }
  const nvonnxparser::IParserError* getError(int k) const noexcept override { return &errors_[std::size_t(k)]; }

 private:
  Network& network_;
  nvinfer1::ILogger& logger_;
  std::shared_ptr<int> token_;
  std::vector<ParserError> errors_;
};

class Profile final : public nvinfer1::IOptimizationProfile {
 public:
  bool setDimensions(const char* name, nvinfer1::OptProfileSelector select, const Dims& shape) noexcept override {
    if (fake::fails(Call::setDimensions) || std::strcmp(name, "images") != 0 || shape.nbDims != 4) return false;
    shapes[static_cast<std::size_t>(select)] = shape;
    return true;
  }
  ~Profile() override = default;
  Dims shapes[3] = {};
};

class TimingCache final : public nvinfer1::ITimingCache {
 public:
  TimingCache(nvinfer1::ILogger& logger, std::string content) : logger_(logger), content_(std::move(content)) {
    fake::count_live(1);
  }
  ~TimingCache() override { fake::count_live(-1); }
  nvinfer1::IHostMemory* serialize() const noexcept override {
    if (!fake::fails(Call::serialize)) return new Memory(content_ + "fake timings;");
    fake::say(logger_, "serialize");
    return nullptr;
  }

 private:
  nvinfer1::ILogger& logger_;
  std::string content_;
};

class Config final : public nvinfer1::IBuilderConfig {
 public:
  Config(nvinfer1::ILogger& logger, std::shared_ptr<int> builder) : logger_(logger), builder_(std::move(builder)) {
    fake::count_live(1);
  }
  ~Config() override { fake::count_live(-1); }

  void clearFlag(nvinfer1::BuilderFlag flag) noexcept override { tf32 = tf32 && flag != nvinfer1::BuilderFlag::kTF32; }
  void setMemoryPoolLimit(nvinfer1::MemoryPoolType, std::size_t bytes) noexcept override { workspace = bytes; }
  void setProgressMonitor(nvinfer1::IProgressMonitor* chosen) noexcept override { monitor = chosen; }
  std::int32_t addOptimizationProfile(const nvinfer1::IOptimizationProfile* added) noexcept override {
    const auto* chosen = static_cast<const Profile*>(added);
    const Dims* shapes = chosen->shapes;
    const bool ordered = shapes[0].d[0] <= shapes[1].d[0] && shapes[1].d[0] <= shapes[2].d[0];
    if (fake::fails(Call::addOptimizationProfile) || !ordered) {
      fake::say(logger_, "addOptimizationProfile");
      return -1;
    }
    profile = chosen;
    return 0;
  }
  nvinfer1::ITimingCache* createTimingCache(const void* content, std::size_t bytes) const noexcept override {
    const std::string text(static_cast<const char*>(content), bytes);
    if (fake::fails(Call::createTimingCache) || (!text.empty() && text.rfind("fake timings;", 0) != 0)) {
      fake::say(logger_, "createTimingCache");
      return nullptr;
    }
    return new TimingCache(logger_, text);
  }
  bool setTimingCache(const nvinfer1::ITimingCache& cache, bool ignore_mismatch) noexcept override {
    if (ignore_mismatch) fake::break_rule("timings of another GPU were let in");
    if (fake::fails(Call::setTimingCache)) return false;
    timings = &cache;
    return true;
  }
  const nvinfer1::ITimingCache* getTimingCache() const noexcept override {
    return fake::fails(Call::getTimingCache) ? nullptr : timings;
  }

  bool tf32 = true;
  std::size_t workspace = 0;
  nvinfer1::IProgressMonitor* monitor = nullptr;
  const Profile* profile = nullptr;
  const nvinfer1::ITimingCache* timings = nullptr;

 private:
  nvinfer1::ILogger& logger_;
  std::shared_ptr<int> builder_;
};

/// What TensorRT tells while it builds, from a thread of its own. False where it was told to stop.
bool tell(nvinfer1::IProgressMonitor& monitor) {
  bool go_on = true;
  std::thread([&] {
    monitor.phaseStart("Building", nullptr, 2);
    monitor.phaseStart("Tactics", "Building", 4);
    for (int step = 0; step < 4 && go_on; ++step) go_on = monitor.stepComplete("Tactics", step);
    monitor.phaseFinish("Tactics");
    if (go_on) go_on = monitor.stepComplete("Building", 0);
    if (go_on) go_on = monitor.stepComplete("Building", 1);
    monitor.phaseFinish("Building");
  }).join();
  return go_on;
}

class Builder final : public nvinfer1::IBuilder {
 public:
  explicit Builder(nvinfer1::ILogger& logger) : logger_(logger) { fake::count_live(1); }
  ~Builder() override {
    if (token_.use_count() > 1) fake::break_rule("a builder went before what it made");
    fake::count_live(-1);
  }

  nvinfer1::INetworkDefinition* createNetworkV2(nvinfer1::NetworkDefinitionCreationFlags flags) noexcept override {
#if NV_TENSORRT_MAJOR >= 11
    if (flags != 0) fake::break_rule("a flag that TensorRT 11 has no more");
#else
    if (flags != 1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED)) {
      fake::break_rule("a network that is not strongly typed");
    }
#endif
    if (fake::fails(Call::createNetworkV2)) return refuse("createNetworkV2");
    return new Network(token_);
  }
  nvinfer1::IOptimizationProfile* createOptimizationProfile() noexcept override {
    if (fake::fails(Call::createOptimizationProfile)) return refuse("createOptimizationProfile");
    profiles_.push_back(std::make_unique<Profile>());
    return profiles_.back().get();
  }
  nvinfer1::IBuilderConfig* createBuilderConfig() noexcept override {
    if (fake::fails(Call::createBuilderConfig)) return refuse("createBuilderConfig");
    return new Config(logger_, token_);
  }
  nvinfer1::IHostMemory* buildSerializedNetwork(nvinfer1::INetworkDefinition& network,
                                                nvinfer1::IBuilderConfig& chosen) noexcept override {
    auto& config = static_cast<Config&>(chosen);
    if (fake::fails(Call::buildSerializedNetwork) || config.profile == nullptr || config.workspace < (1U << 20)) {
      return refuse("buildSerializedNetwork");
    }
    if (config.monitor != nullptr && !tell(*config.monitor)) return nullptr;
    const Dims* shapes = config.profile->shapes;
    fake::Plan plan = static_cast<Network&>(network).plan();
    plan.least = static_cast<int>(shapes[0].d[0]);
    plan.most = static_cast<int>(shapes[2].d[0]);
    fake::last = {config.workspace, config.tf32, static_cast<int>(shapes[1].d[0])};
    return new Memory(fake::bytes_of(plan));
  }

 private:
  std::nullptr_t refuse(const char* function) {
    fake::say(logger_, function);
    return nullptr;
  }

  nvinfer1::ILogger& logger_;
  std::shared_ptr<int> token_ = std::make_shared<int>(0);
  std::vector<std::unique_ptr<Profile>> profiles_;
};

}  // namespace

namespace nvinfer1 {

IBuilder* createInferBuilder(ILogger& logger) noexcept {
  if (fake::devices() == 0) return reinterpret_cast<IBuilder*>(0x228);  // As createInferRuntime really does.
  if (!fake::fails(Call::createInferBuilder)) return new Builder(logger);
  fake::say(logger, "createInferBuilder");
  return nullptr;
}

}  // namespace nvinfer1

namespace nvonnxparser {

IParser* createParser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger) noexcept {
  if (!fake::fails(Call::createParser)) return new Parser(static_cast<Network&>(network), logger);
  fake::say(logger, "createParser");
  return nullptr;
}

}  // namespace nvonnxparser
