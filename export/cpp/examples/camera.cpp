// byolt-example-camera BUNDLE WIDTHxHEIGHT rgb|bgr|nv12|grey8|grey16: raw frames from stdin; a line for each frame with
// its time, and its class, or how unlike the first frame it is. From a camera:
//   ffmpeg -f v4l2 -i /dev/video0 -f rawvideo -pix_fmt nv12 - | byolt-example-camera BUNDLE 640x480 nv12

#include <byolt/encoder.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "example.hpp"

namespace {

using byolt::Code;
using byolt::Error;
using byolt::Format;

constexpr const char* kUsage = "usage: byolt-example-camera BUNDLE WIDTHxHEIGHT rgb|bgr|nv12|grey8|grey16";

Format to_format(const std::string& name) {
  if (name == "rgb") return Format::rgb;
  if (name == "bgr") return Format::bgr;
  if (name == "nv12") return Format::nv12;
  if (name == "grey8") return Format::grey8;
  if (name == "grey16") return Format::grey16;
  throw Error(Code::input, kUsage);
}

std::size_t bytes_of(Format format, std::size_t pixels) {
  if (format == Format::nv12) return pixels * 3 / 2;
  return format == Format::grey8 ? pixels : format == Format::grey16 ? pixels * 2 : pixels * 3;
}

double cosine_distance(byolt::Span<const float> a, byolt::Span<const float> b) {
  double product = 0, a_squares = 0, b_squares = 0;
  for (std::size_t d = 0; d < a.size(); ++d) {
    product += static_cast<double>(a[d]) * b[d];
    a_squares += static_cast<double>(a[d]) * a[d];
    b_squares += static_cast<double>(b[d]) * b[d];
  }
  return 1 - product / std::max(std::sqrt(a_squares * b_squares), 1e-12);
}

void run(const std::string& bundle, const std::string& size, Format format) {
  unsigned width = 0, height = 0;
  if (std::sscanf(size.c_str(), "%5ux%5u", &width, &height) != 2) throw Error(Code::input, kUsage);
  const byolt::Encoder encoder = byolt::Encoder::open(bundle);
  byolt::Context context = encoder.context();
  const std::size_t pixels = std::size_t{width} * height;
  std::vector<std::uint8_t> frame(bytes_of(format, pixels));
  const byolt::Image image{frame.data(), width, height, 0, format, nullptr};
  std::vector<float> first;
  while (std::fread(frame.data(), 1, frame.size(), stdin) == frame.size()) {
    const auto start = std::chrono::steady_clock::now();
    const byolt::Outputs outputs = context.run({&image, 1});
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (first.empty()) first.assign(outputs[0].begin(), outputs[0].end());
    std::cout << elapsed.count() << " ms\t";
    if (encoder.description().logits) {
      std::cout << cell(best_class(encoder.description(), outputs[0])) << std::endl;
    } else {
      std::cout << cosine_distance({first.data(), first.size()}, outputs[0]) << std::endl;
    }
  }
}

}  // namespace

int main(int count, char** words) {
  return guarded([&] {
    if (count != 4) throw Error(Code::input, kUsage);
    run(words[1], words[2], to_format(words[3]));
  });
}
