// byolt-example-search BUNDLE GALLERY IMAGE: the five images of a folder that are most like one image, with the cosine.

#include <byolt/encoder.hpp>
#include <byolt/image_file.hpp>
#include <cmath>
#include <utility>

#include "example.hpp"

namespace {

std::vector<float> unit_embedding(const byolt::Encoder& encoder, const std::string& path) {
  const byolt::ImageFile file(path);
  std::vector<float> values = encoder.run(file.image());
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  const auto length = static_cast<float>(std::max(std::sqrt(squares), 1e-12));
  for (float& value : values) value /= length;
  return values;
}

void run(const std::string& bundle, const std::string& gallery, const std::string& query) {
  const byolt::Encoder encoder = byolt::Encoder::open(bundle);
  if (encoder.description().logits) {
    throw byolt::Error(byolt::Code::input, bundle + " gives class scores: search with an encoder's bundle");
  }
  const std::vector<float> wanted = unit_embedding(encoder, query);
  std::vector<std::pair<float, std::string>> found;
  for (const std::string& path : image_files(gallery)) {
    const std::vector<float> values = unit_embedding(encoder, path);
    float cosine = 0;
    for (std::size_t d = 0; d < values.size(); ++d) cosine += values[d] * wanted[d];
    found.emplace_back(cosine, path);
  }
  std::sort(found.rbegin(), found.rend());
  found.resize(std::min<std::size_t>(found.size(), 5));
  for (const auto& [cosine, path] : found) std::cout << cosine << '\t' << cell(path) << '\n';
}

}  // namespace

int main(int count, char** words) {
  return guarded([&] {
    if (count != 4) throw byolt::Error(byolt::Code::input, "usage: byolt-example-search BUNDLE GALLERY IMAGE");
    run(words[1], words[2], words[3]);
  });
}
