#include <functional>

#include "check.hpp"
#include "manifest.hpp"
#include "processor.hpp"
#include "sample.hpp"
#include "speeds.hpp"

using byolt::Code;
using nlohmann::json;

namespace {

byolt::Manifest parse(const json& manifest) { return byolt::parse_manifest(manifest.dump(), "bundle/manifest.json"); }

struct Fault {
  const char* sentence;
  std::function<void(json&)> plant;
};

json& input(json& manifest) { return manifest["contract"]["input"]; }

}  // namespace

TEST(manifest_that_fits) {
  const byolt::Manifest manifest = parse(sample::manifest());
  CHECK(manifest.contract.input.size_px == 4 && manifest.contract.input.max_batch == 3);
  CHECK(manifest.contract.input.std[2] == 0.25 && manifest.contract.dim == 3 && !manifest.contract.logits());
  CHECK(manifest.files.size() == 1 && manifest.files[0].name == "encoder.onnx");
  CHECK(manifest.engines.size() == 1 && manifest.engines[0].compute_capabilities[0] == 87);
  CHECK(manifest.golden_images == 2);
}

TEST(what_may_be_left_out) {
  json manifest = sample::manifest();
  for (const char* key : {"name", "dtype", "layout", "colour_order", "camera_px", "opt_batch"})
    input(manifest).erase(key);
  for (const char* key : {"engines", "schema_version", "speeds"}) manifest.erase(key);
  for (const char* key : {"calibration", "shares"}) manifest["files"][0].erase(key);
  const byolt::Manifest read = parse(manifest);
  CHECK(!read.files[0].shares);  // As in schema version 1.
  CHECK(read.contract.input.opt_batch == 1 && !read.contract.input.camera_px && read.engines.empty());
}

TEST(frames_of_a_camera) {
  json manifest = sample::manifest();
  input(manifest)["camera_px"] = {48, 64};
  const byolt::Input read = parse(manifest).contract.input;
  CHECK(read.height() == 48 && read.width() == 64 && read.image_bytes() == 48 * 64 * 3);
}

TEST(grey_images_and_more_than_8_bits) {
  json manifest = sample::manifest();
  input(manifest).update({{"channels", 1}, {"colour_order", "grey"}});
  CHECK(parse(manifest).contract.input.image_bytes() == 16);
  input(manifest).update({{"bit_depth", 12}, {"dtype", "uint16"}, {"byte_order", "little"}});
  const byolt::Input read = parse(manifest).contract.input;
  CHECK(read.samples.channels == 1 && read.samples.white() == 4095 && read.image_bytes() == 32);
  CHECK(!(read == parse(sample::manifest()).contract.input));
  manifest["schema_version"] = 1;
  manifest.erase("speeds");
  manifest["files"][0].erase("shares");
  CHECK_ERROR(Code::input, "contract: channels and bit_depth came with schema version 2", parse(manifest));
}

TEST(a_byte_order_mark_is_refused_as_in_python) {
  const std::string mark = "\xef\xbb\xbf", text = sample::manifest().dump();
  (void)byolt::parse_manifest(text, "m");
  CHECK_ERROR(Code::input, "m does not fit: the file: it starts with a byte order mark",
              byolt::parse_manifest(mark + text, "m"));
  CHECK_ERROR(Code::input, "byte order mark", byolt::parse_contract(mark + sample::contract().dump(), "m"));
  CHECK_ERROR(Code::input, "it is not JSON", byolt::parse_manifest(" " + mark + text, "m"));
  CHECK_ERROR(Code::input, "it is not JSON", byolt::parse_manifest(std::string("\xff\xfe{\0}\0", 6), "m"));
}

