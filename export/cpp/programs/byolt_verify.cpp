// byolt-verify BUNDLE: does each file of a bundle still compute on this machine what PyTorch computed?

#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "arguments.hpp"
#include "speeds.hpp"
#include "text.hpp"
#include "verify.hpp"

namespace {

using byolt::Code;
using byolt::Error;
using json = nlohmann::ordered_json;

constexpr const char* kUsage = "usage: byolt-verify BUNDLE [--provider CPU|CUDA] [--threads N] [--json]";

json to_json(const std::optional<double>& value) { return value ? json(*value) : json(nullptr); }

json to_json(const byolt::Gates& gates) {
  json limits = {{"relative_l2_mean_max", gates.relative_l2_mean_max},
                 {"relative_l2_worst_max", gates.relative_l2_worst_max},
                 {"centred_cosine_worst", gates.centred_cosine_worst},
                 {"overlap_at_1", gates.overlap_at_1},
                 {"overlap_at_10", gates.overlap_at_10},
                 {"top_1_agreement", gates.top_1_agreement},
                 {"unnoticed_perturbation_max", gates.unnoticed_perturbation_max}};
  if (std::isfinite(gates.drift_mean_max)) limits["drift_mean_max"] = gates.drift_mean_max;
  return limits;
}

json to_json(const byolt::Measures& measures) {
  return {{"images", measures.images},
          {"finite", measures.finite},
          {"relative_l2_mean", measures.relative_l2_mean},
          {"relative_l2_worst", measures.relative_l2_worst},
          {"relative_l2_histogram", measures.relative_l2_histogram},
          {"worst_image", measures.worst_image},
          {"centred_cosine_mean", measures.centred_cosine_mean},
          {"centred_cosine_worst", measures.centred_cosine_worst},
          {"overlap_at_1", to_json(measures.overlap_at_1)},
          {"overlap_at_10", to_json(measures.overlap_at_10)},
          {"top_1_agreement", to_json(measures.top_1_agreement)}};
}

json to_json(const byolt::Speed& speed) {
  return {{"file", speed.file},
          {"runtime", speed.runtime},
          {"processor", speed.processor},
          {"threads", speed.threads},
          {"batch", speed.batch},
          {"images_per_s", speed.images_per_s},
          {"times_fp32", to_json(speed.times_fp32)}};
}

/// Those of one file in the runtime of its report.
std::vector<byolt::Speed> of(const byolt::FileReport& file, const std::vector<byolt::Speed>& speeds) {
  std::vector<byolt::Speed> found;
  for (const byolt::Speed& speed : speeds) {
    const bool on_cpu = file.provider == "CPUExecutionProvider";
    if (speed.file == file.name && (file.is_engine || (speed.runtime == "cpu") == on_cpu)) found.push_back(speed);
  }
  return found;
}

/// The golden images' shares: no gallery travels in a bundle.
json agreement_of(const byolt::Parity& parity) {
  if (!parity.golden) return nullptr;
  json found = {{"images", parity.golden->images},
                {"overlap_at_1", nullptr},
                {"overlap_at_10", nullptr},
                {"top_1_agreement", nullptr}};
  for (const auto& [name, share] : parity.shares()) {
    found[name] = {
        {"value", share.value}, {"interval_95", share.interval_95}, {"queries", share.queries}, {"gate", share.gate}};
  }
  return found;
}

json to_json(const byolt::FileReport& file, const std::vector<byolt::Speed>& all) {
  json speeds = json::array();
  for (const byolt::Speed& speed : of(file, all)) speeds.push_back(to_json(speed));
  json batches = json::array(), controls = json::array();
  for (const byolt::BatchCheck& check : file.parity.batches) {
    batches.push_back({{"batch", check.batch},
                       {"relative_l2_worst", to_json(check.relative_l2_worst)},
                       {"from_batch_1_worst", to_json(check.from_batch_1_worst)},
                       {"fault", check.fault}});
  }
  for (const byolt::Control& control : file.parity.controls) {
    controls.push_back(
        {{"name", control.name}, {"state", control.state}, {"relative_l2_worst", to_json(control.relative_l2_worst)}});
  }
  json report = {{"name", file.name},
                 {"precision", file.precision},
                 {"provider", file.provider},
                 {"verdict", file.parity.verdict},
                 {"reasons", file.parity.reasons},
                 {"gates", to_json(file.parity.gates)},
                 {"golden", file.parity.golden ? to_json(*file.parity.golden) : json(nullptr)},
                 {"gallery", nullptr},  // The gallery is measured at export; it is no part of a bundle.
                 {"task", nullptr},
                 {"batches", batches},
                 {"controls", controls},
                 {"agreement", agreement_of(file.parity)}};
  if (file.parity.drift_mean) report["drift_mean"] = *file.parity.drift_mean;
  report["remarks"] = file.parity.remarks();
  report["detection_limit"] = to_json(file.parity.detection_limit());
  if (!speeds.empty()) report["speeds"] = speeds;
  return report;
}

/// A proof needs no write, and a bundle may lie where nothing can be written.
void record(byolt::Bundle& bundle, const std::vector<byolt::Speed>& speeds) {
  if (bundle.manifest().version < 3) {
    std::cerr << bundle.folder() << " was made before bundles kept speeds: export it again to choose by them\n";
    return;
  }
  try {
    bundle.record_speeds(byolt::merged_speeds(bundle.manifest().speeds, speeds));
  } catch (const Error& error) {
    std::cerr << "speeds are not kept: " << error.what() << '\n';
  }
}

void print(const byolt::Report& report, const std::vector<byolt::Speed>& speeds) {
  std::printf("%-40s %-24s %-13s %12s %12s %10s %8s\n", "file", "ran by", "verdict", "relative L2", "cosine",
              "neighbours", "x fp32");
  for (const byolt::FileReport& file : report.files) {
    std::string error = "-", cosine = "-", neighbours = "-", times = "-";
    if (const auto& golden = file.parity.golden) {
      error = byolt::short_number(golden->relative_l2_worst);
      cosine = byolt::long_number(golden->centred_cosine_worst);
      for (const auto& share : {golden->top_1_agreement, golden->overlap_at_1}) {
        if (share) neighbours = byolt::long_number(*share);
      }
    }
    for (const byolt::Speed& speed : of(file, speeds)) {  // The last is at the batch size that the bundle is tuned for.
      if (speed.times_fp32) times = byolt::short_number(*speed.times_fp32);
    }
    std::printf("%-40s %-24s %-13s %12s %12s %10s %8s\n", file.name.c_str(), file.provider.c_str(),
                file.parity.verdict.c_str(), error.c_str(), cosine.c_str(), neighbours.c_str(), times.c_str());
  }
}

void run(byolt::Arguments& arguments) {
  const bool as_json = arguments.flag("--json");
  const int threads = arguments.number("--threads", 0, 1);
  const std::string provider = arguments.value("--provider");
  if (!provider.empty() && provider != "CPU" && provider != "CUDA") {
    throw Error(Code::input, "--provider is CPU or CUDA; " + std::string(kUsage));
  }
  byolt::Bundle bundle(arguments.rest(1, 1)[0]);
  const auto providers = provider.empty() ? std::vector<std::string>{} : std::vector<std::string>{provider};
  const byolt::Report report = byolt::verify(bundle, providers, threads);
  bundle.record(byolt::engine_verdicts(report));
  const std::vector<byolt::Speed> speeds = byolt::time_files(bundle, report, threads);
  if (!speeds.empty()) record(bundle, speeds);
  if (as_json) {
    json files = json::array();
    for (const byolt::FileReport& file : report.files) files.push_back(to_json(file, speeds));
    std::cout << json{{"verdict", report.verdict()}, {"reason", report.reason()}, {"files", files}}.dump(2) << '\n';
  } else {
    print(report, speeds);
  }
  std::cout.flush();
  if (report.verdict() == "failed") throw Error(Code::parity, bundle.folder() + ": parity failed: " + report.reason());
  if (report.verdict() != "passed") {
    throw Error(Code::missing, bundle.folder() + ": nothing of it could be run here: " + report.reason());
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
  } catch (const std::exception& error) {  // Out of memory, or the output cannot be written.
    std::cerr << "byolt-verify could not go on: " << error.what() << '\n';
    return static_cast<int>(Code::machine);
  }
}
