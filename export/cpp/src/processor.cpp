#include "processor.hpp"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace byolt {
namespace {

constexpr std::size_t kLongest = 200;

std::string stripped(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

}  // namespace

std::string plain_name(const std::string& text) {
  const std::string name = stripped(text);
  std::string plain;
  for (std::size_t k = 0; k < name.size(); ++k) {
    const auto byte = static_cast<unsigned char>(name[k]);
    if ((byte & 0xC0U) == 0x80U) continue;  // The rest of a character of UTF-8, which is one `?`.
    plain += byte >= ' ' && byte <= '~' ? name[k] : '?';
  }
  plain = plain.substr(0, kLongest);
  return plain.empty() ? "unknown" : plain;
}

std::string cpu_name() {
  std::ifstream about("/proc/cpuinfo");
  for (std::string line; std::getline(about, line);) {
    const std::size_t colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return plain_name(line.substr(colon + 1));
  }
  utsname machine{};
  return plain_name(::uname(&machine) == 0 ? machine.machine : "");
}

std::size_t cpu_threads(int threads) {
  if (threads > 0) return static_cast<std::size_t>(threads);
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (::sched_getaffinity(0, sizeof cores, &cores) == 0) return static_cast<std::size_t>(CPU_COUNT(&cores));
  return std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

}  // namespace byolt
