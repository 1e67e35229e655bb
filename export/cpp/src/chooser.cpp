#include "chooser.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "device.hpp"
#include "processor.hpp"
#include "text.hpp"

namespace byolt {
namespace {

// What serves best where nothing is asked for: half precision costs a GPU nothing, and a CPU has none.
constexpr std::array<const char*, 3> kOnGpu = {"fp16", "fp32", "int8"}, kOnCpu = {"fp32", "fp16", "int8"};

bool is_placed_for(const OnnxEntry& entry, const std::string& placement) {
  return entry.placement.empty() || entry.placement == placement;
}

#ifdef BYOLT_TENSORRT
bool is_placed_for(const EngineEntry&, const std::string&) { return true; }
#endif

class Choice {
 public:
  Choice(const Bundle& bundle, const Options& options) : bundle_(bundle), options_(options) {}

  Opened make() {
    check_options();
    const Runtime asked = options_.runtime;
    const bool any = asked == Runtime::automatic;
    Opened opened;
    if (options_.precision == "fastest") return fastest();
    const bool found = (asked == Runtime::tensorrt && try_engines(opened)) || (any && try_engines(opened)) ||
                       ((any || asked == Runtime::cuda) && try_onnx("CUDA", opened)) ||
                       ((any || asked == Runtime::cpu) && try_onnx("CPU", opened));
    if (found) return opened;
    throw nothing_runs();
  }

 private:
  [[nodiscard]] Error nothing_runs() const {
    std::string why;
    for (const std::string& refusal : refusals_) why += (why.empty() ? "" : "; ") + refusal;
    return {Code::missing, bundle_.folder() + " holds nothing that may run here: " + why};
  }

  /// What `verify` wrote down on this machine, the fastest that opens; nothing is timed here.
  Opened fastest() {
    const Manifest& manifest = bundle_.manifest();
    std::vector<const Speed*> timed;
    for (const Speed& speed : manifest.speeds) {
      if (is_of_here(speed) && is_asked_for(speed.runtime)) timed.push_back(&speed);
    }
    // Of equals the first in the manifest. Not `stable_sort`, whose memory is not taken and given back in one manner.
    std::sort(timed.begin(), timed.end(), [](const Speed* a, const Speed* b) {
      return a->images_per_s > b->images_per_s || (a->images_per_s == b->images_per_s && a < b);
    });
    Opened opened;
    for (const Speed* each : timed) {
      const Speed& speed = *each;
      const auto named = [&](const auto& entry) { return entry.name == speed.file; };
      const auto file = std::find_if(manifest.files.begin(), manifest.files.end(), named);
      const auto engine = std::find_if(manifest.engines.begin(), manifest.engines.end(), named);
      const std::string provider = speed.runtime == "cuda" ? "CUDA" : "CPU";
      if (file != manifest.files.end() && speed.runtime != "tensorrt" && try_onnx({&*file}, provider, opened)) {
        return opened;
      }
      if (engine != manifest.engines.end() && speed.runtime == "tensorrt" && try_engines({&*engine}, opened)) {
        return opened;
      }
    }
    if (!timed.empty()) throw nothing_runs();
    const auto passed = [](const auto& entry) { return entry.verdict == "passed"; };
    if (std::count_if(manifest.files.begin(), manifest.files.end(), passed) +
            std::count_if(manifest.engines.begin(), manifest.engines.end(), passed) <
        2) {  // Nothing is timed where there is nothing to compare.
      Options plain = options_;
      plain.precision = "";
      return Choice(bundle_, plain).make();
    }
    const std::string threads = options_.threads > 0 ? " --threads " + std::to_string(options_.threads) : "";
    throw Error(Code::missing, bundle_.folder() + " tells no speeds of " + cpu_name() + " with " +
                                   std::to_string(cpu_threads(options_.threads)) + " threads: run byolt-verify " +
                                   bundle_.folder() + threads + " here");
  }