TEST(versions_and_targets_are_plain_words) {
  for (const char* key : {"version", "target"}) {
    for (const std::string& word : {std::string("\x1b]0;owned\a"), std::string("10.3\n"), std::string(),
                                    std::string(62, 'a'), std::string("-10"), std::string("\xc2\x9b")}) {
      json manifest = sample::manifest();
      manifest["engines"][0][key] = word;
      CHECK_ERROR(Code::input, std::string("engines.0.") + key + ": it must be a plain word", parse(manifest));
    }
    json manifest = sample::manifest();
    manifest["engines"][0][key] = "10.3.0_a+b-c";
    (void)parse(manifest);
  }
}

TEST(sentences_move_no_cursor) {
  const auto told = [](const std::string& text) { return std::string(byolt::Error(Code::input, text).what()); };
  CHECK(told("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 ~") == "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 ~");
  CHECK(told("a\x1b[31mb\r\nc\x7f") == "a [31mb  c ");
  CHECK(told("a\xc2\x9b[31mb\xc2\xa0") == "a  [31mb\xc2\xa0");                 // C1: an escape in one character.
  CHECK(told("a\x9b[31mb") == "a [31mb");                                      // The same where a terminal reads bytes.
  CHECK(told("a\xe2\x80\xae-\xe2\x81\xa6-\xe2\x80\x8b-") == "a   -   -   -");  // Turned round, and not to be seen.
  CHECK(told("a\xc3") == "a " && told("\xed\xa0\x80") == "   " && told("\xf5\x80\x80\x80") == "    ");  // No UTF-8.
  CHECK(told("\xc0\x9b\xe0\x80\x9b") == "     ");  // An escape, written longer than it may be.
}

