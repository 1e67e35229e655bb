#include "contents.hpp"

#include <string_view>

#include "byolt/error.hpp"
#include "protobuf.hpp"

// Field numbers as in onnx.proto.
namespace byolt {
namespace {

using protobuf::Damage;
using protobuf::each_field;
using protobuf::Value;
using std::string_view;

constexpr int kDeepest = 100;  // Of messages within messages: what protobuf's own readers take.

enum class Kind { none, graph, node, attribute, sparse, tensor };

/// What a field of a message holds, on every way to a tensor.
Kind held_by(Kind message, std::uint64_t field) {
  switch (message) {
    case Kind::graph:
      return field == 1 ? Kind::node : field == 5 ? Kind::tensor : field == 15 ? Kind::sparse : Kind::none;
    case Kind::node:
      return field == 5 ? Kind::attribute : Kind::none;
    case Kind::attribute:
      if (field == 6 || field == 11) return Kind::graph;
      if (field == 22 || field == 23) return Kind::sparse;
      return field == 5 || field == 10 ? Kind::tensor : Kind::none;
    case Kind::sparse:
      return field <= 2 ? Kind::tensor : Kind::none;
    default:
      return Kind::none;
  }
}

/// A tensor whose data lie in another file would have the runtime read whatever path it names.
void check_inside(string_view message, Kind kind, int depth = 0) {
  if (depth > kDeepest) throw Damage("its graphs lie too deep in one another");
  each_field(message, [&](std::uint64_t number, const Value& value) {
    const bool outside = number == 13 || (number == 14 && value.is_number && value.number == 1);
    if (kind == Kind::tensor && outside)
      throw Damage("it keeps data in a file outside of itself, which no bundle does");
    const Kind inner = held_by(kind, number);
    if (inner != Kind::none) check_inside(value.bytes(), inner, depth + 1);
  });
}

/// Texts of a message by field number, the last of each.
std::map<std::uint64_t, std::string> read_texts(string_view message) {
  std::map<std::uint64_t, std::string> texts;
  each_field(message, [&](std::uint64_t number, const Value& value) {
    if (!value.is_number) texts[number] = std::string(value.raw);
  });
  return texts;
}

OnnxContents read_model(string_view model) {
  OnnxContents onnx;
  std::vector<string_view> graphs;
  each_field(model, [&](std::uint64_t number, const Value& value) {
    if (number == 7) graphs.push_back(value.bytes());
    if (number == 14) {  // metadata_props: key = 1, value = 2.
      auto entry = read_texts(value.bytes());
      onnx.metadata[entry[1]] = entry[2];
    }
    if (number == 20 || number == 25) throw Damage("it holds more than a graph");  // Training graphs, functions.
  });
  if (graphs.size() != 1) throw Damage("it holds no graph");
  check_inside(graphs[0], Kind::graph);
  each_field(graphs[0], [&](std::uint64_t number, const Value& value) {
    if (number == 12) onnx.outputs.push_back(read_texts(value.bytes())[1]);
  });
  return onnx;
}

}  // namespace

OnnxContents read_onnx_contents(const std::string& content, const std::string& where) {
  try {
    return read_model(content);
  } catch (const Damage& damage) {
    throw Error(Code::input, where + " cannot be read as ONNX: " + damage.what() + "; export it again");
  }
}

}  // namespace byolt
