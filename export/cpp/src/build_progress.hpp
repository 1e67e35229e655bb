#pragma once

#include <NvInfer.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace byolt {

/// Called with the step and the share done; false ends the build at its next step.
using Progress = std::function<bool(const std::string& phase, double share)>;

/// Nested phases of steps as one share done, which never falls.
class Phases {
 public:
  void start(const std::string& name, const std::string& parent, int steps);
  double step(const std::string& name, int index);
  void finish(const std::string& name) { open_.erase(name); }

 private:
  struct Phase {
    std::string parent;  // Empty: none.
    int steps, done;
  };
  [[nodiscard]] double share_of(const std::string& name) const;

  std::map<std::string, Phase> open_;
  double share_ = 0;
};

/// What TensorRT tells of a build, from any of its threads.
class Monitor final : public nvinfer1::IProgressMonitor {
 public:
  explicit Monitor(Progress progress) : progress_(std::move(progress)) {}

  void phaseStart(const char* phase, const char* parent, std::int32_t steps) noexcept override;
  bool stepComplete(const char* phase, std::int32_t step) noexcept override;
  void phaseFinish(const char* phase) noexcept override;

  /// Whether `progress` ended the build.
  [[nodiscard]] bool stopped() const;

 private:
  Progress progress_;
  Phases phases_;
  bool stopped_ = false;
  mutable std::mutex lock_;
};

}  // namespace byolt
