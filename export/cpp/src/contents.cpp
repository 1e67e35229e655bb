#include "contents.hpp"

#include <algorithm>
#include <cstdio>
#include <string_view>

#include "byolt/error.hpp"
#include "protobuf.hpp"

// Field numbers as in onnx.proto.
namespace byolt {
namespace {

using protobuf::Damage;
using protobuf::each_field;
using protobuf::take_varint;
using protobuf::Value;
using std::string_view;

constexpr std::uint64_t kFloat = 1, kInt8 = 3, kFloat16 = 10;  // TensorProto.DataType
constexpr double kLeastInt8 = 0.5;  // Of the multiply-adds. The rest is what the measured sensitivity left in FP16.
constexpr int kDeepestGraph = 8, kLongestPath = 16;

struct Node {
  string_view op;
  std::vector<string_view> inputs, outputs;
  std::uint64_t cast_to = 0;
};

struct Weight {
  std::uint64_t type = 0;
  double elements = 1;
};

struct Graph {
  std::vector<Node> nodes;
  std::map<string_view, Weight> weights;
  std::map<string_view, double> places;  // Of one image: height by width, or 1.
  std::vector<string_view> outputs;
};

/// A tensor whose data lie in another file would have the runtime read whatever path it names.
Weight read_tensor(string_view message, string_view& name) {
  Weight weight;
  bool outside = false;
  each_field(message, [&](std::uint64_t number, const Value& value) {
    if (number == 1 && value.is_number) weight.elements *= static_cast<double>(value.number);
    if (number == 1 && !value.is_number) {
      for (string_view rest = value.raw; !rest.empty();) weight.elements *= static_cast<double>(take_varint(rest));
    }
    if (number == 2 && value.is_number) weight.type = value.number;
    if (number == 8) name = value.bytes();
    outside = outside || number == 13 || (number == 14 && value.is_number && value.number == 1);
  });
  if (outside) throw Damage("it keeps data in a file outside of itself, which no bundle does");
  return weight;
}

void check_inside(string_view graph, int depth);

/// AttributeProto: t = 5, g = 6, tensors = 10, graphs = 11, sparse_tensor = 22, sparse_tensors = 23.
void check_attribute_inside(string_view attribute, int depth) {
  each_field(attribute, [&](std::uint64_t number, const Value& value) {
    string_view name;
    if (number == 5 || number == 10) (void)read_tensor(value.bytes(), name);
    if (number == 22 || number == 23) {
      each_field(value.bytes(), [&](std::uint64_t part, const Value& tensor) {
        if (part <= 2) (void)read_tensor(tensor.bytes(), name);
      });
    }
    if (number == 6 || number == 11) check_inside(value.bytes(), depth + 1);
  });
}

/// GraphProto: node = 1, initializer = 5, sparse_initializer = 15.
void check_inside(string_view graph, int depth) {
  if (depth > kDeepestGraph) throw Damage("its graphs are nested too deeply");
  each_field(graph, [&](std::uint64_t number, const Value& value) {
    string_view name;
    if (number == 5) (void)read_tensor(value.bytes(), name);
    if (number == 15) {
      each_field(value.bytes(), [&](std::uint64_t part, const Value& tensor) {
        if (part <= 2) (void)read_tensor(tensor.bytes(), name);
      });
    }
    if (number != 1) return;
    each_field(value.bytes(), [&](std::uint64_t part, const Value& attribute) {
      if (part == 5) check_attribute_inside(attribute.bytes(), depth);
    });
  });
}

Node read_node(string_view message) {
  Node node;
  each_field(message, [&](std::uint64_t number, const Value& value) {
    if (number == 1) node.inputs.push_back(value.bytes());
    if (number == 2) node.outputs.push_back(value.bytes());
    if (number == 4) node.op = value.bytes();
    if (number != 5) return;
    string_view name;
    std::uint64_t target = 0;
    each_field(value.bytes(), [&](std::uint64_t part, const Value& attribute) {
      if (part == 1) name = attribute.bytes();
      if (part == 3 && attribute.is_number) target = attribute.number;
    });
    if (name == "to") node.cast_to = target;
  });
  return node;
}

/// ValueInfoProto: name, and places of one image from type.tensor_type.shape.dim, where there are four.
std::pair<string_view, double> read_places(string_view message) {
  string_view name;
  std::vector<double> sides;
  const auto read_dim = [&](std::uint64_t, const Value& dim) {
    double side = 1;
    each_field(dim.bytes(), [&](std::uint64_t number, const Value& value) {
      if (number == 1 && value.is_number) side = static_cast<double>(value.number);
    });
    sides.push_back(side);
  };
  each_field(message, [&](std::uint64_t number, const Value& value) {
    if (number == 1) name = value.bytes();
    if (number != 2) return;
    each_field(value.bytes(), [&](std::uint64_t, const Value& kind) {
      each_field(kind.bytes(), [&](std::uint64_t part, const Value& shape) {
        if (part == 2) each_field(shape.bytes(), read_dim);
      });
    });
  });
  return {name, sides.size() == 4 ? sides[2] * sides[3] : 1};
}

Graph read_graph(string_view message) {
  Graph graph;
  each_field(message, [&](std::uint64_t number, const Value& value) {
    if (number == 1) graph.nodes.push_back(read_node(value.bytes()));
    if (number == 5) {
      string_view name;
      const Weight weight = read_tensor(value.bytes(), name);
      graph.weights[name] = weight;
    }
    if (number == 12) graph.outputs.push_back(read_places(value.bytes()).first);
    if (number == 13) graph.places.insert(read_places(value.bytes()));
  });
  return graph;
}

class KernelFinder {
 public:
  explicit KernelFinder(const Graph& graph) : graph_(graph) {
    for (const Node& node : graph.nodes) {
      for (const string_view output : node.outputs) makers_[output] = &node;
    }
  }

