#include "measures.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace byolt {
namespace {

constexpr std::size_t kGallery = 10'000;
// Neighbours closer together than this in cosine are one rank, as logits are in parts of the largest: float32 cannot
// tell them.
constexpr double kTie = 1e-6;
constexpr double kZ95 = 1.959964;
constexpr double kTiny = std::numeric_limits<float>::min();

double length(const std::vector<double>& row) {
  return std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0));
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// As NumPy has it: between the two in the middle of an even number. 0 of none.
double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// A bin of four a decade; what lies beyond the ends is counted in the first or last.
std::size_t bin_of(double error, std::size_t bins) {
  std::size_t bin = 0;
  while (bin + 1 < bins && error >= std::pow(10.0, (static_cast<double>(bin) - 31) / 4)) ++bin;
  return bin;
}

/// Cosine of each row after the reference's mean was taken off both. A row nearer to the mean than the median one
/// counts no worse than its distance from the candidate's would at the median length; two rows that are both the mean
/// agree.
std::vector<double> centred_cosine(const Rows& reference, const Rows& candidate) {
  const std::size_t dim = reference.dim;
  std::vector<double> centre(dim), r(dim), c(dim), cosines(reference.count), lengths(reference.count);
  std::vector<double> distances(reference.count);
  for (std::size_t n = 0; n < reference.count; ++n) {
    for (std::size_t d = 0; d < dim; ++d) centre[d] += reference[n][d];
  }
  for (double& value : centre) value /= static_cast<double>(reference.count);
  for (std::size_t n = 0; n < reference.count; ++n) {
    for (std::size_t d = 0; d < dim; ++d) {
      r[d] = reference[n][d] - centre[d];
      c[d] = candidate[n][d] - centre[d];
    }
    const double r_length = length(r), c_length = length(c);
    const double product = std::inner_product(r.begin(), r.end(), c.begin(), 0.0);
    cosines[n] = product / std::max(r_length * c_length, kTiny);
    lengths[n] = r_length;
    for (std::size_t d = 0; d < dim; ++d) c[d] -= r[d];
    distances[n] = length(c);
  }
  const double middle = std::max(median(lengths), kTiny);
  for (std::size_t n = 0; n < reference.count; ++n) {
    if (lengths[n] < middle) cosines[n] = std::max(cosines[n], middle / std::hypot(middle, distances[n]));
  }
  return cosines;
}

/// Rows of length 1, (N, D) in double.
std::vector<double> unit_rows(const Rows& rows, std::size_t count) {
  std::vector<double> unit(rows.values, rows.values + count * rows.dim);
  for (std::size_t n = 0; n < count; ++n) {
    double* row = unit.data() + n * rows.dim;
    const double norm = std::max(std::sqrt(std::inner_product(row, row + rows.dim, row, 0.0)), kTiny);
    std::for_each(row, row + rows.dim, [norm](double& value) { value /= norm; });
  }
  return unit;
}

/// Cosines of one row with every row; minus infinity with itself.
void similarities(const std::vector<double>& unit, std::size_t dim, std::size_t query, std::vector<double>& cosines) {
  const double* row = unit.data() + query * dim;
  for (std::size_t n = 0; n < cosines.size(); ++n) {
    cosines[n] = std::inner_product(row, row + dim, unit.data() + n * dim, 0.0);
  }
  cosines[query] = -std::numeric_limits<double>::infinity();
}

double top_1_agreement(const Rows& reference, const Rows& candidate) {
  std::size_t agreed = 0;
  for (std::size_t n = 0; n < reference.count; ++n) {
    const float *r = reference[n], *c = candidate[n];
    const std::size_t chosen = static_cast<std::size_t>(std::max_element(c, c + candidate.dim) - c);
    double largest = 0;
    for (std::size_t d = 0; d < reference.dim; ++d) largest = std::max(largest, std::abs(static_cast<double>(r[d])));
    agreed += r[chosen] >= *std::max_element(r, r + reference.dim) - kTie * largest ? 1 : 0;
  }
  return static_cast<double>(agreed) / static_cast<double>(reference.count);
}

}  // namespace

