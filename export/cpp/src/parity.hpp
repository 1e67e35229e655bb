#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backend.hpp"
#include "bundle.hpp"
#include "measures.hpp"

// Is it the same function? The verdict of byolt_export/proof/parity.py on a delivered file.
namespace byolt {

/// All golden images in batches of exactly `batch`: against the reference, and against batch 1.
struct BatchCheck {
  std::size_t batch = 0;
  std::optional<double> relative_l2_worst, from_batch_1_worst;
  std::string fault;
};

/// The candidate against a deliberately wrong model: `fails` the gates as it must, `below the limit` where the gates
/// allow a perturbation to go unnoticed, `not noticed`, or `not applicable`.
struct Control {
  std::string name, state;
  std::optional<double> relative_l2_worst;
};

/// One file, run by one provider; `reasons` is empty when it passed.
struct Parity {
  std::string verdict;  // passed, failed, not run here
  std::vector<std::string> reasons;
  Gates gates{};
  std::optional<Measures> golden;
  std::vector<BatchCheck> batches;
  std::vector<Control> controls;

  /// The least noise on the largest kernel, as a share of its standard deviation, that fails the gates.
  [[nodiscard]] std::optional<double> detection_limit() const;
};

/// The built-in limits of a precision, or the manifest's where those are stricter: it can never loosen them.
Gates gates_of(const std::string& precision, const std::map<std::string, double>& asked);

/// Batch sizes that parity is checked at: one, two, an odd one, the optimum, and the maximum.
std::vector<std::size_t> batch_sizes(std::size_t opt_batch, std::size_t max_batch);

/// Run a file on the golden images and judge it.
Parity prove(Session& session, const Golden& golden, const Contract& contract, const Gates& gates);

}  // namespace byolt
