#pragma once

#include <string>

#include "bundle.hpp"

namespace byolt {

/// Wrong models in the order of a verdict; byolt_export/bundle/golden.py says what each is.
inline constexpr const char* kControls[] = {"swapped_channels",    "no_normalisation",    "perturbed_kernel",
                                            "perturbed_kernel_10", "perturbed_kernel_20", "perturbed_kernel_40",
                                            "perturbed_kernel_80", "reinitialised",       "shuffled_rows"};

/// Golden vectors from the bytes of a safetensors file, checked against the manifest.
/// @throws Error(input) the file is damaged, or its tensors are not those that the manifest describes
Golden read_golden(const std::string& content, const std::string& where, const Manifest& manifest);

}  // namespace byolt
