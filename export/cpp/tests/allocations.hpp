#pragma once

#include <cstddef>

/// How often anything in this process has called `operator new`.
std::size_t allocations();
