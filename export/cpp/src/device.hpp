#pragma once

#include <optional>

namespace byolt {

/// Compute capability of the first GPU, 87 for 8.7, asked of the driver's own library; nothing where there is none.
std::optional<int> gpu_capability();

}  // namespace byolt
