#include "sha256.hpp"

#include <algorithm>
#include <cstring>

namespace byolt {
namespace {

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<std::uint32_t, 64> kRounds = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::uint32_t rotate(std::uint32_t value, unsigned bits) { return value >> bits | value << (32 - bits); }

}  // namespace

void Sha256::update(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  bytes_ += size;
  while (size > 0) {
    if (filled_ == 0 && size >= block_.size()) {
      absorb(bytes);
      bytes += block_.size();
      size -= block_.size();
      continue;
    }
    const std::size_t part = std::min(size, block_.size() - filled_);
    std::memcpy(block_.data() + filled_, bytes, part);
    filled_ += part;
    bytes += part;
    size -= part;
    if (filled_ == block_.size()) {
      absorb(block_.data());
      filled_ = 0;
    }
  }
}

std::string Sha256::hex() {
  std::array<std::uint8_t, 8> length{};
  for (std::size_t k = 0; k < length.size(); ++k) {
    length[k] = static_cast<std::uint8_t>(bytes_ * 8 >> (56 - 8 * k));
  }
  const std::uint8_t end = 0x80, zero = 0;
  update(&end, 1);
  while (filled_ != block_.size() - length.size()) update(&zero, 1);
  update(length.data(), length.size());
  std::string digest;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) digest += "0123456789abcdef"[word >> shift & 15];
  }
  return digest;
}

void Sha256::absorb(const std::uint8_t* block) {
  std::array<std::uint32_t, 64> w{};
  for (std::size_t k = 0; k < 16; ++k) {
    w[k] = static_cast<std::uint32_t>(block[4 * k]) << 24 | static_cast<std::uint32_t>(block[4 * k + 1]) << 16 |
           static_cast<std::uint32_t>(block[4 * k + 2]) << 8 | block[4 * k + 3];
  }
  for (std::size_t k = 16; k < 64; ++k) {
    const std::uint32_t low = rotate(w[k - 15], 7) ^ rotate(w[k - 15], 18) ^ w[k - 15] >> 3;
    const std::uint32_t high = rotate(w[k - 2], 17) ^ rotate(w[k - 2], 19) ^ w[k - 2] >> 10;
    w[k] = w[k - 16] + low + w[k - 7] + high;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t k = 0; k < 64; ++k) {
    const std::uint32_t first =
        h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + kRounds[k] + w[k];
    const std::uint32_t second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const std::array<std::uint32_t, 8> change = {a, b, c, d, e, f, g, h};
  for (std::size_t k = 0; k < state_.size(); ++k) state_[k] += change[k];
}

}  // namespace byolt
