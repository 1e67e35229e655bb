#include <cmath>
#include <optional>
#include <thread>

#include "allocations.hpp"
#include "byolt/encoder.hpp"
#include "check.hpp"
#include "fake_backend.hpp"
#include "processor.hpp"
#include "sample.hpp"

using byolt::Code;
using byolt::Encoder;
using byolt::Format;
using byolt::Image;
using byolt::Options;
using byolt::Runtime;
using nlohmann::json;

namespace {

/// A bundle whose one file the fake runs: images of 4 x 4 px, batches of up to 3, 3 values.
void write(const sample::Folder& folder, const std::function<void(json&)>& change = [](json&) {}) {
  json manifest = sample::manifest();
  change(manifest);
  const json& contract = manifest["contract"];
  folder.write_bundle(manifest, sample::onnx(contract.dump(), "", contract["output"]["name"].get<std::string>()));
}

Options with(Runtime runtime, const std::string& precision = "", bool allow_unproven = false) {
  Options options;
  options.runtime = runtime;
  options.precision = precision;
  options.allow_unproven = allow_unproven;
  return options;
}

/// An image of one colour, 8 x 6 px.
std::vector<std::uint8_t> colour(std::uint8_t red, std::uint8_t green, std::uint8_t blue) {
  std::vector<std::uint8_t> pixels;
  for (int k = 0; k < 48; ++k) pixels.insert(pixels.end(), {red, green, blue});
  return pixels;
}

Image image_of(const std::vector<std::uint8_t>& pixels, Format format = Format::rgb) {
  return {pixels.data(), 8, 6, 0, format, nullptr};
}

}  // namespace

TEST(what_an_encoder_says_of_itself) {
  const sample::Folder folder;
  write(folder, [](json& m) {
    m["contract"]["output"]["name"] = "logits";
    m["contract"]["classes"] = {"a", "b", "c"};
  });
  const Encoder encoder = Encoder::open(folder.path());
  const byolt::Description& about = encoder.description();
  CHECK(about.file == "encoder.onnx" && about.precision == "fp32" && about.runtime == "fake" && about.logits);
  CHECK(about.width == 4 && about.height == 4 && about.dim == 3 && about.max_batch == 3 && about.classes[2] == "c");
}

TEST(an_image_in_each_order) {
  const sample::Folder folder;
  write(folder);
  const Encoder encoder = Encoder::open(folder.path());
  const auto pixels = colour(10, 20, 30);
  CHECK((encoder.run(image_of(pixels)) == std::vector<float>{10, 20, 30}));
  CHECK((encoder.run(image_of(pixels, Format::bgr)) == std::vector<float>{30, 20, 10}));
}

TEST(a_grey_image_of_12_bits) {
  const sample::Folder folder;
  write(folder, [](json& m) {
    m["contract"]["input"].update({{"channels", 1}, {"colour_order", "grey"}, {"bit_depth", 12}});
    m["contract"]["input"].update({{"dtype", "uint16"}, {"byte_order", "little"}});
  });
  const Encoder encoder = Encoder::open(folder.path());
  CHECK(encoder.description().channels == 1 && encoder.description().bit_depth == 12);
  std::vector<std::uint8_t> pixels;
  for (int k = 0; k < 48; ++k) pixels.insert(pixels.end(), {9, 4});                       // 4 * 256 + 9
  CHECK((encoder.run(image_of(pixels, Format::grey16)) == std::vector<float>{9, 4, 4}));  // The fake sums bytes.
  CHECK_ERROR(Code::input, "give grey16", encoder.run(image_of(pixels)));
}

TEST(more_images_than_a_batch) {
  const sample::Folder folder;
  write(folder);
  const Encoder encoder = Encoder::open(folder.path());
  std::vector<std::vector<std::uint8_t>> pixels;
  std::vector<Image> images;
  for (std::uint8_t k = 0; k < 8; ++k) pixels.push_back(colour(k, 0, 200));
  for (const auto& one : pixels) images.push_back(image_of(one));
  std::vector<float> outputs(8 * 3);
  encoder.run({images.data(), images.size()}, {outputs.data(), outputs.size()});
  for (std::size_t k = 0; k < 8; ++k) CHECK(outputs[3 * k] == static_cast<float>(k) && outputs[3 * k + 2] == 200);
  encoder.run({}, {});
  const auto short_of_room = [&] {
    encoder.run({images.data(), 8}, {outputs.data(), 23});
    return 0;
  };
  CHECK_ERROR(Code::input, "24 values", short_of_room());
}

TEST(a_context_of_its_own) {
  const sample::Folder folder;
  write(folder);
  std::optional<Encoder> encoder = Encoder::open(folder.path());
  byolt::Context context = encoder->context();
  encoder.reset();  // The context keeps the file open.
  std::fill_n(context.images(), 4 * 4 * 3 * 2, std::uint8_t{9});
  const byolt::Outputs outputs = context.run_filled(2);
  CHECK(outputs.rows() == 2 && outputs.dim() == 3 && outputs.values().size() == 6 && outputs[1][2] == 9);
  CHECK_ERROR(Code::input, "takes 1 to 3 images at once, got 4", context.run_filled(4));
  CHECK_ERROR(Code::input, "got 0", context.run({}));
  CHECK_ERROR(Code::missing, "no device memory", context.run_device(nullptr, 1, nullptr));
}