double spread(const Rows& outputs) {
  std::vector<double> centre(outputs.dim), row(outputs.count), lengths(outputs.count), apart(outputs.count);
  for (std::size_t d = 0; d < outputs.dim; ++d) {
    for (std::size_t n = 0; n < outputs.count; ++n) row[n] = outputs[n][d];
    centre[d] = median(row);
  }
  for (std::size_t n = 0; n < outputs.count; ++n) {
    row.assign(outputs[n], outputs[n] + outputs.dim);
    lengths[n] = length(row);
    for (std::size_t d = 0; d < outputs.dim; ++d) row[d] -= centre[d];
    apart[n] = length(row);
  }
  return median(apart) / std::max(median(lengths), kTiny);
}

std::vector<double> relative_l2(const Rows& reference, const Rows& candidate) {
  std::vector<double> errors(candidate.count), lengths(reference.count);
  for (std::size_t n = 0; n < reference.count; ++n) {
    lengths[n] = length(std::vector<double>(reference[n], reference[n] + reference.dim));
  }
  const double least = std::max(median(lengths), kTiny);
  for (std::size_t n = 0; n < candidate.count; ++n) {
    const std::size_t image = n % reference.count;
    double distance = 0;
    for (std::size_t d = 0; d < reference.dim; ++d) {
      const double difference = candidate[n][d] - static_cast<double>(reference[image][d]);
      distance += difference * difference;
    }
    errors[n] = std::sqrt(distance) / std::max(lengths[image], least);
  }
  return errors;
}

std::optional<double> neighbour_overlap(const Rows& reference, const Rows& candidate, std::size_t k) {
  const std::size_t rows = std::min(reference.count, kGallery), queries = std::min(rows, kQueries);
  if (rows < k + 2) return std::nullopt;
  const std::vector<double> wanted = unit_rows(reference, rows), given = unit_rows(candidate, rows);
  std::vector<double> expected(rows), found(rows), ranked(rows);
  std::vector<std::size_t> order(rows);
  std::size_t kept = 0;
  const auto last = static_cast<std::ptrdiff_t>(k - 1);
  for (std::size_t q = 0; q < queries; ++q) {
    const std::size_t query = q * rows / queries;
    similarities(wanted, reference.dim, query, expected);
    similarities(given, candidate.dim, query, found);
    ranked = expected;
    std::nth_element(ranked.begin(), ranked.begin() + last, ranked.end(), std::greater<>());
    const double kth = ranked[k - 1];
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::nth_element(order.begin(), order.begin() + last, order.end(),
                     [&](std::size_t a, std::size_t b) { return found[a] > found[b]; });
    for (std::size_t n = 0; n < k; ++n) kept += expected[order[n]] >= kth - kTie ? 1 : 0;
  }
  return static_cast<double>(kept) / static_cast<double>(queries * k);
}

Measures measure(const Rows& reference, const Rows& candidate, bool logits) {
  const std::size_t size = candidate.count * candidate.dim;
  std::vector<float> filled(candidate.values, candidate.values + size);
  Measures found;
  found.images = reference.count;
  // A NaN must not hide the worst image or reach the JSON file; `finite` alone decides then.
  for (float& value : filled) {
    if (std::isfinite(value)) continue;
    found.finite = false;
    value = 0;
  }
  const Rows clean = {filled.data(), candidate.count, candidate.dim};
  const std::vector<double> error = relative_l2(reference, clean), cosine = centred_cosine(reference, clean);
  const auto worst = std::max_element(error.begin(), error.end());
  found.relative_l2_mean = mean(error);
  found.relative_l2_worst = *worst;
  found.worst_image = static_cast<std::size_t>(worst - error.begin());
  for (const double one : error) ++found.relative_l2_histogram[bin_of(one, found.relative_l2_histogram.size())];
  found.centred_cosine_mean = mean(cosine);
  found.centred_cosine_worst = *std::min_element(cosine.begin(), cosine.end());
  if (logits) {
    found.top_1_agreement = top_1_agreement(reference, clean);
  } else {
    found.overlap_at_1 = neighbour_overlap(reference, clean, 1);
    found.overlap_at_10 = neighbour_overlap(reference, clean, 10);
  }
  return found;
}

std::array<double, 2> wilson_interval_95(double share, std::size_t queries) {
  const auto count = static_cast<double>(queries);
  const double room = kZ95 * kZ95 / count, centre = (share + room / 2) / (1 + room);
  const double half = kZ95 / (1 + room) * std::sqrt(share * (1 - share) / count + room / (4 * count));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

}  // namespace byolt