TEST(faults_of_a_manifest) {
  const std::vector<Fault> faults = {
      {"contract.output: feature maps are run by byolt in Python alone, and this library gives one vector an image",
       [](json& m) {
         m["contract"]["output"]["name"] = "features";
         m["contract"]["output"]["maps"] = json::array({{{"name", "map"}, {"shape", {4, 2, 2}}}});
       }},
      {"contract.output.maps: ", [](json& m) { m["contract"]["output"]["maps"] = json::array({1}); }},
      {"schema_version: this byolt reads versions 1, 2 and 3",
       [](json& m) { m["schema_version"] = 4, m["later"] = 1; }},
      {"files: every file has `shares` from schema version 2 on", [](json& m) { m["schema_version"] = 1; }},
      {"files: every file has `shares` from schema version 2 on", [](json& m) { m["files"][0].erase("shares"); }},
      {"files.0: a placement goes with int8, and int8 with one: this file is fp32",
       [](json& m) { m["files"][0]["placement"] = "cpu"; }},
      {"files.0: a placement goes with int8",
       [](json& m) { m["files"][0].update({{"precision", "int8"}, {"placement", nullptr}}); }},
      {"files.0.placement", [](json& m) { m["files"][0].update({{"precision", "int8"}, {"placement", "gpu"}}); }},
      {"files: placement came with schema version 3",
       [](json& m) {
         m["schema_version"] = 2, m["speeds"] = json::array();
         m["files"][0].update({{"precision", "int8"}, {"placement", "cpu"}});
       }},
      {"speeds: they came with schema version 3", [](json& m) { m["schema_version"] = 2; }},
      {"speeds.0.file", [](json& m) { m["speeds"][0]["file"] = "../encoder.onnx"; }},
      {"speeds.0.runtime", [](json& m) { m["speeds"][0]["runtime"] = "npu"; }},
      {"speeds.0.processor", [](json& m) { m["speeds"][0]["processor"] = "a\nb"; }},
      {"speeds.0.threads", [](json& m) { m["speeds"][0]["threads"] = 0; }},
      {"speeds.0.batch", [](json& m) { m["speeds"][0]["batch"] = 65537; }},
      {"speeds.0.images_per_s: it must be above 0", [](json& m) { m["speeds"][0]["images_per_s"] = 0; }},
      {"speeds.0.times_fp32", [](json& m) { m["speeds"][0].erase("times_fp32"); }},
      {"speeds.0.at: unknown key", [](json& m) { m["speeds"][0]["at"] = 1; }},
      {"files.0.shares.fp32: it must be from 0 to 1", [](json& m) { m["files"][0]["shares"]["fp32"] = 1.5; }},
      {"files.0.shares.bf16: unknown key", [](json& m) { m["files"][0]["shares"]["bf16"] = 1; }},
      {"later: unknown key", [](json& m) { m["later"] = 1; }},
      {"contract: it is missing", [](json& m) { m.erase("contract"); }},
      {"contract.input.size_px", [](json& m) { input(m)["size_px"] = 0; }},
      {"contract.input.size_px", [](json& m) { input(m)["size_px"] = 4.0; }},
      {"contract.input.size_px", [](json& m) { input(m)["size_px"] = "4"; }},
      {"contract.input.size_px", [](json& m) { input(m)["size_px"] = 5000; }},
      {"contract.input.max_batch", [](json& m) { input(m)["max_batch"] = 18446744073709551615ULL; }},
      {"contract.input.max_batch", [](json& m) { input(m)["max_batch"] = -1; }},
      {"contract.input: opt_batch is above", [](json& m) { input(m)["opt_batch"] = 4; }},
      {"more than 1 GiB", [](json& m) { input(m)["size_px"] = 4096, input(m)["max_batch"] = 100; }},
      {"the outputs of max_batch images", [](json& m) { m["contract"]["output"]["dim"] = 268435456; }},
      {"contract.input.camera_px", [](json& m) { input(m)["camera_px"] = {48}; }},
      {"contract.input.camera_px", [](json& m) { input(m)["camera_px"] = {48, 9000}; }},
      {"contract.input.colour_order: it must be one of RGB", [](json& m) { input(m)["colour_order"] = "BGR"; }},
      {"contract.input.dtype: it must be one of uint8, uint16", [](json& m) { input(m)["dtype"] = "float16"; }},
      {"contract.input.bit_depth: it must be one of 8, 10, 12, 14, 16", [](json& m) { input(m)["bit_depth"] = 13; }},
      {"contract.input.bit_depth: it must be one of 8, 10, 12, 14, 16", [](json& m) { input(m)["bit_depth"] = 99; }},
      {"contract.input.channels: it must be one of 1, 3", [](json& m) { input(m)["channels"] = 2; }},
      {"contract.input.channels: it must be a whole number", [](json& m) { input(m)["channels"] = 1.0; }},
      {"contract.input.byte_order: it must be one of little", [](json& m) { input(m)["byte_order"] = "big"; }},
      {"contract.input: above a bit_depth of 8 dtype is uint16", [](json& m) { input(m)["bit_depth"] = 12; }},
      {"contract.input: above a bit_depth of 8 dtype is uint16", [](json& m) { input(m)["dtype"] = "uint16"; }},
      {"contract.input: a colour_order of grey goes with 1", [](json& m) { input(m)["channels"] = 1; }},
      {"contract.input.resize: it must be one of crop, squash", [](json& m) { input(m)["resize"] = "pad"; }},
      {"contract.input.mean", [](json& m) { input(m)["mean"] = {0.5, 0.5}; }},
      {"contract.input.mean", [](json& m) { input(m)["mean"] = {0.5, 0.5, "a"}; }},
      {"std must be positive", [](json& m) { input(m)["std"] = {0.5, 0, 0.5}; }},
      {"classes go with logits", [](json& m) { m["contract"]["classes"] = {"a"}; }},
      {"2 classes for 3 logits",
       [](json& m) { m["contract"]["output"]["name"] = "logits", m["contract"]["classes"] = {"a", "b"}; }},
      {"contract.output.normalized", [](json& m) { m["contract"]["output"]["normalized"] = 1; }},
      {"files: it must be a list", [](json& m) { m["files"] = json::array(); }},
      {"files: it must be a list", [](json& m) { m["files"] = json::object(); }},
      {"files.0.name: it must be a plain file name", [](json& m) { m["files"][0]["name"] = "../encoder.onnx"; }},
      {"files.0.name: it must be a plain file name", [](json& m) { m["files"][0]["name"] = "/etc/encoder.onnx"; }},
      {"files.0.name: it must be a plain file name", [](json& m) { m["files"][0]["name"] = ".onnx"; }},
      {"files.0.name: it must be a plain file name",
       [](json& m) { m["files"][0]["name"] = std::string("a\0/b.onnx", 9); }},
      {"files.0.name: it must be a plain file name",
       [](json& m) { m["files"][0]["name"] = std::string(92, 'a') + ".onnx"; }},
      {"files.0.sha256", [](json& m) { m["files"][0]["sha256"] = std::string(64, 'A'); }},
      {"files.0.verdict", [](json& m) { m["files"][0]["verdict"] = "green"; }},
      {"files.0.gates.loose: unknown key", [](json& m) { m["files"][0]["gates"]["loose"] = 1; }},
      {"files.0.gates.overlap_at_1", [](json& m) { m["files"][0]["gates"]["overlap_at_1"] = nullptr; }},
      {"files.0.calibration.images", [](json& m) { m["files"][0]["calibration"] = json::object(); }},
      {"files: a name stands twice", [](json& m) { m["files"].push_back(m["files"][0]); }},
      {"engines.0.flavour", [](json& m) { m["engines"][0]["flavour"] = "other"; }},
      {"engines.0.compute_capabilities", [](json& m) { m["engines"][0]["compute_capabilities"] = {0}; }},
      {"engines.0.profile.max_batch", [](json& m) { m["engines"][0]["profile"]["max_batch"] = 0; }},
      {"golden.kind", [](json& m) { m["golden"]["kind"] = "drawn"; }},
      {"tools", [](json& m) { m["tools"] = {{"byolt", 1}}; }},
  };
  for (const Fault& fault : faults) {
    json manifest = sample::manifest();
    fault.plant(manifest);
    CHECK_ERROR(Code::input, fault.sentence, parse(manifest));
    CHECK_ERROR(Code::input, "bundle/manifest.json does not fit: ", parse(manifest));
  }
}

