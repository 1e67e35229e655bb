#pragma once

#include <vector>

#include "verify.hpp"

namespace byolt {

/// How fast the files that passed are on this machine, at batch 1 and at the batch that the bundle is tuned for, beside
/// fp32 in rounds that take turns: as `byolt verify` measures it. A single file has nothing to be compared with.
/// @param threads CPU threads of one call; 0: one a core
std::vector<Speed> time_files(const Bundle& bundle, const Report& report, int threads);

/// `measured`, after those of other runtimes, machines and threads; of too many the latest.
std::vector<Speed> merged_speeds(const std::vector<Speed>& earlier, const std::vector<Speed>& measured);

}  // namespace byolt
