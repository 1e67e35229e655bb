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

const std::uint8_t* start_of(const FrameWindow& frame) {
  return frame.pixels + frame.top * frame.stride + frame.left * pixel_bytes(frame.format);
}

/// The window as RGB or grey without a gap, in its own size.
void copy_window(const FrameWindow& frame, std::uint8_t* out) {
  const std::size_t row = frame.width * pixel_bytes(frame.format);
  for (std::size_t y = 0; y < frame.height; ++y) {
    if (frame.format != Format::bgr && frame.format != Format::nv12) {
      std::memcpy(out, start_of(frame) + y * frame.stride, row);
      out += row;
      continue;
    }
    for (std::size_t x = 0; x < frame.width; ++x, out += 3) read_pixel(frame, x, y, out);
  }
}

/// Refuse a frame that holds more than white: a camera that counts from the highest bit would pass for a bright one.
void check_values(const Image& image, std::size_t stride, std::size_t white) {
  std::uint16_t most = 0;
  for (std::size_t y = 0; y < image.height; ++y) {
    const std::uint8_t* row = image.pixels + y * stride;
    for (std::size_t x = 0; x < image.width; ++x) {
      most = std::max(most, static_cast<std::uint16_t>(row[2 * x] | row[2 * x + 1] << 8));
    }
  }
  if (most <= white) return;
  throw Error(Code::input, "a frame holds " + std::to_string(most) + ", and the bundle's bit_depth ends at " +
                               std::to_string(white) + ": give the camera's values with the lowest bit last");
}

/// A frame with what the rule keeps of it, checked for images of these samples.
FrameWindow checked(const Image& image, Rule rule, const Samples& samples) {
  const FrameWindow frame = frame_of(image, rule);
  check_format(image.format, samples.pixel_bytes());
  if (samples.bytes() == 2) check_values(image, frame.stride, samples.white());
  return frame;
}

/// Down, rounded to whole values, as the pass across was.
template <std::size_t kBytes, typename Sum>
void shorten(const Axis& down, const std::uint8_t* narrowed, std::vector<Sum>& sums, std::uint8_t* square) {
  const std::size_t row = sums.size() * kBytes;
  for (std::size_t k = 0; k < down.first.size(); ++k, square += row) {
    const std::uint8_t* from = narrowed + static_cast<std::size_t>(down.first[k]) * row;
    const std::int32_t* weights = &down.weights[k * down.taps];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (std::int32_t i = 0; i < down.count[k]; ++i, from += row) {
      for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += Sample<kBytes>::load(from + x * kBytes) * weights[i];
    }
    for (std::size_t x = 0; x < sums.size(); ++x) Sample<kBytes>::store(sums[x] >> kWeightBits, square + x * kBytes);
  }
}

}  // namespace

void check_format(Format format, std::size_t wanted_bytes) {
  if (pixel_bytes(format) == wanted_bytes) return;
  constexpr const char* kTakes[] = {"grey frames of 8 bits: give grey8", "grey frames of 10 to 16 bits: give grey16",
                                    "colour frames of 8 bits: give rgb, bgr or nv12"};
  throw Error(Code::input,
              std::string("the bundle takes ") +
                  (wanted_bytes <= 3 ? kTakes[wanted_bytes - 1]
                                     : "colour of more than 8 bits, which no format is: fill `images()` instead"));
}

FrameWindow frame_of(const Image& image, Rule rule) {
  if (image.format < Format::rgb || image.format > Format::grey16) {
    throw Error(Code::input, "the format " + std::to_string(static_cast<int>(image.format)) +
                                 " of an image is not known: it is rgb, bgr, nv12, grey8 or grey16");
  }
  const std::size_t bytes = image.format == Format::nv12 ? 1 : pixel_bytes(image.format);
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
  const FrameWindow frame = checked(image, rule_, samples_);
  if (frame.width == size_ && frame.height == size_) return copy_window(frame, square);
  if (frame.width != width_ || frame.height != height_) {
    width_ = height_ = 0;  // Should an allocation fail half-way, the next frame starts afresh.
    fill_axis(across_, frame.width, size_);
    fill_axis(down_, frame.height, size_);
    narrowed_.resize(frame.height * size_ * samples_.pixel_bytes());
    samples_.bytes() == 1 ? sums_.resize(size_ * samples_.channels) : deep_sums_.resize(size_);
    width_ = frame.width, height_ = frame.height;
  }
  if (frame.format == Format::grey16) {
    narrow_grey<2>(start_of(frame), frame.stride, frame.height);
    return shorten<2>(down_, narrowed_.data(), deep_sums_, square);
  }
  if (frame.format == Format::grey8) {
    narrow_grey<1>(start_of(frame), frame.stride, frame.height);
  } else if (frame.format == Format::nv12) {
    converted_.resize(frame.width * frame.height * 3);
    copy_window(frame, converted_.data());
    narrow(converted_.data(), frame.width * 3, frame.height, false);
  } else {
    narrow(start_of(frame), frame.stride, frame.height, frame.format == Format::bgr);
  }
  shorten<1>(down_, narrowed_.data(), sums_, square);
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

template <std::size_t kBytes>
void Resizer::narrow_grey(const std::uint8_t* pixels, std::size_t stride, std::size_t rows) {
  std::uint8_t* out = narrowed_.data();
  for (std::size_t y = 0; y < rows; ++y, pixels += stride) {
    for (std::size_t k = 0; k < size_; ++k, out += kBytes) {
      const std::uint8_t* from = pixels + static_cast<std::size_t>(across_.first[k]) * kBytes;
      weigh<kBytes>(from, kBytes, &across_.weights[k * across_.taps], across_.count[k], out);
    }
  }
}

void copy_frame(const Image& image, std::uint8_t* pixels, Samples samples) {
  copy_window(checked(image, Rule::squash, samples), pixels);
}

}  // namespace byolt
