// byolt-test-square WIDTH HEIGHT SIZE crop|squash [grey8|grey16] < frame > square: the resize alone, for a comparison
// with Pillow's.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "resize.hpp"

int main(int count, char** words) {
  if (count != 5 && count != 6) return 2;
  const auto number = [&](int k) { return static_cast<std::size_t>(std::strtoul(words[k], nullptr, 10)); };
  const std::size_t width = number(1), height = number(2), size = number(3);
  const byolt::Rule rule = std::string(words[4]) == "crop" ? byolt::Rule::crop : byolt::Rule::squash;
  const std::string name = count == 6 ? words[5] : "rgb";
  const byolt::Format format = name == "grey8"    ? byolt::Format::grey8
                               : name == "grey16" ? byolt::Format::grey16
                                                  : byolt::Format::rgb;
  const byolt::Samples samples{name == "rgb" ? std::size_t{3} : 1, name == "grey16" ? std::size_t{16} : 8};
  const std::size_t bytes = samples.pixel_bytes();
  std::vector<std::uint8_t> pixels(width * height * bytes), square(size * size * bytes);
  if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 2;
  byolt::Resizer(size, rule, samples)({pixels.data(), width, height, 0, format, nullptr}, square.data());
  return std::fwrite(square.data(), 1, square.size(), stdout) == square.size() ? 0 : 1;
}
