#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "backend.hpp"
#include "build_progress.hpp"

namespace byolt {

struct BuildOptions {
  std::size_t opt_batch = 1;         ///< what the engine is tuned for, at most the tensors' max_batch
  std::size_t workspace_mib = 1024;  ///< most scratch memory that a layer may use
  std::string timing_cache;          ///< file of measured times, kept for the same build again; empty: none
  Progress progress;
};

struct BuiltEngine {
  std::string plan;
  std::string timings;  ///< of kernels: "none" are kept, "new", or "reused" from an earlier build
  double seconds = 0;
};

/// A strongly typed engine for this machine's GPU: each layer in the graph's own precision, fp32 without TF32. Nothing
/// where `progress` ended the build.
/// @param name of the ONNX file, for sentences
/// @throws Error(missing) no GPU answers; Error(input) the bytes are no encoder of a bundle; Error(machine) TensorRT
/// does not take the graph, or does not build it
std::optional<BuiltEngine> build_engine(const std::string& name, const std::string& onnx, const Tensors& tensors,
                                        const BuildOptions& options);

}  // namespace byolt