  /// Kernels of every product, but for two in fp32 before a first cast to fp16, which resize camera frames.
  [[nodiscard]] std::vector<Kernel> find() const {
    const auto casts = [](const Node& node) { return node.op == "Cast" && node.cast_to == kFloat16; };
    const auto& nodes = graph_.nodes;
    auto first = std::find_if(nodes.begin(), nodes.end(), casts);
    if (first == nodes.end()) first = nodes.begin();
    std::vector<Kernel> found;
    int resizing = 0;
    for (auto node = nodes.begin(); node != nodes.end(); ++node) {
      if (!is_product(node->op)) continue;
      if (node < first && node->op == "MatMul" && resizing++ < 2) continue;
      std::vector<Kernel> constant;
      bool dequantised = false;
      for (std::size_t k = 0; k < std::min<std::size_t>(node->inputs.size(), 2); ++k) {
        Kernel kernel = trace(node->inputs[k]);
        if (kernel.precision.empty()) {
          dequantised = is_dequantised(node->inputs[k]);
        } else {
          constant.push_back(kernel);
        }
      }
      // Kernels alone are int8: the product is not.
      if (constant.size() == 1 && constant[0].precision == "int8" && !dequantised)
        constant[0].precision = "another type";
      if (constant.size() != 1 || node->outputs.empty()) continue;  // Two of them are folded before anything runs.
      const auto places = graph_.places.find(node->outputs[0]);
      if (places != graph_.places.end()) constant[0].multiply_adds *= places->second;
      found.push_back(constant[0]);
    }
    return found;
  }

 private:
  static bool is_product(string_view op) {
    return op == "Conv" || op == "ConvTranspose" || op == "Gemm" || op == "MatMul";
  }
  static bool passes(string_view op) {  // A kernel stays what it is behind these.
    return op == "Transpose" || op == "Reshape" || op == "Identity" || op == "Mul";
  }

