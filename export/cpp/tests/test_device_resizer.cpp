// Frames in device memory, over the fake of CUDA: the kernels' arithmetic against the resize of the host.
#include <cstring>
#include <random>
#include <vector>

#include "check.hpp"
#include "device_resizer.hpp"
#include "expect.hpp"
#include "fake.hpp"

namespace {

using byolt::Format;
using byolt::Rule;

/// A frame of noise in host and in device memory, with bytes between its rows that must not be read.
class Frame {
 public:
  Frame(std::size_t width, std::size_t height, Format format, cudaStream_t stream) {
    const std::size_t row = format == Format::nv12 ? width : width * byolt::pixel_bytes(format), gap = 6;
    const std::size_t bytes = (row + gap) * (format == Format::nv12 ? height + height / 2 : height);
    EXPECT(cudaMallocHost(&host_, bytes) == cudaSuccess && cudaMalloc(&device_, bytes) == cudaSuccess, "frame memory");
    std::mt19937 generator(static_cast<unsigned>(width));
    auto* pixels = static_cast<std::uint8_t*>(host_);
    for (std::size_t k = 0; k < bytes; ++k) pixels[k] = static_cast<std::uint8_t>(generator() % 256);
    EXPECT(cudaMemcpyAsync(device_, host_, bytes, cudaMemcpyHostToDevice, stream) == cudaSuccess, "frame");
    image_ = {pixels, width, height, row + gap, format};
  }
  ~Frame() {
    cudaFree(device_);
    cudaFreeHost(host_);
  }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  [[nodiscard]] const byolt::Image& on_host() const { return image_; }
  [[nodiscard]] byolt::Image on_device() const {
    byolt::Image image = image_;
    image.pixels = static_cast<const std::uint8_t*>(device_);
    return image;
  }

 private:
  void *host_ = nullptr, *device_ = nullptr;
  byolt::Image image_;
};

struct Size {
  std::size_t width, height;
};

}  // namespace

TEST(frames_are_resized_as_on_the_host) {
  fake::reset();
  {
    constexpr std::size_t kSize = 24;
    const byolt::cuda::Stream stream = byolt::cuda::make_stream();
    const byolt::cuda::Memory out = byolt::cuda::allocate(kSize * kSize * 3);
    const byolt::cuda::PinnedMemory found = byolt::cuda::allocate_pinned(kSize * kSize * 3);
    for (const Rule rule : {Rule::crop, Rule::squash}) {
      for (const Format format : {Format::rgb, Format::bgr, Format::nv12, Format::grey8, Format::grey16}) {
        const std::size_t bytes = byolt::pixel_bytes(format);
        byolt::DeviceResizer resizer(kSize, kSize, bytes);
        for (const Size size : {Size{64, 48}, Size{48, 64}, Size{24, 24}, Size{10, 14}, Size{130, 24}, Size{130, 24}}) {
          const std::string words = std::to_string(size.width) + " x " + std::to_string(size.height);
          const Frame frame(size.width, size.height, format, stream.get());
          resizer(frame.on_device(), rule, static_cast<std::uint8_t*>(out.get()), stream.get());
          byolt::cuda::check(
              cudaMemcpyAsync(found.get(), out.get(), kSize * kSize * bytes, cudaMemcpyDeviceToHost, stream.get()),
              "cudaMemcpyAsync");
          EXPECT(cudaStreamSynchronize(stream.get()) == cudaSuccess, words);
          std::vector<std::uint8_t> wanted(kSize * kSize * bytes);
          const byolt::Samples samples{bytes == 3 ? std::size_t{3} : 1, bytes == 2 ? std::size_t{16} : 8};
          byolt::Resizer(kSize, rule, samples)(frame.on_host(), wanted.data());
          EXPECT(std::memcmp(found.get(), wanted.data(), wanted.size()) == 0, words);
        }
      }
    }
  }
  EXPECT(fake::broken_rules().empty(), fake::broken_rules());
  EXPECT(fake::live() == 0, "not given back");
}

TEST(frames_of_one_size_wait_and_allocate_once) {
  fake::reset();
  {
    const byolt::cuda::Stream stream = byolt::cuda::make_stream();
    const byolt::cuda::Memory out = byolt::cuda::allocate(8 * 8 * 3);
    byolt::DeviceResizer resizer(8, 8);
    const Frame frame(20, 16, Format::bgr, stream.get());
    const auto resize = [&] {
      resizer(frame.on_device(), Rule::crop, static_cast<std::uint8_t*>(out.get()), stream.get());
    };
    resize();
    const auto before = fake::calls();
    const long taken = fake::allocations();
    for (int k = 0; k < 20; ++k) resize();
    EXPECT(fake::allocations() == taken, "memory was taken for a frame of the same size");
    const auto after = fake::calls();
    for (const char* call : {"cudaMalloc", "cudaMallocHost", "cudaStreamSynchronize", "cudaMemcpyAsync"}) {
      EXPECT(after.at(call) == before.at(call), call);
    }
    EXPECT(after.at("launch_resize") == before.at("launch_resize") + 20, "resizes");
    byolt::Image wrong = frame.on_device();
    wrong.stride_bytes = 3;
    const auto error = expect_error(
        [&] { resizer(wrong, Rule::crop, static_cast<std::uint8_t*>(out.get()), stream.get()); }, "stride");
    EXPECT(error.code() == byolt::Code::input && holds(error.what(), "too short"), error.what());
    wrong = frame.on_device();
    wrong.format = Format::grey8;
    const auto other = expect_error(
        [&] { resizer(wrong, Rule::crop, static_cast<std::uint8_t*>(out.get()), stream.get()); }, "format");
    EXPECT(holds(other.what(), "give rgb, bgr or nv12"), other.what());
    EXPECT(cudaStreamSynchronize(stream.get()) == cudaSuccess, "stream");
  }
  EXPECT(fake::broken_rules().empty(), fake::broken_rules());
}
