#include "engines.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "backend.hpp"
#include "byolt/error.hpp"
#include "chooser.hpp"
#include "files.hpp"
#include "gpu.hpp"
#include "sha256.hpp"

namespace byolt {
namespace {

constexpr std::size_t kManifestBytes = std::size_t{4} << 20;

std::string digest_of(const std::string& content) {
  Sha256 digest;
  digest.update(content.data(), content.size());
  return digest.hex();
}

std::vector<const OnnxEntry*> files_to_build(const Bundle& bundle, const std::vector<std::string>& precisions) {
  const auto& files = bundle.manifest().files;
  std::vector<const OnnxEntry*> chosen;
  for (const OnnxEntry& file : files) {
    const bool asked = std::find(precisions.begin(), precisions.end(), file.precision) != precisions.end();
    if ((!asked && !precisions.empty()) || !file.becomes_engines()) continue;
    if (file.verdict != "passed") {
      throw Error(Code::input, bundle.folder() + "/" + file.name + " has not passed (" + file.reason +
                                   "): no engine is built from it");
    }
    if (const std::string fault = find_precision_fault(file); !fault.empty()) {
      throw Error(Code::parity,
                  bundle.folder() + "/" + file.name + " becomes no engine: " + fault + "; export it again");
    }
    chosen.push_back(&file);
  }
  for (const std::string& precision : precisions) {
    const bool found =
        std::any_of(chosen.begin(), chosen.end(), [&](const OnnxEntry* f) { return f->precision == precision; });
    if (!found)
      throw Error(Code::input,
                  bundle.folder() + " holds no " + precision + " file: byolt export --precision " + precision);
  }
  return chosen;
}

/// Engines that are written and not yet delivered: gone again unless `deliver` is reached.
class Staged {
 public:
  explicit Staged(std::string folder) : folder_(std::move(folder)) {}
  ~Staged() {
    for (const std::string& name : names_) static_cast<void>(std::remove(beside(name).c_str()));
  }
  Staged(const Staged&) = delete;
  Staged& operator=(const Staged&) = delete;

  void add(const std::string& name, const std::string& plan) {
    names_.push_back(name);
    write_whole(beside(name), plan);
  }

  void deliver() {
    for (const std::string& name : names_) {
      if (std::rename(beside(name).c_str(), (folder_ + "/" + name).c_str()) == 0) continue;
      throw Error(Code::machine, folder_ + "/" + name + " could not be written (" + std::strerror(errno) +
                                     "); make room, and give the command again");
    }
    names_.clear();
  }

 private:
  [[nodiscard]] std::string beside(const std::string& name) const { return folder_ + "/." + name + ".new"; }

  std::string folder_;
  std::vector<std::string> names_;
};

/// Timings fit one file, version, GPU and set of options.
std::string timing_file(const EngineOptions& options, const OnnxEntry& file, const Tensors& tensors,
                        std::size_t opt_batch, const Gpu& gpu) {
  if (options.cache_folder.empty()) return "";
  if (::mkdir(options.cache_folder.c_str(), 0777) != 0 && errno != EEXIST) {
    throw Error(Code::input, options.cache_folder + " cannot hold timing caches: " + std::strerror(errno));
  }
  const nlohmann::json key = {file.sha256,           tensorrt_version(), gpu.name,         gpu.capability,
                              options.workspace_mib, opt_batch,          tensors.max_batch};
  return options.cache_folder + "/" + digest_of(key.dump()).substr(0, 32) + ".timing";
}

EngineEntry entry_of(const OnnxEntry& file, const std::string& plan, const Tensors& tensors, std::size_t opt_batch,
                     const Gpu& gpu) {
  EngineEntry entry;
  entry.name = "encoder." + file.precision + ".here.engine";
  entry.precision = file.precision;
  entry.onnx = file.name;
  entry.onnx_sha256 = file.sha256;
  entry.flavour = "tensorrt";
  entry.version = tensorrt_version();
  entry.target = "here";
  entry.compute_capabilities = {gpu.capability};
  entry.opt_batch = opt_batch;
  entry.max_batch = tensors.max_batch;
  entry.sha256 = digest_of(plan);
  entry.verdict = "not run here";
  entry.reason = "built, and not yet run: `byolt-verify` proves it";
  return entry;
}

}  // namespace

std::vector<AddedEngine> add_engines(const std::string& folder, const EngineOptions& options) {
  const Bundle bundle(folder);
  const auto files = files_to_build(bundle, options.precisions);
  const Gpu gpu = find_gpu();
  const Tensors tensors = tensors_of(bundle.manifest().contract);
  const std::size_t opt_batch = bundle.manifest().contract.input.opt_batch;
  Staged staged(bundle.folder());
  std::vector<AddedEngine> added;
  std::vector<EngineEntry> entries;
  for (const OnnxEntry* file : files) {
    std::string onnx;
    const std::string path = bundle.open_onnx(*file);  // Made for this contract, and all of it inside.
    bundle.open_file(file->name, file->sha256, &onnx);
    BuildOptions build{opt_batch, options.workspace_mib, timing_file(options, *file, tensors, opt_batch, gpu), nullptr};
    const std::string name = "encoder." + file->precision + ".here.engine";
    if (options.progress) {
      build.progress = [&](const std::string& phase, double share) { return options.progress(name, phase, share); };
    }
    const auto built = build_engine(path, onnx, tensors, build);
    if (!built) return {};
    entries.push_back(entry_of(*file, built->plan, tensors, opt_batch, gpu));
    staged.add(name, built->plan);
    added.push_back({entries.back(), built->timings, built->seconds, built->plan.size()});
  }
  const std::string manifest = bundle.folder() + "/" + kManifest;
  const std::string text = with_engines(read_up_to(manifest, kManifestBytes), entries, options.workspace_mib);
  static_cast<void>(parse_manifest(text, manifest));  // What is written is read again by everybody.
  staged.deliver();
  write_whole(manifest, text);
  return added;
}

std::string with_engines(const std::string& text, const std::vector<EngineEntry>& engines, std::size_t workspace_mib) {
  auto manifest = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!manifest.is_object())
    throw Error(Code::input, "the manifest changed while engines were built: build them again");
  auto& list = manifest["engines"];
  if (!list.is_array()) list = nlohmann::ordered_json::array();
  for (const EngineEntry& engine : engines) {
    const nlohmann::ordered_json entry = {
        {"name", engine.name},
        {"precision", engine.precision},
        {"onnx", engine.onnx},
        {"onnx_sha256", engine.onnx_sha256},
        {"flavour", engine.flavour},
        {"version", engine.version},
        {"target", engine.target},
        {"compute_capabilities", engine.compute_capabilities},
        {"profile",
         {{"min_batch", engine.min_batch}, {"opt_batch", engine.opt_batch}, {"max_batch", engine.max_batch}}},
        {"workspace_mib", workspace_mib},
        {"sha256", engine.sha256},
        {"verdict", engine.verdict},
        {"reason", engine.reason}};
    const auto same = std::find_if(list.begin(), list.end(), [&](const auto& other) {
      return other.is_object() && other.value("name", "") == engine.name;
    });
    if (same == list.end()) {
      list.push_back(entry);
    } else {
      *same = entry;
    }
  }
  return manifest.dump(2) + "\n";
}

}  // namespace byolt
