#include "text.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "byolt/error.hpp"

namespace byolt {
namespace {

/// A character of a text: its number, and its bytes; of what is no UTF-8, a control character of one byte.
struct Character {
  std::uint32_t code;
  std::size_t bytes;
};

Character character_at(const std::string& text, std::size_t place) {
  constexpr Character kNone{0, 1};
  const auto first = static_cast<std::uint8_t>(text[place]);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || bytes > text.size() - place) return kNone;
  std::uint32_t code = first & (0xFFU >> (bytes + 1));
  for (std::size_t k = 1; k < bytes; ++k) {
    const auto next = static_cast<std::uint8_t>(text[place + k]);
    if (next >> 6U != 2) return kNone;
    code = code << 6U | (next & 0x3FU);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};  // Of each length: shorter ones are written shorter.
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code < kLeast[bytes] || code > 0x10FFFF || surrogate ? kNone : Character{code, bytes};
}

/// Control characters, and marks that have no width or turn round what stands beside them.
bool is_hidden(std::uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0xAD || code == 0x61C || code == 0xFEFF ||
         (code >= 0x200B && code < 0x2010) || (code >= 0x2028 && code < 0x202F) || (code >= 0x2060 && code < 0x2070);
}

}  // namespace

std::string visible(std::string text) {
  for (std::size_t place = 0; place < text.size();) {
    const Character character = character_at(text, place);
    if (is_hidden(character.code)) std::fill_n(text.begin() + static_cast<std::ptrdiff_t>(place), character.bytes, ' ');
    place += character.bytes;
  }
  return text;
}

Error::Error(Code code, const std::string& sentence) : std::runtime_error(visible(sentence)), code_(code) {}

}  // namespace byolt
