#include <cmath>
#include <limits>

#include "check.hpp"
#include "gates.hpp"
#include "measures.hpp"

using byolt::Rows;

namespace {

bool near(double a, double b) { return std::abs(a - b) < 1e-12; }

constexpr byolt::Gates kGates = {0.1, 0.2, 0.9, 0.95, 0.95, 0.97, 0.0};

}  // namespace

TEST(relative_l2_by_hand) {
  // |(3, 4) - (3, 5)| / |(3, 4)| = 1 / 5; |(0, 5) - (2.5, 5)| / 5 = 1 / 2.
  const float r[] = {3, 4, 0, 5}, c[] = {3, 5, 2.5F, 5};
  const auto found = byolt::relative_l2({r, 2, 2}, {c, 2, 2});
  CHECK(near(found[0], 0.2) && near(found[1], 0.5));
  const byolt::Measures all = byolt::measure({r, 2, 2}, {c, 2, 2}, false);
  CHECK(near(all.relative_l2_mean, 0.35) && near(all.relative_l2_worst, 0.5) && all.worst_image == 1);
  // 0.2 lies from 10^-0.75 to 10^-0.5, bin 29; 0.5 from 10^-0.5 to 10^-0.25, bin 30.
  CHECK(all.relative_l2_histogram[29] == 1 && all.relative_l2_histogram[30] == 1);
  CHECK(!all.overlap_at_1 && !all.overlap_at_10 && !all.top_1_agreement);
}

TEST(a_short_row_counts_by_the_median_length) {
  // Lengths 5, 0.25, 3 and 2: the median is 2.5. Rows beyond the fourth are of image n modulo 4.
  const float r[] = {3, 4, 0.25F, 0, 0, 3, 2, 0};
  const float c[] = {3, 4.5F, 0.25F, 0.5F, 0.75F, 3, 2, 0.5F, 3, 4, 0.75F, 0};
  const auto found = byolt::relative_l2({r, 4, 2}, {c, 6, 2});
  CHECK(found.size() == 6 && near(found[0], 0.1) && near(found[1], 0.2) && near(found[2], 0.25));
  CHECK(near(found[3], 0.2) && near(found[4], 0) && near(found[5], 0.2));
}

TEST(a_row_near_the_mean_counts_at_the_median_length) {
  // Lengths about the mean (0, 0): 1, 1, 0.25, 0.25; the median is 0.625. The third row is off by 0.25 at a right
  // angle.
  const float r[] = {1, 0, -1, 0, 0.25F, 0, -0.25F, 0}, c[] = {1, 0, -1, 0, 0.25F, 0.25F, -0.25F, 0};
  CHECK(near(byolt::measure({r, 4, 2}, {c, 4, 2}, false).centred_cosine_worst, 0.625 / std::hypot(0.625, 0.25)));
}

TEST(errors_beyond_the_histogram) {
  const float r[] = {1, 1, 1}, c[] = {1, 1, 100};
  const auto bins = byolt::measure({r, 3, 1}, {c, 3, 1}, false).relative_l2_histogram;
  CHECK(bins[0] == 2 && bins[35] == 1);
}

TEST(cosine_about_the_mean) {
  // The mean of (11, 10) and (9, 10) is (10, 10). About it the rows are (1, 0) and (-1, 0), the candidate's (1, 1) and
  // (-1, 0): cosines 1 / sqrt(2) and 1, where plain cosines would both be above 0.998.
  const float r[] = {11, 10, 9, 10}, c[] = {11, 11, 9, 10};
  const byolt::Measures found = byolt::measure({r, 2, 2}, {c, 2, 2}, false);
  CHECK(near(found.centred_cosine_worst, std::sqrt(0.5)) && near(found.centred_cosine_mean, (1 + std::sqrt(0.5)) / 2));
}

TEST(rows_that_are_the_mean_agree) {
  const float r[] = {1, 2, 1, 2};
  CHECK(byolt::measure({r, 2, 2}, {r, 2, 2}, false).centred_cosine_worst == 1);
}

TEST(neighbours_by_hand) {
  // Angles 0, 10, 30 degrees: the nearest of 0 is 10, of 10 is 0, of 30 is 10. In the candidate 10 becomes 25 degrees:
  // the nearest of it is 30, which is not the reference's.
  const auto at = [](double degrees) {
    return std::vector<float>{static_cast<float>(std::cos(degrees * M_PI / 180)),
                              static_cast<float>(std::sin(degrees * M_PI / 180))};
  };
  const auto rows = [&](std::initializer_list<double> angles) {
    std::vector<float> values;
    for (const double angle : angles) {
      const auto row = at(angle);
      values.insert(values.end(), row.begin(), row.end());
    }
    return values;
  };
  const auto r = rows({0, 10, 30}), c = rows({0, 25, 30});
  CHECK(near(*byolt::neighbour_overlap({r.data(), 3, 2}, {r.data(), 3, 2}, 1), 1));
  CHECK(near(*byolt::neighbour_overlap({r.data(), 3, 2}, {c.data(), 3, 2}, 1), 2.0 / 3));
  CHECK(!byolt::neighbour_overlap({r.data(), 3, 2}, {c.data(), 3, 2}, 2));
}

TEST(ties_count_either_way) {
  // Rows 1 and 2 are the same point: whichever a candidate puts first, it is a nearest neighbour of row 0.
  const float r[] = {1, 0, 0.6F, 0.8F, 0.6F, 0.8F}, c[] = {1, 0, 0.59F, 0.81F, 0.61F, 0.79F};
  CHECK(*byolt::neighbour_overlap({r, 3, 2}, {c, 3, 2}, 1) == 1);
}

TEST(top_1_of_logits) {
  // The candidate picks class 1, class 0, class 0; the reference's largest are 1, tied 0 and 1, 1.
  const float r[] = {0, 1, 2, 2, 0, 1}, c[] = {0, 2, 3, 1, 2, 1};
  const byolt::Measures found = byolt::measure({r, 3, 2}, {c, 3, 2}, true);
  CHECK(near(*found.top_1_agreement, 2.0 / 3) && !found.overlap_at_1);
}

TEST(what_is_not_finite_fails) {
  const float r[] = {1, 2, 3, 4}, c[] = {1, std::numeric_limits<float>::quiet_NaN(), 3, 4};
  const byolt::Measures found = byolt::measure({r, 2, 2}, {c, 2, 2}, false);
  CHECK(!found.finite && std::isfinite(found.relative_l2_worst) && found.worst_image == 0);
  CHECK(byolt::faults(found, kGates)[0] == "outputs are not finite");
}

TEST(words_of_faults) {
  byolt::Measures found;
  CHECK(byolt::faults(found, kGates).empty());
  found.relative_l2_worst = 0.25, found.worst_image = 3;
  CHECK(byolt::faults(found, kGates)[0] == "relative L2 0.25 of image 3 is above 0.2");
  found.relative_l2_worst = 0, found.relative_l2_mean = 0.000123;
  CHECK(byolt::faults(found, {1e-5, 1, 0, 0, 0, 0, 0})[0] == "mean relative L2 0.00012 is above 1e-05");
  found.relative_l2_mean = 0, found.overlap_at_10 = 0.5, found.centred_cosine_worst = 0.8999999;
  const auto two = byolt::faults(found, kGates);
  CHECK(two.size() == 2 && two[0] == "centred cosine worst 0.9 is below 0.9" &&
        two[1] == "overlap at 10 0.5 is below 0.95");
}
