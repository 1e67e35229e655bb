#include "engine_builder.hpp"

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda_api.hpp"
#include "files.hpp"
#include "gpu.hpp"
#include "tensorrt_log.hpp"

namespace byolt {
namespace {

using Selector = nvinfer1::OptProfileSelector;

#if NV_TENSORRT_MAJOR >= 11
constexpr std::uint32_t kStronglyTyped = 0;  // Every network is, and the flag is deprecated.
#else
constexpr auto kStronglyTyped =
    1U << static_cast<std::uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#endif
constexpr std::size_t kCacheBytes = std::size_t{256} << 20;
constexpr const char* kAgain = "free memory, or install TensorRT again";

bool has_shape(const nvinfer1::Dims& shape, const std::vector<std::size_t>& sides) {
  if (shape.nbDims != static_cast<std::int32_t>(sides.size()) + 1) return false;
  for (std::size_t k = 0; k < sides.size(); ++k) {
    if (shape.d[k + 1] != static_cast<std::int64_t>(sides[k])) return false;
  }
  return true;
}

/// The words of a parser's error: in front of them are lines of its source.
std::string last_part(std::string reason) {
  reason = reason.substr(0, reason.find('\n'));
  for (const std::string mark : {"Assertion failed: ", ": "}) {
    if (const std::size_t at = reason.rfind(mark); at != std::string::npos) reason.erase(0, at + mark.size());
  }
  return plain(reason);
}

/// One network on its way to a plan. The order of the members is that in which TensorRT's objects need each other.
class Build {
 public:
  Build(const std::string& name, const Tensors& tensors, const BuildOptions& options)
      : name_(name), tensors_(tensors), options_(options), monitor_(options.progress) {
    log_.clear();
    builder_.reset(nvinfer1::createInferBuilder(log_));
    if (builder_ == nullptr) refuse("TensorRT gives no builder", kAgain);
    network_.reset(builder_->createNetworkV2(kStronglyTyped));
    if (network_ == nullptr) refuse("TensorRT gives no network", kAgain);
    parser_.reset(nvonnxparser::createParser(*network_, log_));
    if (parser_ == nullptr) refuse("TensorRT gives no ONNX parser", kAgain);
    config_.reset(builder_->createBuilderConfig());
    if (config_ == nullptr) refuse("TensorRT gives no configuration", kAgain);
  }

  void parse(const std::string& onnx) {
    // Of no bytes at all TensorRT makes an empty network and says that it went well.
    if (onnx.empty()) throw Error(Code::input, name_ + " is empty: export it again");
    if (!parser_->parse(onnx.data(), onnx.size())) refuse_graph();
    const auto* input = network_->getNbInputs() == 1 ? network_->getInput(0) : nullptr;
    const auto* output = network_->getNbOutputs() == 1 ? network_->getOutput(0) : nullptr;
    if (input == nullptr || output == nullptr || std::string(input->getName()) != "images" ||
        input->getType() != nvinfer1::DataType::kUINT8 || output->getType() != nvinfer1::DataType::kFLOAT ||
        !has_shape(input->getDimensions(), {tensors_.height, tensors_.width, tensors_.pixel_bytes}) ||
        !has_shape(output->getDimensions(), {tensors_.dim})) {
      throw Error(Code::input, name_ + " is not the encoder that its manifest describes: it must map one input " +
                                   "`images`, uint8 (batch, H, W, 3) (1 of grey, twice as many above 8 bits), to one "
                                   "float output (batch, D); export it again");
    }
    if (input->getDimensions().d[0] != -1) {
      throw Error(Code::input, name_ + " accepts one size of batch alone: export it with a dynamic batch");
    }
  }

  void configure() {
    config_->clearFlag(nvinfer1::BuilderFlag::kTF32);  // On by default: fp32 would keep 10 bits of its mantissa.
    config_->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, options_.workspace_mib << 20);
    config_->setProgressMonitor(&monitor_);
    nvinfer1::IOptimizationProfile* profile = builder_->createOptimizationProfile();  // The builder's own.
    const bool good = profile != nullptr && set_batch(*profile, Selector::kMIN, 1) &&
                      set_batch(*profile, Selector::kOPT, options_.opt_batch) &&
                      set_batch(*profile, Selector::kMAX, tensors_.max_batch) &&
                      config_->addOptimizationProfile(profile) >= 0;
    if (!good) {
      refuse("TensorRT takes no batches of 1 to " + std::to_string(tensors_.max_batch) + ", tuned for " +
                 std::to_string(options_.opt_batch),
             "export the bundle with another range");
    }
  }

