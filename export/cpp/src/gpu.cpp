#include "gpu.hpp"

#include "cuda_api.hpp"

namespace byolt {

Gpu find_gpu() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count < 1) {
    cuda::forget_error();
    const std::string why = status == cudaSuccess ? "it counts none" : cudaGetErrorString(status);
    throw Error(Code::missing, "TensorRT runs on a GPU, and none answers the CUDA driver (" + why +
                                   "): install the driver, or open the bundle with ONNX Runtime");
  }
  Gpu gpu;
  cuda::check(cudaGetDevice(&gpu.device), "cudaGetDevice");
  cudaDeviceProp properties;
  cuda::check(cudaGetDeviceProperties(&properties, gpu.device), "cudaGetDeviceProperties");
  gpu.name = properties.name;
  gpu.capability = 10 * properties.major + properties.minor;
  return gpu;
}

}  // namespace byolt
