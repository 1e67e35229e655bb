#include "byolt/image_file.hpp"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace byolt {
namespace {

constexpr int kMostPixels = 100'000'000;  // A file of a few kilobytes can announce gigabytes.

}  // namespace

ImageFile::ImageFile(const std::string& path) : pixels_(nullptr, stbi_image_free) {
  int width = 0, height = 0, channels = 0;
  const bool known = stbi_info(path.c_str(), &width, &height, &channels) != 0;
  if (known && width > kMostPixels / height) {
    throw Error(Code::input, path + " has more than 100 megapixels: make it smaller");
  }
  if (known) pixels_.reset(stbi_load(path.c_str(), &width, &height, &channels, 3));
  if (pixels_ == nullptr) {
    throw Error(Code::input, path + " cannot be read as JPEG or PNG (" + stbi_failure_reason() + ")");
  }
  width_ = static_cast<std::size_t>(width);
  height_ = static_cast<std::size_t>(height);
}

}  // namespace byolt
