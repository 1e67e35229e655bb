#pragma once

#include <map>
#include <string>
#include <vector>

// What an ONNX file says of itself, read from its bytes before a runtime opens it.
namespace byolt {

struct OnnxContents {
  std::map<std::string, std::string> metadata;
  std::vector<std::string> outputs;
};

/// @throws Error(input) the bytes are damaged, hold more than one graph, run an operator that byolt never writes, or
/// name a file outside of themselves
OnnxContents read_onnx_contents(const std::string& content, const std::string& where);

}  // namespace byolt
