#include "build_progress.hpp"

#include <algorithm>
#include <exception>
#include <set>

namespace byolt {

void Phases::start(const std::string& name, const std::string& parent, int steps) {
  open_[name] = {parent, std::max(steps, 1), 0};
}

double Phases::step(const std::string& name, int index) {
  if (const auto phase = open_.find(name); phase != open_.end()) phase->second.done = index + 1;
  share_ = std::max(share_, std::min(share_of(name), 1.0));
  return share_;
}

// Of the whole, seen from the innermost phase outwards.
double Phases::share_of(const std::string& name) const {
  double share = 0;
  std::set<std::string> seen;
  for (auto phase = open_.find(name); phase != open_.end() && seen.insert(phase->first).second;) {
    share = (phase->second.done + share) / phase->second.steps;
    if (phase->second.parent.empty()) return share;
    phase = open_.find(phase->second.parent);
  }
  return 0;
}

// Nothing may be thrown through TensorRT: a progress that cannot be kept is no reason to end a build.
void Monitor::phaseStart(const char* phase, const char* parent, std::int32_t steps) noexcept {
  try {
    const std::lock_guard<std::mutex> guard(lock_);
    phases_.start(phase, parent == nullptr ? "" : parent, steps);
  } catch (const std::exception&) {
  }
}

bool Monitor::stepComplete(const char* phase, std::int32_t step) noexcept {
  try {
    const std::lock_guard<std::mutex> guard(lock_);
    const double share = phases_.step(phase, step);
    if (!stopped_ && progress_ && !progress_(phase, share)) stopped_ = true;
    return !stopped_;
  } catch (const std::exception&) {
    return true;
  }
}

void Monitor::phaseFinish(const char* phase) noexcept {
  try {
    const std::lock_guard<std::mutex> guard(lock_);
    phases_.finish(phase);
  } catch (const std::exception&) {
  }
}

bool Monitor::stopped() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return stopped_;
}

}  // namespace byolt