  [[nodiscard]] bool is_of_here(const Speed& speed) const {
    const bool on_cpu = speed.runtime == "cpu";
    return speed.processor == (on_cpu ? cpu_name() : plain_name(gpu_name().value_or(""))) &&
           speed.threads == cpu_threads(options_.threads) && speed.batch == bundle_.manifest().contract.input.opt_batch;
  }

  /// Of the runtimes that this library has, which OpenVINO is none of.
  [[nodiscard]] bool is_asked_for(const std::string& runtime) const {
    switch (options_.runtime) {
      case Runtime::tensorrt:
        return runtime == "tensorrt";
      case Runtime::cuda:
        return runtime == "cuda";
      case Runtime::cpu:
        return runtime == "cpu";
      default:
        return runtime != "openvino";
    }
  }

  void check_options() const {
    const auto runtimes = {Runtime::automatic, Runtime::tensorrt, Runtime::cuda, Runtime::cpu};
    if (std::find(runtimes.begin(), runtimes.end(), options_.runtime) == runtimes.end()) {
      throw Error(Code::input, "the runtime is not known: it is automatic, tensorrt, cuda or cpu");
    }
    const std::string& precision = options_.precision;
    const bool known = std::find(kOnCpu.begin(), kOnCpu.end(), precision) != kOnCpu.end() || precision == "fastest";
    if (!precision.empty() && !known) {
      throw Error(Code::input, "precision `" + precision + "` is not known: it is fastest, or one of fp32, fp16, int8");
    }
    if (options_.threads < 0) throw Error(Code::input, "threads must be 1 or more, or 0 for one a core");
  }

  /// Entries of the precision asked for, or of all, the best first.
  template <typename Entry>
  std::vector<const Entry*> ranked(const std::vector<Entry>& entries, const std::array<const char*, 3>& order,
                                   const std::string& placement) {
    std::vector<const Entry*> found;
    for (const char* precision : order) {
      if (!options_.precision.empty() && options_.precision != precision) continue;
      for (const bool placed : {true, false}) {  // Another placement than this runtime's runs too, but more slowly.
        for (const Entry& entry : entries) {
          if (entry.precision == precision && is_placed_for(entry, placement) == placed) found.push_back(&entry);
        }
      }
    }
    return found;
  }

  template <typename Entry>
  bool proven(const Entry& entry, const std::string& precision_fault) {
    if ((entry.verdict == "passed" && precision_fault.empty()) || options_.allow_unproven) return true;
    const std::string doubt = precision_fault.empty() ? "verdict `" + entry.verdict + "`" : precision_fault;
    refusals_.push_back(entry.name + " is not proven (" + doubt + "): run byolt-verify " + bundle_.folder() +
                        " on this device, or allow unproven files");
    return false;
  }

  bool try_engines(Opened& opened) {
#ifdef BYOLT_TENSORRT
    const auto entries = ranked(bundle_.manifest().engines, kOnGpu, "tensorrt");
    if (entries.empty()) refusals_.push_back("it has no engine: build one with byolt-build-engine " + bundle_.folder());
    return try_engines(entries, opened);
#else
    return try_engines({}, opened);
#endif
  }

  bool try_engines(const std::vector<const EngineEntry*>& entries, Opened& opened) {
#ifdef BYOLT_TENSORRT
    for (const EngineEntry* entry : entries) {
      if (const std::string reason = why_engine_cannot_run(*entry); !reason.empty()) {
        refusals_.push_back(reason);
      } else if (proven(*entry, "")) {
        Tensors tensors = tensors_of(bundle_.manifest().contract);
        tensors.max_batch = std::min(tensors.max_batch, entry->max_batch);
        opened.backend = open_tensorrt(bundle_.open_engine(*entry), tensors);
        opened.description = describe(*opened.backend, entry->name, entry->precision, tensors);
        return true;
      }
    }
#else
    (void)entries, (void)opened;
    refusals_.emplace_back("this byolt was built without TensorRT (-DBYOLT_TENSORRT=ON)");
#endif
    return false;
  }

