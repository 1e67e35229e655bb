#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "manifest.hpp"
#include "sha256.hpp"

// A bundle drawn by hand, for tests of what is read: an ONNX file that no runtime could run, and its manifest.
namespace sample {

using nlohmann::json;

inline std::string sha256(const std::string& content) {
  byolt::Sha256 sha;
  sha.update(content.data(), content.size());
  return sha.hex();
}

inline json contract() {
  return json::parse(R"({
    "input": {"name": "images", "dtype": "uint8", "layout": "NHWC", "colour_order": "RGB", "size_px": 4, "camera_px": null,
              "resize": "crop", "opt_batch": 2, "max_batch": 3, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "output": {"name": "embedding", "dim": 3, "normalized": false},
    "classes": [], "recipe_hash": "0123abcd"})");
}

inline json manifest() {
  const std::string digest(64, '0');
  const json onnx = {{"name", "encoder.onnx"},  {"precision", "fp32"},    {"opset", 18},
                     {"sha256", digest},        {"verdict", "passed"},    {"reason", ""},
                     {"gates", json::object()}, {"calibration", nullptr}, {"shares", {{"fp32", 1.0}}}};
  const json engine = {{"name", "encoder.fp32.here.engine"},
                       {"precision", "fp32"},
                       {"onnx", "encoder.onnx"},
                       {"onnx_sha256", digest},
                       {"flavour", "tensorrt"},
                       {"version", "10.3.0"},
                       {"target", "here"},
                       {"compute_capabilities", {87}},
                       {"profile", {{"min_batch", 1}, {"opt_batch", 2}, {"max_batch", 3}}},
                       {"workspace_mib", 1024},
                       {"sha256", digest},
                       {"verdict", "not run here"},
                       {"reason", "no GPU"}};
  return {{"schema_version", 3},
          {"contract", contract()},
          {"files", {onnx}},
          {"engines", {engine}},
          {"golden", {{"kind", "synthetic"}, {"images", 2}, {"sha256", digest}}},
          {"parity_sha256", digest},
          {"tools", {{"byolt", "0.1.0"}}},
          {"speeds",
           {{{"file", "encoder.onnx"},
             {"runtime", "cpu"},
             {"processor", "Sample CPU @ 2 GHz"},
             {"threads", 2},
             {"batch", 1},
             {"images_per_s", 125.5},
             {"times_fp32", nullptr}}}}};
}

// Protobuf by hand.
inline std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7) bytes += static_cast<char>((value & 127) | 128);
  return bytes + static_cast<char>(value);
}
inline std::string field(std::uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
inline std::string field(std::uint64_t number, std::uint64_t value) { return varint(number << 3) + varint(value); }

/// TensorProto of 3 x 4 values of a type.
inline std::string tensor(const std::string& name, std::uint64_t type) {
  return field(1, 3) + field(1, 4) + field(2, type) + field(8, name);
}

/// ModelProto: one product of the input with a constant, the output's name, and the contract.
inline std::string onnx(const std::string& contract_text, const std::string& extra = "",
                        const std::string& output = "embedding") {
  const std::string node = field(1, std::string("images")) + field(1, std::string("kernel")) + field(2, output) +
                           field(4, std::string("MatMul"));
  const std::string graph = field(1, node) + field(5, tensor("kernel", 1)) + field(12, field(1, output)) + extra;
  const std::string metadata = field(1, std::string("byolt.contract")) + field(2, contract_text);
  return field(7, graph) + field(14, metadata);
}

/// A folder that goes with the object.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "byolt-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
  [[nodiscard]] std::string read(const std::string& name) const {
    std::ifstream file(path_ + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  /// Write a manifest, and the ONNX file that it then names by digest.
  void write_bundle(json manifest, const std::string& onnx_content) const {
    write("encoder.onnx", onnx_content);
    manifest["files"][0]["sha256"] = sha256(onnx_content);
    write(byolt::kManifest, manifest.dump());
  }

 private:
  std::string path_;
};

}  // namespace sample
