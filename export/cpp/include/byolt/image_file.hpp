#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "byolt/error.hpp"
#include "byolt/image.hpp"

namespace byolt {

/// A JPEG or PNG file decoded to RGB, for programs that have files instead of a camera; link `byolt::files`.
/// Transparency is left out, and a photo is not turned by its EXIF orientation.
class ImageFile {
 public:
  /// @throws Error(input) the file is missing, no image, or larger than 100 megapixels
  explicit ImageFile(const std::string& path);

  /// A view of the pixels, which this object owns.
  [[nodiscard]] Image image() const { return {pixels_.get(), width_, height_, width_ * 3, Format::rgb, nullptr}; }

 private:
  std::unique_ptr<std::uint8_t, void (*)(void*)> pixels_;
  std::size_t width_ = 0, height_ = 0;
};

}  // namespace byolt
