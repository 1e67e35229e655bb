#include "files.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "byolt/error.hpp"

namespace byolt {

std::string read_up_to(const std::string& path, std::size_t limit) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : 0;
  if (size <= 0 || static_cast<std::size_t>(size) > limit) return "";
  std::string content(static_cast<std::size_t>(size), '\0');
  return file.seekg(0).read(content.data(), size) ? content : "";
}

void write_whole(const std::string& path, const std::string& content) {
  const std::size_t slash = path.rfind('/') + 1;  // Without a slash: npos + 1, the beginning.
  const std::string beside = path.substr(0, slash) + "." + path.substr(slash) + "." + std::to_string(::getpid());
  std::FILE* file = std::fopen(beside.c_str(), "wbe");
  bool written = file != nullptr && std::fwrite(content.data(), 1, content.size(), file) == content.size();
  if (file != nullptr) written = std::fclose(file) == 0 && written;
  written = written && std::rename(beside.c_str(), path.c_str()) == 0;
  if (written) return;
  const std::string why = std::strerror(errno);
  static_cast<void>(std::remove(beside.c_str()));
  throw Error(Code::machine, path + " could not be written (" + why + "); make room, and give the command again");
}

}  // namespace byolt