TEST(whole_frames_have_one_size) {
  const sample::Folder folder;
  write(folder, [](json& m) { m["contract"]["input"]["camera_px"] = {6, 8}; });
  const Encoder encoder = Encoder::open(folder.path());
  const auto pixels = colour(10, 20, 30);
  CHECK(encoder.description().whole_frames && encoder.description().width == 8);
  CHECK(encoder.run(image_of(pixels))[2] == 30);
  CHECK_ERROR(Code::input, "takes frames of 8 x 6 px alone, got 6 x 8",
              encoder.run({pixels.data(), 6, 8, 0, Format::rgb, nullptr}));
}

TEST(what_is_not_proven_is_refused) {
  for (const char* verdict : {"failed", "not run here"}) {
    const sample::Folder folder;
    write(folder, [&](json& m) { m["files"][0]["verdict"] = verdict; });
    CHECK_ERROR(Code::missing, "is not proven (verdict `" + std::string(verdict), Encoder::open(folder.path()));
    CHECK_ERROR(Code::missing, "byolt-verify", Encoder::open(folder.path(), with(Runtime::cpu)));
    CHECK(Encoder::open(folder.path(), with(Runtime::cpu, "", true)).description().file == "encoder.onnx");
  }
}

TEST(a_file_of_another_precision_is_refused) {
  const sample::Folder folder;
  write(folder, [](json& m) { m["files"][0]["shares"] = {{"fp16", 1.0}}; });
  CHECK_ERROR(Code::missing, "is not proven (it is named fp32, and it multiplies 100% in fp16): run byolt-verify",
              Encoder::open(folder.path()));
  CHECK(Encoder::open(folder.path(), with(Runtime::cpu, "", true)).description().file == "encoder.onnx");
}

TEST(the_fastest_is_what_was_written_down_here) {
  const sample::Folder folder;
  const auto with_speeds = [&](const std::function<void(json&)>& change) {
    write(folder, [&](json& m) {
      json second = m["files"][0];  // The same bytes under another name: the fake runs both.
      second["name"] = "encoder.int8-cpu.onnx";
      second.update({{"precision", "int8"}, {"placement", "cpu"}, {"shares", {{"int8", 1.0}}}});
      m["files"].push_back(second);
      json& fp32 = m["speeds"][0];
      fp32.update({{"processor", byolt::cpu_name()}, {"threads", byolt::cpu_threads(0)}, {"batch", 2}});
      json int8 = fp32;
      int8.update({{"file", "encoder.int8-cpu.onnx"}, {"images_per_s", 250.0}, {"times_fp32", 2.0}});
      m["speeds"].push_back(int8);
      change(m);
      const std::string onnx = sample::onnx(m["contract"].dump());
      folder.write("encoder.int8-cpu.onnx", onnx);
      m["files"][1]["sha256"] = sample::sha256(onnx);
    });
  };
  const auto fastest = [&](Runtime runtime, int threads = 0) {
    Options options = with(runtime, "fastest");
    options.threads = threads;
    return Encoder::open(folder.path(), options).description().file;
  };
  with_speeds([](json&) {});
  CHECK(fastest(Runtime::automatic) == "encoder.int8-cpu.onnx" && fastest(Runtime::cpu) == "encoder.int8-cpu.onnx");
  CHECK(Encoder::open(folder.path()).description().file == "encoder.onnx");  // The default order stays.
  CHECK_ERROR(Code::missing, "threads: run byolt-verify " + folder.path() + " --threads 99 here",
              fastest(Runtime::cpu, 99));
  CHECK_ERROR(Code::missing, "tells no speeds of " + byolt::cpu_name(), fastest(Runtime::cuda));
  const std::vector<std::function<void(json&)>> elsewhere = {
      [](json& m) { m["speeds"][1]["processor"] = "Another CPU"; },
      [](json& m) { m["speeds"][1]["threads"] = 99; },
      [](json& m) { m["speeds"][1]["batch"] = 1; },
      [](json& m) { m["speeds"][1]["runtime"] = "openvino"; },
      [](json& m) { m["speeds"][1]["images_per_s"] = 99; },
      [](json& m) { m["files"][1]["verdict"] = "failed"; },
  };
  for (const auto& change : elsewhere) {
    with_speeds(change);
    CHECK(fastest(Runtime::automatic) == "encoder.onnx");
  }
  with_speeds([](json& m) { m["speeds"] = json::array(); });
  CHECK_ERROR(Code::missing, "tells no speeds of", fastest(Runtime::automatic));
  with_speeds([](json& m) { m["speeds"] = json::array(), m["files"][0]["verdict"] = "failed"; });
  CHECK(fastest(Runtime::automatic) == "encoder.int8-cpu.onnx");  // There is nothing to choose.
}

