#pragma once

#include <stdexcept>
#include <string>

namespace byolt {

/// What kind of fault it is; the number is the exit code that byolt's programs end with.
enum class Code { machine = 1, input = 2, parity = 4, missing = 5 };

/// The one exception that byolt throws. `what()` is a sentence: where, what, the way out.
class Error : public std::runtime_error {
 public:
  /// A sentence may quote an untrusted file: no character of it ends the line or moves a terminal's cursor.
  Error(Code code, const std::string& sentence);

  [[nodiscard]] Code code() const noexcept { return code_; }
  [[nodiscard]] int exit_code() const noexcept { return static_cast<int>(code_); }

 private:
  Code code_;
};

}  // namespace byolt
