#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "byolt/error.hpp"
#include "byolt/image.hpp"

namespace byolt {

/// Which runtime opens the bundle.
enum class Runtime {
  automatic,  ///< the first that this machine has: TensorRT, ONNX Runtime on CUDA, ONNX Runtime on the CPU
  tensorrt,
  cuda,  ///< ONNX Runtime on CUDA
  cpu,   ///< ONNX Runtime on the CPU
};

struct Options {
  Runtime runtime = Runtime::automatic;  ///< one that is named is used or refused, never replaced
  /// "fp32", "fp16" or "int8"; empty: fp16 on a GPU, fp32 on a CPU, or what is there. "fastest": what `byolt verify` or
  /// byolt-verify wrote down on this processor with as many threads; nothing is timed here.
  std::string precision;
  bool allow_unproven = false;  ///< open a file whose verdict is not `passed`
  int threads = 0;              ///< CPU threads of one call; 0: one a core
};

/// What a bundle takes and gives.
struct Description {
  std::string runtime;               ///< for people: library, version, provider or GPU
  std::string file;                  ///< the file of the bundle that runs; another's embeddings do not compare with its
  std::string precision;             ///< fp32, fp16 or int8
  std::size_t width = 0;             ///< pixels of what the network is fed
  std::size_t height = 0;            ///< pixels
  std::size_t channels = 3;          ///< 3, RGB, or 1, grey
  std::size_t bit_depth = 8;         ///< 2^bit_depth - 1 is white; above 8 a value has two bytes, the low one first
  bool whole_frames = false;         ///< the graph itself resizes frames of exactly this size
  bool logits = false;               ///< outputs are class scores, not an embedding
  bool normalized = false;           ///< embeddings have length 1
  std::size_t dim = 0;               ///< values a row
  std::size_t max_batch = 0;         ///< images in one call of a `Context`
  std::vector<std::string> classes;  ///< their names, in the order of the logits
};

/// Outputs (rows, dim), row by row; valid until the next call of the context that gave them.
class Outputs {
 public:
  Outputs(const float* values, std::size_t rows, std::size_t dim) : values_(values), rows_(rows), dim_(dim) {}

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t dim() const { return dim_; }
  [[nodiscard]] Span<const float> values() const { return {values_, rows_ * dim_}; }
  Span<const float> operator[](std::size_t row) const { return {values_ + row * dim_, dim_}; }

 private:
  const float* values_;
  std::size_t rows_, dim_;
};

/// One thread's buffers and stream. Made by `Encoder::context`; it may outlive its encoder.
class Context {
 public:
  Context(Context&&) noexcept;
  Context& operator=(Context&&) noexcept;
  ~Context();

  /// Outputs of up to `max_batch` images. Allocates nothing of its own once it has seen a size of frame and batch.
  /// @throws Error(input) for an image that does not fit, Error(machine) where the runtime refuses
  Outputs run(Span<const Image> images);

  /// Outputs of images that already have the network's size, without a copy: fill the first `batch` x height x width
  /// x channels values of `images()`, RGB or grey, of one byte or two, then call `run_filled`.
  std::uint8_t* images();
  Outputs run_filled(std::size_t batch);

  /// The same for images in device memory, on a CUDA stream of the caller's; the outputs lie in device memory and are
  /// there when the stream is done.
  /// @throws Error(missing) where the runtime has no device memory
  Outputs run_device(const void* device_images, std::size_t batch, void* stream);

  /// The same for frames of any size and format whose pixels lie in device memory, which are resized there. Frames of
  /// one size follow each other without a wait.
  Outputs run_device(Span<const Image> frames, void* stream);

 private:
  friend class Encoder;
  struct State;
  Context(std::shared_ptr<const void> owner, std::unique_ptr<State> state);
  std::shared_ptr<const void> owner_;  // The opened file, which outlives the session on it.
  std::unique_ptr<State> state_;
};

/// An opened bundle. One encoder serves any number of threads.
class Encoder {
 public:
  /// Check a bundle and open its best file.
  /// @throws Error(input) the bundle is damaged or not what its manifest says
  /// @throws Error(missing) this machine lacks what was asked for, or nothing in the bundle is proven
  static Encoder open(const std::string& bundle, const Options& options = {});

  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  [[nodiscard]] const Description& description() const;

  /// A context for one thread: buffers for `max_batch` images.
  [[nodiscard]] Context context() const;

  /// Outputs of any number of images into `outputs`, images x dim values. Safe from several threads at once; contexts
  /// are kept for the next call.
  void run(Span<const Image> images, Span<float> outputs) const;

  /// The output of one image.
  [[nodiscard]] std::vector<float> run(const Image& image) const;

 private:
  struct State;
  explicit Encoder(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace byolt
