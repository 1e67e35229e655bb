#pragma once

#include <string>

namespace byolt {

/// A GPU of this machine; `capability` is its compute capability, 87 for 8.7.
struct Gpu {
  int device = 0;
  std::string name;
  int capability = 0;
};

/// The calling thread's GPU, the first one unless cudaSetDevice chose another. To be asked before TensorRT is: without
/// a driver it hands out an address that ends the process.
/// @throws Error(missing) there is no driver, or no GPU answers it
Gpu find_gpu();

}  // namespace byolt
