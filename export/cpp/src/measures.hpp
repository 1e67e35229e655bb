#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

// How far are outputs from other outputs? The measures of byolt_export/proof/measures.py.
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

inline constexpr std::size_t kQueries = 1'000;  ///< whose neighbours are looked for, at most

/// How far the outputs of different images lie apart: median distance from their median, over their median length.
double spread(const Rows& outputs);

/// |c - r| / |r| of each row of the candidate, whose row n is of image n modulo N. No row is divided by less than the
/// median length of the reference's rows.
std::vector<double> relative_l2(const Rows& reference, const Rows& candidate);

/// Share of the candidate's k nearest neighbours that are the reference's too; absent for k + 1 rows or fewer.
std::optional<double> neighbour_overlap(const Rows& reference, const Rows& candidate, std::size_t k);

/// Every measure; neighbours of an embedding, top-1 of logits.
Measures measure(const Rows& reference, const Rows& candidate, bool logits);

/// Wilson's score interval of a share of so many queries, as if each were drawn for itself: 95 %.
std::array<double, 2> wilson_interval_95(double share, std::size_t queries);

}  // namespace byolt
