#pragma once

#include <cstddef>
#include <cstdint>

namespace byolt {

/// How a frame's bytes are laid out.
enum class Format {
  rgb,     ///< 3 bytes a pixel: red, green, blue
  bgr,     ///< 3 bytes a pixel: blue, green, red
  nv12,    ///< a plane of luma, then one of interleaved U and V at half the size: BT.601, video range; even sides
  grey8,   ///< 1 byte a pixel, for a bundle of grey images of 8 bits
  grey16,  ///< 2 bytes a pixel, the low one first, for one of 10 to 16 bits: the values as the camera counts them
};

/// A raw frame in host memory. byolt reads it during a call and keeps no pointer to it.
struct Image {
  const std::uint8_t* pixels = nullptr;
  std::size_t width = 0;         ///< pixels
  std::size_t height = 0;        ///< pixels
  std::size_t stride_bytes = 0;  ///< from one row to the next below it; 0: rows without a gap
  Format format = Format::rgb;
  const std::uint8_t* chroma = nullptr;  ///< NV12's second plane, of the same stride; null: right after the first
};

/// A view of values that it does not own.
template <typename Value>
class Span {
 public:
  constexpr Span() = default;
  constexpr Span(Value* data, std::size_t size) : data_(data), size_(size) {}

  [[nodiscard]] constexpr Value* data() const { return data_; }
  [[nodiscard]] constexpr std::size_t size() const { return size_; }
  [[nodiscard]] constexpr Value* begin() const { return data_; }
  [[nodiscard]] constexpr Value* end() const { return data_ + size_; }
  constexpr Value& operator[](std::size_t index) const { return data_[index]; }

 private:
  Value* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace byolt
