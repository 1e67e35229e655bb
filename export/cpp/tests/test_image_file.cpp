#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "byolt/image_file.hpp"
#include "check.hpp"
#include "sample.hpp"

using byolt::Code;
using byolt::ImageFile;

namespace {

/// A PNG of one pixel, of grey 0x40.
constexpr std::uint8_t kPng[] = {137, 80, 78,  71,  13, 10, 26, 10,  0,   0,  0,   13, 73,  72,  68,  82, 0,
                                 0,   0,  1,   0,   0,  0,  1,  8,   0,   0,  0,   0,  58,  126, 155, 85, 0,
                                 0,   0,  10,  73,  68, 65, 84, 120, 156, 99, 112, 0,  0,   0,   66,  0,  65,
                                 41,  55, 244, 239, 0,  0,  0,  0,   73,  69, 78,  68, 174, 66,  96,  130};
const std::string kPixel(reinterpret_cast<const char*>(kPng), sizeof kPng);

}  // namespace

TEST(a_picture_is_read_through_a_link) {
  const sample::Folder folder;
  folder.write("a.png", kPixel);
  std::filesystem::create_symlink(folder.path() + "/a.png", folder.path() + "/b.png");
  for (const char* name : {"/a.png", "/b.png"}) {
    const ImageFile file(folder.path() + name);
    const byolt::Image image = file.image();
    CHECK(image.width == 1 && image.height == 1 && image.pixels[0] == 0x40 && image.pixels[2] == 0x40);
  }
}

// A folder threw what no program catches, a pipe waited for ever, and a device never ended.
TEST(what_is_no_plain_file_is_one_sentence) {
  const sample::Folder folder;
  const std::string path = folder.path();
  std::filesystem::create_directory(path + "/folder.png");
  CHECK(::mkfifo((path + "/pipe.png").c_str(), 0600) == 0);
  std::filesystem::create_symlink(path + "/round.png", path + "/round.png");
  std::filesystem::create_symlink("/dev/zero", path + "/device.png");
  folder.write("empty.png", "");
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (Is a directory)", ImageFile(path + "/folder.png"));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (it is no plain file)", ImageFile(path + "/pipe.png"));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (it is no plain file)", ImageFile(path + "/device.png"));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (Too many levels", ImageFile(path + "/round.png"));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (Not a directory)", ImageFile(path + "/empty.png/a.png"));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (No such file", ImageFile(path + "/none.png"));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (No such file", ImageFile(""));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (File name too long)", ImageFile(path + std::string(5000, 'a')));
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (it is empty)", ImageFile(path + "/empty.png"));
}

TEST(pictures_of_a_size_that_no_memory_holds) {
  const sample::Folder folder;
  folder.write("huge.png", kPixel);
  std::filesystem::resize_file(folder.path() + "/huge.png", std::uintmax_t{3} << 30);  // Sparse: it takes no room.
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (it is larger than 2 GiB)", ImageFile(folder.path() + "/huge.png"));
}

TEST(a_file_that_may_not_be_read) {
  const sample::Folder folder;
  folder.write("a.png", kPixel);
  std::filesystem::permissions(folder.path() + "/a.png", std::filesystem::perms::none);
  if (::geteuid() == 0) return;  // Root may.
  CHECK_ERROR(Code::input, "name a JPEG or PNG file (Permission denied)", ImageFile(folder.path() + "/a.png"));
}
