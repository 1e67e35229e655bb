#pragma once

#include <cstdio>
#include <string>

namespace byolt {

inline std::string format_number(const char* format, double value) {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// UTF-8 in one line: a space for each byte of what cannot be seen, acts on a terminal, or is no UTF-8.
std::string visible(std::string text);

/// Untrusted text as part of a sentence: visible, and of at most `limit` bytes.
inline std::string quoted(const std::string& text, std::size_t limit = 300) {
  return visible(text.size() > limit ? text.substr(0, limit) + "..." : text);
}

/// Two digits, as a verdict writes errors.
inline std::string short_number(double value) { return format_number("%.2g", value); }

/// Six digits, as a verdict writes shares.
inline std::string long_number(double value) { return format_number("%.6g", value); }

}  // namespace byolt
