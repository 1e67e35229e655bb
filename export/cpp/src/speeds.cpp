#include "speeds.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>
#include <tuple>

#include "byolt/error.hpp"
#include "chooser.hpp"
#include "device.hpp"
#include "processor.hpp"
#include "text.hpp"

namespace byolt {
namespace {

constexpr double kSliceS = 0.02;  // Of a file and batch size in each round.
constexpr double kSlowS = 0.05;   // A call that takes longer is timed in fewer rounds: whoever verifies waits for it.
constexpr std::size_t kMostSpeeds = 1024;

struct Timed {
  std::string file, runtime;
  bool is_fp32 = false;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Session> session;
  std::vector<std::vector<double>> rounds;  // Seconds of each call.
};

bool on_cpu(const std::string& runtime) { return runtime == "cpu"; }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// To four digits: the rest is noise.
double rounded(double value) { return std::stod(format_number("%.4g", value)); }

double call_s(Timed& timed, std::size_t batch) {
  const auto begin = std::chrono::steady_clock::now();
  (void)timed.session->run(batch);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::unique_ptr<Backend> open_again(const Bundle& bundle, const FileReport& report, int threads) {
  const Manifest& manifest = bundle.manifest();
  const Tensors tensors = tensors_of(manifest.contract);
  const auto named = [&](const auto& entry) { return entry.name == report.name; };
  if (report.is_engine) {
#ifdef BYOLT_TENSORRT
    const auto engine = std::find_if(manifest.engines.begin(), manifest.engines.end(), named);
    return open_tensorrt(bundle.open_engine(*engine), tensors);
#endif
  }
  const auto file = std::find_if(manifest.files.begin(), manifest.files.end(), named);
  const std::string provider = report.provider.substr(0, report.provider.find("ExecutionProvider"));
  return open_onnxruntime(bundle.open_onnx(*file), tensors, provider, threads, file->for_tensorrt());
}

void time_in_turn(std::vector<Timed>& all, std::size_t batch) {
  bool slow = false;
  for (Timed& timed : all) {
    timed.rounds.clear();
    (void)call_s(timed, batch);  // A runtime may prepare itself for a batch size when it first sees it.
    slow = call_s(timed, batch) > kSlowS || slow;
  }
  const std::size_t rounds = slow ? 3 : 5, least = slow ? 1 : 2;
  for (std::size_t round = 0; round < rounds; ++round) {
    for (std::size_t k = 0; k < all.size(); ++k) {
      Timed& timed = all[(round + k) % all.size()];
      (void)call_s(timed, batch);  // It finds the caches as another left them.
      std::vector<double> calls;
      double total = 0;
      while (calls.size() < least || total < kSliceS) {
        calls.push_back(call_s(timed, batch));
        total += calls.back();
      }
      timed.rounds.push_back(std::move(calls));
    }
  }
}

/// fp32 in ONNX Runtime on the same processor; of a GPU without that, of its fp32 engine.
const Timed* baseline_of(const std::vector<Timed>& all, const Timed& timed) {
  const std::vector<std::string> wanted =
      on_cpu(timed.runtime) ? std::vector<std::string>{"cpu"} : std::vector<std::string>{"cuda", "tensorrt"};
  for (const std::string& runtime : wanted) {
    for (const Timed& other : all) {
      if (other.is_fp32 && other.runtime == runtime) return &other;
    }
  }
  return nullptr;
}

Speed speed_of(const std::vector<Timed>& all, const Timed& timed, std::size_t batch, int threads) {
  std::vector<double> calls, ratios;
  for (const auto& round : timed.rounds) calls.insert(calls.end(), round.begin(), round.end());
  const Timed* baseline = baseline_of(all, timed);
  for (std::size_t k = 0; baseline != nullptr && k < timed.rounds.size(); ++k) {
    ratios.push_back(median(baseline->rounds[k]) / median(timed.rounds[k]));
  }
  Speed speed;
  speed.file = timed.file;
  speed.runtime = timed.runtime;
  speed.processor = on_cpu(timed.runtime) ? cpu_name() : plain_name(gpu_name().value_or(""));
  speed.threads = cpu_threads(threads);
  speed.batch = batch;
  speed.images_per_s = rounded(static_cast<double>(batch) / median(calls));
  if (!ratios.empty()) speed.times_fp32 = rounded(median(ratios));
  return speed;
}

}  // namespace

std::vector<Speed> time_files(const Bundle& bundle, const Report& report, int threads) {
  std::vector<Timed> all;
  for (const FileReport& file : report.files) {
    if (file.parity.verdict != "passed") continue;
    Timed timed;
    timed.file = file.name;
    timed.runtime = file.is_engine ? "tensorrt" : file.provider == "CPUExecutionProvider" ? "cpu" : "cuda";
    timed.is_fp32 = file.precision == "fp32";
    all.push_back(std::move(timed));
  }
  if (all.size() < 2) return {};
  const Golden golden = bundle.golden();
  const Input& input = bundle.manifest().contract.input;
  std::size_t next = 0;
  for (const FileReport& file : report.files) {
    if (file.parity.verdict != "passed") continue;
    Timed& timed = all[next++];
    timed.backend = open_again(bundle, file, threads);
    timed.session = timed.backend->session();
    for (std::size_t k = 0; k < input.opt_batch; ++k) {
      const std::uint8_t* image = golden.pixels.data() + (k % golden.images) * input.image_bytes();
      std::memcpy(timed.session->images() + k * input.image_bytes(), image, input.image_bytes());
    }
  }
  std::vector<Speed> speeds;
  for (const std::size_t batch : std::set<std::size_t>{1, input.opt_batch}) {
    time_in_turn(all, batch);
    for (const Timed& timed : all) speeds.push_back(speed_of(all, timed, batch, threads));
  }
  return speeds;
}

std::vector<Speed> merged_speeds(const std::vector<Speed>& earlier, const std::vector<Speed>& measured) {
  const auto where = [](const Speed& speed) { return std::tie(speed.runtime, speed.processor, speed.threads); };
  std::vector<Speed> merged;
  for (const Speed& speed : earlier) {
    const auto same = [&](const Speed& other) { return where(other) == where(speed); };
    if (std::none_of(measured.begin(), measured.end(), same)) merged.push_back(speed);
  }
  merged.insert(merged.end(), measured.begin(), measured.end());
  if (merged.size() > kMostSpeeds) merged.erase(merged.begin(), merged.end() - kMostSpeeds);
  return merged;
}

}  // namespace byolt
