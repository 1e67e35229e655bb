#include "resize_kernel.hpp"

namespace byolt {
namespace {

__global__ void narrow(FrameWindow frame, AxisTable across, std::uint8_t* narrowed, std::size_t width) {
  const std::size_t k = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::size_t y = std::size_t{blockIdx.y} * blockDim.y + threadIdx.y;
  if (k < width && y < frame.height)
    narrow_pixel(frame, across, k, y, narrowed + (y * width + k) * pixel_bytes(frame.format));
}

template <std::size_t kBytes>
__global__ void shorten(const std::uint8_t* narrowed, AxisTable down, std::uint8_t* out, std::size_t samples,
                        std::size_t height) {
  const std::size_t x = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::size_t k = std::size_t{blockIdx.y} * blockDim.y + threadIdx.y;
  if (x < samples && k < height) shorten_sample<kBytes>(narrowed, samples * kBytes, down, x, k, out);
}

constexpr unsigned kAcross = 32, kDown = 8;  // Threads of a block: a warp reads neighbours of one row.

dim3 blocks(std::size_t width, std::size_t height) {
  return {static_cast<unsigned>((width + kAcross - 1) / kAcross), static_cast<unsigned>((height + kDown - 1) / kDown)};
}

}  // namespace

cudaError_t launch_resize(const FrameWindow& frame, const AxisTable& across, const AxisTable& down,
                          std::uint8_t* narrowed, std::uint8_t* out, std::size_t width, std::size_t height,
                          cudaStream_t stream) {
  const dim3 threads(kAcross, kDown);
  narrow<<<blocks(width, frame.height), threads, 0, stream>>>(frame, across, narrowed, width);
  if (const cudaError_t refused = cudaGetLastError(); refused != cudaSuccess) return refused;
  const bool deep = frame.format == Format::grey16;
  const std::size_t samples = deep ? width : width * pixel_bytes(frame.format);
  const auto kernel = deep ? shorten<2> : shorten<1>;
  kernel<<<blocks(samples, height), threads, 0, stream>>>(narrowed, down, out, samples, height);
  return cudaGetLastError();
}

}  // namespace byolt
