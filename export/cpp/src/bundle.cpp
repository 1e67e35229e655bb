#include "bundle.hpp"

#include <algorithm>
#include <utility>

#include "byolt/error.hpp"
#include "contents.hpp"
#include "files.hpp"
#include "safetensors.hpp"
#include "sha256.hpp"

namespace byolt {
namespace {

// A bundle is untrusted: nothing larger is read.
constexpr std::size_t kJsonBytes = std::size_t{4} << 20, kFileBytes = std::size_t{2} << 30;
constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

std::string read_manifest_text(const std::string& folder, const std::string& path) {
  const File file(path, File::Links::refuse);
  const auto size = file.size();
  if (!size) {
    throw Error(Code::input, folder + " holds no bundle: " + kManifest + " is missing; make one with `byolt export`");
  }
  if (*size > kJsonBytes) {
    throw Error(Code::input, path + " is larger than a manifest may be (4 MiB): export it again");
  }
  std::string text(kJsonBytes + 1, '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const std::size_t got = file.read(text.data() + filled, text.size() - filled);
    if (got == 0) break;
    filled += got;
  }
  if (filled > kJsonBytes) {
    throw Error(Code::input, path + " is larger than a manifest may be (4 MiB): export it again");
  }
  text.resize(filled);
  return text;
}

}  // namespace

Bundle::Bundle(std::string folder) : folder_(std::move(folder)) {
  while (folder_.size() > 1 && folder_.back() == '/') folder_.pop_back();
  text_ = read_manifest_text(folder_, path(kManifest));
  manifest_ = parse_manifest(text_, path(kManifest));
}

std::string Bundle::open_file(const std::string& name, const std::string& digest, std::string* content) const {
  const std::string where = path(name);
  const File file(where, File::Links::refuse);
  const auto size = file.size();
  if (!size) throw Error(Code::input, where + " is missing from the bundle: copy the whole folder again");
  if (*size > kFileBytes) {
    throw Error(Code::input, where + " is larger than a bundle's files may be (2 GiB): export it again");
  }
  std::string block(kBlockBytes, '\0');
  if (content != nullptr) content->reserve(*size);
  Sha256 found;
  std::size_t read = 0;
  while (const std::size_t got = file.read(block.data(), block.size())) {
    read += got;
    if (read > *size) break;  // It grows while it is read, and the digest of what was announced cannot fit.
    found.update(block.data(), got);
    if (content != nullptr) content->append(block, 0, got);
  }
  if (found.hex() != digest) {
    throw Error(Code::input, where + " is not the file that " + kManifest + " names (SHA-256): copy the bundle again");
  }
  return where;
}

std::string Bundle::open_onnx(const OnnxEntry& entry) const {
  std::string content;
  const std::string where = open_file(entry.name, entry.sha256, &content);
  const OnnxContents onnx = read_onnx_contents(content, where);
  // Classes in another order or another size fool no measure of the outputs: the file itself says what it is.
  const auto carried = onnx.metadata.find("byolt.contract");
  if (carried == onnx.metadata.end() || !(parse_contract(carried->second, where) == manifest_.contract) ||
      onnx.outputs != std::vector<std::string>{manifest_.contract.output_name}) {
    throw Error(Code::input, where + " was made for another contract than its manifest states: export it again");
  }
  return where;
}

std::string Bundle::open_engine(const EngineEntry& entry) const {
  std::string where = open_file(entry.name, entry.sha256);
  const auto& files = manifest_.files;
  const auto source =
      std::find_if(files.begin(), files.end(), [&](const OnnxEntry& f) { return f.name == entry.onnx; });
  if (source == files.end() || source->sha256 != entry.onnx_sha256 || source->precision != entry.precision) {
    throw Error(Code::input, where + " was built from another " + entry.onnx + ": byolt build-engine " + folder_);
  }
  return where;
}

Golden Bundle::golden() const {
  std::string content;
  const std::string where = open_file(kGolden, manifest_.golden_sha256, &content);
  return read_golden(content, where, manifest_);
}

void Bundle::record(const std::vector<EngineVerdict>& verdicts) {
  const auto stands = [&](const EngineVerdict& verdict) {
    const auto same = [&](const EngineEntry& engine) {
      return engine.name == verdict.engine && engine.verdict == verdict.verdict && engine.reason == verdict.reason;
    };
    return std::any_of(manifest_.engines.begin(), manifest_.engines.end(), same);
  };
  if (std::all_of(verdicts.begin(), verdicts.end(), stands)) return;
  text_ = with_verdicts(text_, verdicts);
  write_whole(path(kManifest), text_);
}

void Bundle::record_speeds(const std::vector<Speed>& speeds) {
  text_ = with_speeds(text_, speeds);
  write_whole(path(kManifest), text_);
}

}  // namespace byolt
