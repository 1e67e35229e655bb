#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"

// The delivered folder, which is untrusted: nothing outside of it is read, and nothing that its manifest does not name.
namespace byolt {

inline constexpr const char* kGolden = "golden.safetensors";

/// Images (N, H, W, 3) and outputs (N, D) of PyTorch and of deliberately wrong models (absent: no meaning here).
struct Golden {
  std::size_t images = 0, dim = 0;
  std::vector<std::uint8_t> pixels;
  std::vector<float> reference;
  std::vector<std::pair<std::string, std::optional<std::vector<float>>>> controls;
  /// What int8 files gave when they were made, (N, D) each by the file's name.
  std::map<std::string, std::vector<float>> own;
};

class Bundle {
 public:
  /// Read and check the manifest.
  /// @throws Error(input) there is no bundle, or its manifest is damaged, hostile or of another version
  explicit Bundle(std::string folder);

  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] const Manifest& manifest() const { return manifest_; }

  /// The path of a file, after its size and digest were checked; with `content`, what was read on the way.
  /// @throws Error(input) it is missing, a link, too large, or not what the manifest says
  std::string open_file(const std::string& name, const std::string& digest, std::string* content = nullptr) const;

  /// The path of an ONNX file that was made for the manifest's contract and keeps its data inside.
  std::string open_onnx(const OnnxEntry& entry) const;

  /// The path of an engine that was built from an ONNX file of this bundle.
  std::string open_engine(const EngineEntry& entry) const;

  /// The golden vectors, checked against the manifest.
  [[nodiscard]] Golden golden() const;

  /// Write new verdicts of engines into the manifest, which is replaced atomically.
  /// @throws Error(machine) it cannot be written
  void record(const std::vector<EngineVerdict>& verdicts);

  /// Write speeds into the manifest, which has them from schema version 3 on.
  /// @throws Error(machine) it cannot be written
  void record_speeds(const std::vector<Speed>& speeds);

 private:
  [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_, text_;
  Manifest manifest_;
};

}  // namespace byolt
