#include "byolt/encoder.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "backend.hpp"
#include "bundle.hpp"
#include "chooser.hpp"
#include "resize.hpp"

namespace byolt {

/// A session with the buffers that turn frames into what it is fed.
struct Context::State {
  State(std::unique_ptr<Session> opened, const Description& about, const Input& input)
      : session(std::move(opened)),
        description(about),
        rule(input.resize),
        samples(input.samples),
        resizer(input.size_px, input.resize, input.samples) {}

  Outputs run(Span<const Image> images) {
    const std::size_t bytes = description.width * description.height * samples.pixel_bytes();
    check_batch(images.size());
    std::uint8_t* to = session->images();
    for (const Image& image : images) {
      if (description.whole_frames) {
        check_size(image);
        copy_frame(image, to, samples);
      } else {
        resizer(image, to);
      }
      to += bytes;
    }
    return {session->run(images.size()), images.size(), description.dim};
  }

  void check_batch(std::size_t batch) const {
    if (batch >= 1 && batch <= description.max_batch) return;
    throw Error(Code::input, description.file + " takes 1 to " + std::to_string(description.max_batch) +
                                 " images at once, got " + std::to_string(batch));
  }

  Outputs run_device(Span<const Image> frames, void* stream) {
    check_batch(frames.size());
    if (description.whole_frames) {
      for (const Image& frame : frames) check_size(frame);
    }
    const Rule how = description.whole_frames ? Rule::squash : rule;  // A frame of that very size stays as it is.
    return {session->run_device_frames(frames, how, stream), frames.size(), description.dim};
  }

  void check_size(const Image& image) const {
    if (image.width != description.width || image.height != description.height) {
      throw Error(Code::input, description.file + " takes frames of " + std::to_string(description.width) + " x " +
                                   std::to_string(description.height) + " px alone, got " +
                                   std::to_string(image.width) + " x " + std::to_string(image.height));
    }
  }

  std::unique_ptr<Session> session;
  const Description& description;
  Rule rule;
  Samples samples;
  Resizer resizer;
};

/// The opened file, and contexts that wait for the next call of `Encoder::run`.
struct Encoder::State {
  std::unique_ptr<Backend> backend;
  Description description;
  Input input;
  std::mutex mutex;
  std::vector<std::unique_ptr<Context::State>> idle;

  std::unique_ptr<Context::State> make() {
    try {
      return std::make_unique<Context::State>(backend->session(), description, input);
    } catch (const std::bad_alloc&) {
      throw Error(Code::machine, description.file + " needs more memory for a batch of " +
                                     std::to_string(description.max_batch) + " than this machine has left");
    }
  }

  std::unique_ptr<Context::State> take() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!idle.empty()) {
        std::unique_ptr<Context::State> context = std::move(idle.back());
        idle.pop_back();
        return context;
      }
    }
    return make();
  }

  void give_back(std::unique_ptr<Context::State> context) {
    const std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(context));
  }
};

Context::Context(std::shared_ptr<const void> owner, std::unique_ptr<State> state)
    : owner_(std::move(owner)), state_(std::move(state)) {}
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&& other) noexcept {
  state_ = std::move(other.state_);  // Before the owner, which holds the file that the old session runs.
  owner_ = std::move(other.owner_);
  return *this;
}
Context::~Context() = default;

Outputs Context::run(Span<const Image> images) { return state_->run(images); }

std::uint8_t* Context::images() { return state_->session->images(); }

Outputs Context::run_filled(std::size_t batch) {
  state_->check_batch(batch);
  return {state_->session->run(batch), batch, state_->description.dim};
}

Outputs Context::run_device(const void* device_images, std::size_t batch, void* stream) {
  state_->check_batch(batch);
  return {state_->session->run_device(device_images, batch, stream), batch, state_->description.dim};
}

Outputs Context::run_device(Span<const Image> frames, void* stream) { return state_->run_device(frames, stream); }

Encoder::Encoder(std::shared_ptr<State> state) : state_(std::move(state)) {}
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;
Encoder::~Encoder() = default;

Encoder Encoder::open(const std::string& bundle, const Options& options) {
  try {
    const Bundle opened(bundle);
    auto state = std::make_shared<State>();
    Opened best = open_best(opened, options);
    state->backend = std::move(best.backend);
    state->description = std::move(best.description);
    state->input = opened.manifest().contract.input;
    return Encoder(std::move(state));
  } catch (const std::bad_alloc&) {
    throw Error(Code::machine, bundle + " needs more memory than this machine has left");
  }
}

const Description& Encoder::description() const { return state_->description; }

Context Encoder::context() const { return {state_, state_->make()}; }

void Encoder::run(Span<const Image> images, Span<float> outputs) const {
  const Description& about = state_->description;
  if (outputs.size() != images.size() * about.dim) {
    throw Error(Code::input, std::to_string(images.size()) + " images give " +
                                 std::to_string(images.size() * about.dim) + " values, and there is room for " +
                                 std::to_string(outputs.size()));
  }
  std::unique_ptr<Context::State> context = state_->take();
  for (std::size_t done = 0; done < images.size(); done += about.max_batch) {
    const std::size_t batch = std::min(about.max_batch, images.size() - done);
    const Outputs found = context->run({images.data() + done, batch});
    std::copy(found.values().begin(), found.values().end(), outputs.data() + done * about.dim);
  }
  state_->give_back(std::move(context));  // Not after an error: what broke is not used again.
}

std::vector<float> Encoder::run(const Image& image) const {
  std::vector<float> output(state_->description.dim);
  run({&image, 1}, {output.data(), output.size()});
  return output;
}

}  // namespace byolt
