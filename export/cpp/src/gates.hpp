#pragma once

#include <initializer_list>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "measures.hpp"

// What outputs must keep to pass: byolt_export/proof/gates.py, and the gates that parity.json holds.
namespace byolt {

/// Names that end in `_max` are upper limits, the rest lower limits.
struct Gates {
  double relative_l2_mean_max, relative_l2_worst_max, centred_cosine_worst, overlap_at_1, overlap_at_10,
      top_1_agreement, unnoticed_perturbation_max;
  /// Of an int8 file, run by ONNX Runtime on a CPU: mean relative L2 from what it gave when it was made.
  double drift_mean_max = std::numeric_limits<double>::infinity();
};

using Limits = std::map<std::string, double>;  // By the names of Gates.

/// What of so many images is kept in 999 of 1,000 samples, where `share` of all images is (binomial).
double least_share(double share, std::size_t images);

/// The built-in limits of a precision for so many golden images, or the strictest that is asked for, name by name: what
/// is asked can never loosen them.
Gates gates_of(const std::string& precision, std::size_t images, std::initializer_list<Limits> asked);

/// The gates by which each file was judged when it was made, of parity.json.
/// @param where opens an error's sentence: the file's path
/// @param names files, each of which it must list once
/// @throws Error(input) it is damaged or hostile
std::map<std::string, Limits> parse_judged_gates(const std::string& text, const std::string& where,
                                                 const std::vector<std::string>& names);

/// What in the measures breaks the gates, one phrase each; empty when all is kept.
std::vector<std::string> faults(const Measures& measures, const Gates& gates);

/// The same of the error as a share of an output's length alone, whatever lies between different images.
std::vector<std::string> distances(const Measures& measures, const Gates& gates);

}  // namespace byolt
