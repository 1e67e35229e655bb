#include "resize_kernel.hpp"
#include "state.hpp"

namespace byolt {

// The kernels' own arithmetic, a pixel after another, in memory that is checked.
cudaError_t launch_resize(const FrameWindow& frame, const AxisTable& across, const AxisTable& down,
                          std::uint8_t* narrowed, std::uint8_t* out, std::size_t width, std::size_t height,
                          cudaStream_t stream) {
  const fake::Inside inside;
  if (fake::fails(fake::Call::launch_resize)) return cudaErrorInvalidValue;
  fake::queue_of(stream)->add([=] {
    const std::size_t lowest = frame.top + frame.height - 1;
    const bool planar = frame.format == Format::nv12, deep = frame.format == Format::grey16;
    const std::size_t bytes = pixel_bytes(frame.format), row = width * bytes;
    const fake::Arena& memory = fake::device_memory();
    const std::size_t across_bytes = (width * 2 + width * across.taps) * sizeof(std::int32_t);
    const std::size_t down_bytes = (height * 2 + height * down.taps) * sizeof(std::int32_t);
    if (!memory.holds(frame.pixels, lowest * frame.stride + (frame.left + frame.width) * (planar ? 1 : bytes)) ||
        (planar && !memory.holds(frame.chroma, lowest / 2 * frame.stride + frame.left + frame.width)) ||
        !memory.holds(across.first, across_bytes) || !memory.holds(down.first, down_bytes) ||
        !memory.holds(narrowed, frame.height * row) || !memory.holds(out, height * row)) {
      return fake::break_rule("a resize outside of device memory");
    }
    for (std::size_t y = 0; y < frame.height; ++y) {
      for (std::size_t k = 0; k < width; ++k) narrow_pixel(frame, across, k, y, narrowed + y * row + k * bytes);
    }
    for (std::size_t k = 0; k < height; ++k) {
      for (std::size_t x = 0; x < (deep ? width : row); ++x) {
        deep ? shorten_sample<2>(narrowed, row, down, x, k, out) : shorten_sample<1>(narrowed, row, down, x, k, out);
      }
    }
  });
  return cudaSuccess;
}

}  // namespace byolt
