#include "byolt/error.hpp"
#include "resize_kernel.hpp"

namespace byolt {

cudaError_t launch_resize(const FrameWindow&, const AxisTable&, const AxisTable&, std::uint8_t*, std::uint8_t*,
                          std::size_t, std::size_t, cudaStream_t) {
  throw Error(Code::missing,
              "this byolt was built without a CUDA compiler, which resizes frames in device memory: put nvcc on the "
              "PATH and build it again, or give frames in host memory");
}

}  // namespace byolt
