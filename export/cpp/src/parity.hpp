#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "backend.hpp"
#include "bundle.hpp"
#include "gates.hpp"

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

/// A share of `queries`, its 95 % interval, and the gate that it is judged by.
struct Share {
  double value;
  std::array<double, 2> interval_95;
  std::size_t queries;
  double gate;
};

/// One file, run by one provider; `reasons` is empty when it passed.
struct Parity {
  std::string verdict;  // passed, failed, not run here
  std::vector<std::string> reasons;
  Gates gates{};
  std::optional<Measures> golden;
  std::vector<BatchCheck> batches;
  std::vector<Control> controls;
  std::optional<double> drift_mean;  // Mean relative L2 from what the file gave when it was made.

  /// Whose neighbour or class was kept: the shares of the golden images that have a meaning, by the names of Gates.
  [[nodiscard]] std::vector<std::pair<std::string, Share>> shares() const;

  /// What keeps its gate by less than chance may have given, in words.
  [[nodiscard]] std::vector<std::string> remarks() const;

  /// The least noise on the largest kernel, as a share of its standard deviation, that fails the gates.
  [[nodiscard]] std::optional<double> detection_limit() const;
};

/// Batch sizes that parity is checked at: one, two, an odd one, the optimum, and the maximum.
std::vector<std::size_t> batch_sizes(std::size_t opt_batch, std::size_t max_batch);

/// Run a file on the golden images and judge it.
/// @param own what the file gave when it was made, (N, D), which it may not have drifted from; or none
Parity prove(Session& session, const Golden& golden, const Contract& contract, const Gates& gates,
             const std::vector<float>* own = nullptr);

}  // namespace byolt
