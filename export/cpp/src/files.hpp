#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace byolt {

/// An open file that closes itself. Only plain files are read: a pipe does not block, and a device does not run on.
class File {
 public:
  enum class Links { follow, refuse };

  File(const std::string& path, Links links);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  /// Bytes of a plain file; nothing where it is none, and `fault` then says why.
  [[nodiscard]] std::optional<std::size_t> size() const { return size_; }
  [[nodiscard]] const std::string& fault() const { return fault_; }

  /// The next bytes; 0 at the end.
  /// @throws Error(input) it cannot be read
  std::size_t read(char* to, std::size_t bytes) const;

  /// What is left of it, up to its size when it was opened.
  /// @throws Error(input) it cannot be read
  [[nodiscard]] std::string content() const;

 private:
  std::string path_, fault_;
  int descriptor_;
  std::optional<std::size_t> size_;
};

/// A plain file's bytes; none where it is not there, cannot be read, or is larger than `limit`.
std::string read_up_to(const std::string& path, std::size_t limit);

/// Write a file so that whoever reads it finds the old content or the new one, and never a part.
/// @throws Error(machine) it cannot be written; what was there stays
void write_whole(const std::string& path, const std::string& content);

}  // namespace byolt
