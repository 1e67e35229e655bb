#include "parity.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "byolt/error.hpp"
#include "text.hpp"

namespace byolt {
namespace {

constexpr double kLittleSpread = 0.1;  // An encoder that has learned something has 0.3 and more.

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
  Prover(Session& session, const Golden& golden, const Contract& contract, const Gates& gates,
         const std::vector<float>* own)
      : session_(session), golden_(golden), contract_(contract), gates_(gates), own_(own) {}

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
      judge_drift(parity);
    }
    parity.reasons.insert(parity.reasons.end(), later.begin(), later.end());
    if (!candidate_.empty()) {
      judge_controls(parity);
      const bool is_far = !later.empty() || has_drifted(parity) || !distances(*parity.golden, gates_).empty();
      if (!parity.reasons.empty() && !is_far) blame_the_model(parity);
    }
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

  /// Of a file that errs by no more than it may: cosines about the mean, neighbours and classes turn on errors that
  /// any file has, where the model itself tells little apart.
  void blame_the_model(Parity& parity) const {
    const double apart = spread(rows(golden_.reference));
    if (apart >= kLittleSpread || !parity.golden) return;
    parity.reasons = {
        "the model is at fault and not the file, which errs by " + short_number(parity.golden->relative_l2_worst) +
        " of an output's length at most: by PyTorch too the outputs of different images lie only " +
        short_number(apart) +
        " of their length apart (collapsed, or BatchNorm statistics that lag behind the weights), so that nothing "
        "could be proven of any file"};
  }

  [[nodiscard]] bool has_drifted(const Parity& parity) const {
    return parity.drift_mean && *parity.drift_mean > gates_.drift_mean_max;
  }

  /// A file that is further from itself than it may be: told behind the distances from PyTorch.
  void judge_drift(Parity& parity) const {
    if (own_ == nullptr || !parity.golden) return;
    const std::vector<float> clean = nan_to_zero(candidate_);
    const std::vector<double> error = relative_l2(rows(*own_), rows(clean));
    parity.drift_mean = std::accumulate(error.begin(), error.end(), 0.0) / static_cast<double>(error.size());
    if (!has_drifted(parity)) return;
    const auto behind = static_cast<std::ptrdiff_t>(distances(*parity.golden, gates_).size());
    parity.reasons.insert(parity.reasons.begin() + behind,
                          "mean relative L2 " + short_number(*parity.drift_mean) +
                              " from what the file itself gave when it was made is above " +
                              short_number(gates_.drift_mean_max));
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
  const std::vector<float>* own_;
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

std::vector<std::pair<std::string, Share>> Parity::shares() const {
  if (!golden) return {};
  const std::size_t images = golden->images, queries = std::min(images, kQueries);
  std::vector<std::pair<std::string, Share>> found;
  const auto add = [&](const char* name, std::optional<double> value, std::size_t of, double gate) {
    if (value) found.push_back({name, {*value, wilson_interval_95(*value, of), of, gate}});
  };
  add("overlap_at_1", golden->overlap_at_1, queries, gates.overlap_at_1);
  add("overlap_at_10", golden->overlap_at_10, queries, gates.overlap_at_10);
  add("top_1_agreement", golden->top_1_agreement, images, gates.top_1_agreement);
  return found;
}

std::vector<std::string> Parity::remarks() const {
  std::vector<std::string> found;
  for (auto [name, share] : shares()) {
    if (share.interval_95[0] >= share.gate || share.value < share.gate) continue;
    std::replace(name.begin(), name.end(), '_', ' ');
    found.push_back(name + " " + long_number(share.value) + " keeps " + long_number(share.gate) +
                    ", but its 95 % interval begins at " + long_number(share.interval_95[0]) + ": " +
                    std::to_string(share.queries) + " queries are too few to be sure of it");
  }
  return found;
}

std::vector<std::size_t> batch_sizes(std::size_t opt_batch, std::size_t max_batch) {
  std::set<std::size_t> sizes;
  for (const std::size_t size : {std::size_t{1}, std::size_t{2}, std::size_t{7}, opt_batch, max_batch}) {
    if (size <= max_batch) sizes.insert(size);
  }
  return {sizes.begin(), sizes.end()};
}

Parity prove(Session& session, const Golden& golden, const Contract& contract, const Gates& gates,
             const std::vector<float>* own) {
  return Prover(session, golden, contract, gates, own).prove();
}

}  // namespace byolt