  /// Whether a tensor comes out of int8, its shape apart.
  [[nodiscard]] bool is_dequantised(string_view name) const {
    for (int step = 0; step < kLongestPath; ++step) {
      const auto maker = makers_.find(name);
      if (maker == makers_.end() || maker->second->inputs.empty()) return false;
      const string_view op = maker->second->op;
      if (op == "DequantizeLinear") return true;
      if (op != "Transpose" && op != "Reshape" && op != "Identity" && op != "Flatten" && op != "Squeeze" &&
          op != "Unsqueeze") {
        return false;
      }
      name = maker->second->inputs[0];
    }
    return false;
  }

  /// Type that an operand is multiplied in and its elements; no precision where it is no constant.
  [[nodiscard]] Kernel trace(string_view name) const {
    std::uint64_t type = 0;
    for (int step = 0; step < kLongestPath; ++step) {
      if (const auto weight = graph_.weights.find(name); weight != graph_.weights.end()) {
        return {name_of(type == 0 ? weight->second.type : type), weight->second.elements};
      }
      const auto maker = makers_.find(name);
      if (maker == makers_.end() || maker->second->inputs.empty()) return {};
      const Node& node = *maker->second;
      if (node.op == "DequantizeLinear") {
        const auto stored = graph_.weights.find(node.inputs[0]);
        if (type == 0 && stored != graph_.weights.end() && stored->second.type == kInt8) type = kInt8;
      } else if (node.op == "Cast") {
        if (type == 0) type = node.cast_to;
      } else if (!passes(node.op)) {
        return {};
      }
      name = node.inputs[0];
    }
    return {};
  }

  static std::string name_of(std::uint64_t type) {
    return type == kFloat ? "fp32" : type == kFloat16 ? "fp16" : type == kInt8 ? "int8" : "another type";
  }

  const Graph& graph_;
  std::map<string_view, const Node*> makers_;
};

OnnxContents read_model(string_view model) {
  OnnxContents onnx;
  std::vector<string_view> graphs;
  each_field(model, [&](std::uint64_t number, const Value& value) {
    if (number == 7) graphs.push_back(value.bytes());
    if (number == 14) {  // metadata_props
      string_view key, text;
      each_field(value.bytes(), [&](std::uint64_t part, const Value& entry) {
        if (part == 1) key = entry.bytes();
        if (part == 2) text = entry.bytes();
      });
      onnx.metadata[std::string(key)] = std::string(text);
    }
    // No bundle has functions (25) or training graphs (20): tensors could hide in them.
    if (number == 20 || number == 25) throw Damage("it holds more than a graph");
  });
  if (graphs.size() != 1) throw Damage("it holds no graph");
  check_inside(graphs[0], 0);
  const Graph graph = read_graph(graphs[0]);
  onnx.outputs.assign(graph.outputs.begin(), graph.outputs.end());
  onnx.kernels = KernelFinder(graph).find();
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

std::string find_precision_fault(const OnnxContents& onnx, const std::string& precision) {
  if (onnx.kernels.empty()) return "no product with a constant kernel was found in the file";
  double total = 0;
  std::map<std::string, double> sums;
  for (const Kernel& kernel : onnx.kernels) {
    total += kernel.multiply_adds;
    sums[kernel.precision] += kernel.multiply_adds;
  }
  const auto share = [&](const std::string& name) { return sums[name] / std::max(total, 1.0); };
  if (precision == "int8" && share("int8") >= kLeastInt8 && share("fp32") == 0) return "";
  if (precision != "int8" && share(precision) == 1) return "";
  std::string found;
  for (const char* name : {"fp32", "fp16", "int8"}) {
    char text[32];
    std::snprintf(text, sizeof text, "%.0f%% in %s", 100 * share(name), name);
    if (share(name) > 0) found += (found.empty() ? "" : ", ") + std::string(text);
  }
  return "it is named " + precision + ", and it multiplies " + (found.empty() ? "in no known type" : found);
}

}  // namespace byolt
