// The TensorRT backend against the fake runtime of tests/fake: byolt's own logic and what it does when a call fails.
// It is no proof of TensorRT.
#include <NvInfer.h>

#include <functional>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "check.hpp"
#include "expect.hpp"
#include "fake.hpp"
#include "tensorrt_engine.hpp"
#include "tensorrt_log.hpp"

namespace {

constexpr byolt::Tensors kTensors{4, 6, 5, 8};
constexpr std::size_t kImageBytes = 4 * 6 * 3;

// Grey of more than 8 bits: two bytes a pixel.
constexpr byolt::Tensors kDeep{4, 9, 5, 8, 2};

std::unique_ptr<byolt::Backend> open(const fake::Plan& plan = {}, const byolt::Tensors& tensors = kTensors) {
  const std::string bytes = fake::bytes_of(plan);
  return byolt::load_tensorrt("encoder.fp16.here.engine", bytes.data(), bytes.size(), tensors);
}

void fill(std::uint8_t* images, std::size_t batch, unsigned seed) {
  std::mt19937 generator(seed);
  for (std::size_t k = 0; k < batch * kImageBytes; ++k) images[k] = static_cast<std::uint8_t>(generator() % 256);
}

void expect_outputs(const float* outputs, const std::uint8_t* images, std::size_t batch, const std::string& words) {
  for (std::size_t row = 0; row < batch; ++row) {
    for (std::size_t k = 0; k < kTensors.dim; ++k) {
      const float wanted = fake::expected(images + row * kImageBytes, kImageBytes, k);
      EXPECT(outputs[row * kTensors.dim + k] == wanted, words + ": row " + std::to_string(row));
    }
  }
}

void expect_clean(const std::string& words) {
  EXPECT(fake::broken_rules().empty(), words + ": " + fake::broken_rules());
  EXPECT(fake::live() == 0, words + ": not given back: " + std::to_string(fake::live()));
}

void run_and_compare(byolt::Session& session, std::size_t batch, unsigned seed) {
  fill(session.images(), batch, seed);
  expect_outputs(session.run(batch), session.images(), batch, "a batch of " + std::to_string(batch));
}

/// A camera's side of things: images in device memory, and a stream of its own.
class Camera {
 public:
  Camera() {
    EXPECT(cudaMalloc(&memory_, 8 * kImageBytes + 256) == cudaSuccess, "camera memory");
    EXPECT(cudaMallocHost(&host_, 8 * kImageBytes) == cudaSuccess, "camera memory");
    EXPECT(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess, "camera stream");
  }
  ~Camera() {
    cudaStreamDestroy(stream_);
    cudaFreeHost(host_);
    cudaFree(memory_);
  }
  Camera(const Camera&) = delete;
  Camera& operator=(const Camera&) = delete;

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  [[nodiscard]] std::uint8_t* memory() const { return static_cast<std::uint8_t*>(memory_); }
  /// New images are on their way, in the stream's order.
  std::uint8_t* shoot(std::size_t batch, unsigned seed) {
    fill(static_cast<std::uint8_t*>(host_), batch, seed);
    // A fault that meets the camera itself is not byolt's: it copies again.
    while (cudaMemcpyAsync(memory_, host_, batch * kImageBytes, cudaMemcpyHostToDevice, stream_) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
    }
    return static_cast<std::uint8_t*>(host_);
  }

 private:
  void *memory_ = nullptr, *host_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

/// The camera's images as frames of the network's own size, which a resize leaves as they are.
const float* run_frames(byolt::Session& session, const Camera& camera, std::size_t batch) {
  std::vector<byolt::Image> frames;
  for (std::size_t k = 0; k < batch; ++k) {
    frames.push_back({camera.memory() + k * kImageBytes, kTensors.width, kTensors.height, 0, byolt::Format::rgb});
  }
  return session.run_device_frames({frames.data(), batch}, byolt::Rule::squash, camera.stream());
}

/// Everything that a program does, with one more try after each fault.
class Scenario {
 public:
  int errors = 0;
  std::string last;

  void run() {
    std::unique_ptr<byolt::Backend> backend;
    attempt([&] { backend = open(); });
    std::unique_ptr<byolt::Session> session;
    attempt([&] { session = backend->session(); });
    unsigned seed = 0;
    for (const std::size_t batch : {2U, 2U, 3U, 2U, 3U}) {
      fill(session->images(), batch, ++seed);
      const float* outputs = nullptr;
      attempt([&] { outputs = session->run(batch); });
      expect_outputs(outputs, session->images(), batch, "a run");
    }
    const float* outputs = nullptr;
    const std::uint8_t* images = camera_.shoot(4, 9);
    attempt([&] { outputs = session->run_device(camera_.memory(), 4, camera_.stream()); });
    static_cast<void>(cudaStreamSynchronize(camera_.stream()));
    expect_outputs(outputs, images, 4, "device memory");
    images = camera_.shoot(2, 10);
    attempt([&] { outputs = run_frames(*session, camera_, 2); });
    static_cast<void>(cudaStreamSynchronize(camera_.stream()));
    expect_outputs(outputs, images, 2, "frames in device memory");
  }

