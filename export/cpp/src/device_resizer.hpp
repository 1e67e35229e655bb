#pragma once

#include "cuda_api.hpp"
#include "pixel.hpp"
#include "resize.hpp"

namespace byolt {

/// Frames in device memory into images in device memory, byte for byte as `Resizer` does. One a session; frames of one
/// size follow each other without a wait or an allocation.
class DeviceResizer {
 public:
  DeviceResizer(std::size_t width, std::size_t height, std::size_t pixel_bytes = 3)
      : width_(width), height_(height), pixel_bytes_(pixel_bytes) {}

  /// Queue the frame's way to `out` (height, width, channels), RGB or grey, on a stream. Its values are not looked at.
  /// What was queued with an earlier frame has to come before it in that stream's order.
  /// @throws Error(input) for a frame whose sizes do not fit; Error(machine) where the GPU refuses
  void operator()(const Image& frame, Rule rule, std::uint8_t* out, cudaStream_t stream);

 private:
  void fit(const FrameWindow& window, cudaStream_t stream);

  std::size_t width_, height_, pixel_bytes_;
  std::size_t fitted_width_ = 0, fitted_height_ = 0;  // Of the window that the tables are for.
  cuda::Memory tables_, narrowed_;
  AxisTable across_{}, down_{};
};

}  // namespace byolt
