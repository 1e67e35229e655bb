#include "contents.hpp"

#include <string_view>

#include "byolt/error.hpp"
#include "protobuf.hpp"
#include "text.hpp"

// Field numbers as in onnx.proto.
namespace byolt {
namespace {

using protobuf::Damage;
using protobuf::each_field;
using protobuf::Value;
using std::string_view;

// ONNX's own operators whose outputs are numbers that their inputs alone decide, which is all that the exporter can
// write. The others hold graphs, as loops and branches do, and need never end; draw random numbers; or read texts and
// pictures. An operator of another domain is somebody's code. Python's contents.py has the same list.
constexpr string_view kOperators =
    " Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool "
    "BatchNormalization BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike "
    "CausalConvWithState Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant "
    "ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace "
    "DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor "
    "GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater "
    "GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity "
    "InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log "
    "LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean "
    "MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression "
    "NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range "
    "Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT "
    "ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus "
    "Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh TensorScatter "
    "ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor ";

enum class Kind { none, graph, node, attribute, sparse, tensor };

/// What a field of a message holds, on every way to a tensor.
Kind held_by(Kind message, std::uint64_t field) {
  switch (message) {
    case Kind::graph:
      return field == 1 ? Kind::node : field == 5 ? Kind::tensor : field == 15 ? Kind::sparse : Kind::none;
    case Kind::node:
      return field == 5 ? Kind::attribute : Kind::none;
    case Kind::attribute:
      if (field == 6 || field == 11) throw Damage("it holds a graph in a node");  // None of the operators has one.
      if (field == 22 || field == 23) return Kind::sparse;
      return field == 5 || field == 10 ? Kind::tensor : Kind::none;
    case Kind::sparse:
      return field <= 2 ? Kind::tensor : Kind::none;
    default:
      return Kind::none;
  }
}

/// A tensor whose data lie in another file would have the runtime read whatever path it names.
void check_inside(string_view message, Kind kind) {
  each_field(message, [&](std::uint64_t number, const Value& value) {
    const bool outside = number == 13 || (number == 14 && value.is_number && value.number == 1);
    if (kind == Kind::tensor && outside)
      throw Damage("it keeps data in a file outside of itself, which no bundle does");
    const Kind inner = held_by(kind, number);
    if (inner != Kind::none) check_inside(value.bytes(), inner);
  });
}

/// Texts of a message by field number, the last of each.
std::map<std::uint64_t, string_view> read_texts(string_view message) {
  std::map<std::uint64_t, string_view> texts;
  each_field(message, [&](std::uint64_t number, const Value& value) {
    if (!value.is_number) texts[number] = value.raw;
  });
  return texts;
}

/// Refuse a node whose operator is none of `kOperators`.
void check_operator(string_view node) {
  auto texts = read_texts(node);
  const std::string operation(texts[4]), domain(texts[7]);
  const bool own = domain.empty() || domain == "ai.onnx", is_word = operation.find(' ') == std::string::npos;
  if (own && is_word && kOperators.find(" " + operation + " ") != string_view::npos) return;
  throw Damage("it runs the operator `" + quoted(own ? operation : domain + "." + operation) +
               "`, which byolt never writes");
}

OnnxContents read_model(string_view model) {
  OnnxContents onnx;
  std::vector<string_view> graphs;
  each_field(model, [&](std::uint64_t number, const Value& value) {
    if (number == 7) graphs.push_back(value.bytes());
    if (number == 14) {  // metadata_props: key = 1, value = 2.
      auto entry = read_texts(value.bytes());
      onnx.metadata[std::string(entry[1])] = entry[2];
    }
    if (number == 20 || number == 25) throw Damage("it holds more than a graph");  // Training graphs, functions.
  });
  if (graphs.size() != 1) throw Damage("it holds no graph");
  each_field(graphs[0], [&](std::uint64_t number, const Value& value) {
    if (number == 1) check_operator(value.bytes());
    if (number == 12) onnx.outputs.emplace_back(read_texts(value.bytes())[1]);
  });
  check_inside(graphs[0], Kind::graph);
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
