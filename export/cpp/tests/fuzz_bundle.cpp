// fuzz_bundle: opens the bundle folders that it reads from stdin, one a line, and answers each with one line:
//
//   ok NAME=DIGEST ...      the proof passed; SHA-256 of what each ONNX file gives for a fixed image
//   refused CODE SENTENCE   of byolt::Error
//
// Any other exception, and a crash, ends the process: tests/cpp/fuzz_bundles.py, which asks, counts both as faults.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "byolt/encoder.hpp"
#include "sha256.hpp"
#include "verify.hpp"

namespace {

constexpr std::size_t kWidth = 50, kHeight = 40;

/// Noise, the same in every process.
std::vector<std::uint8_t> draw_frame(std::size_t bytes) {
  std::vector<std::uint8_t> pixels(bytes);
  std::uint32_t state = 1;
  for (std::uint8_t& pixel : pixels) {
    state = state * 1664525U + 1013904223U;
    pixel = static_cast<std::uint8_t>(state >> 24U);
  }
  return pixels;
}

std::string digest_of(const std::string& folder, const std::string& precision) {
  byolt::Options options;
  options.runtime = byolt::Runtime::cpu;
  options.precision = precision;
  options.threads = 1;
  const byolt::Encoder encoder = byolt::Encoder::open(folder, options);
  const byolt::Description& about = encoder.description();
  const std::size_t width = about.whole_frames ? about.width : kWidth;
  const std::size_t height = about.whole_frames ? about.height : kHeight;
  const std::vector<std::uint8_t> pixels = draw_frame(width * height * 3);
  const byolt::Image image{pixels.data(), width, height, width * 3, byolt::Format::rgb};
  const std::vector<float> output = encoder.run(image);
  byolt::Sha256 digest;
  digest.update(reinterpret_cast<const char*>(output.data()), output.size() * sizeof(float));
  for (const std::string& name : about.classes) digest.update(name.c_str(), name.size() + 1);
  return about.file + "=" + digest.hex();
}

std::string answer(const std::string& folder) {
  const auto refused = [](byolt::Code code, const std::string& sentence) {
    return "refused " + std::to_string(static_cast<int>(code)) + " " + sentence;
  };
  try {
    const byolt::Bundle bundle(folder);
    const byolt::Report report = byolt::verify(bundle, {"CPU"}, 1);
    if (report.verdict() != "passed") return refused(byolt::Code::parity, report.reason());
    std::string line = "ok";
    for (const byolt::OnnxEntry& file : bundle.manifest().files) line += " " + digest_of(folder, file.precision);
    return line;
  } catch (const byolt::Error& error) {
    return refused(error.code(), error.what());
  }
}

}  // namespace

int main() {
  std::string folder;
  while (std::getline(std::cin, folder)) {
    std::string line = answer(folder);
    std::replace(line.begin(), line.end(), '\n', '\x1f');  // The reader counts it as no plain text.
    std::cout << line << std::endl;
  }
}
