// byolt-example-folder BUNDLE FOLDER: a line for each JPEG and PNG file: its class, or its embedding; tabs between,
// and names as `cell` writes them.

#include <byolt/encoder.hpp>
#include <byolt/image_file.hpp>

#include "example.hpp"

namespace {

void run(const std::string& bundle, const std::string& folder) {
  const byolt::Encoder encoder = byolt::Encoder::open(bundle);
  const byolt::Description& about = encoder.description();
  byolt::Context context = encoder.context();
  std::cerr << about.file << " by " << about.runtime << '\n';
  for (const std::string& path : image_files(folder)) {
    const byolt::ImageFile file(path);
    const byolt::Image image = file.image();
    const byolt::Outputs outputs = context.run({&image, 1});
    std::cout << cell(path);
    if (about.logits) {
      std::cout << '\t' << cell(best_class(about, outputs[0]));
    } else {
      for (const float value : outputs[0]) std::cout << '\t' << value;
    }
    std::cout << '\n';
  }
}

}  // namespace

int main(int count, char** words) {
  return guarded([&] {
    if (count != 3) throw byolt::Error(byolt::Code::input, "usage: byolt-example-folder BUNDLE FOLDER");
    run(words[1], words[2]);
  });
}
