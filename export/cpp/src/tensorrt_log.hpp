#pragma once

#include <NvInfer.h>

#include <array>
#include <mutex>
#include <string>

namespace byolt {

/// What TensorRT says of its failures: its calls return no more than false or null. It prints nothing.
class Log final : public nvinfer1::ILogger {
 public:
  /// The process's one logger, never destroyed: TensorRT ignores others for as long as any of its objects lives.
  static Log& shared();

  void log(Severity severity, const char* message) noexcept override;

  /// Forget what was said to this thread.
  void clear() noexcept;

  /// Whether this thread was told an error since it asked to forget.
  static bool told() noexcept { return own()[0] != '\0'; }

  /// The first error that this thread was told since it asked to forget, in one line: those after it follow from it.
  /// Where it was told none, the last one of TensorRT's own threads, which is then forgotten.
  std::string reason();

 private:
  using Text = std::array<char, 512>;  // No allocation: the logger must not throw.

  static Text& own();

  std::mutex lock_;
  Text last_{};
};

/// The first line of a log entry without codes and places in its source; empty for chatter about absent GPUs.
std::string plain(const std::string& message);

}  // namespace byolt
