#include "parity.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "byolt/error.hpp"
#include "text.hpp"

namespace byolt {
namespace {

/// Noise on the largest kernel, as a share of its standard deviation; infinite for a model that is wrong outright.
double perturbation_of(const std::string& control) {
  static const std::map<std::string, double> shares = {{"perturbed_kernel", 0.05},
                                                       {"perturbed_kernel_10", 0.1},
                                                       {"perturbed_kernel_20", 0.2},
                                                       {"perturbed_kernel_40", 0.4},
                                                       {"perturbed_kernel_80", 0.8}};
  const auto found = shares.find(control);
  return found == shares.end() ? std::numeric_limits<double>::infinity() : found->second;
}

std::vector<float> nan_to_zero(std::vector<float> values) {
  for (float& value : values) value = std::isfinite(value) ? value : 0;
  return values;
}

class Prover {
 public:
  Prover(Session& session, const Golden& golden, const Contract& contract, const Gates& gates)
      : session_(session), golden_(golden), contract_(contract), gates_(gates) {}

  Parity prove() {
    Parity parity;
    parity.gates = gates_;
    std::vector<std::string> later;
    for (const std::size_t batch : batch_sizes(contract_.input.opt_batch, contract_.input.max_batch)) {
      parity.batches.push_back(check(batch));
      for (const std::string& fault : batch_faults(parity.batches.back())) {
        later.push_back("at batch " + std::to_string(batch) + ", " + fault);
      }
    }
    if (!candidate_.empty()) {
      parity.golden = measure(rows(golden_.reference), rows(candidate_), contract_.logits());
      parity.reasons = faults(*parity.golden, gates_);
    }
    parity.reasons.insert(parity.reasons.end(), later.begin(), later.end());
    if (!candidate_.empty()) judge_controls(parity);
    parity.verdict = parity.reasons.empty() ? "passed" : "failed";
    return parity;
  }

 private:
  [[nodiscard]] Rows rows(const std::vector<float>& values) const {
    return {values.data(), golden_.images, golden_.dim};
  }

  /// All images in calls of exactly `batch` rows, the last filled up from the start: row n is image n modulo N.
  std::vector<float> run_filled(std::size_t batch) {
    const std::size_t bytes = contract_.input.image_bytes(), dim = golden_.dim;
    const std::size_t total = (golden_.images + batch - 1) / batch * batch;
    std::vector<float> outputs(total * dim);
    for (std::size_t start = 0; start < total; start += batch) {
      for (std::size_t k = 0; k < batch; ++k) {
        const std::size_t image = (start + k) % golden_.images;
        std::memcpy(session_.images() + k * bytes, golden_.pixels.data() + image * bytes, bytes);
      }
      const float* found = session_.run(batch);
      std::copy(found, found + batch * dim, outputs.data() + start * dim);
    }
    return outputs;
  }

  BatchCheck check(std::size_t batch) {
    BatchCheck check;
    check.batch = batch;
    std::vector<float> outputs;
    try {
      outputs = run_filled(batch);
    } catch (const Error& error) {  // What does not run is a verdict on the file, not an error of byolt's.
      check.fault = error.what();
      return check;
    }
    const std::vector<float> clean = nan_to_zero(outputs);
    check.relative_l2_worst = worst(golden_.reference, clean);
    outputs.resize(golden_.images * golden_.dim);
    if (batch == 1) alone_ = nan_to_zero(outputs);
    if (!alone_.empty()) check.from_batch_1_worst = worst(alone_, clean);
    candidate_ = std::move(outputs);
    return check;
  }

  /// The worst relative L2 of filled-up outputs from those of the N images.
  [[nodiscard]] double worst(const std::vector<float>& reference, const std::vector<float>& filled) const {
    const std::size_t dim = golden_.dim;
    const std::vector<double> error = relative_l2(rows(reference), {filled.data(), filled.size() / dim, dim});
    return *std::max_element(error.begin(), error.end());
  }

  [[nodiscard]] std::vector<std::string> batch_faults(const BatchCheck& check) const {
    if (!check.fault.empty()) return {check.fault};
    std::vector<std::string> found;
    const double limit = gates_.relative_l2_worst_max;
    const auto judge = [&](std::optional<double> value, const char* from) {
      if (value && *value > limit) {
        found.push_back("relative L2 " + short_number(*value) + " from " + from + " is above " + short_number(limit));
      }
    };
    judge(check.relative_l2_worst, "the reference");
    judge(check.from_batch_1_worst, "batch 1");
    return found;
  }

  void judge_controls(Parity& parity) const {
    for (const auto& [name, outputs] : golden_.controls) {
      Control control{name, "not applicable", std::nullopt};
      if (outputs) {
        const Measures measures = measure(rows(*outputs), rows(candidate_), contract_.logits());
        const bool allowed = perturbation_of(name) <= gates_.unnoticed_perturbation_max;
        control.relative_l2_worst = measures.relative_l2_worst;
        control.state = !faults(measures, gates_).empty() ? "fails" : allowed ? "below the limit" : "not noticed";
      }
      if (control.state == "not noticed") parity.reasons.push_back("the wrong model `" + name + "` was not noticed");
      parity.controls.push_back(std::move(control));
    }
  }

  Session& session_;
  const Golden& golden_;
  const Contract& contract_;
  const Gates& gates_;
  std::vector<float> candidate_, alone_;
};

}  // namespace

std::optional<double> Parity::detection_limit() const {
  std::optional<double> least;
  for (const Control& control : controls) {
    const double share = perturbation_of(control.name);
    if (control.state == "fails" && std::isfinite(share) && share < least.value_or(1)) least = share;
  }
  return least;
}

Gates gates_of(const std::string& precision, const std::map<std::string, double>& asked) {
  Gates gates = {0.05, 0.25, 0.9, 0.95, 0.95, 0.97, 0.4};  // int8
  if (precision == "fp32") gates = {1e-4, 1e-4, 0.99999, 0.99, 0.99, 0.99, 0};
  if (precision == "fp16") gates = {5e-3, 5e-3, 0.9999, 0.98, 0.98, 0.98, 0};
  const auto tighten = [&](const char* name, double& limit, bool upper) {
    const auto found = asked.find(name);
    if (found != asked.end()) limit = upper ? std::min(limit, found->second) : std::max(limit, found->second);
  };
  tighten("relative_l2_mean_max", gates.relative_l2_mean_max, true);
  tighten("relative_l2_worst_max", gates.relative_l2_worst_max, true);
  tighten("centred_cosine_worst", gates.centred_cosine_worst, false);
  tighten("overlap_at_1", gates.overlap_at_1, false);
  tighten("overlap_at_10", gates.overlap_at_10, false);
  tighten("top_1_agreement", gates.top_1_agreement, false);
  tighten("unnoticed_perturbation_max", gates.unnoticed_perturbation_max, true);
  return gates;
}

std::vector<std::size_t> batch_sizes(std::size_t opt_batch, std::size_t max_batch) {
  std::set<std::size_t> sizes;
  for (const std::size_t size : {std::size_t{1}, std::size_t{2}, std::size_t{7}, opt_batch, max_batch}) {
    if (size <= max_batch) sizes.insert(size);
  }
  return {sizes.begin(), sizes.end()};
}

Parity prove(Session& session, const Golden& golden, const Contract& contract, const Gates& gates) {
  return Prover(session, golden, contract, gates).prove();
}

}  // namespace byolt
