#pragma once

#include <algorithm>
#include <byolt/encoder.hpp>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

/// JPEG and PNG files below a folder, in order.
inline std::vector<std::string> image_files(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code trouble;
  std::vector<std::string> found;
  for (fs::recursive_directory_iterator entry(folder, trouble), end; !trouble && entry != end;
       entry.increment(trouble)) {
    std::error_code unknown;
    if (!entry->is_regular_file(unknown)) continue;  // A folder may be named as a picture is.
    std::string suffix = entry->path().extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
    if (suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png") found.push_back(entry->path().string());
  }
  if (trouble) throw byolt::Error(byolt::Code::input, folder + " cannot be read: " + trouble.message());
  if (found.empty()) throw byolt::Error(byolt::Code::input, folder + " holds no JPEG or PNG file: name another folder");
  std::sort(found.begin(), found.end());
  return found;
}

/// Bytes from `place` that make one character which ends a line or moves a terminal's cursor; 0: it does neither.
inline std::size_t control_bytes(const std::string& text, std::size_t place) {
  const auto byte = static_cast<unsigned char>(text[place]);
  if (byte < 0x20 || byte == 0x7F) return 1;
  const bool is_c1 = byte == 0xC2 && place + 1 < text.size() && static_cast<unsigned char>(text[place + 1]) < 0xA0;
  if (is_c1) return 2;
  return text.compare(place, 3, "\xe2\x80\xa8") == 0 || text.compare(place, 3, "\xe2\x80\xa9") == 0 ? 3 : 0;
}

/// A text as one cell of a row with tabs between cells: what would end the cell or the row, or move a terminal's
/// cursor, is written as in C, and so are `"` and `\`.
inline std::string cell(const std::string& text) {
  constexpr const char* kHex = "0123456789abcdef";
  std::string found;
  for (std::size_t place = 0; place < text.size();) {
    const std::size_t hidden = control_bytes(text, place);
    for (std::size_t end = place + hidden; place < end; ++place) {
      const auto byte = static_cast<unsigned char>(text[place]);
      const std::string hex = {'x', kHex[byte >> 4], kHex[byte & 15]};
      found += "\\" + (byte == '\n' ? "n" : byte == '\t' ? "t" : byte == '\r' ? "r" : hex);
    }
    if (hidden != 0) continue;
    if (text[place] == '\\' || text[place] == '"') found += '\\';
    found += text[place++];
  }
  return found;
}

/// The class of the largest score.
inline const std::string& best_class(const byolt::Description& about, byolt::Span<const float> scores) {
  return about.classes[static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin())];
}

/// A program's body, with its errors as a sentence and an exit code.
template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const byolt::Error& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return static_cast<int>(byolt::Code::machine);
  }
}
