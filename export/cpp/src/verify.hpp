#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"
#include "parity.hpp"

namespace byolt {

/// One file of a bundle, run by one provider of ONNX Runtime or by TensorRT.
struct FileReport {
  std::string name, precision, provider;
  bool is_engine = false;
  Parity parity;
};

struct Report {
  std::vector<FileReport> files;

  /// `failed` if any file failed; `passed` if every ONNX file passed somewhere; else `not run here`.
  [[nodiscard]] std::string verdict() const;
  /// Why it did not pass, in one line; empty when it did.
  [[nodiscard]] std::string reason() const;
};

/// Run every file of a bundle on its golden images and judge it, as `byolt verify` does.
/// @param providers "CPU", "CUDA"; empty: the CPU, and CUDA where a GPU answers and ONNX Runtime can use it; a file
///   that is placed for a CPU runs on no GPU
/// @throws Error(input) the bundle is missing, damaged, or not what its manifest says
Report verify(const Bundle& bundle, std::vector<std::string> providers, int threads);

/// What to write into the manifest about engines that really ran.
std::vector<EngineVerdict> engine_verdicts(const Report& report);

}  // namespace byolt