  bool try_onnx(const std::string& provider, Opened& opened) {
    const bool on_gpu = provider == "CUDA";
    const auto entries = ranked(bundle_.manifest().files, on_gpu ? kOnGpu : kOnCpu, on_gpu ? "tensorrt" : "cpu");
    if (entries.empty()) refusals_.push_back("it has no " + options_.precision + " file");
    return try_onnx(entries, provider, opened);
  }

  bool try_onnx(const std::vector<const OnnxEntry*>& entries, const std::string& provider, Opened& opened) {
    if (provider == "CUDA" && !gpu_capability()) {
      refusals_.emplace_back("no GPU answers on this machine");
      return false;
    }
    const Tensors tensors = tensors_of(bundle_.manifest().contract);
    for (const OnnxEntry* entry : entries) {
      if (!entry->is_made()) {
        refusals_.push_back(entry->name + " could not be made (" + quoted(entry->reason) + ")");
        continue;
      }
      if (entry->for_openvino()) {
        refusals_.push_back(why_not_here(*entry));
        continue;
      }
      if (!proven(*entry, find_precision_fault(*entry))) continue;
      const std::string path = bundle_.open_onnx(*entry);
      try {
        opened.backend = open_onnxruntime(path, tensors, provider, options_.threads, entry->for_tensorrt());
      } catch (const Error& error) {
        if (error.code() != Code::missing || options_.runtime != Runtime::automatic) throw;
        refusals_.emplace_back(error.what());  // Another runtime may be here: that is what automatic means.
        return false;
      }
      opened.description = describe(*opened.backend, entry->name, entry->precision, tensors);
      return true;
    }
    return false;
  }

  Description describe(const Backend& backend, const std::string& file, const std::string& precision,
                       const Tensors& tensors) {
    const Contract& contract = bundle_.manifest().contract;
    Description description;
    description.runtime = backend.name();
    description.file = file;
    description.precision = precision;
    description.width = tensors.width;
    description.height = tensors.height;
    description.channels = contract.input.samples.channels;
    description.bit_depth = contract.input.samples.bit_depth;
    description.whole_frames = contract.input.camera_px.has_value();
    description.logits = contract.logits();
    description.normalized = contract.normalized;
    description.dim = contract.dim;
    description.max_batch = tensors.max_batch;
    description.classes = contract.classes;
    return description;
  }

  const Bundle& bundle_;
  const Options& options_;
  std::vector<std::string> refusals_;
};

}  // namespace

Opened open_best(const Bundle& bundle, const Options& options) { return Choice(bundle, options).make(); }

Tensors tensors_of(const Contract& contract) {
  return {contract.input.height(), contract.input.width(), contract.dim, contract.input.max_batch,
          contract.input.samples.pixel_bytes()};
}

std::string why_not_here(const OnnxEntry& entry) {
  return entry.name + " runs in OpenVINO, which byolt runs from Python alone";
}

std::string why_engine_cannot_run(const EngineEntry& entry) {
#ifdef BYOLT_TENSORRT
  const std::string again = ": build it again on this device with byolt-build-engine";
  if (entry.flavour != "tensorrt")
    return entry.name + " is for TensorRT for RTX, and this byolt is linked to TensorRT" + again;
  if (entry.version != tensorrt_version()) {
    return entry.name + " was built by TensorRT " + entry.version + ", and " + tensorrt_version() + " is here" + again;
  }
  const auto capability = gpu_capability();
  if (!capability) return entry.name + " runs on a GPU, and none answers on this machine";
  const auto& built_for = entry.compute_capabilities;
  if (std::find(built_for.begin(), built_for.end(), *capability) == built_for.end()) {
    return entry.name + " was built for another GPU than this one of SM " + std::to_string(*capability) + again;
  }
  return "";
#else
  return entry.name + " needs TensorRT, and this byolt was built without it (-DBYOLT_TENSORRT=ON)";
#endif
}

}  // namespace byolt
