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
    std::string suffix = entry->path().extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
    if (suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png") found.push_back(entry->path().string());
  }
  if (trouble) throw byolt::Error(byolt::Code::input, folder + " cannot be read: " + trouble.message());
  if (found.empty()) throw byolt::Error(byolt::Code::input, folder + " holds no JPEG or PNG file: name another folder");
  std::sort(found.begin(), found.end());
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
