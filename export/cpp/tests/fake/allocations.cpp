#include <atomic>
#include <cstdlib>
#include <new>

#include "state.hpp"

namespace {
std::atomic<long> taken{0};
}

namespace fake {
long allocations() { return taken.load(std::memory_order_relaxed); }
}  // namespace fake

void* operator new(std::size_t bytes) {
  if (!fake::inside()) taken.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