TEST(placements_and_speeds_of_schema_version_3) {
  json manifest = sample::manifest();
  const byolt::Manifest read = parse(manifest);
  CHECK(read.files[0].placement.empty() && read.files[0].becomes_engines());
  const byolt::Speed& speed = read.speeds.at(0);
  CHECK(speed.file == "encoder.onnx" && speed.runtime == "cpu" && speed.processor == "Sample CPU @ 2 GHz");
  CHECK(speed.threads == 2 && speed.batch == 1 && speed.images_per_s == 125.5 && !speed.times_fp32);
  manifest["speeds"][0].update({{"file", "encoder.fp32.here.engine"}, {"times_fp32", 2.5}});
  CHECK(parse(manifest).speeds.at(0).times_fp32 == 2.5);
  manifest["files"][0].update({{"precision", "int8"}, {"placement", "cpu"}});
  CHECK(parse(manifest).files[0].placement == "cpu" && !parse(manifest).files[0].becomes_engines());
  manifest["files"][0].erase("placement");
  CHECK(parse(manifest).files[0].placement == "tensorrt" && parse(manifest).files[0].becomes_engines());
}

TEST(speeds_are_replaced_where_they_were_measured) {
  const std::string text = sample::manifest().dump();
  byolt::Speed measured = byolt::parse_manifest(text, "m").speeds.at(0), elsewhere = measured;
  measured.images_per_s = 812.5, measured.times_fp32 = 2.5;
  elsewhere.processor = "Another CPU";
  const auto merged = byolt::merged_speeds({elsewhere, byolt::parse_manifest(text, "m").speeds.at(0)}, {measured});
  CHECK(merged.size() == 2 && merged[0].processor == "Another CPU" && merged[1].images_per_s == 812.5);
  const byolt::Manifest read = byolt::parse_manifest(byolt::with_speeds(text, merged), "m");
  CHECK(read.speeds.size() == 2 && read.speeds[1].times_fp32 == 2.5 && !read.speeds[0].times_fp32);
  CHECK(read.speeds[1].file == "encoder.onnx" && read.speeds[1].threads == 2 && read.speeds[1].batch == 1);
  CHECK(read.files.size() == 1 && read.version == 3);
}

