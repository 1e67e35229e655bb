#include "device.hpp"

#include <dlfcn.h>

namespace byolt {
namespace {

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

std::optional<int> ask_driver() {
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // Kept loaded: it is no library to be closed again.
  if (driver == nullptr) return std::nullopt;
  using Init = int (*)(unsigned);
  using Count = int (*)(int*);
  using Attribute = int (*)(int*, int, int);
  const auto init = reinterpret_cast<Init>(::dlsym(driver, "cuInit"));
  const auto count_devices = reinterpret_cast<Count>(::dlsym(driver, "cuDeviceGetCount"));
  const auto attribute = reinterpret_cast<Attribute>(::dlsym(driver, "cuDeviceGetAttribute"));
  if (init == nullptr || count_devices == nullptr || attribute == nullptr) return std::nullopt;
  int count = 0, major = 0, minor = 0;
  if (init(0) != 0 || count_devices(&count) != 0 || count < 1) return std::nullopt;
  if (attribute(&major, kMajor, 0) != 0 || attribute(&minor, kMinor, 0) != 0) return std::nullopt;
  return 10 * major + minor;
}

}  // namespace

std::optional<int> gpu_capability() {
  static const std::optional<int> found = ask_driver();
  return found;
}

}  // namespace byolt
