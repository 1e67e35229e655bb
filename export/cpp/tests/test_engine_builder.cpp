// The building of engines against the fake builder of tests/fake: byolt's own logic, and no proof of TensorRT.
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>

#include "check.hpp"
#include "engine_builder.hpp"
#include "expect.hpp"
#include "fake.hpp"
#include "files.hpp"

namespace {

constexpr byolt::Tensors kTensors{4, 6, 5, 8};

byolt::BuildOptions options_with(const std::string& cache = "", byolt::Progress progress = nullptr) {
  byolt::BuildOptions options;
  options.opt_batch = 3;
  options.workspace_mib = 64;
  options.timing_cache = cache;
  options.progress = std::move(progress);
  return options;
}

std::optional<byolt::BuiltEngine> build(const byolt::BuildOptions& options = options_with(),
                                        const std::string& onnx = "a model") {
  return byolt::build_engine("encoder.fp16.onnx", onnx, kTensors, options);
}

void expect_clean(const std::string& words) {
  EXPECT(fake::broken_rules().empty(), words + ": " + fake::broken_rules());
  EXPECT(fake::live() == 0, words + ": not given back: " + std::to_string(fake::live()));
}

/// A file's name that nothing has yet, gone again at the end.
class Temporary {
 public:
  Temporary() : path_("byolt-test-" + std::to_string(reinterpret_cast<std::uintptr_t>(this)) + ".timing") {}
  ~Temporary() { std::remove(path_.c_str()); }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

TEST(an_engine_is_built_as_asked) {
  fake::reset();
  fake::set_network({});
  const auto engine = build();
  EXPECT(engine.has_value() && engine->timings == "none" && engine->seconds >= 0, "built");
  fake::Plan plan;
  EXPECT(engine->plan == fake::bytes_of(plan), engine->plan);  // Batches of 1 to 8.
  EXPECT(fake::built().workspace == std::size_t{64} << 20, "workspace");
  EXPECT(!fake::built().tf32, "fp32 would keep 10 bits of its mantissa");
  EXPECT(fake::built().opt_batch == 3, "tuned for another batch");
  expect_clean("a build");
}

TEST(timings_are_kept_for_the_next_build) {
  fake::reset();
  fake::set_network({});
  const Temporary cache;
  EXPECT(build(options_with(cache.path()))->timings == "new", "the first");
  EXPECT(build(options_with(cache.path()))->timings == "reused", "the second");
  EXPECT(byolt::read_up_to(cache.path(), 1000) == "fake timings;fake timings;", byolt::read_up_to(cache.path(), 1000));
  byolt::write_whole(cache.path(), "of something else");
  EXPECT(build(options_with(cache.path()))->timings == "new", "one that does not fit is as good as none");
  EXPECT(build(options_with("nowhere/at/all.timing"))->timings == "new", "a folder that cannot be written to");
  expect_clean("timings");
}

TEST(progress_rises_and_may_end_the_build) {
  fake::reset();
  fake::set_network({});
  double last = 0;
  int told = 0;
  const auto watch = [&](const std::string& phase, double share) {
    EXPECT(!phase.empty() && share >= last && share <= 1, phase);
    last = share, ++told;
    return true;
  };
  EXPECT(build(options_with("", watch)).has_value() && told == 6 && last == 1, std::to_string(told));
  const Temporary cache;
  EXPECT(!build(options_with(cache.path(), [](const std::string&, double share) { return share < 0.3; })), "stopped");
  EXPECT(byolt::read_up_to(cache.path(), 1000).empty(), "timings of half a build");
  expect_clean("progress");
}

TEST(networks_of_others_are_refused) {
  const char* other = "is not the encoder that its manifest describes";
  for (const fake::WrongPlan& wrong :
       {fake::WrongPlan{[](fake::Plan& p) { p.height = 5; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.width = 5; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.channels = 1; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.rank = 3; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.dim = 6; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.input = "pixels"; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.input_type = 0; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.output_type = 1; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.outputs = 2; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.outputs = 0; }, other},
        fake::WrongPlan{[](fake::Plan& p) { p.least = p.most = 4; }, "one size of batch alone"}}) {
    fake::reset();
    fake::set_network(wrong.plan);
    const auto error = expect_error([] { build(); }, wrong.words);
    EXPECT(error.code() == byolt::Code::input && holds(error.what(), wrong.words), error.what());
    expect_clean(wrong.words);
  }
  fake::reset();
  fake::set_network({}, "node_attention");
  auto error = expect_error([] { build(); }, "a node");
  EXPECT(error.code() == byolt::Code::machine &&
             holds(error.what(), "refuses node `node_attention` (FakeOp): it has no such operator"),
         error.what());
  fake::set_network({});
  error = expect_error([] { build(options_with(), "garbage"); }, "garbage");
  EXPECT(error.code() == byolt::Code::input &&
             holds(error.what(), "cannot be read as ONNX: Failed to parse the ONNX model"),
         error.what());
  error = expect_error([] { build(options_with(), ""); }, "no bytes");
  EXPECT(error.code() == byolt::Code::input && holds(error.what(), "is empty"), error.what());
  expect_clean("refusals");
}

TEST(without_a_driver_nothing_is_built) {
  fake::reset();
  fake::set_devices(0);
  const auto error = expect_error([] { build(); }, "no driver");
  EXPECT(error.code() == byolt::Code::missing, error.what());
  EXPECT(fake::calls().count("createInferBuilder") == 0, "the address 0x228 was asked for");
}

/// Each call of a build that can fail, at each of its places: a sentence, or an engine without its timings.
TEST(each_failing_call_of_a_build_is_survived) {
  const std::set<std::string> harmless = {"createTimingCache", "setTimingCache", "getTimingCache", "serialize"};
  const Temporary cache;
  fake::reset();
  fake::set_network({});
  build(options_with(cache.path()));
  const auto made = fake::calls();
  int injected = 0;
  for (const auto& [function, count] : made) {
    for (int nth = 0; nth < count; ++nth, ++injected) {
      fake::reset();
      std::remove(cache.path().c_str());
      fake::fail(function, nth);
      const std::string words = function + ", call " + std::to_string(nth);
      bool told = false;
      try {
        EXPECT(build(options_with(cache.path())).has_value(), words);
      } catch (const byolt::Error& error) {
        told = true;
        EXPECT(error.code() == byolt::Code::machine || error.code() == byolt::Code::missing ||
                   (function == "parse" && error.code() == byolt::Code::input),
               error.what());
        EXPECT(std::string(error.what()).find('\n') == std::string::npos, error.what());
      }
      EXPECT(told != (harmless.count(function) == 1), words + (told ? " told of" : " hidden"));
      expect_clean(words);
    }
  }
  EXPECT(made.size() == 16 && injected == 19, std::to_string(made.size()) + ", " + std::to_string(injected));
}

TEST(phases_within_phases_are_one_share) {
  byolt::Phases phases;
  phases.start("whole", "", 2);
  phases.start("part", "whole", 4);
  EXPECT(phases.step("part", 0) == 0.125, "a quarter of the first half");
  EXPECT(phases.step("part", 3) == 0.5, "the first half");
  phases.finish("part");
  EXPECT(phases.step("whole", 0) == 0.5, "the same half");
  EXPECT(phases.step("unknown", 0) == 0.5, "a phase that nobody began");
  EXPECT(phases.step("whole", 1) == 1, "all of it");
  phases.start("a", "b", 1);
  phases.start("b", "a", 1);
  EXPECT(phases.step("a", 0) == 1, "phases of one another");
}
