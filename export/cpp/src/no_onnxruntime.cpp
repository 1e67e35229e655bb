// In place of onnxruntime_backend.cpp where byolt is built without ONNX Runtime, for devices that run engines alone.

#include "backend.hpp"
#include "byolt/error.hpp"

namespace byolt {

bool has_provider(const std::string&) { return false; }

std::unique_ptr<Backend> open_onnxruntime(const std::string&, const Tensors&, const std::string&, int, bool) {
  throw Error(Code::missing, "this byolt was built without ONNX Runtime (-DBYOLT_ONNXRUNTIME=ON)");
}

}  // namespace byolt
