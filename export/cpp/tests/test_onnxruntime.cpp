#include <onnxruntime_cxx_api.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "allocations.hpp"
#include "byolt/encoder.hpp"
#include "check.hpp"

// ONNX Runtime itself, on a bundle that was made before: its folder is in BYOLT_TEST_BUNDLE.
using byolt::Code;
using byolt::Encoder;
using byolt::Image;

namespace {

std::string folder() {
  const char* found = std::getenv("BYOLT_TEST_BUNDLE");
  if (found == nullptr) throw byolt::Error(Code::input, "BYOLT_TEST_BUNDLE names no bundle");
  return found;
}

byolt::Options on_cpu() {
  byolt::Options options;
  options.runtime = byolt::Runtime::cpu;
  options.threads = 1;
  return options;
}

std::vector<std::uint8_t> noise(const Encoder& encoder, std::size_t batch, std::uint32_t state) {
  std::vector<std::uint8_t> pixels(encoder.description().height * encoder.description().width * 3 * batch);
  for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return pixels;
}

}  // namespace

TEST(byolt_allocates_nothing_beside_onnx_runtime) {
  const Encoder encoder = Encoder::open(folder(), on_cpu());
  const byolt::Description& about = encoder.description();
  const std::size_t batch = 2;
  const auto pixels = noise(encoder, batch, 1);
  const std::size_t bytes = pixels.size() / batch;
  const Image images[] = {{pixels.data(), about.width, about.height, 0, byolt::Format::rgb, nullptr},
                          {pixels.data() + bytes, about.width, about.height, 0, byolt::Format::rgb, nullptr}};
  byolt::Context context = encoder.context();

  // The same call with nothing of byolt's around it: tensors that stand, outputs into memory that stands.
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "test"};
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, (folder() + "/" + about.file).c_str(), options);
  const auto side = [](std::size_t value) { return static_cast<std::int64_t>(value); };
  const std::int64_t in[] = {side(batch), side(about.height), side(about.width), 3},
                     out[] = {side(batch), side(about.dim)};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto own = pixels;
  std::vector<float> outputs(batch * about.dim);
  const Ort::Value input = Ort::Value::CreateTensor<std::uint8_t>(memory, own.data(), own.size(), in, 4);
  Ort::Value output = Ort::Value::CreateTensor<float>(memory, outputs.data(), outputs.size(), out, 2);
  const std::string name = session.GetOutputNameAllocated(0, Ort::AllocatorWithDefaultOptions()).get();
  const char *input_name = "images", *output_name = name.c_str();

  const auto ours = [&] { (void)context.run({images, batch}); };
  const auto plain = [&] { session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, &output_name, &output, 1); };
  for (int k = 0; k < 5; ++k) ours(), plain();
  const std::size_t start = allocations();
  for (int k = 0; k < 50; ++k) plain();
  const std::size_t middle = allocations();
  for (int k = 0; k < 50; ++k) ours();
  CHECK(allocations() - middle == middle - start);
}

TEST(threads_give_what_one_thread_gives) {
  const Encoder encoder = Encoder::open(folder(), on_cpu());
  const byolt::Description& about = encoder.description();
  std::vector<std::vector<std::uint8_t>> pixels;
  std::vector<std::vector<float>> alone;
  const auto image = [&](std::size_t k) {
    return Image{pixels[k].data(), about.width, about.height, 0, byolt::Format::rgb, nullptr};
  };
  for (std::uint32_t k = 0; k < 4; ++k) {
    pixels.push_back(noise(encoder, 1, k));
    alone.push_back(encoder.run(image(k)));
  }
  CHECK(alone[0] != alone[1]);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t own = 0; own < pixels.size(); ++own) {
    threads.emplace_back([&, own] {
      for (int k = 0; k < 25; ++k) wrong += encoder.run(image(own)) == alone[own] ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST(a_gpu_that_is_not_here) {
  byolt::Options options;
  options.runtime = byolt::Runtime::cuda;
  if (std::getenv("BYOLT_TEST_GPU") == nullptr)
    CHECK_ERROR(Code::missing, "no GPU answers", Encoder::open(folder(), options));
}
