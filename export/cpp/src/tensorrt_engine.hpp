#pragma once

#include <NvInfer.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "backend.hpp"
#include "gpu.hpp"

namespace byolt {

/// A deserialised plan of a bundle: shared by its sessions and never changed after it was loaded.
class TensorRtEngine {
 public:
  /// Code for the host inside a plan is never run. TensorRT notices no flipped bit in a plan: compare its digest first.
  /// @param name of the file, for sentences
  /// @throws Error(missing) no GPU answers; Error(input) the plan is none of this bundle's; Error(machine) TensorRT
  /// does not load it here
  TensorRtEngine(std::string name, const void* plan, std::size_t bytes, const Tensors& tensors);

  /// A context without memory of its own, for one thread. Safe from several threads at once.
  /// @throws Error(machine) TensorRT gives none
  [[nodiscard]] std::unique_ptr<nvinfer1::IExecutionContext> context() const;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const Tensors& tensors() const { return tensors_; }
  [[nodiscard]] const Gpu& gpu() const { return gpu_; }
  [[nodiscard]] const std::string& input() const { return input_; }
  [[nodiscard]] const std::string& output() const { return output_; }
  [[nodiscard]] std::size_t scratch_bytes() const;

  /// @throws Error(machine) with TensorRT's reason; `what` goes on from the file's name
  [[noreturn]] void refuse(const std::string& what, const char* way_out = kBuildAgain) const;

  static constexpr const char* kBuildAgain = "build it again on this machine with `byolt-build-engine`";

 private:
  void find_names();
  void compare_shapes() const;

  std::string name_;
  Tensors tensors_;
  Gpu gpu_;
  std::string input_, output_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // Outlives its engine.
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  mutable std::mutex lock_;
};

/// A backend from a plan in memory, after the caller compared its digest.
std::unique_ptr<Backend> load_tensorrt(const std::string& name, const void* plan, std::size_t bytes,
                                       const Tensors& tensors);

}  // namespace byolt
