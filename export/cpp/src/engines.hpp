#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"
#include "engine_builder.hpp"

namespace byolt {

struct EngineOptions {
  std::vector<std::string> precisions;  ///< of the ONNX files to build from; none: all that passed
  std::size_t workspace_mib = 1024;
  std::string cache_folder;  ///< of timing caches; empty: none is kept
  /// Called with the engine's name, the step and the share done; false ends the build.
  std::function<bool(const std::string& engine, const std::string& phase, double share)> progress;
};

/// An engine that was added to a bundle, and how it was built.
struct AddedEngine {
  EngineEntry entry;
  std::string timings;
  double seconds = 0;
  std::size_t bytes = 0;
};

/// Build engines into a bundle on the device that will run them; an earlier one of the same name is replaced. Their
/// verdict is `not run here` until byolt-verify has passed. A fault leaves the bundle as it was. Empty where `progress`
/// ended the build.
/// @throws Error(input) the bundle is damaged, or holds no such file that passed; Error(missing) no GPU answers;
/// Error(machine) TensorRT does not build one of them, or a file cannot be written
std::vector<AddedEngine> add_engines(const std::string& folder, const EngineOptions& options);

/// manifest.json with engines added, or replaced by name; everything else as it was.
std::string with_engines(const std::string& text, const std::vector<EngineEntry>& engines, std::size_t workspace_mib);

}  // namespace byolt
