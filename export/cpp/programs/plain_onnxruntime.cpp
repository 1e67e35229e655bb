#include "plain_onnxruntime.hpp"

#include <onnxruntime_cxx_api.h>

#include <array>

namespace byolt {

struct PlainOnnxRuntime::State {
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "plain"};
  Ort::Session session{nullptr};
  std::size_t height = 0, width = 0, pixel_bytes = 0;
  std::string output;
};

PlainOnnxRuntime::PlainOnnxRuntime(const std::string& path, std::size_t height, std::size_t width,
                                   std::size_t pixel_bytes, int threads)
    : state_(std::make_unique<State>()) {
  Ort::SessionOptions options;
  if (threads > 0) options.SetIntraOpNumThreads(threads);
  state_->session = Ort::Session(state_->env, path.c_str(), options);
  state_->output = state_->session.GetOutputNameAllocated(0, Ort::AllocatorWithDefaultOptions()).get();
  state_->height = height;
  state_->width = width;
  state_->pixel_bytes = pixel_bytes;
}

PlainOnnxRuntime::~PlainOnnxRuntime() = default;

void PlainOnnxRuntime::run(const std::uint8_t* images, std::size_t batch) {
  const auto side = [](std::size_t value) { return static_cast<std::int64_t>(value); };
  const std::array<std::int64_t, 4> shape = {side(batch), side(state_->height), side(state_->width),
                                             side(state_->pixel_bytes)};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  // The API takes what it only reads as mutable.
  const Ort::Value input = Ort::Value::CreateTensor<std::uint8_t>(
      memory, const_cast<std::uint8_t*>(images), batch * state_->height * state_->width * state_->pixel_bytes,
      shape.data(), shape.size());
  const char *name = "images", *output = state_->output.c_str();
  const auto outputs = state_->session.Run(Ort::RunOptions{nullptr}, &name, &input, 1, &output, 1);
}

}  // namespace byolt
