#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

// ONNX is protobuf: a message is a sequence of (field number, wire type, value).
namespace byolt::protobuf {

/// The bytes are no message.
class Damage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A field's number (wire types 0, 1, 5: of the last two only that it is one) or bytes (2).
struct Value {
  bool is_number = false;
  std::uint64_t number = 0;
  std::string_view raw;

  [[nodiscard]] std::string_view bytes() const {
    if (is_number) throw Damage("a message was expected");
    return raw;
  }
};

inline std::uint64_t take_varint(std::string_view& rest) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (rest.empty()) throw Damage("it ends early");
    const auto byte = static_cast<std::uint8_t>(rest.front());
    rest.remove_prefix(1);
    if (shift < 64) value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw Damage("it is no protobuf (a number without end)");
}

/// Calls `visit(field number, Value)` for each field of a message.
template <typename Visit>
void each_field(std::string_view rest, Visit visit) {
  while (!rest.empty()) {
    const std::uint64_t key = take_varint(rest), wire = key & 7;
    Value value;
    std::uint64_t length = wire == 1 ? 8 : 4;
    if (wire == 0) {
      value.is_number = true;
      value.number = take_varint(rest);
      length = 0;
    } else if (wire == 2) {
      length = take_varint(rest);
    } else if (wire != 1 && wire != 5) {
      throw Damage("it is no protobuf (wire type " + std::to_string(wire) + ")");
    }
    if (length > rest.size()) throw Damage("it ends early");
    if (wire == 1 || wire == 5) value.is_number = true;
    value.raw = rest.substr(0, static_cast<std::size_t>(length));
    rest.remove_prefix(static_cast<std::size_t>(length));
    visit(key >> 3, value);
  }
}

}  // namespace byolt::protobuf
