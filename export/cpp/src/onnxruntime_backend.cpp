#define ORT_API_MANUAL_INIT  // The API is asked for below, where a library that is too old can be told in words.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <vector>

#include "backend.hpp"
#include "byolt/error.hpp"
#include "text.hpp"

namespace byolt {
namespace {

constexpr const char* kInput = "images";

/// The first line of ONNX Runtime's words.
std::string brief(const Ort::Exception& error) {
  const std::string words = error.what();
  std::string line = words.substr(0, words.find('\n'));
  while (!line.empty() && (line.back() == '.' || line.back() == ' ')) line.pop_back();
  return quoted(line);
}

void init_api() {
  const OrtApiBase* base = OrtGetApiBase();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    throw Error(Code::missing, std::string("ONNX Runtime ") + base->GetVersionString() + " is older than the headers " +
                                   "that byolt was built with: install 1." + std::to_string(ORT_API_VERSION) +
                                   " or later");
  }
  Ort::InitApi(api);
}

/// One for the process: ONNX Runtime keeps its thread pools and its log there.
Ort::Env& environment() {
  // From 1.29 on it reports its use to Microsoft, and keeps an identifier of the device, unless told before it starts.
  static const int silenced = ::setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  (void)silenced;
  // What is below fatal arrives as an exception, or is chatter about absent GPUs.
  static Ort::Env env((init_api(), ORT_LOGGING_LEVEL_FATAL), "byolt");
  return env;
}

class OnnxSession final : public Session {
 public:
  OnnxSession(Ort::Session& session, const Tensors& tensors, std::string file, const std::string& output)
      : session_(session), tensors_(tensors), file_(std::move(file)), output_(output) {
    images_.resize(tensors.max_batch * tensors.image_bytes());
    outputs_.resize(tensors.max_batch * tensors.dim);
  }

  std::uint8_t* images() override { return images_.data(); }

  const float* run(std::size_t batch) override {
    try {
      const Bound& bound = bind(batch);
      const char* output = output_.c_str();
      Ort::Value& target = const_cast<Ort::Value&>(bound.output);  // Run writes through it into `outputs_`.
      session_.Run(Ort::RunOptions{nullptr}, &kInput, &bound.input, 1, &output, &target, 1);
    } catch (const Ort::Exception& error) {
      throw Error(Code::machine, file_ + " does not run a batch of " + std::to_string(batch) + ": " + brief(error));
    }
    return outputs_.data();
  }

  const float* run_device(const void*, std::size_t, void*) override {
    throw Error(Code::missing,
                "ONNX Runtime takes images from host memory alone: open the bundle with TensorRT for device memory");
  }

 private:
  struct Bound {
    Ort::Value input{nullptr}, output{nullptr};
  };

  /// Tensors over the buffers for a batch size; made once for each.
  const Bound& bind(std::size_t batch) {
    if (const auto found = bound_.find(batch); found != bound_.end()) return found->second;
    const auto side = [](std::size_t value) { return static_cast<std::int64_t>(value); };
    const std::array<std::int64_t, 4> in = {side(batch), side(tensors_.height), side(tensors_.width),
                                            side(tensors_.pixel_bytes)};
    const std::array<std::int64_t, 2> out = {side(batch), side(tensors_.dim)};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::size_t bytes = batch * tensors_.image_bytes();
    Bound bound;
    bound.input = Ort::Value::CreateTensor<std::uint8_t>(memory, images_.data(), bytes, in.data(), in.size());
    bound.output =
        Ort::Value::CreateTensor<float>(memory, outputs_.data(), batch * tensors_.dim, out.data(), out.size());
    return bound_.emplace(batch, std::move(bound)).first->second;
  }

