#include "fake.hpp"

#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <sstream>

#include "state.hpp"

namespace fake {
namespace {

constexpr auto kCalls = static_cast<std::size_t>(Call::count);
constexpr std::array<const char*, kCalls> kNames = {
#define FAKE_NAME(name) #name,
    FAKE_CALLS(FAKE_NAME)
#undef FAKE_NAME
};

std::array<std::atomic<int>, kCalls> counts{};
std::array<std::atomic<int>, kCalls> failing{};  // Calls to go until the one that fails, plus one; 0: none fails.
std::atomic<int> objects{0}, launches{0}, runs{0}, gpus{1};
thread_local int depth = 0;
std::mutex rules_lock;
std::string rules;

}  // namespace

Inside::Inside() { ++depth; }
Inside::~Inside() { --depth; }
bool inside() { return depth > 0; }

bool fails(Call call) {
  const auto index = static_cast<std::size_t>(call);
  counts[index].fetch_add(1, std::memory_order_relaxed);
  if (failing[index].load(std::memory_order_relaxed) == 0) return false;
  return failing[index].fetch_sub(1, std::memory_order_relaxed) == 1;
}

void fail(const std::string& function, int nth) {
  for (std::size_t k = 0; k < kCalls; ++k) {
    if (function == kNames[k]) {
      failing[k] = nth + 1;
      return;
    }
  }
  std::abort();  // A misspelt test would fail nothing and pass.
}

std::map<std::string, int> calls() {
  std::map<std::string, int> made;
  for (std::size_t k = 0; k < kCalls; ++k) {
    if (counts[k] > 0) made[kNames[k]] = counts[k];
  }
  return made;
}

void reset() {
  for (auto& count : counts) count = 0;
  for (auto& call : failing) call = 0;
  objects = launches = runs = 0;
  gpus = 1;
  device_memory().forget();
  pinned_memory().forget();
  const std::lock_guard<std::mutex> guard(rules_lock);
  rules.clear();
}

void set_devices(int count) { gpus = count; }
int devices() { return gpus; }
int live() { return objects; }
int graph_launches() { return launches; }
int executions() { return runs; }
void count_live(int change) { objects.fetch_add(change, std::memory_order_relaxed); }
void count_execution() { runs.fetch_add(1, std::memory_order_relaxed); }
void count_launch() { launches.fetch_add(1, std::memory_order_relaxed); }

void break_rule(const std::string& words) {
  const std::lock_guard<std::mutex> guard(rules_lock);
  rules += words + "\n";
}

std::string broken_rules() {
  const std::lock_guard<std::mutex> guard(rules_lock);
  return rules;
}

std::string bytes_of(const Plan& plan) {
  std::ostringstream text;
  text << "a plan of the fake TensorRT: " << plan.height << ' ' << plan.width << ' ' << plan.channels << ' ' << plan.dim
       << ' ' << plan.least << ' ' << plan.most << ' ' << plan.input_type << ' ' << plan.output_type << ' ' << plan.rank
       << ' ' << plan.outputs << ' ' << plan.scratch << ' ' << plan.recordable;
  return text.str();
}

float expected(const std::uint8_t* image, std::size_t bytes, std::size_t k) {
  std::size_t sum = 0;
  for (std::size_t j = 0; j < bytes; ++j) sum += image[j] * ((j * 7 + k * 13) % 11);
  return static_cast<float>(sum) / 1000.0F;
}

Arena::Arena(std::size_t bytes) : bytes_(bytes), table_(new Block[kBlocks]) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  base_ = static_cast<char*>(memory);
}

void* Arena::take(std::size_t bytes) {
  const std::size_t block = blocks_.fetch_add(1, std::memory_order_relaxed);
  // 256 bytes free behind each: what overruns is inside no block.
  const std::size_t begin = next_.fetch_add((bytes + 511) / 256 * 256, std::memory_order_relaxed);
  if (block >= kBlocks || begin + bytes > bytes_) std::abort();
  table_[block].begin.store(begin, std::memory_order_relaxed);
  table_[block].size.store(bytes, std::memory_order_relaxed);
  table_[block].live.store(true, std::memory_order_relaxed);
  count_live(1);
  return base_ + begin;
}

bool Arena::give_back(void* memory) {
  const std::size_t blocks = blocks_.load(std::memory_order_relaxed);
  for (std::size_t k = 0; k < blocks; ++k) {
    if (base_ + table_[k].begin.load(std::memory_order_relaxed) != memory) continue;
    if (!table_[k].live.exchange(false, std::memory_order_relaxed)) return false;
    count_live(-1);
    return true;
  }
  return false;
}

bool Arena::holds(const void* memory, std::size_t bytes) const {
  const auto* address = static_cast<const char*>(memory);
  if (address < base_ || address >= base_ + bytes_) return false;
  const auto offset = static_cast<std::size_t>(address - base_);
  const std::size_t blocks = blocks_.load(std::memory_order_relaxed);
  for (std::size_t k = 0; k < blocks; ++k) {
    const std::size_t begin = table_[k].begin.load(std::memory_order_relaxed);
    const std::size_t end = begin + table_[k].size.load(std::memory_order_relaxed);
    if (offset >= begin && offset < end) {
      return offset + bytes <= end && table_[k].live.load(std::memory_order_relaxed);
    }
  }
  return false;
}

void Arena::forget() { next_ = blocks_ = 0; }

Arena& device_memory() {
  static Arena* const arena = new Arena(std::size_t{256} << 20);
  return *arena;
}

Arena& pinned_memory() {
  static Arena* const arena = new Arena(std::size_t{256} << 20);
  return *arena;
}

}  // namespace fake
