#include "device.hpp"

#include <dlfcn.h>

#include <array>

namespace byolt {
namespace {

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

struct Found {
  int capability = 0;
  std::string name;
};

std::optional<Found> ask_driver() {
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // Kept loaded: it is no library to be closed again.
  if (driver == nullptr) return std::nullopt;
  using Init = int (*)(unsigned);
  using Count = int (*)(int*);
  using Attribute = int (*)(int*, int, int);
  using Name = int (*)(char*, int, int);
  const auto init = reinterpret_cast<Init>(::dlsym(driver, "cuInit"));
  const auto count_devices = reinterpret_cast<Count>(::dlsym(driver, "cuDeviceGetCount"));
  const auto attribute = reinterpret_cast<Attribute>(::dlsym(driver, "cuDeviceGetAttribute"));
  const auto name_device = reinterpret_cast<Name>(::dlsym(driver, "cuDeviceGetName"));
  if (init == nullptr || count_devices == nullptr || attribute == nullptr || name_device == nullptr) {
    return std::nullopt;
  }
  int count = 0, major = 0, minor = 0;
  if (init(0) != 0 || count_devices(&count) != 0 || count < 1) return std::nullopt;
  if (attribute(&major, kMajor, 0) != 0 || attribute(&minor, kMinor, 0) != 0) return std::nullopt;
  std::array<char, 256> name{};
  if (name_device(name.data(), static_cast<int>(name.size()) - 1, 0) != 0) return std::nullopt;
  return Found{10 * major + minor, name.data()};
}

const std::optional<Found>& first_gpu() {
  static const std::optional<Found> found = ask_driver();
  return found;
}

}  // namespace

std::optional<int> gpu_capability() {
  const std::optional<Found>& gpu = first_gpu();
  return gpu ? std::optional<int>(gpu->capability) : std::nullopt;
}

std::optional<std::string> gpu_name() {
  const std::optional<Found>& gpu = first_gpu();
  return gpu ? std::optional<std::string>(gpu->name) : std::nullopt;
}

}  // namespace byolt