 private:
  void attempt(const std::function<void()>& work) {
    try {
      work();
      return;
    } catch (const byolt::Error& error) {
      ++errors;
      last = error.what();
      EXPECT(error.code() != byolt::Code::parity, last);
    }
    EXPECT(cudaGetLastError() == cudaSuccess, "a refused call is remembered and blamed on the next: " + last);
    work();
  }

  Camera camera_;
};

}  // namespace

TEST(outputs_are_those_of_the_images) {
  fake::reset();
  {
    const auto backend = open();
    EXPECT(holds(backend->name(), "TensorRT ") && holds(backend->name(), ".3.1, fake GPU"), backend->name());
    const auto session = backend->session();
    unsigned seed = 0;
    for (const std::size_t batch : {1U, 3U, 8U, 3U, 3U, 1U, 8U}) run_and_compare(*session, batch, ++seed);
  }
  // One plain run and one to prepare the recording for each of three sizes, then graphs.
  EXPECT(fake::graph_launches() == 4, std::to_string(fake::graph_launches()));
  EXPECT(fake::executions() == 3 + 3 + 4, std::to_string(fake::executions()));
  expect_clean("outputs");
}

TEST(images_in_device_memory_stay_there) {
  fake::reset();
  {
    Camera camera, other;
    const auto backend = open();
    const auto session = backend->session();
    run_and_compare(*session, 2, 1);
    const std::uint8_t* images = camera.shoot(5, 2);
    const float* outputs = session->run_device(camera.memory(), 5, camera.stream());
    EXPECT(cudaStreamSynchronize(camera.stream()) == cudaSuccess, "camera");
    expect_outputs(outputs, images, 5, "device memory");
    run_and_compare(*session, 2, 3);  // A graph that was recorded before still runs on the session's own memory.
    // Work on a second stream, and then the session's own, wait for what the first one still has to do.
    camera.shoot(4, 4);
    static_cast<void>(session->run_device(camera.memory(), 4, camera.stream()));
    const std::uint8_t* others = other.shoot(4, 5);
    outputs = session->run_device(other.memory(), 4, other.stream());
    EXPECT(cudaStreamSynchronize(other.stream()) == cudaSuccess, "camera");
    expect_outputs(outputs, others, 4, "a second stream");
    camera.shoot(4, 6);
    static_cast<void>(session->run_device(camera.memory(), 4, camera.stream()));
    const int before = fake::executions();
    run_and_compare(*session, 2, 7);
    EXPECT(fake::executions() == before + 2, "the device's batch ran before the host's");
    camera.shoot(4, 8);
    static_cast<void>(session->run_device(camera.memory(), 4, camera.stream()));
  }  // The session waits for its last batch before its memory goes.
  expect_clean("device memory");
}

TEST(what_does_not_fit_is_refused) {
  fake::reset();
  {
    Camera camera;
    const auto session = open()->session();
    for (const std::size_t batch : {0U, 9U}) {
      const auto error = expect_error([&] { session->run(batch); }, "batch");
      EXPECT(error.code() == byolt::Code::input && holds(error.what(), "batches of 1 to 8"), error.what());
      expect_error([&] { session->run_device(camera.memory(), batch, camera.stream()); }, "device batch");
    }
    for (const std::uint8_t* images :
         {static_cast<const std::uint8_t*>(nullptr), static_cast<const std::uint8_t*>(camera.memory() + 64)}) {
      const auto error = expect_error([&] { session->run_device(images, 1, camera.stream()); }, "address");
      EXPECT(error.code() == byolt::Code::input && holds(error.what(), "256 bytes"), error.what());
    }
    run_and_compare(*session, 1, 1);
  }
  expect_clean("refusals");
}

TEST(graphs_are_bounded_and_optional) {
  fake::reset();
  {
    fake::Plan plan;
    plan.most = 12;
    byolt::Tensors tensors = kTensors;
    tensors.max_batch = 12;
    const auto session = open(plan, tensors)->session();
    for (unsigned round = 0; round < 3; ++round) {
      for (std::size_t batch = 1; batch <= 12; ++batch) run_and_compare(*session, batch, round);
    }
    EXPECT(fake::graph_launches() == 2 * 8, std::to_string(fake::graph_launches()));
  }
  expect_clean("many sizes");
  fake::reset();
  {
    fake::Plan plan;
    plan.recordable = false;
    const auto session = open(plan)->session();
    for (unsigned round = 0; round < 4; ++round) run_and_compare(*session, 3, round);
    EXPECT(fake::graph_launches() == 0, "a network that cannot be recorded");
    EXPECT(fake::calls().at("cudaStreamBeginCapture") == 1, "it was tried once and not again");
  }
  expect_clean("no graphs");
}

TEST(grey_images_of_two_bytes_go_in_as_bytes) {
  fake::reset();
  {
    fake::Plan plan;
    plan.width = 9, plan.channels = 2;
    const auto backend = open(plan, kDeep);
    const auto session = backend->session();
    for (unsigned round = 0; round < 3; ++round) run_and_compare(*session, 3, round);
    Camera camera;
    const std::uint8_t* images = camera.shoot(1, 3);
    const byolt::Image frame{camera.memory(), 9, 4, 0, byolt::Format::grey16};
    const float* outputs = session->run_device_frames({&frame, 1}, byolt::Rule::squash, camera.stream());
    EXPECT(cudaStreamSynchronize(camera.stream()) == cudaSuccess, "stream");
    EXPECT(outputs[4] == fake::expected(images, kImageBytes, 4), "a frame in device memory");
  }
  expect_clean("two bytes");
  const auto error = expect_error([&] { open({}, kDeep); }, "three bytes");
  EXPECT(holds(error.what(), "is not an encoder"), error.what());
}

TEST(engines_of_others_are_refused) {
  const std::vector<fake::WrongPlan> wrong = {
      {[](fake::Plan& p) { p.height = 5; }, "6 x 5 px to 5 values, and the manifest promises 6 x 4 px"},
      {[](fake::Plan& p) { p.width = 4; }, "4 x 4 px"},
      {[](fake::Plan& p) { p.dim = 6; }, "to 6 values"},
      {[](fake::Plan& p) { p.channels = 4; }, "is not an encoder"},
      {[](fake::Plan& p) { p.rank = 3; }, "is not an encoder"},
      {[](fake::Plan& p) { p.input_type = 0; }, "is not an encoder"},
      {[](fake::Plan& p) { p.output_type = 1; }, "is not an encoder"},
      {[](fake::Plan& p) { p.outputs = 2; }, "is not an encoder"},
      {[](fake::Plan& p) { p.outputs = 0; }, "is not an encoder"},
      {[](fake::Plan& p) { p.most = 7; }, "batches of 1 to 7, and the manifest promises 1 to 8"},
      {[](fake::Plan& p) { p.least = 2; }, "batches of 2 to 8"},
  };
  for (const fake::WrongPlan& engine : wrong) {
    fake::reset();
    const auto error = expect_error([&] { open(engine.plan); }, engine.words);
    EXPECT(error.code() == byolt::Code::input && holds(error.what(), engine.words), error.what());
    EXPECT(holds(error.what(), "encoder.fp16.here.engine") && holds(error.what(), "byolt-build-engine"), error.what());
    expect_clean(engine.words);
  }
  fake::reset();
  const std::string garbage = "no plan at all", ahead = "vtrt of TensorRT for RTX";
  auto error = expect_error([&] { byolt::load_tensorrt("e", garbage.data(), garbage.size(), kTensors); }, "garbage");
  EXPECT(error.code() == byolt::Code::machine && holds(error.what(), "injected fault in deserialize"), error.what());
  error = expect_error([&] { byolt::load_tensorrt("e", ahead.data(), ahead.size(), kTensors); }, "RTX");
  EXPECT(error.code() == byolt::Code::input && holds(error.what(), "TensorRT for RTX"), error.what());
  expect_clean("garbage");
}

TEST(without_a_driver_tensorrt_is_not_touched) {
  fake::reset();
  fake::set_devices(0);
  const auto error = expect_error([] { open(); }, "no driver");
  EXPECT(error.code() == byolt::Code::missing && holds(error.what(), "ONNX Runtime"), error.what());
  EXPECT(fake::calls().count("createInferRuntime") == 0, "the address 0x228 was asked for");
  expect_clean("no driver");
}

/// Each call that can fail, at each of its places: a sentence or the right outputs, and then all goes on as before.
TEST(each_failing_call_is_survived) {
  // Here nothing is lost by a failure: what is freed is gone, and graphs only save time.
  const std::set<std::string> harmless = {"cudaFree",
                                          "cudaFreeHost",
                                          "cudaStreamDestroy",
                                          "cudaEventDestroy",
                                          "cudaGraphDestroy",
                                          "cudaGraphExecDestroy",
                                          "cudaEventSynchronize",
                                          "cudaStreamBeginCapture",
                                          "cudaStreamEndCapture",
                                          "cudaGraphInstantiateWithFlags"};
  fake::reset();
  {
    Scenario scenario;
    scenario.run();
    EXPECT(scenario.errors == 0, scenario.last);
  }
  expect_clean("a scenario without faults");
  const auto made = fake::calls();
  int injected = 0;
  for (const auto& [function, count] : made) {
    bool told = false;
    for (int nth = 0; nth < count; ++nth, ++injected) {
      fake::reset();
      const std::string words = function + ", call " + std::to_string(nth);
      {
        Scenario scenario;
        fake::fail(function, nth);
        scenario.run();
        EXPECT(scenario.errors <= 1, words);
        told = told || scenario.errors == 1;
        const bool ours =
            function.rfind("cuda", 0) != 0 && function != "getIOTensorName" && function != "launch_resize";
        EXPECT(scenario.errors == 0 || !ours || holds(scenario.last, "injected fault"), scenario.last);
      }
      expect_clean(words);
    }
    EXPECT(told != (harmless.count(function) == 1), function + (told ? " told of" : " hidden"));
  }
  EXPECT(made.size() == 31 && injected > 100, std::to_string(made.size()) + ", " + std::to_string(injected));
}

TEST(threads_keep_their_gpu) {
  fake::reset();
  fake::set_devices(2);
  {
    EXPECT(cudaSetDevice(1) == cudaSuccess, "device 1");
    const auto backend = open();
    std::thread([&backend] {
      const auto session = backend->session();  // This thread's own is the first.
      for (unsigned seed = 0; seed < 3; ++seed) run_and_compare(*session, 2, seed);
      int device = -1;
      EXPECT(cudaGetDevice(&device) == cudaSuccess && device == 0, "the caller's GPU was changed");
    }).join();
    EXPECT(cudaSetDevice(0) == cudaSuccess, "device 0");
  }
  expect_clean("two GPUs");
}

TEST(nothing_is_allocated_in_the_steady_state) {
  fake::reset();
  {
    Camera camera;
    const auto session = open()->session();
    for (unsigned seed = 0; seed < 2; ++seed) run_and_compare(*session, 4, seed);
    static_cast<void>(session->run_device(camera.memory(), 4, camera.stream()));
    const long before = fake::allocations();
    for (unsigned round = 0; round < 50; ++round) {
      static_cast<void>(session->run(4));
      static_cast<void>(session->run_device(camera.memory(), 4, camera.stream()));
    }
    EXPECT(fake::allocations() == before, std::to_string(fake::allocations() - before) + " allocations");
    EXPECT(before > 0, "the count counts nothing");
  }
  expect_clean("steady state");
}

TEST(one_backend_serves_many_threads) {
  fake::reset();
  {
    const auto backend = open();
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&backend, thread] {
        const auto session = backend->session();
        for (unsigned round = 0; round < 30; ++round) run_and_compare(*session, 1 + (round + thread) % 5, round);
        // Each thread is told of its own fault, not of another's.
        const auto error = expect_error([] { byolt::load_tensorrt("e", "garbage", 7, kTensors); }, "garbage");
        EXPECT(holds(error.what(), "injected fault in deserializeCudaEngine"), error.what());
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  expect_clean("threads");
}

TEST(reasons_are_plain) {
  const std::vector<std::pair<const char*, const char*>> said = {
      {"IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion header.magicTag == "
       "kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with incompatible version)",
       "Serialization (Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying to load an engine "
       "created with incompatible version)"},
      {"IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Parameter check failed, condition: batch > 0. In "
       "enqueueV3 at /_src/runtime/api/context.cpp:812)",
       "Parameter check failed, condition: batch > 0"},
      {"[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
       "Cuda Runtime (out of memory)"},
      {"[a.cpp::f::3] Error Code 2: Internal Error (Assertion x failed. )", "Assertion x failed"},
      {"IBuilder::build: Error Code 10: Internal Error (Could not find any implementation (In reset at /a/b.cpp:7))",
       "Could not find any implementation"},
      {"In the end at last", "In the end at last"},
      {"[no bracket", "[no bracket"},
      {"first line\nsecond line", "first line"},
      {"Error Code 1: Cuda Runtime (In f at /a.cpp:1: cudaError 35: CUDA driver version is insufficient)", ""},
      {"", ""},
  };
  for (const auto& [message, wanted] : said) EXPECT(byolt::plain(message) == wanted, byolt::plain(message));
  byolt::Log& log = byolt::Log::shared();
  log.clear();
  log.log(nvinfer1::ILogger::Severity::kERROR, nullptr);
  log.log(nvinfer1::ILogger::Severity::kWARNING, "a warning");
  EXPECT(log.reason() == "it does not say why", log.reason());
  log.log(nvinfer1::ILogger::Severity::kINTERNAL_ERROR, std::string(5000, 'x').c_str());
  EXPECT(log.reason() == std::string(511, 'x'), "a long message is cut");
  log.clear();
}
