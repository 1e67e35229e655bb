#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

// What an ONNX file itself says, read from its bytes: the same few fields as byolt_export/bundle/contents.py.
namespace byolt {

/// The constant operand of one product: the type it is multiplied in, and the multiply-adds of one image.
struct Kernel {
  std::string precision;
  double multiply_adds = 0;
};

struct OnnxContents {
  std::map<std::string, std::string> metadata;
  std::vector<std::string> outputs;
  std::vector<Kernel> kernels;
};

/// @throws Error(input) the bytes are not ONNX, or name a file outside of themselves
OnnxContents read_onnx_contents(const std::string& content, const std::string& where);

/// Why a file does not compute in the precision it is named for; empty when it does.
std::string find_precision_fault(const OnnxContents& onnx, const std::string& precision);

}  // namespace byolt