  Ort::Session& session_;
  Tensors tensors_;
  std::string file_, output_;
  std::vector<std::uint8_t> images_;
  std::vector<float> outputs_;
  std::map<std::size_t, Bound> bound_;
};

class OnnxBackend final : public Backend {
 public:
  OnnxBackend(const std::string& path, const Tensors& tensors, const std::string& provider, int threads,
              bool for_tensorrt)
      : path_(path), tensors_(tensors), provider_(provider + "ExecutionProvider"), session_(nullptr) {
    Ort::Env& env = environment();
    Ort::SessionOptions options;
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    if (threads > 0) options.SetIntraOpNumThreads(threads);
    if (!has_provider(provider)) {
      throw Error(Code::missing, provider_ + " is not in this ONNX Runtime: install its build, or ask for the CPU");
    }
    if (provider == "CUDA") add_cuda(options);
    // Else ONNX Runtime moves Q/DQ about in search of integer kernels, finds none where outputs are not quantised too,
    // and dequantises every constant kernel in every call: 2 to 6 times as slow.
    if (for_tensorrt && provider == "CPU") options.AddConfigEntry("session.disable_quant_qdq", "1");
    try {
      session_ = Ort::Session(env, path.c_str(), options);
      check();
    } catch (const Ort::Exception& error) {
      throw Error(Code::input, path + " cannot be read as ONNX: " + brief(error) + "; export it again");
    }
  }

  [[nodiscard]] std::string name() const override {
    return std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + ", " + provider_;
  }

  std::unique_ptr<Session> session() override {
    return std::make_unique<OnnxSession>(session_, tensors_, path_, output_);
  }

 private:
  void add_cuda(Ort::SessionOptions& options) const {
    try {
      OrtCUDAProviderOptionsV2* settings = nullptr;
      Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&settings));
      const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
          settings, [](OrtCUDAProviderOptionsV2* given) { Ort::GetApi().ReleaseCUDAProviderOptions(given); });
      // TF32 keeps 10 bits of mantissa: with it, fp32 would not be what its name says.
      const char *key = "use_tf32", *value = "0";
      Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(settings, &key, &value, 1));
      options.AppendExecutionProvider_CUDA_V2(*settings);
    } catch (const Ort::Exception& error) {
      throw Error(Code::missing, provider_ + " does not work here: " + brief(error) +
                                     "; install ONNX Runtime's CUDA build and what it needs, or ask for the CPU");
    }
  }

  void check() {
    const Ort::AllocatorWithDefaultOptions allocator;
    const auto refuse = [&] {
      throw Error(Code::input, path_ +
                                   " is not an encoder of this bundle: it must map one input `images`, uint8 (batch, " +
                                   std::to_string(tensors_.height) + ", " + std::to_string(tensors_.width) + ", " +
                                   std::to_string(tensors_.pixel_bytes) + "), to one float output (batch, " +
                                   std::to_string(tensors_.dim) + ")");
    };
    if (session_.GetInputCount() != 1 || session_.GetOutputCount() != 1) refuse();
    const Ort::TypeInfo input = session_.GetInputTypeInfo(0), output = session_.GetOutputTypeInfo(0);
    if (input.GetONNXType() != ONNX_TYPE_TENSOR || output.GetONNXType() != ONNX_TYPE_TENSOR) refuse();
    const auto in = input.GetTensorTypeAndShapeInfo(), out = output.GetTensorTypeAndShapeInfo();
    const std::vector<std::int64_t> sides = in.GetShape(), rows = out.GetShape();
    const auto is = [](std::int64_t side, std::size_t wanted) { return side == static_cast<std::int64_t>(wanted); };
    const bool fits = session_.GetInputNameAllocated(0, allocator).get() == std::string(kInput) &&
                      in.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 &&
                      out.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && sides.size() == 4 &&
                      is(sides[1], tensors_.height) && is(sides[2], tensors_.width) &&
                      is(sides[3], tensors_.pixel_bytes) && rows.size() == 2 &&
                      (rows[1] < 0 || is(rows[1], tensors_.dim));
    if (!fits) refuse();
    if (sides[0] >= 0) {
      throw Error(Code::input,
                  path_ + " accepts batches of " + std::to_string(sides[0]) + " alone: export it with a dynamic batch");
    }
    output_ = session_.GetOutputNameAllocated(0, allocator).get();
  }

  std::string path_;
  Tensors tensors_;
  std::string provider_, output_;
  Ort::Session session_;
};

}  // namespace

bool has_provider(const std::string& provider) {
  (void)environment();
  const std::vector<std::string> found = Ort::GetAvailableProviders();
  return std::find(found.begin(), found.end(), provider + "ExecutionProvider") != found.end();
}

std::unique_ptr<Backend> open_onnxruntime(const std::string& onnx_path, const Tensors& tensors,
                                          const std::string& provider, int threads, bool for_tensorrt) {
  return std::make_unique<OnnxBackend>(onnx_path, tensors, provider, threads, for_tensorrt);
}

}  // namespace byolt
