#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace byolt {

#ifdef BYOLT_ONNXRUNTIME
/// ONNX Runtime called as its own documentation does it: what byolt's calls are compared with.
class PlainOnnxRuntime {
 public:
  PlainOnnxRuntime(const std::string& path, std::size_t height, std::size_t width, std::size_t pixel_bytes,
                   int threads);
  ~PlainOnnxRuntime();

  /// Run `batch` images (batch, height, width, pixel_bytes).
  void run(const std::uint8_t* images, std::size_t batch);

 private:
  struct State;
  std::unique_ptr<State> state_;
};
#else
/// Never made: without ONNX Runtime nothing runs on the CPU that could be compared.
class PlainOnnxRuntime {
 public:
  void run(const std::uint8_t*, std::size_t) {}
};
#endif

}  // namespace byolt
