#include "resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "byolt/error.hpp"

namespace byolt {
namespace {

constexpr std::size_t kLongestSide = 32768;        // Keeps every product of sides and strides far from overflow.
constexpr std::size_t kLongestStride = INT32_MAX;  // A negative one, of a frame that goes upwards, lies above.

/// The window as RGB without a gap, in its own size.
void copy_window(const FrameWindow& frame, std::uint8_t* rgb) {
  for (std::size_t y = 0; y < frame.height; ++y) {
    if (frame.format == Format::rgb) {
      std::memcpy(rgb, frame.pixels + (frame.top + y) * frame.stride + frame.left * 3, frame.width * 3);
      rgb += frame.width * 3;
      continue;
    }
    for (std::size_t x = 0; x < frame.width; ++x, rgb += 3) read_pixel(frame, x, y, rgb);
  }
}

}  // namespace

FrameWindow frame_of(const Image& image, Rule rule) {
  if (image.format != Format::rgb && image.format != Format::bgr && image.format != Format::nv12) {
    throw Error(Code::input, "the format " + std::to_string(static_cast<int>(image.format)) +
                                 " of an image is not known: it is rgb, bgr or nv12");
  }
  const std::size_t bytes = image.format == Format::nv12 ? 1 : 3;
  const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
  if (image.pixels == nullptr || image.width == 0 || image.height == 0) {
    throw Error(Code::input, "an image of " + size + " px holds nothing: give pixels, width and height");
  }
  if (image.width > kLongestSide || image.height > kLongestSide) {
    throw Error(Code::input, "an image of " + size + " px is too large: no side may be above 32768 px");
  }
  if (image.stride_bytes > kLongestStride) {
    throw Error(Code::input,
                "a stride of " + std::to_string(image.stride_bytes) +
                    " bytes goes up or too far: rows follow each other downwards; turn a bottom-up frame over");
  }
  const std::size_t stride = image.stride_bytes == 0 ? image.width * bytes : image.stride_bytes;
  if (stride < image.width * bytes) {
    throw Error(Code::input, "a stride of " + std::to_string(stride) + " bytes is too short for rows of " +
                                 std::to_string(image.width) + " px: give bytes from row to row, or 0");
  }
  if (image.format == Format::nv12 && (image.width % 2 != 0 || image.height % 2 != 0)) {
    throw Error(Code::input, "an NV12 image of " + size + " px cannot be: its sides are even");
  }
  const bool follows = image.format == Format::nv12 && image.chroma == nullptr;
  const std::uint8_t* chroma = follows ? image.pixels + stride * image.height : image.chroma;
  const Window window = window_of(image.width, image.height, rule);
  return {image.pixels, chroma, stride, window.left, window.top, window.width, window.height, image.format};
}

void fill_axis(Axis& axis, std::size_t from, std::size_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double reach =
      std::max(scale, 1.0);  // The triangle is as wide as an output pixel, never below one source pixel.
  axis.taps = static_cast<std::size_t>(std::ceil(reach)) * 2 + 1;
  axis.first.resize(to);
  axis.count.resize(to);
  axis.weights.assign(to * axis.taps, 0);
  for (std::size_t k = 0; k < to; ++k) {
    const double centre = (static_cast<double>(k) + 0.5) * scale;
    const auto first = static_cast<std::int32_t>(std::max(centre - reach + 0.5, 0.0));
    const auto end = std::min(static_cast<std::int32_t>(centre + reach + 0.5), static_cast<std::int32_t>(from));
    const auto weight = [&](std::int32_t pixel) {
      return std::max(0.0, 1.0 - std::abs((pixel - centre + 0.5) * (1.0 / reach)));
    };
    double sum = 0;
    for (std::int32_t pixel = first; pixel < end; ++pixel) sum += weight(pixel);
    axis.first[k] = first;
    axis.count[k] = end - first;
    for (std::int32_t pixel = first; pixel < end; ++pixel) {
      axis.weights[k * axis.taps + static_cast<std::size_t>(pixel - first)] =
          static_cast<std::int32_t>(0.5 + weight(pixel) / sum * (1 << kWeightBits));
    }
  }
}

Window window_of(std::size_t width, std::size_t height, Rule rule) {
  if (rule == Rule::squash) return {0, 0, width, height};
  const std::size_t side = std::min(width, height);
  return {(width - side) / 2, (height - side) / 2, side, side};
}

void Resizer::operator()(const Image& image, std::uint8_t* square) {
  const FrameWindow frame = frame_of(image, rule_);
  if (frame.width == size_ && frame.height == size_) return copy_window(frame, square);
  if (frame.width != width_ || frame.height != height_) {
    width_ = height_ = 0;  // Should an allocation fail half-way, the next frame starts afresh.
    fill_axis(across_, frame.width, size_);
    fill_axis(down_, frame.height, size_);
    narrowed_.resize(frame.height * size_ * 3);
    sums_.resize(size_ * 3);
    width_ = frame.width, height_ = frame.height;
  }
  if (frame.format == Format::nv12) {
    converted_.resize(frame.width * frame.height * 3);
    copy_window(frame, converted_.data());
    narrow(converted_.data(), frame.width * 3, frame.height, false);
  } else {
    narrow(frame.pixels + frame.top * frame.stride + frame.left * 3, frame.stride, frame.height,
           frame.format == Format::bgr);
  }
  shorten(square);
}

// Across first, then down, each rounded to bytes, as Pillow does.
void Resizer::narrow(const std::uint8_t* pixels, std::size_t stride, std::size_t rows, bool swap) {
  const std::size_t red = swap ? 2 : 0, blue = 2 - red;
  std::uint8_t* out = narrowed_.data();
  for (std::size_t y = 0; y < rows; ++y, pixels += stride) {
    for (std::size_t k = 0; k < size_; ++k, out += 3) {
      const std::uint8_t* from = pixels + static_cast<std::size_t>(across_.first[k]) * 3;
      const std::int32_t* weights = &across_.weights[k * across_.taps];
      std::int32_t r = kHalf, g = r, b = r;
      for (std::int32_t i = 0; i < across_.count[k]; ++i, from += 3) {
        r += from[red] * weights[i];
        g += from[1] * weights[i];
        b += from[blue] * weights[i];
      }
      out[0] = clip(r >> kWeightBits), out[1] = clip(g >> kWeightBits), out[2] = clip(b >> kWeightBits);
    }
  }
}

void Resizer::shorten(std::uint8_t* square) {
  const std::size_t row = size_ * 3;
  for (std::size_t k = 0; k < size_; ++k, square += row) {
    const std::uint8_t* from = narrowed_.data() + static_cast<std::size_t>(down_.first[k]) * row;
    const std::int32_t* weights = &down_.weights[k * down_.taps];
    std::fill(sums_.begin(), sums_.end(), kHalf);
    for (std::int32_t i = 0; i < down_.count[k]; ++i, from += row) {
      for (std::size_t x = 0; x < row; ++x) sums_[x] += from[x] * weights[i];
    }
    for (std::size_t x = 0; x < row; ++x) square[x] = clip(sums_[x] >> kWeightBits);
  }
}

void copy_rgb(const Image& image, std::uint8_t* rgb) { copy_window(frame_of(image, Rule::squash), rgb); }

}  // namespace byolt
