#include <array>
#include <vector>

#include "allocations.hpp"
#include "check.hpp"
#include "resize.hpp"

using byolt::Code;
using byolt::Format;
using byolt::Image;
using byolt::Rule;

namespace {

std::vector<std::uint8_t> noise(std::size_t bytes) {
  std::vector<std::uint8_t> pixels(bytes);
  std::uint32_t state = 7;
  for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return pixels;
}

std::vector<std::uint8_t> square(const Image& image, std::size_t size, Rule rule) {
  std::vector<std::uint8_t> out(size * size * 3);
  byolt::Resizer(size, rule)(image, out.data());
  return out;
}

std::vector<std::uint8_t> grey_square(const Image& image, std::size_t size, const byolt::Samples& samples) {
  std::vector<std::uint8_t> out(size * size * samples.pixel_bytes());
  byolt::Resizer(size, Rule::crop, samples)(image, out.data());
  return out;
}

}  // namespace

TEST(weights_of_two_to_one) {
  // Scale 2: the triangle reaches 2 px. Output 0 has its centre at 1: pixels 0 to 2 at distances 0.5, 0.5, 1.5, hence
  // 3/4, 3/4, 1/4 of 7/4, in 22 bits.
  byolt::Axis axis;
  byolt::fill_axis(axis, 4, 2);
  CHECK(axis.first[0] == 0 && axis.count[0] == 3);
  CHECK(axis.weights[0] == 1797559 && axis.weights[1] == 1797559 && axis.weights[2] == 599186);
}

TEST(enlarging_is_plain_bilinear) {
  // Twice as large: centres at 0.25, 0.75, 1.25, 1.75 of two pixels at 0.5 and 1.5: 0, 1/4, 3/4, 1 of the way.
  const std::vector<std::uint8_t> pixels = {0, 0, 0, 100, 100, 100, 0, 0, 0, 100, 100, 100};
  const auto out = square({pixels.data(), 2, 2, 0, Format::rgb, nullptr}, 4, Rule::squash);
  for (std::size_t row = 0; row < 4; ++row) {
    for (std::size_t k = 0; k < 4; ++k) CHECK(out[(row * 4 + k) * 3] == (std::array<int, 4>{0, 25, 75, 100})[k]);
  }
}

TEST(grey_is_one_channel_of_colour) {
  const auto grey = noise(50 * 40);
  std::vector<std::uint8_t> rgb, deep;
  for (const std::uint8_t value : grey) {
    rgb.insert(rgb.end(), 3, value);
    deep.insert(deep.end(), {value, 0});
  }
  for (const std::size_t size : {std::size_t{16}, std::size_t{40}, std::size_t{70}}) {
    const auto colour = square({rgb.data(), 50, 40, 0, Format::rgb, nullptr}, size, Rule::crop);
    const auto shallow = grey_square({grey.data(), 50, 40, 0, Format::grey8, nullptr}, size, {1, 8});
    const auto wide = grey_square({deep.data(), 50, 40, 0, Format::grey16, nullptr}, size, {1, 12});
    for (std::size_t k = 0; k < size * size; ++k) {
      CHECK(shallow[k] == colour[k * 3] && wide[2 * k] == shallow[k] && wide[2 * k + 1] == 0);
    }
  }
}

TEST(sixteen_bits_are_weighed_whole) {
  // 4 to 2 px across: weights 3/7, 3/7, 1/7 and mirrored (see above), down the same of equal rows.
  // 3/7 * 4095 + 3/7 * 7 + 1/7 * 4000 = 2329.4..., 1/7 * 7 + 3/7 * 4000 + 3/7 * 1 = 1715.7...
  std::vector<std::uint8_t> frame;
  for (int row = 0; row < 4; ++row) {
    for (const int value : {4095, 7, 4000, 1}) {
      frame.push_back(static_cast<std::uint8_t>(value & 255)), frame.push_back(static_cast<std::uint8_t>(value >> 8));
    }
  }
  const auto out = grey_square({frame.data(), 4, 4, 0, Format::grey16, nullptr}, 2, {1, 12});
  CHECK((out == std::vector<std::uint8_t>{2329 & 255, 2329 >> 8, 1716 & 255, 1716 >> 8, 2329 & 255, 2329 >> 8,
                                          1716 & 255, 1716 >> 8}));
  std::fill(frame.begin(), frame.end(), std::uint8_t{255});  // White of 16 bits stays white.
  CHECK(grey_square({frame.data(), 4, 4, 0, Format::grey16, nullptr}, 2, {1, 16}) == std::vector<std::uint8_t>(8, 255));
}

