#include "fake_backend.hpp"

#include <limits>
#include <vector>

#include "backend.hpp"
#include "byolt/error.hpp"

Fake& fake() {
  static Fake one;
  return one;
}

namespace byolt {
namespace {

class FakeSession final : public Session {
 public:
  explicit FakeSession(const Tensors& tensors)
      : pixels_(tensors.height * tensors.width),
        pixel_bytes_(tensors.pixel_bytes),
        images_(tensors.max_batch * tensors.image_bytes()),
        outputs_(tensors.max_batch * tensors.dim) {
    ++fake().sessions;
  }

  std::uint8_t* images() override { return images_.data(); }

  const float* run(std::size_t batch) override {
    if (fake().broken) throw Error(Code::machine, "the fake is broken");
    for (std::size_t n = 0; n < batch; ++n) {
      for (std::size_t channel = 0; channel < 3; ++channel) {
        float sum = 0;
        for (std::size_t k = 0; k < pixels_; ++k) {
          sum += images_[(n * pixels_ + k) * pixel_bytes_ + std::min(channel, pixel_bytes_ - 1)];
        }
        outputs_[n * 3 + channel] =
            sum / static_cast<float>(pixels_) * fake().scale + (batch > 1 ? fake().of_batches.load() : 0);
      }
    }
    if (fake().not_a_number != 0) outputs_[0] = std::numeric_limits<float>::quiet_NaN();
    return outputs_.data();
  }

  const float* run_device(const void*, std::size_t, void*) override {
    throw Error(Code::missing, "the fake has no device memory");
  }

 private:
  std::size_t pixels_, pixel_bytes_;
  std::vector<std::uint8_t> images_;
  std::vector<float> outputs_;
};

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(const Tensors& tensors) : tensors_(tensors) {}
  [[nodiscard]] std::string name() const override { return "fake"; }
  std::unique_ptr<Session> session() override { return std::make_unique<FakeSession>(tensors_); }

 private:
  Tensors tensors_;
};

}  // namespace

bool has_provider(const std::string& provider) { return provider == "CPU"; }

std::unique_ptr<Backend> open_onnxruntime(const std::string&, const Tensors& tensors, const std::string&, int, bool) {
  return std::make_unique<FakeBackend>(tensors);
}

}  // namespace byolt
