#pragma once

#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "byolt/error.hpp"

// The least that a test needs: TEST(name) { CHECK(condition); CHECK_ERROR(code, "part of the sentence", expression); }
namespace check {

struct Test {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::cerr << file << ":" << line << ": " << what << '\n';
}

struct Registered {
  Registered(const char* name, std::function<void()> body) { tests().push_back({name, std::move(body)}); }
};

inline int run_all() {
  for (const Test& test : tests()) {
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected: ") + error.what());
    }
  }
  std::cout << tests().size() << " tests, " << failures() << " failures\n";
  return failures() == 0 && !tests().empty() ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                      \
  static void test_##name();                                            \
  static const check::Registered registered_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_ERROR(expected, part, expression)                                                      \
  do {                                                                                               \
    try {                                                                                            \
      (void)(expression);                                                                            \
      check::fail(__FILE__, __LINE__, "no error: " #expression);                                     \
    } catch (const byolt::Error& error) {                                                            \
      if (error.code() != (expected) || std::string(error.what()).find(part) == std::string::npos || \
          std::string(error.what()).find('\n') != std::string::npos) {                               \
        check::fail(__FILE__, __LINE__, std::string("another error: ") + error.what());              \
      }                                                                                              \
    }                                                                                                \
  } while (false)
