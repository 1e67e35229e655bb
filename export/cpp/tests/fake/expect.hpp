#pragma once

#include <stdexcept>
#include <string>

#include "byolt/error.hpp"

// Checks that say more than a line's number, for tests that walk through tables of faults. The first that does not hold
// ends its test.
#define EXPECT(condition, words)                                                                                       \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      throw std::logic_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " #condition ": " + (words)); \
    }                                                                                                                  \
  } while (false)

/// The byolt::Error that `work` throws; its words are checked to be one sentence.
template <typename Work>
byolt::Error expect_error(Work&& work, const std::string& words) {
  try {
    work();
  } catch (const byolt::Error& error) {
    const std::string sentence = error.what();
    EXPECT(!sentence.empty() && sentence.find('\n') == std::string::npos, words + ": not one sentence: " + sentence);
    return error;
  }
  throw std::logic_error(words + ": nothing was thrown");
}

inline bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
