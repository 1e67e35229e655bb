#include "safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "byolt/error.hpp"
#include "json_fields.hpp"

// safetensors: 8 bytes of header size, a JSON header of {name: {dtype, shape, data_offsets}}, then the data without a
// gap.
namespace byolt {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8, kHeaderBytes = 1 << 20;

struct Tensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  const char* data = nullptr;
  std::size_t bytes = 0;
};

std::size_t width_of(const std::string& dtype) {
  if (dtype == "U8") return 1;
  if (dtype == "U16") return 2;
  if (dtype == "F32") return 4;
  if (dtype == "I64") return 8;
  throw FieldError("the header", "it holds a type that no bundle has");
}

Tensor read_tensor(const json& value, const std::string& data, std::size_t start, const std::string& where) {
  const Fields fields(value, where, {"dtype", "shape", "data_offsets"});
  Tensor tensor;
  tensor.dtype = fields.text("dtype");
  const auto limit = static_cast<std::int64_t>(data.size() - start);
  std::size_t expected = width_of(tensor.dtype);
  for (const json& side : to_array(fields.need("shape"), where, 0, 4)) {
    tensor.shape.push_back(to_integer(side, where, 1, std::max<std::int64_t>(limit, 1)));
    expected *= static_cast<std::size_t>(tensor.shape.back());
    if (expected > data.size()) throw FieldError(where, "it is larger than the file");
  }
  const json& offsets = to_array(fields.need("data_offsets"), where, 2, 2);
  const std::int64_t from = to_integer(offsets[0], where, 0, limit), to = to_integer(offsets[1], where, from, limit);
  tensor.data = data.data() + start + from;
  tensor.bytes = static_cast<std::size_t>(to - from);
  if (tensor.bytes != expected) throw FieldError(where, "its data do not fit its shape");
  return tensor;
}

std::map<std::string, Tensor> read_tensors(const std::string& content) {
  if (content.size() < kLengthBytes) throw FieldError("the file", "it ends early");
  std::uint64_t length = 0;
  for (std::size_t k = kLengthBytes; k-- > 0;) length = length << 8 | static_cast<std::uint8_t>(content[k]);
  if (length > std::min(content.size() - kLengthBytes, kHeaderBytes)) throw FieldError("the file", "it ends early");
  const std::size_t start = kLengthBytes + static_cast<std::size_t>(length);
  const json header = parse_json(content.substr(kLengthBytes, static_cast<std::size_t>(length)));
  if (!header.is_object()) throw FieldError("the header", "it must be an object");
  std::map<std::string, Tensor> tensors;
  std::size_t bytes = 0;
  for (const auto& item : header.items()) {
    if (item.key() == "__metadata__") continue;
    const Tensor& tensor = tensors[item.key()] = read_tensor(item.value(), content, start, "a tensor");
    bytes += tensor.bytes;
  }
  if (bytes != content.size() - start) throw FieldError("the file", "its tensors do not cover it");
  return tensors;
}

bool is_grey(const Tensor& images, const Samples& samples) {
  const std::size_t last = (samples.channels - 1) * samples.bytes();
  for (std::size_t k = 0; k < images.bytes; k += samples.pixel_bytes()) {
    if (std::memcmp(images.data + k, images.data + k + last, samples.bytes()) != 0) return false;
  }
  return true;
}

/// Known from the data, never from the outputs: wrong models that are no different for this data.
bool has_meaning(const std::string& control, const Tensor& images, const Input& input) {
  if (control == "swapped_channels") return !is_grey(images, input.samples);
  const bool plain = input.mean == std::array<double, 3>{0, 0, 0} && input.std == std::array<double, 3>{1, 1, 1};
  return control != "no_normalisation" || !plain;
}

class Reader {
 public:
  Reader(const std::string& content, const Manifest& manifest) : tensors_(read_tensors(content)), manifest_(manifest) {}

  Golden read() {
    const Input& input = manifest_.contract.input;
    const auto count = static_cast<std::int64_t>(manifest_.golden_images);
    const auto dim = static_cast<std::int64_t>(manifest_.contract.dim);
    const Tensor& images =
        take("images", input.samples.bytes() == 1 ? "U8" : "U16",
             {count, static_cast<std::int64_t>(input.height()), static_cast<std::int64_t>(input.width()),
              static_cast<std::int64_t>(input.samples.channels)});
    Golden golden;
    golden.images = manifest_.golden_images;
    golden.dim = manifest_.contract.dim;
    golden.pixels.assign(images.data, images.data + images.bytes);
    golden.reference = floats(take("outputs.reference", "F32", {count, dim}));
    for (const std::string control : kControls) {
      std::optional<std::vector<float>> outputs;
      if (has_meaning(control, images, input))
        outputs = floats(take("outputs.control." + control, "F32", {count, dim}));
      golden.controls.emplace_back(control, std::move(outputs));
    }
    for (const OnnxEntry& file : manifest_.files) {
      const std::string name = "outputs.file." + file.name;
      if (file.precision != "int8" || tensors_.count(name) == 0) continue;
      golden.own[file.name] = floats(take(name, "F32", {count, dim}));
    }
    if (tensors_.count("labels") != 0) (void)take("labels", "I64", {count});
    if (taken_ != tensors_.size()) throw FieldError("the file", "it holds tensors that no bundle has");
    return golden;
  }

 private:
  const Tensor& take(const std::string& name, const char* dtype, const std::vector<std::int64_t>& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.dtype != dtype || found->second.shape != shape) {
      throw FieldError(name, "it is not the tensor that the manifest describes");
    }
    ++taken_;
    return found->second;
  }

  static std::vector<float> floats(const Tensor& tensor) {
    std::vector<float> values(tensor.bytes / sizeof(float));
    std::memcpy(values.data(), tensor.data, tensor.bytes);
    const auto finite = [](float value) { return std::isfinite(value); };
    if (!std::all_of(values.begin(), values.end(), finite))
      throw FieldError("the file", "it holds outputs that are not finite");
    return values;
  }

  std::map<std::string, Tensor> tensors_;
  const Manifest& manifest_;
  std::size_t taken_ = 0;
};

}  // namespace

Golden read_golden(const std::string& content, const std::string& where, const Manifest& manifest) {
  try {
    return Reader(content, manifest).read();
  } catch (const FieldError& error) {
    throw Error(Code::input, where + " does not fit: " + error.what() + "; export it again");
  }
}

}  // namespace byolt
