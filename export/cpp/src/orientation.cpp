#include "orientation.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace byolt {
namespace {

using std::string_view;

constexpr std::size_t kOrientationTag = 0x0112, kEntryBytes = 12, kShort = 3;

/// A number of some bytes; 0 beyond the end.
std::size_t number_at(string_view bytes, std::size_t place, std::size_t size, bool big_endian) {
  if (place > bytes.size() || size > bytes.size() - place) return 0;
  std::size_t value = 0;
  for (std::size_t k = 0; k < size; ++k) {
    value = value << 8 | static_cast<std::uint8_t>(bytes[place + (big_endian ? k : size - 1 - k)]);
  }
  return value;
}

/// The orientation in the first directory of a TIFF structure, which is what EXIF is.
int tiff_orientation(string_view tiff) {
  const bool big_endian = tiff.substr(0, 2) == "MM";
  if (!big_endian && tiff.substr(0, 2) != "II") return 1;
  const std::size_t directory = number_at(tiff, 4, 4, big_endian);
  const std::size_t entries = number_at(tiff, directory, 2, big_endian);
  for (std::size_t k = 0; k < entries; ++k) {
    const std::size_t entry = directory + 2 + k * kEntryBytes;
    if (entry >= tiff.size()) break;
    if (number_at(tiff, entry, 2, big_endian) != kOrientationTag) continue;
    if (number_at(tiff, entry + 2, 2, big_endian) != kShort) break;
    const std::size_t value = number_at(tiff, entry + 8, 2, big_endian);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

int jpeg_orientation(string_view file) {
  const string_view mark("Exif\0\0", 6);
  for (std::size_t place = 2; place + 4 <= file.size() && file[place] == '\xff';) {
    const char kind = file[place + 1];
    const std::size_t length = number_at(file, place + 2, 2, true);
    if (kind == '\xda' || length < 2) break;  // The pixels start: nothing about the image follows.
    const string_view segment = file.substr(place + 4, length - 2);
    if (kind == '\xe1' && segment.substr(0, mark.size()) == mark) return tiff_orientation(segment.substr(mark.size()));
    place += 2 + length;
  }
  return 1;
}

int png_orientation(string_view file) {
  for (std::size_t place = 8; place + 12 <= file.size();) {
    const std::size_t length = number_at(file, place, 4, true);
    if (file.substr(place + 4, 4) == "eXIf") return tiff_orientation(file.substr(place + 8, length));
    place += 12 + length;
  }
  return 1;
}

}  // namespace

int exif_orientation(const std::string& file) {
  if (file.compare(0, 2, "\xff\xd8") == 0) return jpeg_orientation(file);
  if (file.compare(0, 4, "\x89PNG") == 0) return png_orientation(file);
  return 1;
}

std::vector<std::uint8_t> turned_upright(const std::uint8_t* pixels, std::size_t& width, std::size_t& height,
                                         int orientation) {
  const bool swapped = orientation >= 5;  // Rows become columns.
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const std::size_t out_width = swapped ? height : width, out_height = swapped ? width : height;
  std::vector<std::uint8_t> upright(width * height * 3);
  std::uint8_t* to = upright.data();
  for (std::size_t y = 0; y < out_height; ++y) {
    for (std::size_t x = 0; x < out_width; ++x, to += 3) {
      const std::size_t column = swapped ? y : x, row = swapped ? x : y;
      const std::size_t from_x = from_right ? width - 1 - column : column;
      const std::size_t from_y = from_bottom ? height - 1 - row : row;
      std::copy_n(pixels + (from_y * width + from_x) * 3, 3, to);
    }
  }
  width = out_width;
  height = out_height;
  return upright;
}

}  // namespace byolt
