#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace byolt {

/// What kind of fault it is; the number is the exit code that byolt's programs end with.
enum class Code { machine = 1, input = 2, parity = 4, missing = 5 };

/// The one exception that byolt throws. `what()` is a sentence: where, what, the way out.
class Error : public std::runtime_error {
 public:
  Error(Code code, std::string sentence) : std::runtime_error(one_line(std::move(sentence))), code_(code) {}

  [[nodiscard]] Code code() const noexcept { return code_; }
  [[nodiscard]] int exit_code() const noexcept { return static_cast<int>(code_); }

 private:
  /// A sentence may quote an untrusted file: no control character of it reaches a terminal.
  static std::string one_line(std::string text) {
    for (char& letter : text) {
      if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F) letter = ' ';
    }
    return text;
  }

  Code code_;
};

}  // namespace byolt
