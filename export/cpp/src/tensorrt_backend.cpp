#include <fstream>
#include <utility>
#include <vector>

#include "tensorrt_session.hpp"

namespace byolt {
namespace {

constexpr std::streamoff kMostBytes = std::streamoff{2} << 30;  // A bundle is untrusted.

class TensorRtBackend final : public Backend {
 public:
  explicit TensorRtBackend(std::shared_ptr<const TensorRtEngine> engine) : engine_(std::move(engine)) {}

  [[nodiscard]] std::string name() const override {
    return "TensorRT " + tensorrt_version() + ", " + engine_->gpu().name;
  }
  std::unique_ptr<Session> session() override { return std::make_unique<TensorRtSession>(engine_); }

 private:
  std::shared_ptr<const TensorRtEngine> engine_;
};

std::vector<char> read_plan(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size <= 0 || size > kMostBytes) {
    throw Error(Code::input, path + " is no engine that can be read: copy the bundle again");
  }
  std::vector<char> plan(static_cast<std::size_t>(size));
  if (!file.seekg(0).read(plan.data(), size)) throw Error(Code::machine, path + " cannot be read: copy it again");
  return plan;
}

}  // namespace

std::unique_ptr<Backend> load_tensorrt(const std::string& name, const void* plan, std::size_t bytes,
                                       const Tensors& tensors) {
  return std::make_unique<TensorRtBackend>(std::make_shared<const TensorRtEngine>(name, plan, bytes, tensors));
}

std::unique_ptr<Backend> open_tensorrt(const std::string& engine_path, const Tensors& tensors) {
  const std::vector<char> plan = read_plan(engine_path);
  return load_tensorrt(engine_path, plan.data(), plan.size(), tensors);
}

}  // namespace byolt
