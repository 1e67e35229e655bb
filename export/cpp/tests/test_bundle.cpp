#include <unistd.h>

#include <cmath>
#include <cstring>

#include "bundle.hpp"
#include "check.hpp"
#include "contents.hpp"
#include "safetensors.hpp"
#include "sample.hpp"

using byolt::Bundle;
using byolt::Code;
using nlohmann::json;
using sample::field;

namespace {

/// A safetensors file of two images whose outputs are all 1; `change` may spoil header and data.
std::string golden_file(const std::function<void(json&, std::string&)>& change = [](json&, std::string&) {}) {
  json header;
  std::string data;
  const auto add = [&](const std::string& name, const char* dtype, const json& shape, const std::string& bytes) {
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  };
  std::string pixels(2 * 4 * 4 * 3, '\0'), ones;
  for (std::size_t k = 0; k < pixels.size(); ++k) pixels[k] = static_cast<char>(k);
  const float one = 1;
  for (int k = 0; k < 6; ++k) ones.append(reinterpret_cast<const char*>(&one), sizeof one);
  add("images", "U8", {2, 4, 4, 3}, pixels);
  add("outputs.reference", "F32", {2, 3}, ones);
  for (const char* control : byolt::kControls) add("outputs.control." + std::string(control), "F32", {2, 3}, ones);
  change(header, data);
  const std::string text = header.dump();
  std::string length(8, '\0');
  for (std::size_t k = 0; k < 8; ++k) length[k] = static_cast<char>(text.size() >> (8 * k));
  return length + text + data;
}

byolt::Golden read(const std::string& content, const json& manifest = sample::manifest()) {
  return byolt::read_golden(content, "golden", byolt::parse_manifest(manifest.dump(), "m"));
}

}  // namespace

TEST(a_file_is_what_the_manifest_says) {
  const sample::Folder folder;
  folder.write_bundle(sample::manifest(), sample::onnx(sample::contract().dump()));
  const Bundle bundle(folder.path() + "//");
  CHECK(bundle.open_onnx(bundle.manifest().files[0]) == folder.path() + "/encoder.onnx");
  folder.write("encoder.onnx", "other");
  CHECK_ERROR(Code::input, "is not the file that manifest.json names", bundle.open_onnx(bundle.manifest().files[0]));
  std::filesystem::remove(folder.path() + "/encoder.onnx");
  CHECK_ERROR(Code::input, "is missing from the bundle", bundle.open_onnx(bundle.manifest().files[0]));
}

TEST(no_way_out_of_the_bundle) {
  const sample::Folder folder, other;
  const std::string content = sample::onnx(sample::contract().dump());
  folder.write_bundle(sample::manifest(), content);
  const Bundle bundle(folder.path());
  other.write("encoder.onnx", content);
  std::filesystem::remove(folder.path() + "/encoder.onnx");
  std::filesystem::create_symlink(other.path() + "/encoder.onnx", folder.path() + "/encoder.onnx");
  CHECK_ERROR(Code::input, "is missing from the bundle", bundle.open_onnx(bundle.manifest().files[0]));
  std::filesystem::remove(folder.path() + "/encoder.onnx");
  std::filesystem::create_directory(folder.path() + "/encoder.onnx");
  CHECK_ERROR(Code::input, "is missing from the bundle", bundle.open_onnx(bundle.manifest().files[0]));
}

TEST(no_bundle) {
  const sample::Folder folder;
  CHECK_ERROR(Code::input, "holds no bundle", Bundle(folder.path()));
  CHECK_ERROR(Code::input, "holds no bundle", Bundle(folder.path() + "/none"));
  folder.write(byolt::kManifest, std::string((4 << 20) + 1, ' '));
  CHECK_ERROR(Code::input, "larger than a manifest may be", Bundle(folder.path()));
}

TEST(verdicts_are_recorded_once) {
  const sample::Folder folder;
  folder.write_bundle(sample::manifest(), "");
  const std::string before = folder.read(byolt::kManifest);
  Bundle(folder.path()).record({{"encoder.fp32.here.engine", "not run here", "no GPU"}});
  CHECK(folder.read(byolt::kManifest) == before);
  Bundle(folder.path()).record({{"encoder.fp32.here.engine", "passed", "ran by tensorrt 10.3.0"}});
  CHECK(Bundle(folder.path()).manifest().engines[0].verdict == "passed");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 2);
}

TEST(an_engine_of_another_file) {
  const sample::Folder folder;
  json manifest = sample::manifest();
  manifest["engines"][0]["sha256"] = sample::sha256("plan");
  folder.write("encoder.fp32.here.engine", "plan");
  folder.write_bundle(manifest, "content");
  const Bundle bundle(folder.path());
  CHECK_ERROR(Code::input, "was built from another encoder.onnx", bundle.open_engine(bundle.manifest().engines[0]));
}