TEST(names_of_processors_are_plain) {
  CHECK(byolt::plain_name(" AMD EPYC\t") == "AMD EPYC" && byolt::plain_name("Core\xe2\x84\xa2 i7\x1b") == "Core? i7?");
  CHECK(byolt::plain_name("").size() == 7 && byolt::plain_name(std::string(999, 'a')).size() == 200);
  CHECK(byolt::cpu_threads(3) == 3 && byolt::cpu_threads(0) >= 1);
}

TEST(a_precision_is_judged_by_its_shares) {
  const auto fault = [](const char* precision, const std::map<std::string, double>& shares,
                        const char* placement = "") {
    byolt::OnnxEntry entry;
    entry.precision = precision;
    entry.placement = placement;
    entry.shares = shares;
    return byolt::find_precision_fault(entry);
  };
  CHECK(fault("fp32", {{"fp32", 1}}).empty() && fault("fp16", {{"fp16", 1}}).empty());
  CHECK(fault("int8", {{"int8", 0.5}, {"fp16", 0.5}}).empty());
  CHECK(fault("fp16", {{"fp32", 1}}) == "it is named fp16, and it multiplies 100% in fp32");
  CHECK(fault("fp16", {{"fp32", 0.25}, {"fp16", 0.75}}).empty());  // What fp16 loses too much by.
  CHECK(fault("fp16", {{"fp32", 0.75}, {"fp16", 0.25}}) ==
        "it is named fp16, and it multiplies 75% in fp32, 25% in fp16");
  CHECK(fault("fp32", {{"fp32", 0.99}, {"fp16", 0.01}}) ==
        "it is named fp32, and it multiplies 99% in fp32, 1% in fp16");
  CHECK(fault("int8", {{"int8", 0.49}, {"fp16", 0.51}}) ==
        "it is named int8, and it multiplies 51% in fp16, 49% in int8");
  CHECK(fault("int8", {{"int8", 0.9}, {"fp32", 0.1}}) ==
        "it is named int8, and it multiplies 10% in fp32, 90% in int8");
  CHECK(fault("int8", {{"int8", 0.9}, {"fp32", 0.1}}, "cpu").empty());  // No CPU has kernels in fp16.
  CHECK(fault("int8", {{"int8", 0.9}, {"fp16", 0.1}}, "openvino") ==
        "it is named int8, and it multiplies 10% in fp16, 90% in int8");
  CHECK(fault("fp32", {}) == "it is named fp32, and it multiplies in no known type");
  CHECK(byolt::find_precision_fault({}).empty());
}

TEST(what_is_no_manifest) {
  for (const std::string text :
       {"", "{", "[]", "null", "1", "\"a\"", "{} {}", "{\"a\": NaN}", "{\"a\": 1e999}", "\xff\xfe"}) {
    CHECK_ERROR(Code::input, "does not fit", byolt::parse_manifest(text, "m"));
  }
  CHECK_ERROR(Code::input, "nested too deeply", byolt::parse_manifest(std::string(3'000'000, '['), "m"));
}

TEST(a_key_of_a_stranger_stays_one_plain_line) {
  json manifest = sample::manifest();
  manifest["later\n\x1b[31m" + std::string(5000, 'x')] = 1;
  CHECK_ERROR(Code::input, "later31mxxx", parse(manifest));
}

TEST(verdicts_written_into_a_manifest) {
  const std::string text = sample::manifest().dump();
  const std::string changed = byolt::with_verdicts(text, {{"encoder.fp32.here.engine", "passed", "ran by x"}});
  json expected = sample::manifest();
  expected["engines"][0]["verdict"] = "passed";
  expected["engines"][0]["reason"] = "ran by x";
  CHECK(json::parse(changed) == expected);
}