TEST(frames_of_another_kind_are_refused) {
  const std::vector<std::uint8_t> pixels(600, 16);  // 4112 in two bytes.
  const auto give = [&](Format format, const byolt::Samples& samples) {
    return grey_square({pixels.data(), 10, 10, 0, format, nullptr}, 4, samples).size();
  };
  CHECK_ERROR(Code::input, "the bundle takes grey frames of 8 bits: give grey8", give(Format::rgb, {1, 8}));
  CHECK_ERROR(Code::input, "the bundle takes grey frames of 10 to 16 bits: give grey16", give(Format::grey8, {1, 10}));
  CHECK_ERROR(Code::input, "colour frames of 8 bits: give rgb, bgr or nv12", give(Format::grey8, {3, 8}));
  CHECK_ERROR(Code::input, "no format is: fill `images()` instead", give(Format::rgb, {3, 12}));
  CHECK_ERROR(Code::input, "a frame holds 4112, and the bundle's bit_depth ends at 4095",
              give(Format::grey16, {1, 12}));
  CHECK(give(Format::grey16, {1, 14}) == 32);
}

TEST(window_is_the_centre_in_whole_pixels) {
  const byolt::Window wide = byolt::window_of(641, 480, Rule::crop), all = byolt::window_of(641, 480, Rule::squash);
  CHECK(wide.left == 80 && wide.top == 0 && wide.width == 480 && wide.height == 480);
  CHECK(all.left == 0 && all.top == 0 && all.width == 641 && all.height == 480);
}

TEST(bgr_is_rgb_swapped) {
  auto rgb = noise(60 * 40 * 3);
  const auto expected = square({rgb.data(), 60, 40, 0, Format::rgb, nullptr}, 16, Rule::crop);
  const auto whole = square({rgb.data(), 60, 40, 0, Format::rgb, nullptr}, 40, Rule::crop);
  for (std::size_t k = 0; k < rgb.size(); k += 3) std::swap(rgb[k], rgb[k + 2]);
  CHECK(square({rgb.data(), 60, 40, 0, Format::bgr, nullptr}, 16, Rule::crop) == expected);
  CHECK(square({rgb.data(), 60, 40, 0, Format::bgr, nullptr}, 40, Rule::crop) == whole);
}

TEST(stride_skips_what_lies_between_rows) {
  const std::size_t width = 50, height = 30, stride = 160;
  const auto rgb = noise(width * height * 3);
  std::vector<std::uint8_t> padded(stride * height, 255);
  for (std::size_t y = 0; y < height; ++y) {
    std::copy_n(rgb.begin() + static_cast<std::ptrdiff_t>(y * width * 3), width * 3,
                padded.begin() + static_cast<std::ptrdiff_t>(y * stride));
  }
  CHECK(square({padded.data(), width, height, stride, Format::rgb, nullptr}, 16, Rule::crop) ==
        square({rgb.data(), width, height, 0, Format::rgb, nullptr}, 16, Rule::crop));
}

TEST(yuv_of_bt601) {
  // Black 16, white 235, and the primaries of ITU-R BT.601 as 8 bits write them.
  const std::array<std::array<std::uint8_t, 6>, 5> known = {{{16, 128, 128, 0, 0, 0},
                                                             {235, 128, 128, 255, 255, 255},
                                                             {81, 90, 240, 255, 0, 0},
                                                             {145, 54, 34, 0, 255, 1},
                                                             {41, 240, 110, 0, 0, 255}}};
  for (const auto& one : known) {
    std::array<std::uint8_t, 3> rgb{};
    byolt::yuv_to_rgb(one[0], one[1], one[2], rgb.data());
    for (std::size_t k = 0; k < 3; ++k) CHECK(std::abs(rgb[k] - one[k + 3]) <= 1);
  }
}