TEST(an_onnx_of_another_contract) {
  json other = sample::contract();
  other["recipe_hash"] = "another";
  for (const std::string& text : {other.dump(), std::string("{}"), std::string()}) {
    const sample::Folder folder;
    folder.write_bundle(sample::manifest(), sample::onnx(text));
    const Bundle bundle(folder.path());
    CHECK_ERROR(Code::input, "contract", bundle.open_onnx(bundle.manifest().files[0]));
  }
}

TEST(data_outside_of_an_onnx_file) {
  const std::string outside =
      sample::tensor("hidden", 1) + field(13, field(1, std::string("location")) + field(2, std::string("/etc/passwd")));
  const std::string located = sample::tensor("hidden", 1) + field(14, 1);
  const auto node_with = [](const std::string& attribute) {
    return field(1, field(4, std::string("Constant")) + field(5, attribute));
  };
  const std::vector<std::string> hidden = {field(5, outside),
                                           field(5, located),
                                           field(15, field(1, outside)),
                                           node_with(field(5, outside)),
                                           node_with(field(10, outside)),
                                           node_with(field(22, field(2, outside)))};
  for (const std::string& extra : hidden) {
    CHECK_ERROR(Code::input, "outside of itself", byolt::read_onnx_contents(sample::onnx("{}", extra), "m"));
  }
  CHECK_ERROR(Code::input, "more than a graph",
              byolt::read_onnx_contents(sample::onnx("{}") + field(25, outside), "m"));
}

// A loop of 2^62 turns ends no sooner than the patience of whoever asked for a verdict.
TEST(operators_that_no_bundle_runs) {
  const auto node = [](const std::string& operation, const std::string& domain = "", const std::string& more = "") {
    return field(1, field(4, operation) + (domain.empty() ? "" : field(7, domain)) + more);
  };
  const auto refused = [](const std::string& extra, const std::string& name) {
    CHECK_ERROR(
        Code::input,
        "m cannot be read as ONNX: it runs the operator `" + name + "`, which byolt never writes; export it again",
        byolt::read_onnx_contents(sample::onnx("{}", extra), "m"));
  };
  for (const char* name : {"Loop", "If", "Scan", "SequenceMap", "RandomNormal", "Bernoulli", "StringConcat", "conv", "",
                           "NoSuchOperator", "Conv Relu"}) {
    refused(node(name), name);
  }
  for (const char* domain : {"com.microsoft", "ai.onnx.ml", "AI.ONNX", " "}) {
    refused(node("Conv", domain), std::string(domain) + ".Conv");
  }
  refused(field(1, field(4, std::string("Conv")) + field(4, std::string("Loop"))), "Loop");  // The last one holds.
  refused(node("a\n\x1b[2J"), "a  [2J");
  for (const std::string& graph : {field(6, std::string()), field(11, node("Conv")), field(6, 0)}) {
    CHECK_ERROR(Code::input, "a graph in a node",
                byolt::read_onnx_contents(sample::onnx("{}", node("Conv", "", field(5, graph))), "m"));
  }
  for (const char* name :
       {"Conv", "GRU", "LSTM", "QuantizeLinear", "Einsum", "LayerNormalization", "SplitToSequence"}) {
    CHECK(byolt::read_onnx_contents(sample::onnx("{}", node(name) + node(name, "ai.onnx")), "m").outputs.size() == 1);
  }
}

