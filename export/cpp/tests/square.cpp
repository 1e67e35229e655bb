// byolt-test-square WIDTH HEIGHT SIZE crop|squash < RGB > square: the resize alone, for a comparison with Pillow's.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "resize.hpp"

int main(int count, char** words) {
  if (count != 5) return 2;
  const auto number = [&](int k) { return static_cast<std::size_t>(std::strtoul(words[k], nullptr, 10)); };
  const std::size_t width = number(1), height = number(2), size = number(3);
  const byolt::Rule rule = std::string(words[4]) == "crop" ? byolt::Rule::crop : byolt::Rule::squash;
  std::vector<std::uint8_t> pixels(width * height * 3), square(size * size * 3);
  if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 2;
  byolt::Resizer(size, rule)({pixels.data(), width, height, 0, byolt::Format::rgb, nullptr}, square.data());
  return std::fwrite(square.data(), 1, square.size(), stdout) == square.size() ? 0 : 1;
}
