#pragma once

#include <cstddef>
#include <string>

namespace byolt {

/// A file's bytes; none where it is not there, cannot be read, or is larger than `limit`.
std::string read_up_to(const std::string& path, std::size_t limit);

/// Write a file so that whoever reads it finds the old content or the new one, and never a part.
/// @throws Error(machine) it cannot be written; what was there stays
void write_whole(const std::string& path, const std::string& content);

}  // namespace byolt
