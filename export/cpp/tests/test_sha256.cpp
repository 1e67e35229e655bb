#include <algorithm>

#include "check.hpp"
#include "sha256.hpp"

namespace {

std::string digest(const std::string& text, std::size_t piece) {
  byolt::Sha256 sha;
  for (std::size_t k = 0; k < text.size(); k += piece) sha.update(text.data() + k, std::min(piece, text.size() - k));
  return sha.hex();
}

}  // namespace

// The examples of FIPS 180-2, appendix B, and NIST's empty message.
TEST(sha256_of_nist) {
  CHECK(digest("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc", 64) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 64) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopq"
               "rstnopqrstu",
               64) == "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  CHECK(digest(std::string(1'000'000, 'a'), 4096) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(sha256_in_any_pieces) {
  const std::string text(1000, 'x');
  for (const std::size_t piece : {1U, 3U, 63U, 64U, 65U, 999U}) CHECK(digest(text, piece) == digest(text, 1000));
}
