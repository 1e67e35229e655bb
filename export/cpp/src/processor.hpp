#pragma once

#include <cstddef>
#include <string>

// What a speed was measured on, by name: it holds there alone. As byolt_export/runtime/processor.py has it.
namespace byolt {

/// The processor as the system calls it, in printable ASCII.
std::string cpu_name();

/// A name as the manifest writes it: at most 200 printable characters of ASCII, and never empty.
std::string plain_name(const std::string& text);

/// Threads of one call: those asked for, else (0) the cores that this process may run on.
std::size_t cpu_threads(int threads);

}  // namespace byolt
