#include "device_resizer.hpp"

#include <algorithm>

#include "resize_kernel.hpp"

namespace byolt {
namespace {

std::size_t length_of(const Axis& axis) { return axis.first.size() + axis.count.size() + axis.weights.size(); }

/// Copies an axis to `host` and says where it will lie behind `device`; both move on.
AxisTable place(const Axis& axis, std::int32_t*& host, const std::int32_t*& device) {
  AxisTable table{device, device + axis.first.size(), device + axis.first.size() + axis.count.size(), axis.taps};
  for (const auto* part : {&axis.first, &axis.count, &axis.weights}) host = std::copy(part->begin(), part->end(), host);
  device += length_of(axis);
  return table;
}

}  // namespace

void DeviceResizer::operator()(const Image& frame, Rule rule, std::uint8_t* out, cudaStream_t stream) {
  const FrameWindow part = frame_of(frame, rule);
  check_format(frame.format, pixel_bytes_);
  fit(part, stream);
  cuda::check(
      launch_resize(part, across_, down_, static_cast<std::uint8_t*>(narrowed_.get()), out, width_, height_, stream),
      "a resize");
}

void DeviceResizer::fit(const FrameWindow& window, cudaStream_t stream) {
  if (window.width == fitted_width_ && window.height == fitted_height_) return;
  fitted_width_ = fitted_height_ = 0;  // Should the GPU refuse half-way, the next frame starts afresh.
  Axis across, down;
  fill_axis(across, window.width, width_);
  fill_axis(down, window.height, height_);
  const std::size_t bytes = (length_of(across) + length_of(down)) * sizeof(std::int32_t);
  const cuda::PinnedMemory staged = cuda::allocate_pinned(bytes);
  cuda::Memory tables = cuda::allocate(bytes), narrowed = cuda::allocate(window.height * width_ * pixel_bytes_);
  auto* host = static_cast<std::int32_t*>(staged.get());
  const auto* device = static_cast<const std::int32_t*>(tables.get());
  across_ = place(across, host, device);
  down_ = place(down, host, device);
  cuda::check(cudaMemcpyAsync(tables.get(), staged.get(), bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
  cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");  // Nothing reads the old tables any more.
  tables_ = std::move(tables);
  narrowed_ = std::move(narrowed);
  fitted_width_ = window.width, fitted_height_ = window.height;
}

}  // namespace byolt
