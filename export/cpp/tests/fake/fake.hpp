#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

// The strings of the fake GPU and the fake TensorRT: what tests inject, and what they look at afterwards.
namespace fake {

/// An engine of the fake TensorRT; the defaults are a bundle's encoder.
struct Plan {
  int height = 4, width = 6, channels = 3, dim = 5;
  int least = 1, most = 8;
  int input_type = 5, output_type = 0;  // nvinfer1::DataType
  int rank = 4, outputs = 1;
  int scratch = 96;              // bytes
  bool recordable = true;        // by a CUDA graph
  std::string input = "images";  // known to the builder alone
};

/// A bundle's encoder but for one thing, and the words that tell of it.
struct WrongPlan {
  template <typename Change>
  WrongPlan(Change change, const char* told) : words(told) {
    change(plan);
  }
  Plan plan;
  const char* words;
};

/// The bytes that deserializeCudaEngine takes.
std::string bytes_of(const Plan& plan);

/// Value `k` of what the fake engine gives for an image.
float expected(const std::uint8_t* image, std::size_t bytes, std::size_t k);

/// Call number `nth` of `function`, from now on and counted from 0, fails once.
void fail(const std::string& function, int nth = 0);

/// How often each function that can fail was called since the last reset.
std::map<std::string, int> calls();

/// The number of GPUs; with none, calls fail as they do without a driver, and createInferRuntime gives 0x228.
void set_devices(int count);

/// What the ONNX parser makes of any model; with a node, it refuses that one.
void set_network(const Plan& plan, const std::string& refused_node = "");

/// What the last build was told.
struct Built {
  std::size_t workspace = 0;  // bytes
  bool tf32 = true;
  int opt_batch = 0;
};
Built built();

/// All as it was at the start.
void reset();

/// Objects and memory that were made and not given back.
int live();

/// Rules of CUDA and TensorRT that were broken, each in a few words and a line; empty when none was.
std::string broken_rules();

/// How often a graph was launched, and how often a network ran, inside a graph or not.
int graph_launches();
int executions();

/// How often byolt and the test allocated memory; what the fake takes itself while a network runs is left out.
long allocations();

}  // namespace fake
