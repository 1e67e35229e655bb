#include "byolt/image_file.hpp"

#include <climits>
#include <memory>
#include <new>

#include "files.hpp"
#include "orientation.hpp"

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

std::string read_bytes(const std::string& path) {
  const File file(path, File::Links::follow);
  const std::string fault = !file.size()             ? file.fault()
                            : *file.size() == 0      ? "it is empty"
                            : *file.size() > INT_MAX ? "it is larger than 2 GiB"
                                                     : "";
  if (!fault.empty()) throw Error(Code::input, path + " cannot be read: name a JPEG or PNG file (" + fault + ")");
  return file.content();
}

}  // namespace

ImageFile::ImageFile(const std::string& path) try {
  const std::string file = read_bytes(path);
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const int size = static_cast<int>(file.size());
  int width = 0, height = 0, channels = 0;
  const bool known = stbi_info_from_memory(bytes, size, &width, &height, &channels) != 0 && width > 0 && height > 0;
  if (known && width > kMostPixels / height) {
    throw Error(Code::input, path + " has more than 100 megapixels: make it smaller");
  }
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      known ? stbi_load_from_memory(bytes, size, &width, &height, &channels, 3) : nullptr, stbi_image_free);
  if (pixels == nullptr) {
    throw Error(Code::input, path + " cannot be read as JPEG or PNG (" + stbi_failure_reason() + ")");
  }
  width_ = static_cast<std::size_t>(width);
  height_ = static_cast<std::size_t>(height);
  pixels_ = turned_upright(pixels.get(), width_, height_, exif_orientation(file));
} catch (const std::bad_alloc&) {
  throw Error(Code::machine, path + " needs more memory than this machine has left: make it smaller");
}

}  // namespace byolt