  /// An old cache that does not fit counts as an empty one.
  std::string use_timings() {
    if (options_.timing_cache.empty()) return "none";
    const std::string kept = read_up_to(options_.timing_cache, kCacheBytes);
    if (!kept.empty() && set_timings(kept)) return "reused";
    return set_timings("") ? "new" : "none";
  }

  std::string run() {
    const std::unique_ptr<nvinfer1::IHostMemory> plan(builder_->buildSerializedNetwork(*network_, *config_));
    if (stopped()) return "";
    if (plan == nullptr || plan->size() == 0) refuse("TensorRT does not build " + name_, kAgain);
    return {static_cast<const char*>(plan->data()), plan->size()};
  }

  [[nodiscard]] bool stopped() const { return monitor_.stopped(); }

  /// On a full disk the next build takes longer, and nothing else happens.
  void keep_timings() const {
    const nvinfer1::ITimingCache* cache = config_->getTimingCache();
    if (cache == nullptr) return;
    const std::unique_ptr<nvinfer1::IHostMemory> content(cache->serialize());
    if (content == nullptr) return;
    try {
      write_whole(options_.timing_cache, {static_cast<const char*>(content->data()), content->size()});
    } catch (const Error&) {
    }
  }

 private:
  bool set_batch(nvinfer1::IOptimizationProfile& profile, Selector select, std::size_t batch) const {
    const auto side = [](std::size_t value) { return static_cast<std::int64_t>(value); };
    const nvinfer1::Dims shape{4,
                               {side(batch), side(tensors_.height), side(tensors_.width), side(tensors_.pixel_bytes)}};
    return profile.setDimensions("images", select, shape);
  }

  bool set_timings(const std::string& content) {
    timings_.reset(config_->createTimingCache(content.data(), content.size()));
    return timings_ != nullptr && config_->setTimingCache(*timings_, false);
  }

  [[noreturn]] void refuse(const std::string& what, const std::string& way_out) {
    throw Error(Code::machine, what + ": " + log_.reason() + "; " + way_out);
  }

  [[noreturn]] void refuse_graph() {
    const nvonnxparser::IParserError* error = nullptr;  // The first that names a node, or else the first.
    for (int k = 0; k < parser_->getNbErrors() && (error == nullptr || error->node() < 0); ++k) {
      const nvonnxparser::IParserError* next = parser_->getError(k);
      if (error == nullptr || (next != nullptr && next->node() >= 0)) error = next;
    }
    if (error == nullptr || error->node() < 0) {
      const std::string reason = error == nullptr ? log_.reason() : last_part(error->desc());
      throw Error(Code::input, name_ + " cannot be read as ONNX: " + reason + "; export it again");
    }
    std::string reason = last_part(error->desc());
    if (reason == "false" || std::string(error->desc()).find("Plugin not found") != std::string::npos) {
      reason = "it has no such operator";
    }
    throw Error(Code::machine, name_ + " does not become an engine: TensorRT refuses node `" + error->nodeName() +
                                   "` (" + error->nodeOperator() + "): " + reason +
                                   "; replace that layer, or run the ONNX file itself");
  }

  const std::string& name_;
  const Tensors& tensors_;
  const BuildOptions& options_;
  Log& log_ = Log::shared();
  Monitor monitor_;
  std::unique_ptr<nvinfer1::IBuilder> builder_;
  std::unique_ptr<nvinfer1::INetworkDefinition> network_;
  std::unique_ptr<nvonnxparser::IParser> parser_;
  std::unique_ptr<nvinfer1::IBuilderConfig> config_;
  std::unique_ptr<nvinfer1::ITimingCache> timings_;
};

}  // namespace

std::optional<BuiltEngine> build_engine(const std::string& name, const std::string& onnx, const Tensors& tensors,
                                        const BuildOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  const cuda::Current on(find_gpu().device);  // Before the first call into TensorRT.
  Build build(name, tensors, options);
  build.parse(onnx);
  build.configure();
  BuiltEngine built;
  built.timings = build.use_timings();
  built.plan = build.run();
  if (build.stopped()) return std::nullopt;
  if (built.timings != "none") build.keep_timings();
  built.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return built;
}

}  // namespace byolt
