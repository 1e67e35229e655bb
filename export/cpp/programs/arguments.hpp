#pragma once

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "byolt/error.hpp"

namespace byolt {

/// A program's command line: options `--name VALUE`, flags `--name`, and what stands alone.
class Arguments {
 public:
  Arguments(int count, char** words, std::string usage) : words_(words + 1, words + count), usage_(std::move(usage)) {}

  bool flag(const std::string& name) {
    for (auto word = words_.begin(); word != words_.end(); ++word) {
      if (*word != name) continue;
      words_.erase(word);
      return true;
    }
    return false;
  }

  std::string value(const std::string& name, const std::string& fallback = "") {
    for (auto word = words_.begin(); word != words_.end(); ++word) {
      if (*word != name) continue;
      if (word + 1 == words_.end()) throw Error(Code::input, name + " needs a value; " + usage_);
      std::string found = *(word + 1);
      words_.erase(word, word + 2);
      return found;
    }
    return fallback;
  }

  int number(const std::string& name, int fallback, int least) {
    const std::string text = value(name);
    if (text.empty()) return fallback;
    return to_number(text, name, least);
  }

  int to_number(const std::string& text, const std::string& name, int least) const {
    char* end = nullptr;
    const long found = std::strtol(text.c_str(), &end, 10);
    if (*end != '\0' || text.empty() || found < least || found > 1'000'000) {
      throw Error(Code::input, name + " needs a whole number of at least " + std::to_string(least) + "; " + usage_);
    }
    return static_cast<int>(found);
  }

  /// What stands alone, after every option was taken.
  std::vector<std::string> rest(std::size_t least, std::size_t most) const {
    for (const std::string& word : words_) {
      if (word.size() > 1 && word[0] == '-') throw Error(Code::input, word + " is not known; " + usage_);
    }
    if (words_.size() < least || words_.size() > most) throw Error(Code::input, usage_);
    return words_;
  }

 private:
  std::vector<std::string> words_;
  std::string usage_;
};

}  // namespace byolt
