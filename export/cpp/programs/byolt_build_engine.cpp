// byolt-build-engine BUNDLE: TensorRT engines of a bundle's ONNX files, built on the device that will run them.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "arguments.hpp"
#include "engines.hpp"

namespace {

using byolt::Code;
using byolt::Error;

constexpr const char* kUsage =
    "usage: byolt-build-engine BUNDLE [--precision fp32,fp16,int8] [--workspace-mib 1024] [--cache-dir FOLDER]";

volatile std::sig_atomic_t stopped_by = 0;

extern "C" void remember(int signal) { stopped_by = signal; }

std::vector<std::string> precisions_of(const std::string& names) {
  std::vector<std::string> found;
  std::istringstream list(names);
  for (std::string name; std::getline(list, name, ',');) {
    if (name != "fp32" && name != "fp16" && name != "int8") {
      throw Error(Code::input, "--precision: `" + name + "` is not one of fp32, fp16, int8; " + kUsage);
    }
    found.push_back(name);
  }
  return found;
}

/// One live line on a terminal, a line a tenth elsewhere: a build takes minutes on a small device.
class ProgressLine {
 public:
  bool operator()(const std::string& engine, const std::string& phase, double share) {
    const int percent = static_cast<int>(share * 100);
    if (engine != engine_) engine_ = engine, shown_ = -1;
    if (live_ ? percent > shown_ : percent / 10 > shown_ / 10 || shown_ < 0) {
      std::fprintf(stderr, live_ ? "\r\033[K%s  %3d %%  %.60s" : "%s  %d %%  %s\n", engine.c_str(), percent,
                   phase.c_str());
      shown_ = percent;
    }
    return stopped_by == 0;
  }
  void end() const {
    if (live_ && shown_ >= 0) std::fputs("\r\033[K", stderr);
  }

 private:
  const bool live_ = ::isatty(STDERR_FILENO) == 1;
  std::string engine_;
  int shown_ = -1;
};

int run(byolt::Arguments& arguments) {
  byolt::EngineOptions options;
  options.precisions = precisions_of(arguments.value("--precision"));
  options.workspace_mib = static_cast<std::size_t>(arguments.number("--workspace-mib", 1024, 1));
  options.cache_folder = arguments.value("--cache-dir");
  const std::string folder = arguments.rest(1, 1)[0];
  std::signal(SIGINT, remember);
  std::signal(SIGTERM, remember);
  ProgressLine line;
  options.progress = [&line](const auto&... step) { return line(step...); };
  const auto engines = byolt::add_engines(folder, options);
  line.end();
  if (engines.empty()) {
    std::cerr << "stopped while engines of " << folder << " were built; nothing was written\n";
    return 128 + stopped_by;
  }
  for (const byolt::AddedEngine& engine : engines) {
    std::printf("%-28s %8.1f MB  %6.1f s  timings: %s\n", engine.entry.name.c_str(),
                static_cast<double>(engine.bytes) / 1e6, engine.seconds, engine.timings.c_str());
  }
  std::printf("next     byolt-verify %s\n", folder.c_str());
  return std::fflush(stdout) == 0 ? 0 : static_cast<int>(Code::machine);
}

}  // namespace

int main(int count, char** words) {
  try {
    byolt::Arguments arguments(count, words, kUsage);
    return run(arguments);
  } catch (const Error& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {  // Out of memory, or the output cannot be written.
    std::cerr << "byolt-build-engine could not go on: " << error.what() << '\n';
    return static_cast<int>(Code::machine);
  }
}
