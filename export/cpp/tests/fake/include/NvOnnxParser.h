// A fake of the part of TensorRT's ONNX parser that byolt calls: see cuda_runtime_api.h beside it.
#pragma once

#include <NvInfer.h>

#include <cstddef>

namespace nvonnxparser {

class IParserError {
 public:
  virtual const char* desc() const noexcept = 0;
  virtual int node() const noexcept = 0;
  virtual const char* nodeName() const noexcept = 0;
  virtual const char* nodeOperator() const noexcept = 0;

 protected:
  virtual ~IParserError() noexcept = default;
};

class IParser {
 public:
  virtual ~IParser() noexcept = default;
  virtual bool parse(const void* model, std::size_t bytes, const char* path = nullptr) noexcept = 0;
  virtual int getNbErrors() const noexcept = 0;
  virtual const IParserError* getError(int index) const noexcept = 0;
};

IParser* createParser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger) noexcept;

}  // namespace nvonnxparser
