#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace byolt {

/// How a JPEG or PNG file's EXIF says that it lies, 1 (upright) to 8; 1 where it says nothing that makes sense.
int exif_orientation(const std::string& file);

/// Pixels (height, width, 3) turned upright; width and height become those of the turned image.
std::vector<std::uint8_t> turned_upright(const std::uint8_t* pixels, std::size_t& width, std::size_t& height,
                                         int orientation);

}  // namespace byolt
