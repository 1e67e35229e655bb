#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

// How far are outputs from other outputs? The measures and gates of byolt_export/proof: measures.py and gates.py.
// Axes: N images, D output features. `reference` is PyTorch's output, `candidate` a delivered file's.
namespace byolt {

/// Rows (N, D) that it does not own.
struct Rows {
  const float* values;
  std::size_t count, dim;

  const float* operator[](std::size_t row) const { return values + row * dim; }
};

/// How far a candidate is from its reference; absent where a measure has no meaning for the data.
struct Measures {
  std::size_t images = 0;
  bool finite = true;
  double relative_l2_mean = 0, relative_l2_worst = 0;
  std::array<std::size_t, 36> relative_l2_histogram{};  // Four bins a decade, from 1e-8 to 10.
  std::size_t worst_image = 0;
  double centred_cosine_mean = 1, centred_cosine_worst = 1;
  std::optional<double> overlap_at_1, overlap_at_10, top_1_agreement;
};

/// What outputs must keep to pass. Names that end in `_max` are upper limits, the rest lower limits.
struct Gates {
  double relative_l2_mean_max, relative_l2_worst_max, centred_cosine_worst, overlap_at_1, overlap_at_10,
      top_1_agreement, unnoticed_perturbation_max;
};

/// |c - r| / |r| of each row of the candidate, whose row n is of image n modulo N. No row is divided by less than the
/// median length of the reference's rows.
std::vector<double> relative_l2(const Rows& reference, const Rows& candidate);

/// Share of the candidate's k nearest neighbours that are the reference's too; absent for k + 1 rows or fewer.
std::optional<double> neighbour_overlap(const Rows& reference, const Rows& candidate, std::size_t k);

/// Every measure; neighbours of an embedding, top-1 of logits.
Measures measure(const Rows& reference, const Rows& candidate, bool logits);

/// What in the measures breaks the gates, one phrase each; empty when all is kept.
std::vector<std::string> faults(const Measures& measures, const Gates& gates);

}  // namespace byolt
