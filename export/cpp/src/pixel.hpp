#pragma once

#include <cstddef>
#include <cstdint>

#include "byolt/image.hpp"

// The arithmetic of one pixel on its way from a frame to a square, for host and device alike: integers alone, so that
// both give the same bytes.
#ifdef __CUDACC__
#define BYOLT_ANYWHERE __host__ __device__
#else
#define BYOLT_ANYWHERE
#endif

namespace byolt {

inline constexpr int kWeightBits = 22;
inline constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

/// The part of a frame that is read: pixels of all of it, and where the part begins.
struct FrameWindow {
  const std::uint8_t *pixels, *chroma;
  std::size_t stride, left, top, width, height;
  Format format;
};

/// `Axis` of resize.hpp, wherever its tables lie.
struct AxisTable {
  const std::int32_t *first, *count, *weights;
  std::size_t taps;
};

BYOLT_ANYWHERE inline std::uint8_t clip(std::int32_t value) {
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

/// Y, U and V of BT.601, video range, as RGB.
BYOLT_ANYWHERE inline void yuv_to_rgb(std::uint8_t y, std::uint8_t u, std::uint8_t v, std::uint8_t* rgb) {
  const std::int32_t luma = 298 * (y - 16) + 128, blue = u - 128, red = v - 128;
  rgb[0] = clip((luma + 409 * red) >> 8);
  rgb[1] = clip((luma - 100 * blue - 208 * red) >> 8);
  rgb[2] = clip((luma + 516 * blue) >> 8);
}

/// Pixel (x, y) of the window as RGB.
BYOLT_ANYWHERE inline void read_pixel(const FrameWindow& frame, std::size_t x, std::size_t y, std::uint8_t* rgb) {
  x += frame.left, y += frame.top;
  if (frame.format == Format::nv12) {
    const std::uint8_t* uv = frame.chroma + y / 2 * frame.stride + x / 2 * 2;
    return yuv_to_rgb(frame.pixels[y * frame.stride + x], uv[0], uv[1], rgb);
  }
  const std::uint8_t* from = frame.pixels + y * frame.stride + x * 3;
  const std::size_t red = frame.format == Format::bgr ? 2 : 0;
  rgb[0] = from[red], rgb[1] = from[1], rgb[2] = from[2 - red];
}

/// Pixel k of row y after the pass across, as RGB.
BYOLT_ANYWHERE inline void narrow_pixel(const FrameWindow& frame, const AxisTable& across, std::size_t k, std::size_t y,
                                        std::uint8_t* out) {
  std::int32_t sums[3] = {kHalf, kHalf, kHalf};
  for (std::int32_t i = 0; i < across.count[k]; ++i) {
    std::uint8_t rgb[3];
    read_pixel(frame, static_cast<std::size_t>(across.first[k]) + static_cast<std::size_t>(i), y, rgb);
    for (int c = 0; c < 3; ++c) sums[c] += rgb[c] * across.weights[k * across.taps + static_cast<std::size_t>(i)];
  }
  for (int c = 0; c < 3; ++c) out[c] = clip(sums[c] >> kWeightBits);
}

/// Byte x of row k after the pass down; `narrowed` has rows of `row` bytes.
BYOLT_ANYWHERE inline std::uint8_t shorten_byte(const std::uint8_t* narrowed, std::size_t row, const AxisTable& down,
                                                std::size_t x, std::size_t k) {
  std::int32_t sum = kHalf;
  for (std::int32_t i = 0; i < down.count[k]; ++i) {
    sum += narrowed[(static_cast<std::size_t>(down.first[k]) + static_cast<std::size_t>(i)) * row + x] *
           down.weights[k * down.taps + static_cast<std::size_t>(i)];
  }
  return clip(sum >> kWeightBits);
}

}  // namespace byolt
