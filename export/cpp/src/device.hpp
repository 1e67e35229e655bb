#pragma once

#include <optional>
#include <string>

namespace byolt {

/// Compute capability of the first GPU, 87 for 8.7, asked of the driver's own library; nothing where there is none.
std::optional<int> gpu_capability();

/// Its name, as the driver's library tells it.
std::optional<std::string> gpu_name();

}  // namespace byolt
