// byolt-bench BUNDLE: latency, throughput and memory on this machine.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "arguments.hpp"
#include "byolt/encoder.hpp"
#include "plain_onnxruntime.hpp"

namespace {

using byolt::Code;
using byolt::Error;
using Clock = std::chrono::steady_clock;
using json = nlohmann::ordered_json;

constexpr const char* kUsage =
    "usage: byolt-bench BUNDLE [--batch 1,8] [--runtime auto|tensorrt|cuda|cpu] [--precision fastest|fp32|fp16|int8]"
    " [--threads N] [--seconds N] [--frame WIDTHxHEIGHT] [--plain] [--allow-unproven] [--json]";
constexpr int kRounds = 10, kWarmups = 3;

struct Setting {
  std::string bundle;
  byolt::Options options;
  std::vector<std::size_t> batches;
  int seconds = 2;
  unsigned frame_width = 0, frame_height = 0;
  bool plain = false, as_json = false;
};

struct Row {
  std::size_t batch = 0;
  double p50_ms = 0, p90_ms = 0, p99_ms = 0, images_per_s = 0, peak_mib = 0;
  std::optional<double> plain_images_per_s, ratio;
};

byolt::Runtime to_runtime(const std::string& name) {
  if (name == "auto") return byolt::Runtime::automatic;
  if (name == "tensorrt") return byolt::Runtime::tensorrt;
  if (name == "cuda") return byolt::Runtime::cuda;
  if (name == "cpu") return byolt::Runtime::cpu;
  throw Error(Code::input, "--runtime is auto, tensorrt, cuda or cpu; " + std::string(kUsage));
}

Setting read_setting(byolt::Arguments& arguments) {
  Setting setting;
  setting.as_json = arguments.flag("--json");
  setting.plain = arguments.flag("--plain");
  setting.options.allow_unproven = arguments.flag("--allow-unproven");
  setting.options.runtime = to_runtime(arguments.value("--runtime", "auto"));
  setting.options.precision = arguments.value("--precision");
  setting.options.threads = arguments.number("--threads", 0, 1);
  setting.seconds = arguments.number("--seconds", setting.seconds, 1);
  const std::string frame = arguments.value("--frame");
  if (!frame.empty() && std::sscanf(frame.c_str(), "%5ux%5u", &setting.frame_width, &setting.frame_height) != 2) {
    throw Error(Code::input, "--frame is a size such as 640x480; " + std::string(kUsage));
  }
  std::istringstream sizes(arguments.value("--batch"));
  for (std::string size; std::getline(sizes, size, ',');) {
    setting.batches.push_back(static_cast<std::size_t>(arguments.to_number(size, "--batch", 1)));
  }
  setting.bundle = arguments.rest(1, 1)[0];
  return setting;
}

/// The most memory that this process ever held, MiB.
double peak_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib / 1024;
  }
  return 0;
}

double percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return percentile(values, 0.5);
}

/// Latencies in ms of calls that go on for some seconds, added to `latencies`; calls a second.
template <typename Call>
double time_calls(Call call, double seconds, std::vector<double>& latencies) {
  const auto begin = Clock::now();
  auto last = begin;
  std::size_t calls = 0;
  do {
    call();
    const auto now = Clock::now();
    latencies.push_back(std::chrono::duration<double, std::milli>(now - last).count());
    last = now;
    ++calls;
  } while (std::chrono::duration<double>(last - begin).count() < seconds);
  return static_cast<double>(calls) / std::chrono::duration<double>(last - begin).count();
}

/// Noise: every image is another one, and none is black.
std::vector<std::uint8_t> draw(std::size_t bytes) {
  std::vector<std::uint8_t> pixels(bytes);
  std::uint32_t state = 1;
  for (std::uint8_t& pixel : pixels) {
    state = state * 1664525 + 1013904223;
    pixel = static_cast<std::uint8_t>(state >> 24);
  }
  return pixels;
}

/// A batch of frames to time, and the pixels that they look at.
struct Frames {
  Frames(const byolt::Description& about, const Setting& setting, std::size_t batch) {
    const bool own_size = setting.frame_width != 0;
    const std::size_t width = own_size ? setting.frame_width : about.width;
    const std::size_t height = own_size ? setting.frame_height : about.height;
    const bool deep = about.bit_depth > 8;
    const std::size_t bytes = width * height * about.channels * (deep ? 2 : 1);
    const byolt::Format format = about.channels == 3 ? byolt::Format::rgb
                                 : deep              ? byolt::Format::grey16
                                                     : byolt::Format::grey8;
    pixels = draw(batch * bytes);
    const auto highest = static_cast<std::uint8_t>((1U << about.bit_depth) / 256 - 1);
    for (std::size_t k = 1; deep && k < pixels.size(); k += 2) pixels[k] &= highest;
    for (std::size_t k = 0; k < batch; ++k) {
      images.push_back({pixels.data() + k * bytes, width, height, 0, format, nullptr});
    }
  }

