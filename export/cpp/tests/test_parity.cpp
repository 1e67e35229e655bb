#include "backend.hpp"
#include "check.hpp"
#include "fake_backend.hpp"
#include "parity.hpp"
#include "sample.hpp"
#include "verify.hpp"

namespace {

/// Twelve images of one colour each, whose outputs by the fake are the colours; a control is far off.
byolt::Golden golden() {
  byolt::Golden all;
  all.images = 12;
  all.dim = 3;
  for (std::size_t n = 0; n < all.images; ++n) {
    const std::uint8_t colour[] = {static_cast<std::uint8_t>(20 * n), static_cast<std::uint8_t>(n * n),
                                   static_cast<std::uint8_t>(250 - 20 * n)};
    for (std::size_t pixel = 0; pixel < 16; ++pixel) all.pixels.insert(all.pixels.end(), colour, colour + 3);
    all.reference.insert(all.reference.end(), colour, colour + 3);
  }
  std::vector<float> reversed(all.reference.rbegin(), all.reference.rend());
  all.controls.emplace_back("shuffled_rows", reversed);
  all.controls.emplace_back("swapped_channels", std::nullopt);
  return all;
}

byolt::Contract contract() {
  byolt::Contract all = byolt::parse_contract(sample::contract().dump(), "m");
  all.input.max_batch = 10;
  return all;
}

byolt::Parity prove(const byolt::Golden& golden, const char* precision = "fp32", const byolt::Limits& asked = {}) {
  const byolt::Contract about = contract();
  const auto backend = byolt::open_onnxruntime("", {4, 4, 3, 10}, "CPU", 0, false);
  const auto own = golden.own.find("encoder.onnx");
  return byolt::prove(*backend->session(), golden, about, byolt::gates_of(precision, golden.images, {asked}),
                      own == golden.own.end() ? nullptr : &own->second);
}

/// A setting of the fake that goes back when the test ends.
template <typename Value>
class Set {
 public:
  Set(std::atomic<Value>& setting, Value value) : setting_(setting), before_(setting) { setting = value; }
  ~Set() { setting_ = before_; }
  Set(const Set&) = delete;
  Set& operator=(const Set&) = delete;

 private:
  std::atomic<Value>& setting_;
  Value before_;
};

}  // namespace

TEST(the_right_outputs_pass) {
  const byolt::Parity parity = prove(golden());
  CHECK(parity.verdict == "passed" && parity.reasons.empty());
  CHECK(parity.batches.size() == 4 && parity.batches[2].batch == 7 && *parity.batches[3].from_batch_1_worst < 1e-6);
  CHECK(parity.controls[0].state == "fails" && parity.controls[1].state == "not applicable");
}

TEST(outputs_that_are_off_fail) {
  const Set<float> off(fake().scale, 1.001F);
  const byolt::Parity parity = prove(golden());
  CHECK(parity.verdict == "failed" && parity.reasons[0].find("relative L2 0.001 of image") == 0);
  CHECK(prove(golden(), "fp16").verdict == "passed");
}

TEST(a_batch_that_is_off_fails) {
  const Set<float> off(fake().of_batches, 1.0F);
  const byolt::Parity parity = prove(golden());
  CHECK(parity.verdict == "failed");
  CHECK(parity.reasons.back().find("at batch 10, relative L2") == 0 &&
        parity.reasons.back().find("from batch 1 is above") != std::string::npos);
}

TEST(what_does_not_run_fails) {
  const Set<bool> broken(fake().broken, true);
  const byolt::Parity parity = prove(golden());
  CHECK(parity.verdict == "failed" && parity.reasons[0] == "at batch 1, the fake is broken" && !parity.golden);
}

TEST(a_nan_fails) {
  const Set<float> nan(fake().not_a_number, 1.0F);
  CHECK(prove(golden()).verdict == "failed" && prove(golden()).reasons[0] == "outputs are not finite");
}

