#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "byolt/error.hpp"
#include "byolt/image.hpp"

namespace byolt {

/// A JPEG or PNG file decoded to RGB and turned upright by its EXIF orientation, for programs that have files instead
/// of a camera; link `byolt::files`. Transparency is left out.
class ImageFile {
 public:
  /// @throws Error(input) the file is missing, no plain file, no image, or larger than 100 megapixels
  explicit ImageFile(const std::string& path);

  /// A view of the pixels, which this object owns.
  [[nodiscard]] Image image() const { return {pixels_.data(), width_, height_, 0, Format::rgb, nullptr}; }

 private:
  std::vector<std::uint8_t> pixels_;
  std::size_t width_ = 0, height_ = 0;
};

}  // namespace byolt