TEST(the_cpus_int8_comes_before_tensorrts) {
  for (const char* second : {"cpu", "openvino"}) {
    const sample::Folder folder;
    write(folder, [&](json& m) {
      m["files"][0].update({{"precision", "int8"}, {"placement", "tensorrt"}, {"shares", {{"int8", 1.0}}}});
      json other = m["files"][0];
      other.update({{"name", "encoder.int8-second.onnx"}, {"placement", second}});
      const std::string onnx = sample::onnx(m["contract"].dump());
      folder.write("encoder.int8-second.onnx", onnx);
      other["sha256"] = sample::sha256(onnx);
      m["files"].push_back(other);
    });
    const std::string file = Encoder::open(folder.path(), with(Runtime::cpu, "int8")).description().file;
    CHECK(file == (std::string(second) == "cpu" ? "encoder.int8-second.onnx" : "encoder.onnx"));
  }
}

TEST(what_is_placed_for_openvino_runs_there_alone) {
  const sample::Folder folder;
  write(folder, [](json& m) {
    m["files"][0].update({{"precision", "int8"}, {"placement", "openvino"}, {"shares", {{"int8", 1.0}}}});
  });
  for (const bool allow_unproven : {false, true}) {
    CHECK_ERROR(Code::missing, "encoder.onnx runs in OpenVINO, which byolt runs from Python alone",
                Encoder::open(folder.path(), with(Runtime::cpu, "int8", allow_unproven)));
  }
}

TEST(what_is_asked_for_is_never_replaced) {
  const sample::Folder folder;
  write(folder);
  CHECK_ERROR(Code::missing, "holds nothing that may run here", Encoder::open(folder.path(), with(Runtime::tensorrt)));
  CHECK_ERROR(Code::missing, "it has no int8 file", Encoder::open(folder.path(), with(Runtime::cpu, "int8")));
  CHECK_ERROR(Code::input, "precision `fp8` is not known", Encoder::open(folder.path(), with(Runtime::cpu, "fp8")));
  for (const int number : {4, -1}) {
    CHECK_ERROR(Code::input, "runtime is not known: it is automatic, tensorrt, cuda or cpu",
                Encoder::open(folder.path(), with(static_cast<Runtime>(number))));
  }
  Options options;
  options.threads = -1;
  CHECK_ERROR(Code::input, "threads must be", Encoder::open(folder.path(), options));
}

TEST(damage_is_told_and_nothing_else_opened) {
  const sample::Folder folder;
  write(folder, [](json& m) {
    json second = m["files"][0];
    second["name"] = "encoder.fp16.onnx";
    second["precision"] = "fp16";
    m["files"].push_back(second);
  });
  folder.write("encoder.onnx", "damaged");
  CHECK_ERROR(Code::input, "encoder.onnx is not the file", Encoder::open(folder.path(), with(Runtime::cpu)));
}

TEST(threads_share_an_encoder) {
  const sample::Folder folder;
  write(folder);
  const Encoder encoder = Encoder::open(folder.path());
  const int before = fake().sessions;
  std::atomic<int> wrong{0};
  const auto work = [&](std::uint8_t own) {
    const auto pixels = colour(own, 7, 7);
    for (int k = 0; k < 200; ++k) wrong += encoder.run(image_of(pixels))[0] == static_cast<float>(own) ? 0 : 1;
  };
  std::vector<std::thread> threads;
  for (std::uint8_t own = 0; own < 4; ++own) threads.emplace_back(work, own);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(fake().sessions - before <= 4);  // Contexts come back and are used again.
}

TEST(no_allocation_in_the_steady_state) {
  const sample::Folder folder;
  write(folder);
  const Encoder encoder = Encoder::open(folder.path());
  const auto first = colour(1, 2, 3), second = colour(4, 5, 6);
  const std::vector<Image> images = {image_of(first), image_of(second, Format::bgr), image_of(first), image_of(second)};
  std::vector<float> outputs(images.size() * 3);
  byolt::Context context = encoder.context();
  const auto both = [&] {
    encoder.run({images.data(), images.size()}, {outputs.data(), outputs.size()});
    (void)context.run({images.data(), 2});
  };
  both();
  const std::size_t before = allocations();
  for (int k = 0; k < 100; ++k) both();
  CHECK(allocations() == before);
}

TEST(what_broke_is_not_used_again) {
  const sample::Folder folder;
  write(folder);
  const Encoder encoder = Encoder::open(folder.path());
  const auto pixels = colour(1, 2, 3);
  (void)encoder.run(image_of(pixels));
  const int before = fake().sessions;
  fake().broken = true;
  CHECK_ERROR(Code::machine, "broken", encoder.run(image_of(pixels)));
  fake().broken = false;
  CHECK(encoder.run(image_of(pixels))[0] == 1 && fake().sessions == before + 1);
}