TEST(what_is_no_onnx) {
  const std::string good = sample::onnx("{}");
  for (std::size_t size = 0; size < good.size(); ++size) {
    try {
      (void)byolt::read_onnx_contents(good.substr(0, size), "m");
    } catch (const byolt::Error& error) {
      CHECK(error.code() == Code::input);
    }
  }
  CHECK_ERROR(Code::input, "holds no graph", byolt::read_onnx_contents("", "m"));
  CHECK_ERROR(Code::input, "wire type 3", byolt::read_onnx_contents("\x0b", "m"));
  CHECK_ERROR(Code::input, "without end", byolt::read_onnx_contents(std::string(12, '\xff'), "m"));
  CHECK_ERROR(Code::input, "ends early",
              byolt::read_onnx_contents("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "m"));
}

TEST(golden_vectors) {
  const byolt::Golden golden = read(golden_file());
  CHECK(golden.images == 2 && golden.pixels[5] == 5 && golden.reference == std::vector<float>(6, 1));
  CHECK(golden.controls.size() == 9 && golden.controls[0].first == "swapped_channels" && golden.controls[0].second);
}

TEST(golden_vectors_of_more_than_8_bits) {
  json manifest = sample::manifest();
  json& input = manifest["contract"]["input"];
  input.update({{"bit_depth", 16}, {"dtype", "uint16"}, {"byte_order", "little"}, {"size_px", 2}});
  const auto change = [](json& header, std::string& data) {
    header["images"].update({{"dtype", "U16"}, {"shape", {2, 2, 2, 3}}, {"data_offsets", {0, 48}}});
    for (auto& item : header.items()) {
      auto& offsets = item.value()["data_offsets"];
      if (offsets[0].get<std::size_t>() >= 96) {
        offsets = {offsets[0].get<std::size_t>() - 48, offsets[1].get<std::size_t>() - 48};
      }
    }
    data.erase(48, 48);
  };
  const byolt::Golden golden = read(golden_file(change), manifest);
  CHECK(golden.pixels.size() == 48 && golden.pixels[7] == 7 && golden.controls[0].second);
  CHECK_ERROR(Code::input, "images: it is not the tensor", read(golden_file(change)));
  // One channel has nothing to swap, and a file that holds such a control is not believed.
  input.update({{"channels", 1}, {"colour_order", "grey"}});
  CHECK_ERROR(Code::input, "it holds tensors that no bundle has",
              read(golden_file([&](json& header, std::string& data) {
                     change(header, data);
                     header["images"]["shape"] = {2, 2, 2, 1}, header["images"]["data_offsets"] = {0, 16};
                     for (auto& item : header.items()) {
                       auto& offsets = item.value()["data_offsets"];
                       if (offsets[0].get<std::size_t>() >= 48) {
                         offsets = {offsets[0].get<std::size_t>() - 32, offsets[1].get<std::size_t>() - 32};
                       }
                     }
                     data.erase(16, 32);
                   }),
                   manifest));
}

TEST(controls_without_a_meaning) {
  const std::string grey = golden_file([](json& header, std::string& data) {
    std::fill_n(data.begin(), 96, '\7');
    header["outputs.reference"]["data_offsets"] = header["outputs.control.swapped_channels"]["data_offsets"];
    header.erase("outputs.control.swapped_channels");
    data.erase(96, 24);  // The one control less.
    for (auto& item : header.items()) {
      auto& offsets = item.value()["data_offsets"];
      if (offsets[0].get<std::size_t>() >= 120)
        offsets = {offsets[0].get<std::size_t>() - 24, offsets[1].get<std::size_t>() - 24};
    }
  });
  CHECK(!read(grey).controls[0].second && read(grey).controls[1].second);
}

TEST(what_an_int8_file_gave_before) {
  const std::string with_own = golden_file([](json& header, std::string& data) {
    const std::string outputs = data.substr(96, 24);
    header["outputs.file.encoder.onnx"] = {
        {"dtype", "F32"}, {"shape", {2, 3}}, {"data_offsets", {data.size(), data.size() + outputs.size()}}};
    data += outputs;
  });
  CHECK_ERROR(Code::input, "it holds tensors that no bundle has", read(with_own));  // Of fp32.
  json manifest = sample::manifest();
  manifest["files"][0].update({{"precision", "int8"}, {"placement", "cpu"}, {"shares", {{"int8", 1.0}}}});
  manifest["engines"] = json::array();
  CHECK(read(with_own, manifest).own.at("encoder.onnx") == std::vector<float>(6, 1));
  CHECK(read(golden_file(), manifest).own.empty());
}

TEST(faults_of_golden_vectors) {
  struct Fault {
    const char* sentence;
    std::function<void(json&, std::string&)> plant;
  };
  const std::vector<Fault> faults = {
      {"images: it is not the tensor", [](json& h, std::string&) { h["images"]["shape"] = {1, 8, 4, 3}; }},
      {"data do not fit", [](json& h, std::string&) { h["images"]["shape"] = {2, 4, 4, 4}; }},
      {"larger than the file", [](json& h, std::string&) { h["images"]["shape"] = {300, 300, 300, 300}; }},
      {"whole number", [](json& h, std::string&) { h["images"]["shape"] = {-2, 4, 4, 3}; }},
      {"whole number", [](json& h, std::string&) { h["images"]["data_offsets"] = {0, 1000000}; }},
      {"whole number", [](json& h, std::string&) { h["images"]["data_offsets"] = {96, 0}; }},
      {"unknown key", [](json& h, std::string&) { h["images"]["later"] = 1; }},
      {"a type that no bundle has", [](json& h, std::string&) { h["images"]["dtype"] = "F16"; }},
      {"outputs.reference: it is not",
       [](json& h, std::string&) { h["outputs.other"] = h["outputs.reference"], h.erase("outputs.reference"); }},
      {"do not cover it", [](json&, std::string& data) { data += "more"; }},
      {"not finite", [](json&, std::string& data) { std::memset(data.data() + 96, 0xff, 4); }},
  };
  for (const Fault& fault : faults) CHECK_ERROR(Code::input, fault.sentence, read(golden_file(fault.plant)));
  for (const std::string& text : {std::string(), std::string(7, '\0'), std::string(8, '\xff'), std::string(8, '\0')}) {
    CHECK_ERROR(Code::input, "golden does not fit", read(text));
  }
  const std::string good = golden_file();
  for (std::size_t size = 0; size < good.size(); size += 7)
    CHECK_ERROR(Code::input, "golden", read(good.substr(0, size)));
}