TEST(nv12_takes_the_chroma_of_its_own_pixels) {
  // Two columns of blocks, red on the left and blue on the right; the second plane with and without a gap before it.
  const std::size_t width = 4, height = 4;
  std::vector<std::uint8_t> frame = {81, 81, 41, 41, 81, 81,  41,  41,  81, 81,  41,  41,
                                     81, 81, 41, 41, 90, 240, 240, 110, 90, 240, 240, 110};
  std::vector<std::uint8_t> chroma(frame.begin() + 16, frame.end());
  std::vector<std::uint8_t> first(width * height * 3), second(width * height * 3);
  byolt::copy_frame({frame.data(), width, height, 0, Format::nv12, nullptr}, first.data());
  byolt::copy_frame({frame.data(), width, height, 0, Format::nv12, chroma.data()}, second.data());
  CHECK(first == second);
  for (std::size_t pixel = 0; pixel < width * height; ++pixel) {
    const bool left = pixel % 4 < 2;
    CHECK(first[pixel * 3] == (left ? 255 : 0) && first[pixel * 3 + 2] == (left ? 0 : 255));
  }
}

TEST(the_second_frame_of_a_size_allocates_nothing) {
  const auto rgb = noise(64 * 48 * 3);
  std::vector<std::uint8_t> out(16 * 16 * 3);
  byolt::Resizer resizer(16, Rule::crop);
  const Image frames[] = {{rgb.data(), 64, 48, 0, Format::rgb, nullptr},
                          {rgb.data(), 64, 48, 0, Format::nv12, nullptr}};
  for (const Image& frame : frames) resizer(frame, out.data());
  const std::size_t before = allocations();
  for (const Image& frame : frames) resizer(frame, out.data());
  CHECK(allocations() == before);
}

TEST(frames_that_cannot_be) {
  const std::vector<std::uint8_t> pixels(300);
  std::vector<std::uint8_t> out(16 * 16 * 3);
  byolt::Resizer resizer(16, Rule::crop);
  const auto give = [&](const Image& image) {
    resizer(image, out.data());
    return 0;
  };
  CHECK_ERROR(Code::input, "holds nothing", give({nullptr, 10, 10, 0, Format::rgb, nullptr}));
  CHECK_ERROR(Code::input, "holds nothing", give({pixels.data(), 0, 10, 0, Format::rgb, nullptr}));
  CHECK_ERROR(Code::input, "too large", give({pixels.data(), 100000, 10, 0, Format::rgb, nullptr}));
  CHECK_ERROR(Code::input, "too short", give({pixels.data(), 10, 10, 29, Format::rgb, nullptr}));
  CHECK_ERROR(Code::input, "even", give({pixels.data(), 11, 10, 0, Format::nv12, nullptr}));
}

TEST(frames_that_stand_on_their_head_are_refused) {
  // A bottom-up bitmap: the last row's address, and a stride that goes back. As std::size_t it wraps around.
  const std::vector<std::uint8_t> pixels(300);
  std::vector<std::uint8_t> out(16 * 16 * 3);
  for (const std::size_t stride : {static_cast<std::size_t>(-30), std::size_t{static_cast<std::uint32_t>(-32)},
                                   static_cast<std::size_t>(INT64_MIN), std::size_t{1} << 31}) {
    for (const Format format : {Format::rgb, Format::bgr, Format::nv12}) {
      const Image image{pixels.data() + 270, 10, 10, stride, format, nullptr};
      CHECK_ERROR(Code::input, "turn a bottom-up frame over", (byolt::Resizer(16, Rule::crop)(image, out.data()), 0));
      CHECK_ERROR(Code::input, "turn a bottom-up frame over", (byolt::copy_frame(image, out.data()), 0));
    }
  }
}

TEST(formats_that_are_none_are_refused) {
  const std::vector<std::uint8_t> pixels(300);
  std::vector<std::uint8_t> out(16 * 16 * 3);
  for (const int number : {5, -1, 99}) {
    const Image image{pixels.data(), 10, 10, 0, static_cast<Format>(number), nullptr};
    CHECK_ERROR(Code::input, "is not known: it is rgb, bgr, nv12, grey8 or grey16",
                (byolt::Resizer(16, Rule::crop)(image, out.data()), 0));
    CHECK_ERROR(Code::input, "is not known: it is rgb, bgr, nv12, grey8 or grey16",
                (byolt::copy_frame(image, out.data()), 0));
  }
}
