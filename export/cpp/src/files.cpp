#include "files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "byolt/error.hpp"

namespace byolt {

File::File(const std::string& path, Links links)
    : path_(path),
      descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (links == Links::refuse ? O_NOFOLLOW : 0))) {
  struct stat status{};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) {
    fault_ = std::strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    fault_ = S_ISDIR(status.st_mode) ? std::strerror(EISDIR) : "it is no plain file";
  } else {
    size_ = static_cast<std::size_t>(status.st_size);
  }
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::size_t File::read(char* to, std::size_t bytes) const {
  for (;;) {
    const ssize_t got = ::read(descriptor_, to, bytes);
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) throw Error(Code::input, path_ + " cannot be read: " + std::strerror(errno));
  }
}

std::string File::content() const {
  std::string content(size_.value_or(0), '\0');
  std::size_t filled = 0;
  while (const std::size_t got = read(content.data() + filled, content.size() - filled)) filled += got;
  content.resize(filled);
  return content;
}

std::string read_up_to(const std::string& path, std::size_t limit) {
  const File file(path, File::Links::follow);
  if (!file.size() || *file.size() > limit) return "";
  try {
    return file.content();
  } catch (const Error&) {
    return "";
  }
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
