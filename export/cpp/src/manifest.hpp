#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "resize.hpp"

// What `manifest.json` says, every field checked: the same bounds as byolt_export/bundle/manifest.py.
namespace byolt {

inline constexpr const char* kManifest = "manifest.json";

/// What goes in, and how the graph preprocesses it. `camera` (height, width): whole frames of that size go in.
struct Input {
  std::size_t size_px = 0;
  std::optional<std::array<std::size_t, 2>> camera_px;
  Rule resize = Rule::crop;
  std::size_t opt_batch = 1, max_batch = 0;
  std::array<double, 3> mean{}, std{};
  Samples samples;

  [[nodiscard]] std::size_t height() const { return camera_px ? (*camera_px)[0] : size_px; }
  [[nodiscard]] std::size_t width() const { return camera_px ? (*camera_px)[1] : size_px; }
  [[nodiscard]] std::size_t image_bytes() const { return height() * width() * samples.pixel_bytes(); }
  bool operator==(const Input& other) const;
};

/// What the device has to know. It stands in the manifest and, as JSON, inside each ONNX file.
struct Contract {
  Input input;
  std::string output_name;  // "embedding" or "logits"
  std::size_t dim = 0;
  bool normalized = false;
  std::vector<std::string> classes;
  std::string recipe_hash;

  [[nodiscard]] bool logits() const { return output_name == "logits"; }
  bool operator==(const Contract& other) const;
};

struct OnnxEntry {
  /// Whether there is such a file at all: zeros stand in place of the digest of one that could not be made.
  [[nodiscard]] bool is_made() const {
    return sha256.find_first_not_of('0') != std::string::npos || verdict != "failed";
  }

  /// Whether TensorRT builds engines from it: it refuses the zero points of an int8 file for a CPU.
  [[nodiscard]] bool becomes_engines() const { return placement.empty() || placement == "tensorrt"; }

  /// Whether it is proven in OpenVINO alone, which this library does not have.
  [[nodiscard]] bool for_openvino() const { return placement == "openvino"; }

  /// Whether ONNX Runtime finds no integer kernels for its Q/DQ.
  [[nodiscard]] bool for_tensorrt() const { return placement == "tensorrt"; }

  std::string name, precision, sha256, verdict, reason;
  std::string placement;  ///< of int8: "tensorrt", "cpu" or "openvino", for which its Q/DQ are placed
  std::map<std::string, double> gates;
  std::optional<std::map<std::string, double>> shares;  ///< of its multiply-adds by type; none in schema version 1
};

struct EngineEntry {
  std::string name, precision, onnx, onnx_sha256, flavour, version, target, sha256, verdict, reason;
  std::vector<std::int64_t> compute_capabilities;
  std::size_t min_batch = 1, opt_batch = 1, max_batch = 1;
};

/// How fast a file ran on one machine; `times_fp32` over the fp32 file in ONNX Runtime on the same processor.
struct Speed {
  std::string file, runtime, processor;
  std::size_t threads = 1, batch = 1;
  double images_per_s = 0;
  std::optional<double> times_fp32;
};

struct Manifest {
  int version = 1;
  Contract contract;
  std::vector<OnnxEntry> files;
  std::vector<EngineEntry> engines;
  std::vector<Speed> speeds;
  std::size_t golden_images = 0;
  std::string golden_sha256, parity_sha256;
};

/// @param text the bytes of manifest.json
/// @param where opens an error's sentence: the file's path
/// @throws Error(input) it is damaged, hostile, or of another version
Manifest parse_manifest(const std::string& text, const std::string& where);

/// Why a file does not compute in the precision it is named for; empty where it does, or where no shares are told.
std::string find_precision_fault(const OnnxEntry& entry);

/// The contract that an ONNX file carries in its metadata.
/// @throws Error(input) it is no contract
Contract parse_contract(const std::string& text, const std::string& where);

/// manifest.json with another verdict and reason for some of its engines, by name; everything else as it was.
struct EngineVerdict {
  std::string engine, verdict, reason;
};
std::string with_verdicts(const std::string& text, const std::vector<EngineVerdict>& verdicts);

/// manifest.json with these speeds; everything else as it was.
std::string with_speeds(const std::string& text, const std::vector<Speed>& speeds);

}  // namespace byolt