  std::vector<std::uint8_t> pixels;
  std::vector<byolt::Image> images;
};

/// Calls of byolt, and of `plain` where it is given, in turns: whatever else the machine does falls on both.
Row time_batch(const byolt::Encoder& encoder, byolt::PlainOnnxRuntime* plain, std::size_t batch,
               const Setting& setting) {
  byolt::Context context = encoder.context();
  const Frames frames(encoder.description(), setting, batch);
  const auto call = [&] { (void)context.run({frames.images.data(), batch}); };
  const auto call_plain = [&] { plain->run(frames.pixels.data(), batch); };
  for (int k = 0; k < kWarmups; ++k) {
    call();
    if (plain != nullptr) call_plain();
  }
  const double turn_s = static_cast<double>(setting.seconds) / kRounds;
  std::vector<double> latencies, ours, theirs, ratios, ignored;
  for (int round = 0; round < kRounds; ++round) {
    ours.push_back(time_calls(call, turn_s, latencies));
    if (plain == nullptr) continue;
    theirs.push_back(time_calls(call_plain, turn_s, ignored));
    ratios.push_back(ours.back() / theirs.back());
  }
  std::sort(latencies.begin(), latencies.end());
  Row row;
  row.batch = batch;
  row.p50_ms = percentile(latencies, 0.5);
  row.p90_ms = percentile(latencies, 0.9);
  row.p99_ms = percentile(latencies, 0.99);
  row.images_per_s = median(ours) * static_cast<double>(batch);
  row.peak_mib = peak_mib();
  if (plain != nullptr) {
    row.plain_images_per_s = median(theirs) * static_cast<double>(batch);
    row.ratio = median(ratios);
  }
  return row;
}

json to_json(const Row& row) {
  json found = {{"batch", row.batch},
                {"p50_ms", row.p50_ms},
                {"p90_ms", row.p90_ms},
                {"p99_ms", row.p99_ms},
                {"images_per_s", row.images_per_s},
                {"peak_mib", row.peak_mib}};
  if (row.ratio && row.plain_images_per_s) {
    found["plain_images_per_s"] = *row.plain_images_per_s;
    found["ratio"] = *row.ratio;
  }
  return found;
}

void print(const Row& row) {
  std::printf("%6zu %9.3f %9.3f %9.3f %12.1f %10.1f", row.batch, row.p50_ms, row.p90_ms, row.p99_ms, row.images_per_s,
              row.peak_mib);
  if (row.ratio && row.plain_images_per_s) std::printf(" %12.1f %7.3f", *row.plain_images_per_s, *row.ratio);
  std::printf("\n");
  std::fflush(stdout);
}

void run(byolt::Arguments& arguments) {
  Setting setting = read_setting(arguments);
  const byolt::Encoder encoder = byolt::Encoder::open(setting.bundle, setting.options);
  const byolt::Description& about = encoder.description();
  if (setting.plain && (setting.frame_width != 0 || setting.options.runtime != byolt::Runtime::cpu)) {
    throw Error(Code::input,
                "--plain compares calls of the CPU on images of the bundle's size: --runtime cpu, no --frame");
  }
  std::unique_ptr<byolt::PlainOnnxRuntime> plain;
#ifdef BYOLT_ONNXRUNTIME
  if (setting.plain) {
    plain = std::make_unique<byolt::PlainOnnxRuntime>(setting.bundle + "/" + about.file, about.height, about.width,
                                                      about.channels * (about.bit_depth > 8 ? 2 : 1),
                                                      setting.options.threads);
  }
#endif
  if (setting.batches.empty()) {
    for (const std::size_t size : {1U, 8U, 32U}) {
      if (size <= about.max_batch) setting.batches.push_back(size);
    }
  }
  json rows = json::array();
  if (!setting.as_json) {
    std::printf("%s by %s\n", about.file.c_str(), about.runtime.c_str());
    std::printf("%6s %9s %9s %9s %12s %10s%s\n", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "peak MiB",
                plain ? "        plain   ratio" : "");
  }
  for (const std::size_t batch : setting.batches) {
    const Row row = time_batch(encoder, plain.get(), batch, setting);
    rows.push_back(to_json(row));
    if (!setting.as_json) print(row);
  }
  if (setting.as_json) {
    std::cout << json{{"file", about.file},
                      {"runtime", about.runtime},
                      {"threads", setting.options.threads},
                      {"rows", rows}}
                     .dump(2)
              << '\n';
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    byolt::Arguments arguments(count, words, kUsage);
    run(arguments);
    return 0;
  } catch (const Error& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "byolt-bench could not go on: " << error.what() << '\n';
    return static_cast<int>(Code::machine);
  }
}