TEST(a_wrong_model_must_be_noticed) {
  byolt::Golden all = golden();
  for (const char* name : {"perturbed_kernel_40", "perturbed_kernel_80"})
    all.controls.emplace_back(name, all.reference);
  const byolt::Parity parity = prove(all, "int8");
  CHECK(parity.controls[2].state == "below the limit" && parity.controls[3].state == "not noticed");
  CHECK(parity.verdict == "failed" &&
        parity.reasons == std::vector<std::string>{"the wrong model `perturbed_kernel_80` was not noticed"});
  CHECK(!parity.detection_limit());
  all.controls[3].second = all.controls[0].second;
  CHECK(prove(all, "int8").verdict == "passed" && *prove(all, "int8").detection_limit() == 0.8);
}

TEST(a_file_may_not_drift_from_what_it_gave) {
  byolt::Golden all = golden();
  std::vector<float>& own = all.own["encoder.onnx"] = all.reference;
  for (float& value : own) value *= 1.004F;
  const byolt::Parity kept = prove(all, "int8", {{"drift_mean_max", 0.0041}});
  CHECK(kept.verdict == "passed" && *kept.drift_mean > 0.0037 && *kept.drift_mean < 0.0041);
  const byolt::Parity drifted = prove(all, "int8", {{"drift_mean_max", 0.003}});
  CHECK(drifted.verdict == "failed" && drifted.reasons.size() == 1);
  CHECK(drifted.reasons[0] == "mean relative L2 0.0038 from what the file itself gave when it was made is above 0.003");
  all.own.clear();
  CHECK(!prove(all, "int8", {{"drift_mean_max", 0.003}}).drift_mean);
}

TEST(gates_are_never_loosened) {
  const byolt::Limits asked = {{"relative_l2_mean_max", 1}, {"overlap_at_1", 0.1}, {"overlap_at_10", 1}};
  const byolt::Limits stored = {{"relative_l2_mean_max", 1e-5}, {"relative_l2_worst_max", 1}};
  // 0.99 of 64: 0.99^64 = 0.526; with 1, 2, 3, 4 missed 0.865, 0.973, 0.9961, 0.9995 in all. So 60 of 64 are kept.
  for (const byolt::Gates& gates :
       {byolt::gates_of("fp32", 64, {asked, stored}), byolt::gates_of("fp32", 64, {stored, asked})}) {
    CHECK(gates.relative_l2_mean_max == 1e-5 && gates.relative_l2_worst_max == 1e-4);
    CHECK(gates.overlap_at_1 == 0.9375 && gates.overlap_at_10 == 1 && gates.top_1_agreement == 0.9375);
  }
}

TEST(batch_sizes_within_the_maximum) {
  CHECK((byolt::batch_sizes(8, 32) == std::vector<std::size_t>{1, 2, 7, 8, 32}));
  CHECK((byolt::batch_sizes(1, 1) == std::vector<std::size_t>{1}));
}

TEST(verdict_of_a_bundle) {
  const auto file = [](const char* name, const char* verdict, bool engine) {
    byolt::FileReport report{name, "fp32", "x", engine, {}};
    report.parity.verdict = verdict;
    if (report.parity.verdict != "passed") report.parity.reasons = {"why"};
    return report;
  };
  const auto onnx_passed = file("a.onnx", "passed", false), onnx_absent = file("a.onnx", "not run here", false);
  const auto engine_absent = file("a.engine", "not run here", true), engine_failed = file("a.engine", "failed", true);
  CHECK((byolt::Report{{onnx_passed, engine_absent}}.verdict() == "passed"));
  CHECK((byolt::Report{{onnx_absent, onnx_passed}}.verdict() == "passed"));
  CHECK(byolt::Report{{onnx_absent}}.verdict() == "not run here");
  CHECK((byolt::Report{{onnx_passed, engine_failed}}.verdict() == "failed"));
  CHECK((byolt::Report{{onnx_passed, engine_failed}}.reason() == "a.engine (x): why"));
  const auto verdicts =
      byolt::engine_verdicts({{onnx_passed, engine_absent, engine_failed, file("b.engine", "passed", true)}});
  CHECK(verdicts.size() == 2 && verdicts[0].verdict == "failed" && verdicts[1].reason == "ran by x");
}
