#include "manifest.hpp"

#include <algorithm>
#include <set>
#include <tuple>

#include "byolt/error.hpp"
#include "json_fields.hpp"
#include "text.hpp"

namespace byolt {
namespace {

using nlohmann::json;

constexpr std::int64_t kBatchBytes = 1 << 30;  // A bundle is untrusted: nothing larger is run in one batch.
constexpr std::int64_t kLargestBatch = 65536, kMostPositive = INT64_MAX;
constexpr double kLeastNamed = 0.5;  // Of the multiply-adds. The rest is what the measured sensitivity left as it was.
constexpr std::size_t kMostFiles = 16, kMostEngines = 64, kMostCapabilities = 16, kMostSpeeds = 1024;
constexpr std::size_t kLongestProcessor = 200;

std::size_t size_of(const Fields& fields, const std::string& key, std::int64_t most) {
  return static_cast<std::size_t>(fields.integer(key, 1, most));
}

std::array<double, 3> read_rgb(const Fields& fields, const std::string& key) {
  std::array<double, 3> rgb{};
  const json& values = to_array(fields.need(key), fields.at(key), rgb.size(), rgb.size());
  for (std::size_t k = 0; k < rgb.size(); ++k) rgb[k] = to_number(values[k], fields.at(key));
  return rgb;
}

void expect(const Fields& fields, const std::string& key, const char* only) {
  if (fields.find(key) != nullptr) (void)fields.one_of(key, {only});
}

std::size_t one_of(const Fields& fields, const std::string& key, std::size_t usual,
                   const std::vector<std::int64_t>& choices) {
  const json* value = fields.find(key);
  if (value == nullptr) return usual;
  const std::int64_t found = to_integer(*value, fields.at(key), INT64_MIN, INT64_MAX);
  if (std::find(choices.begin(), choices.end(), found) != choices.end()) return static_cast<std::size_t>(found);
  std::string words;
  for (const std::int64_t choice : choices) words += (words.empty() ? "" : ", ") + std::to_string(choice);
  throw FieldError(fields.at(key), "it must be one of " + words);
}

/// Channels and bits, which came with schema version 2, and what follows from them.
Samples read_samples(const Fields& fields, const std::string& where) {
  const Samples samples{one_of(fields, "channels", 3, {1, 3}), one_of(fields, "bit_depth", 8, {8, 10, 12, 14, 16})};
  const auto word = [&](const std::string& key, const char* usual, const char* other) {
    const json* value = fields.find(key);
    if (value == nullptr || (value->is_null() && *usual == '\0')) return std::string(usual);
    return *usual == '\0' ? fields.one_of(key, {other}) : fields.one_of(key, {usual, other});
  };
  const bool deep = samples.bytes() == 2;
  if (word("dtype", "uint8", "uint16") != (deep ? "uint16" : "uint8") ||
      word("byte_order", "", "little") != (deep ? "little" : "")) {
    throw FieldError(where, "above a bit_depth of 8 dtype is uint16 and byte_order little, else uint8 without one");
  }
  if ((word("colour_order", "RGB", "grey") == "grey") != (samples.channels == 1)) {
    throw FieldError(where, "a colour_order of grey goes with 1 of the channels, and RGB with 3");
  }
  return samples;
}

Input read_input(const json& value, const std::string& where) {
  const Fields fields(value, where,
                      {"name", "dtype", "layout", "colour_order", "size_px", "camera_px", "resize", "opt_batch",
                       "max_batch", "mean", "std", "channels", "bit_depth", "byte_order"});
  expect(fields, "name", "images");
  expect(fields, "layout", "NHWC");
  Input input;
  input.samples = read_samples(fields, where);
  input.size_px = size_of(fields, "size_px", 4096);
  if (const json* camera = fields.find("camera_px"); camera != nullptr && !camera->is_null()) {
    const json& sides = to_array(*camera, fields.at("camera_px"), 2, 2);
    const auto side = [&](std::size_t k) {
      return static_cast<std::size_t>(to_integer(sides[k], fields.at("camera_px"), 1, 8192));
    };
    input.camera_px = {side(0), side(1)};
  }
  input.resize = fields.one_of("resize", {"crop", "squash"}) == "crop" ? Rule::crop : Rule::squash;
  if (fields.find("opt_batch") != nullptr) input.opt_batch = size_of(fields, "opt_batch", kLargestBatch);
  input.max_batch = size_of(fields, "max_batch", kLargestBatch);
  input.mean = read_rgb(fields, "mean");
  input.std = read_rgb(fields, "std");
  if (input.max_batch * input.image_bytes() > kBatchBytes)
    throw FieldError(where, "a batch of max_batch images is more than 1 GiB");
  if (input.opt_batch > input.max_batch) throw FieldError(where, "opt_batch is above max_batch");
  if (*std::min_element(input.std.begin(), input.std.end()) <= 0) throw FieldError(where, "std must be positive");
  return input;
}

Contract read_contract(const json& value, const std::string& where) {
  const Fields fields(value, where, {"input", "output", "classes", "recipe_hash"});
  Contract contract;
  contract.input = read_input(fields.need("input"), fields.at("input"));
  const Fields output(fields.need("output"), fields.at("output"), {"name", "dim", "normalized", "maps"});
  contract.output_name = output.one_of("name", {"embedding", "logits", "features"});
  if (contract.output_name == "features") {
    throw FieldError(fields.at("output"),
                     "feature maps are run by byolt in Python alone, and this library gives one vector an image: take "
                     "output: embedding");
  }
  if (const json* maps = output.find("maps"); maps != nullptr) (void)to_array(*maps, output.at("maps"), 0, 0);
  contract.dim = size_of(output, "dim", kBatchBytes / 4);
  contract.normalized = output.boolean("normalized");
  contract.classes = fields.texts("classes");
  contract.recipe_hash = fields.text("recipe_hash");
  if (contract.dim * contract.input.max_batch > kBatchBytes / 4) {
    throw FieldError(where, "the outputs of max_batch images are more than 1 GiB");
  }
  if (contract.logits() == contract.classes.empty())
    throw FieldError(where, "classes go with logits, and logits need them");
  if (contract.logits() && contract.classes.size() != contract.dim) {
    throw FieldError(
        where, std::to_string(contract.classes.size()) + " classes for " + std::to_string(contract.dim) + " logits");
  }
  return contract;
}

std::string read_verdict(const Fields& fields) {
  return fields.one_of("verdict", {"passed", "failed", "not run here"});
}

double to_share(const json& value, const std::string& where) {
  const double share = to_number(value, where);
  if (share < 0 || share > 1) throw FieldError(where, "it must be from 0 to 1");
  return share;
}

void check_calibration(const json& value, const std::string& where) {
  const Fields fields(value, where, {"images", "source", "sha256", "rule", "int8_share", "fp16_layers"});
  (void)size_of(fields, "images", kMostPositive);
  (void)fields.text("source");
  (void)fields.sha256("sha256");
  (void)fields.text("rule");
  (void)fields.texts("fp16_layers");
  (void)to_share(fields.need("int8_share"), fields.at("int8_share"));
}

OnnxEntry read_onnx(const json& value, const std::string& where) {
  const Fields fields(
      value, where,
      {"name", "precision", "placement", "opset", "sha256", "verdict", "reason", "gates", "calibration", "shares"});
  OnnxEntry entry;
  entry.name = fields.file_name("name", ".onnx");
  entry.precision = fields.one_of("precision", {"fp32", "fp16", "int8"});
  if (entry.precision == "int8") entry.placement = "tensorrt";  // Where none is told: before schema version 3.
  if (const json* placement = fields.find("placement"); placement != nullptr) {
    entry.placement = placement->is_null() ? "" : fields.one_of("placement", {"tensorrt", "cpu", "openvino"});
  }
  if (entry.placement.empty() == (entry.precision == "int8")) {
    throw FieldError(where, "a placement goes with int8, and int8 with one: this file is " + entry.precision);
  }
  (void)size_of(fields, "opset", kMostPositive);
  entry.sha256 = fields.sha256("sha256");
  entry.verdict = read_verdict(fields);
  entry.reason = fields.text("reason");
  const Fields gates(fields.need("gates"), fields.at("gates"),
                     {"relative_l2_mean_max", "relative_l2_worst_max", "centred_cosine_worst", "overlap_at_1",
                      "overlap_at_10", "top_1_agreement", "unnoticed_perturbation_max", "drift_mean_max"});
  for (const auto& item : fields.need("gates").items()) {
    entry.gates[item.key()] = to_number(item.value(), gates.at(item.key()));
  }
  if (const json* calibration = fields.find("calibration"); calibration != nullptr && !calibration->is_null()) {
    check_calibration(*calibration, fields.at("calibration"));
  }
  if (const json* found = fields.find("shares"); found != nullptr && !found->is_null()) {
    const Fields shares(*found, fields.at("shares"), {"fp32", "fp16", "int8"});
    entry.shares.emplace();
    for (const auto& item : found->items()) (*entry.shares)[item.key()] = to_share(item.value(), shares.at(item.key()));
  }
  return entry;
}

EngineEntry read_engine(const json& value, const std::string& where) {
  const Fields fields(value, where,
                      {"name", "precision", "onnx", "onnx_sha256", "flavour", "version", "target",
                       "compute_capabilities", "profile", "workspace_mib", "sha256", "verdict", "reason"});
  EngineEntry entry;
  entry.name = fields.file_name("name", ".engine");
  entry.precision = fields.one_of("precision", {"fp32", "fp16", "int8"});
  entry.onnx = fields.file_name("onnx", ".onnx");
  entry.onnx_sha256 = fields.sha256("onnx_sha256");
  entry.flavour = fields.one_of("flavour", {"tensorrt", "tensorrt_rtx"});
  entry.version = fields.word("version");
  entry.target = fields.word("target");
  const std::string where_capabilities = fields.at("compute_capabilities");
  for (const json& one : to_array(fields.need("compute_capabilities"), where_capabilities, 0, kMostCapabilities)) {
    entry.compute_capabilities.push_back(to_integer(one, where_capabilities, 1, kMostPositive));
  }
  const Fields profile(fields.need("profile"), fields.at("profile"), {"min_batch", "opt_batch", "max_batch"});
  entry.min_batch = size_of(profile, "min_batch", kLargestBatch);
  entry.opt_batch = size_of(profile, "opt_batch", kLargestBatch);
  entry.max_batch = size_of(profile, "max_batch", kLargestBatch);
  (void)size_of(fields, "workspace_mib", kMostPositive);
  entry.sha256 = fields.sha256("sha256");
  entry.verdict = read_verdict(fields);
  entry.reason = fields.text("reason");
  return entry;
}

Speed read_speed(const json& value, const std::string& where) {
  const Fields fields(value, where, {"file", "runtime", "processor", "threads", "batch", "images_per_s", "times_fp32"});
  const auto positive = [&](const std::string& key) {
    const double number = to_number(fields.need(key), fields.at(key));
    if (number <= 0) throw FieldError(fields.at(key), "it must be above 0");
    return number;
  };
  Speed speed;
  const std::string file = fields.text("file"), ending = ".onnx";
  const bool onnx =
      file.size() >= ending.size() && file.compare(file.size() - ending.size(), ending.size(), ending) == 0;
  speed.file = fields.file_name("file", onnx ? ".onnx" : ".engine");
  speed.runtime = fields.one_of("runtime", {"cpu", "openvino", "cuda", "tensorrt"});
  speed.processor = fields.text("processor");
  const auto printable = [](char letter) { return letter >= ' ' && letter <= '~'; };
  if (speed.processor.empty() || speed.processor.size() > kLongestProcessor ||
      !std::all_of(speed.processor.begin(), speed.processor.end(), printable)) {
    throw FieldError(fields.at("processor"), "it must be 1 to 200 printable characters of ASCII");
  }
  speed.threads = size_of(fields, "threads", kMostPositive);
  speed.batch = size_of(fields, "batch", kLargestBatch);
  speed.images_per_s = positive("images_per_s");
  if (!fields.need("times_fp32").is_null()) speed.times_fp32 = positive("times_fp32");
  return speed;
}

template <typename Read>
auto read_list(const json& list, const std::string& where, Read read) {
  std::vector<decltype(read(list, where))> entries;
  for (const json& value : list) entries.push_back(read(value, where + "." + std::to_string(entries.size())));
  return entries;
}

Manifest read_manifest(const json& value) {
  // Another schema version explains every other fault.
  const json version = value.is_object() ? value.value("schema_version", json(1)) : json(1);
  if (version != json(1) && version != json(2) && version != json(3)) {
    throw FieldError("schema_version", "this byolt reads versions 1, 2 and 3");
  }
  const Fields fields(value, "",
                      {"schema_version", "contract", "files", "engines", "golden", "parity_sha256", "tools", "speeds"});
  Manifest manifest;
  manifest.version = version.get<int>();
  manifest.contract = read_contract(fields.need("contract"), "contract");
  manifest.files = read_list(to_array(fields.need("files"), "files", 1, kMostFiles), "files", read_onnx);
  if (const json* engines = fields.find("engines"); engines != nullptr) {
    manifest.engines = read_list(to_array(*engines, "engines", 0, kMostEngines), "engines", read_engine);
  }
  if (const json* speeds = fields.find("speeds"); speeds != nullptr) {
    manifest.speeds = read_list(to_array(*speeds, "speeds", 0, kMostSpeeds), "speeds", read_speed);
  }
  for (const OnnxEntry& file : manifest.files) {
    if (file.shares.has_value() == (version == json(1))) {
      throw FieldError("files", "every file has `shares` from schema version 2 on, and none has them in version 1");
    }
    if (version != json(3) && !file.becomes_engines()) {
      throw FieldError("files", "placement came with schema version 3");
    }
  }
  if (version != json(3) && !manifest.speeds.empty()) throw FieldError("speeds", "they came with schema version 3");
  if (version == json(1) && !(manifest.contract.input.samples == Samples{})) {
    throw FieldError("contract", "channels and bit_depth came with schema version 2");
  }
  const Fields golden(fields.need("golden"), "golden", {"kind", "images", "sha256"});
  (void)golden.one_of("kind", {"dataset", "synthetic"});
  manifest.golden_images = size_of(golden, "images", kBatchBytes * 2);
  manifest.golden_sha256 = golden.sha256("sha256");
  manifest.parity_sha256 = fields.sha256("parity_sha256");
  const json& tools = fields.need("tools");
  if (!tools.is_object()) throw FieldError("tools", "it must be an object");
  for (const auto& item : tools.items()) (void)to_text(item.value(), "tools");
  std::set<std::string> names;
  for (const OnnxEntry& file : manifest.files) names.insert(file.name);
  for (const EngineEntry& engine : manifest.engines) names.insert(engine.name);
  if (names.size() != manifest.files.size() + manifest.engines.size()) throw FieldError("files", "a name stands twice");
  return manifest;
}

}  // namespace

bool Input::operator==(const Input& other) const {
  const auto all = [](const Input& i) {
    return std::tie(i.size_px, i.camera_px, i.resize, i.opt_batch, i.max_batch, i.mean, i.std, i.samples);
  };
  return all(*this) == all(other);
}

bool Contract::operator==(const Contract& other) const {
  const auto all = [](const Contract& c) {
    return std::tie(c.input, c.output_name, c.dim, c.normalized, c.classes, c.recipe_hash);
  };
  return all(*this) == all(other);
}

Manifest parse_manifest(const std::string& text, const std::string& where) {
  try {
    return read_manifest(parse_json(text));
  } catch (const FieldError& error) {
    throw Error(Code::input, where + " does not fit: " + error.what() + "; export it again");
  }
}

Contract parse_contract(const std::string& text, const std::string& where) {
  try {
    return read_contract(parse_json(text), "contract");
  } catch (const FieldError& error) {
    throw Error(Code::input, where + " carries a contract that does not fit: " + error.what() + "; export it again");
  }
}

std::string find_precision_fault(const OnnxEntry& entry) {
  if (!entry.shares) return "";
  const auto share = [&](const std::string& type) {
    const auto found = entry.shares->find(type);
    return found == entry.shares->end() ? 0 : found->second;
  };
  const std::string& precision = entry.precision;
  // What of int8 is kept is fp16 for TensorRT, fp32 for a CPU; of fp16 it is fp32.
  const std::string kept = precision == "int8" && entry.becomes_engines() ? "fp16" : "fp32";
  bool others = false;
  std::string found;
  for (const char* type : {"fp32", "fp16", "int8"}) {
    if (share(type) == 0) continue;
    others = others || (type != precision && type != kept);
    found += (found.empty() ? "" : ", ") + format_number("%.0f%% in ", 100 * share(type)) + type;
  }
  if (!others && share(precision) >= (precision == "fp32" ? 1 : kLeastNamed)) return "";
  return "it is named " + precision + ", and it multiplies " + (found.empty() ? "in no known type" : found);
}

std::string with_verdicts(const std::string& text, const std::vector<EngineVerdict>& verdicts) {
  auto manifest = nlohmann::ordered_json::parse(text);
  for (auto& engine : manifest["engines"]) {
    for (const EngineVerdict& verdict : verdicts) {
      if (engine["name"] != verdict.engine) continue;
      engine["verdict"] = verdict.verdict;
      engine["reason"] = verdict.reason;
    }
  }
  return manifest.dump(2) + "\n";
}

std::string with_speeds(const std::string& text, const std::vector<Speed>& speeds) {
  auto manifest = nlohmann::ordered_json::parse(text);
  auto& list = manifest["speeds"] = nlohmann::ordered_json::array();
  for (const Speed& speed : speeds) {
    list.push_back({{"file", speed.file},
                    {"runtime", speed.runtime},
                    {"processor", speed.processor},
                    {"threads", speed.threads},
                    {"batch", speed.batch},
                    {"images_per_s", speed.images_per_s},
                    {"times_fp32", speed.times_fp32 ? nlohmann::ordered_json(*speed.times_fp32) : nullptr}});
  }
  return manifest.dump(2) + "\n";
}

}  // namespace byolt
