#pragma once

#include <memory>
#include <string>

#include "backend.hpp"
#include "bundle.hpp"
#include "byolt/encoder.hpp"

namespace byolt {

struct Opened {
  std::unique_ptr<Backend> backend;
  Description description;
};

/// The best file of a bundle for this machine, opened; what is asked for by name is never replaced.
/// @throws Error(input) a file is damaged; Error(missing) nothing that may run here was found, and why not
Opened open_best(const Bundle& bundle, const Options& options);

/// What a contract promises its runtime.
Tensors tensors_of(const Contract& contract);

/// Why a file that is proven in OpenVINO alone does not run here.
std::string why_not_here(const OnnxEntry& entry);

/// Why an engine cannot run on this machine; empty where it can.
std::string why_engine_cannot_run(const EngineEntry& entry);

}  // namespace byolt
