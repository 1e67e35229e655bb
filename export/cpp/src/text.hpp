#pragma once

#include <cstdio>
#include <string>

namespace byolt {

inline std::string format_number(const char* format, double value) {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// Untrusted text as part of a sentence: printable ASCII in one line, of at most 300 characters.
inline std::string quoted(const std::string& text) {
  constexpr std::size_t kLongest = 300;
  std::string kept = text.substr(0, kLongest);
  for (char& letter : kept) {
    if (letter < ' ' || letter > '~') letter = '?';
  }
  return text.size() > kLongest ? kept + "..." : kept;
}

/// Two digits, as a verdict writes errors.
inline std::string short_number(double value) { return format_number("%.2g", value); }

/// Six digits, as a verdict writes shares.
inline std::string long_number(double value) { return format_number("%.6g", value); }

}  // namespace byolt
