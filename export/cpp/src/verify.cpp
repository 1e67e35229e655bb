#include "verify.hpp"

#include <algorithm>
#include <cmath>

#include "byolt/error.hpp"
#include "chooser.hpp"
#include "device.hpp"
#include "text.hpp"

namespace byolt {
namespace {

constexpr const char* kParity = "parity.json";
constexpr std::size_t kParityBytes = std::size_t{64} << 20;  // Nothing larger is parsed.
constexpr std::size_t kLongestReason = 2000;                 // Bytes of somebody else's manifest that are repeated.

Parity not_run(const Gates& gates, const std::string& reason) {
  Parity parity;
  parity.verdict = "not run here";
  parity.reasons = {reason};
  parity.gates = gates;
  return parity;
}

using Judged = std::map<std::string, Limits>;

/// The gates that each file was judged by when it was made: whoever loosens those of the manifest gains nothing.
Judged judged_gates(const Bundle& bundle) {
  std::string content;
  const std::string where = bundle.open_file(kParity, bundle.manifest().parity_sha256, &content);
  if (content.size() > kParityBytes) {
    throw Error(Code::input, where + " is larger than it may be (64 MiB): export it again");
  }
  std::vector<std::string> names;
  for (const OnnxEntry& entry : bundle.manifest().files) names.push_back(entry.name);
  return parse_judged_gates(content, where, names);
}

Gates gates_of_entry(const OnnxEntry& entry, const Golden& golden, const Judged& judged) {
  return gates_of(entry.precision, golden.images, {entry.gates, judged.at(entry.name)});
}

FileReport prove_onnx(const Bundle& bundle, const OnnxEntry& entry, const std::string& provider, const Golden& golden,
                      const Gates& gates, int threads) {
  const Contract& contract = bundle.manifest().contract;
  const std::string proven_on =
      entry.for_openvino() ? "OpenVINO" : (entry.is_made() ? provider : "CPU") + "ExecutionProvider";
  FileReport report{entry.name, entry.precision, proven_on, false, {}};
  if (!entry.is_made()) {
    report.parity = not_run(gates, "failed when it was made (" + quoted(entry.reason, kLongestReason) + ")");
    report.parity.verdict = "failed";
    return report;
  }
  const std::string path = bundle.open_onnx(entry);
  const auto own = golden.own.find(entry.name);
  if (std::isfinite(gates.drift_mean_max) && own == golden.own.end()) {
    throw Error(Code::input, bundle.folder() + "/" + kGolden + " does not hold what " + entry.name +
                                 " gave when it was made: export it again");
  }
  try {
    if (entry.for_openvino()) throw Error(Code::missing, why_not_here(entry));
    const auto backend = open_onnxruntime(path, tensors_of(contract), provider, threads, entry.for_tensorrt());
    // Only where the same runtime works on the same kind of processor is the same arithmetic to be expected.
    const bool has_own = provider == "CPU" && own != golden.own.end();
    report.parity = prove(*backend->session(), golden, contract, gates, has_own ? &own->second : nullptr);
  } catch (const Error& error) {
    if (error.code() != Code::missing) throw;
    report.parity = not_run(gates, error.what());
  }
  // It failed by more images, perhaps, than those that travel.
  const std::string made =
      entry.verdict == "failed" ? "failed when it was made (" + quoted(entry.reason, kLongestReason) + ")" : "";
  for (const std::string& reason : {find_precision_fault(entry), made}) {
    if (reason.empty()) continue;
    report.parity.verdict = "failed";
    report.parity.reasons.insert(report.parity.reasons.begin(), reason);
  }
  return report;
}

FileReport prove_engine(const Bundle& bundle, const EngineEntry& entry, const Golden& golden, const Judged& judged) {
  const std::string path = bundle.open_engine(entry);
  const auto& files = bundle.manifest().files;
  const auto source =
      std::find_if(files.begin(), files.end(), [&](const OnnxEntry& f) { return f.name == entry.onnx; });
  const Gates gates = gates_of_entry(*source, golden, judged);
  FileReport report{entry.name, entry.precision, entry.flavour + " " + entry.version, true, {}};
  if (const std::string reason = why_engine_cannot_run(entry); !reason.empty()) {
    report.parity = not_run(gates, reason);
    return report;
  }
#ifdef BYOLT_TENSORRT
  try {
    const Contract& contract = bundle.manifest().contract;
    const auto backend = open_tensorrt(path, tensors_of(contract));
    report.parity = prove(*backend->session(), golden, contract, gates);
  } catch (const Error& error) {
    if (error.code() == Code::input) throw;
    report.parity = not_run(gates, error.what());
    if (error.code() == Code::machine) report.parity.verdict = "failed";
  }
#else
  (void)path, (void)golden;
#endif
  return report;
}

}  // namespace

std::string Report::verdict() const {
  const auto any = [this](const char* verdict) {
    return std::any_of(files.begin(), files.end(),
                       [&](const FileReport& file) { return file.parity.verdict == verdict; });
  };
  return any("failed") ? "failed" : any("passed") ? "passed" : "not run here";
}

std::string Report::reason() const {
  if (verdict() == "passed") return "";
  std::string all;
  for (const FileReport& file : files) {
    for (const std::string& reason : file.parity.reasons) {
      all += (all.empty() ? "" : "; ") + file.name + " (" + file.provider + "): " + reason;
    }
  }
  return all;
}

Report verify(const Bundle& bundle, std::vector<std::string> providers, int threads) {
  const Golden golden = bundle.golden();
  const Judged judged = judged_gates(bundle);
  if (providers.empty()) {
    providers = {"CPU"};
    if (gpu_capability() && has_provider("CUDA")) providers.insert(providers.begin(), "CUDA");
  }
  Report report;
  for (const OnnxEntry& entry : bundle.manifest().files) {
    // What is placed for a CPU is proven there alone, and what could not be made is told once.
    const bool for_cpu = entry.placement == "cpu";
    const std::vector<std::string> once = {for_cpu ? "CPU" : providers.front()};
    for (const std::string& provider : entry.is_made() && !for_cpu && !entry.for_openvino() ? providers : once) {
      const Gates gates = gates_of_entry(entry, golden, judged);
      report.files.push_back(prove_onnx(bundle, entry, provider, golden, gates, threads));
    }
  }
  for (const EngineEntry& entry : bundle.manifest().engines)
    report.files.push_back(prove_engine(bundle, entry, golden, judged));
  return report;
}

std::vector<EngineVerdict> engine_verdicts(const Report& report) {
  std::vector<EngineVerdict> verdicts;
  for (const FileReport& file : report.files) {
    if (!file.is_engine || file.parity.verdict == "not run here") continue;
    std::string reason;
    for (const std::string& one : file.parity.reasons) reason += (reason.empty() ? "" : "; ") + one;
    verdicts.push_back({file.name, file.parity.verdict, reason.empty() ? "ran by " + file.provider : reason});
  }
  return verdicts;
}

}  // namespace byolt
