#pragma once

#include <cuda_runtime_api.h>

#include "pixel.hpp"

namespace byolt {

/// Queue both passes of a resize on a stream: `frame`, the tables and the two buffers lie in device memory. `narrowed`
/// holds frame.height x width pixels, `out` height x width, of `pixel_bytes(frame.format)` each.
cudaError_t launch_resize(const FrameWindow& frame, const AxisTable& across, const AxisTable& down,
                          std::uint8_t* narrowed, std::uint8_t* out, std::size_t width, std::size_t height,
                          cudaStream_t stream);

}  // namespace byolt
