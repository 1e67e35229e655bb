#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "byolt/error.hpp"
#include "resize.hpp"

// The interface between the library and the runtimes below it.
namespace byolt {

/// What the bundle's contract promises: images (max_batch, height, width, pixel_bytes) in, (max_batch, dim) out.
struct Tensors {
  std::size_t height, width, dim, max_batch;
  std::size_t pixel_bytes = 3;  ///< 3 of colour, 1 of grey; twice as many above 8 bits

  [[nodiscard]] std::size_t image_bytes() const { return height * width * pixel_bytes; }
};

/// One thread's context; created by a Backend, which outlives it.
class Session {
 public:
  virtual ~Session() = default;
  /// Host buffer of max_batch x height x width x pixel_bytes to fill; pinned where that helps.
  virtual std::uint8_t* images() = 0;
  /// Runs the first `batch` images; max_batch x dim floats, valid until the next call.
  virtual const float* run(std::size_t batch) = 0;
  /// The same with images and outputs in device memory; throws Error(missing) where the backend has none.
  virtual const float* run_device(const void* device_images, std::size_t batch, void* stream) = 0;
  /// The same for frames of any size and format whose pixels lie in device memory: they are resized there.
  virtual const float* run_device_frames(Span<const Image> frames, Rule rule, void* stream) {
    static_cast<void>(frames), static_cast<void>(rule), static_cast<void>(stream);
    throw Error(Code::missing,
                "frames in device memory need TensorRT: open the bundle's engine, or give frames in host memory");
  }
};

/// One opened file; thread-safe, and its sessions are cheap.
class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual std::string name() const = 0;  // "ONNX Runtime 1.32.0, CPUExecutionProvider"
  virtual std::unique_ptr<Session> session() = 0;
};

/// @param provider "CPU" or "CUDA"
/// @param for_tensorrt the Q/DQ of an int8 file stand where TensorRT fuses them
/// @throws Error(missing) the library or the provider does not work here; Error(input) the file does not fit
std::unique_ptr<Backend> open_onnxruntime(const std::string& onnx_path, const Tensors& tensors,
                                          const std::string& provider, int threads, bool for_tensorrt);

/// Whether the ONNX Runtime that is linked was built with a provider: "CPU", "CUDA".
bool has_provider(const std::string& provider);

#ifdef BYOLT_TENSORRT
std::unique_ptr<Backend> open_tensorrt(const std::string& engine_path, const Tensors& tensors);

/// The version of the TensorRT that is linked, as the manifest writes it: "10.3.0".
std::string tensorrt_version();
#endif

}  // namespace byolt
