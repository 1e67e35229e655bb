#pragma once

#include <atomic>
#include <cstddef>

/// A stand-in for ONNX Runtime, so that what the library does around it can be seen: the output of an image is the mean
/// of each channel. It proves nothing about ONNX Runtime.
struct Fake {
  std::atomic<int> sessions{0};        ///< made so far
  std::atomic<bool> broken{false};     ///< every call fails
  std::atomic<float> scale{1};         ///< of the outputs
  std::atomic<float> of_batches{0};    ///< added to outputs of batches larger than 1
  std::atomic<float> not_a_number{0};  ///< 1: the first output is NaN
};

Fake& fake();
