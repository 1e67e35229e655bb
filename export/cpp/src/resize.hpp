#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "byolt/image.hpp"
#include "pixel.hpp"

namespace byolt {

/// How a frame becomes a square: `crop` cuts out the centre square of the shorter side, `squash` takes all of it.
enum class Rule { crop, squash };

/// Weights of one axis: output k is the sum of `weights[k * taps + i] * source[first[k] + i]`, i < count[k], in fixed
/// point of `kWeightBits` bits, rounded to nearest. The CUDA kernel takes the same table, so both give the same bytes.
struct Axis {
  std::size_t taps = 0;
  std::vector<std::int32_t> first, count, weights;
};

/// Antialiased triangle filter of Pillow's BILINEAR from `from` to `to` pixels, in its fixed point.
void fill_axis(Axis& axis, std::size_t from, std::size_t to);

/// What the images of a bundle are made of.
struct Samples {
  std::size_t channels = 3, bit_depth = 8;

  [[nodiscard]] std::size_t bytes() const { return bit_depth > 8 ? 2 : 1; }
  [[nodiscard]] std::size_t pixel_bytes() const { return channels * bytes(); }
  [[nodiscard]] std::size_t white() const { return (std::size_t{1} << bit_depth) - 1; }
  bool operator==(const Samples& other) const { return channels == other.channels && bit_depth == other.bit_depth; }
};

/// @throws Error(input) frames of this format are no images of a bundle whose pixels have so many bytes
void check_format(Format format, std::size_t wanted_bytes);

/// The part of a frame that the rule keeps.
struct Window {
  std::size_t left, top, width, height;
};
Window window_of(std::size_t width, std::size_t height, Rule rule);

/// A frame with the part of it that the rule keeps.
/// @throws Error(input) for a frame whose sizes do not fit
FrameWindow frame_of(const Image& image, Rule rule);

/// Frames into squares (size, size, channels), RGB or grey, as the training saw them: of bytes what Pillow gives, of 16
/// bits what the same arithmetic does. One a thread; buffers and weights are kept, so that the second frame of a size
/// allocates nothing.
class Resizer {
 public:
  Resizer(std::size_t size_px, Rule rule, Samples samples = {}) : size_(size_px), rule_(rule), samples_(samples) {}

  /// @throws Error(input) for a frame whose sizes do not fit
  void operator()(const Image& image, std::uint8_t* square);

 private:
  void narrow(const std::uint8_t* pixels, std::size_t stride, std::size_t rows, bool swap);
  template <std::size_t kBytes>
  void narrow_grey(const std::uint8_t* pixels, std::size_t stride, std::size_t rows);

  std::size_t size_;
  Rule rule_;
  Samples samples_;
  std::size_t width_ = 0, height_ = 0;  // Of the window that the weights are for.
  Axis across_, down_;
  std::vector<std::uint8_t> converted_, narrowed_;
  std::vector<std::int32_t> sums_;
  std::vector<std::int64_t> deep_sums_;
};

/// A frame (height, width, channels), RGB or grey, without a gap, in its own size.
/// @throws Error(input) for a frame whose sizes, format or values do not fit
void copy_frame(const Image& image, std::uint8_t* pixels, Samples samples = {});

}  // namespace byolt
