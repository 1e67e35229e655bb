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

/// Bytes of a pixel in the images that frames of a format become.
BYOLT_ANYWHERE inline std::size_t pixel_bytes(Format format) {
  return format == Format::grey8 ? 1 : format == Format::grey16 ? 2 : 3;
}

/// A value of one byte, or of two with the low one first, and what holds a sum of such values times weights.
template <std::size_t kBytes>
struct Sample;
template <>
struct Sample<1> {
  using Sum = std::int32_t;
  BYOLT_ANYWHERE static Sum load(const std::uint8_t* from) { return *from; }
  BYOLT_ANYWHERE static void store(Sum value, std::uint8_t* to) { *to = clip(value); }
};
template <>
struct Sample<2> {
  using Sum = std::int64_t;
  BYOLT_ANYWHERE static Sum load(const std::uint8_t* from) { return from[0] | from[1] << 8; }
  BYOLT_ANYWHERE static void store(Sum value, std::uint8_t* to) {
    const auto clipped = static_cast<std::uint16_t>(value < 0 ? 0 : value > 65535 ? 65535 : value);
    to[0] = static_cast<std::uint8_t>(clipped & 255), to[1] = static_cast<std::uint8_t>(clipped >> 8);
  }
};

/// Y, U and V of BT.601, video range, as RGB.
BYOLT_ANYWHERE inline void yuv_to_rgb(std::uint8_t y, std::uint8_t u, std::uint8_t v, std::uint8_t* rgb) {
  const std::int32_t luma = 298 * (y - 16) + 128, blue = u - 128, red = v - 128;
  rgb[0] = clip((luma + 409 * red) >> 8);
  rgb[1] = clip((luma - 100 * blue - 208 * red) >> 8);
  rgb[2] = clip((luma + 516 * blue) >> 8);
}

/// Pixel (x, y) of the window of a colour frame as RGB.
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

/// The sum of `count` samples times their weights, rounded, of which each lies `step` bytes behind the one before.
template <std::size_t kBytes>
BYOLT_ANYWHERE inline void weigh(const std::uint8_t* from, std::size_t step, const std::int32_t* weights,
                                 std::int32_t count, std::uint8_t* out) {
  typename Sample<kBytes>::Sum sum = kHalf;
  for (std::int32_t i = 0; i < count; ++i, from += step) sum += Sample<kBytes>::load(from) * weights[i];
  Sample<kBytes>::store(sum >> kWeightBits, out);
}

/// Pixel k of row y after the pass across.
BYOLT_ANYWHERE inline void narrow_pixel(const FrameWindow& frame, const AxisTable& across, std::size_t k, std::size_t y,
                                        std::uint8_t* out) {
  if (const std::size_t bytes = pixel_bytes(frame.format); bytes < 3) {
    const std::size_t x = frame.left + static_cast<std::size_t>(across.first[k]);
    const std::uint8_t* from = frame.pixels + (frame.top + y) * frame.stride + x * bytes;
    const std::int32_t* weights = across.weights + k * across.taps;
    return bytes == 1 ? weigh<1>(from, 1, weights, across.count[k], out)
                      : weigh<2>(from, 2, weights, across.count[k], out);
  }
  std::int32_t sums[3] = {kHalf, kHalf, kHalf};
  for (std::int32_t i = 0; i < across.count[k]; ++i) {
    std::uint8_t rgb[3];
    read_pixel(frame, static_cast<std::size_t>(across.first[k]) + static_cast<std::size_t>(i), y, rgb);
    for (int c = 0; c < 3; ++c) sums[c] += rgb[c] * across.weights[k * across.taps + static_cast<std::size_t>(i)];
  }
  for (int c = 0; c < 3; ++c) out[c] = clip(sums[c] >> kWeightBits);
}

/// Sample x of row k after the pass down; rows, here and in `out`, have `row` bytes.
template <std::size_t kBytes>
BYOLT_ANYWHERE inline void shorten_sample(const std::uint8_t* narrowed, std::size_t row, const AxisTable& down,
                                          std::size_t x, std::size_t k, std::uint8_t* out) {
  const std::uint8_t* from = narrowed + static_cast<std::size_t>(down.first[k]) * row + x * kBytes;
  weigh<kBytes>(from, row, down.weights + k * down.taps, down.count[k], out + k * row + x * kBytes);
}

}  // namespace byolt
