#include "tensorrt_log.hpp"

#include <algorithm>
#include <cctype>
#include <cstring>

namespace byolt {
namespace {

void copy(const char* message, char* text, std::size_t size) noexcept {
  const std::size_t length = std::min(std::strlen(message), size - 1);
  std::memcpy(text, message, length);
  text[length] = '\0';
}

bool starts(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

bool is_word(char letter) { return std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '_'; }

std::size_t skip_word(const std::string& text, std::size_t at) {
  while (at < text.size() && is_word(text[at])) ++at;
  return at;
}

std::string trimmed(const std::string& text, const char* tail) {
  const std::size_t first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(tail);
  return first == std::string::npos || last == std::string::npos || last < first ? ""
                                                                                 : text.substr(first, last - first + 1);
}

/// Length of what stands in front of the words: `[file::function::line]`, `IClass::function:` or `Error Code 3:`.
std::size_t prefix_of(const std::string& line) {
  if (starts(line, "[")) return line.find(']') + 1;  // Without a bracket: npos + 1, nothing.
  if (starts(line, "Error Code ")) {
    const std::size_t colon = skip_word(line, std::strlen("Error Code "));
    return line.compare(colon, 1, ":") == 0 ? colon + 1 : 0;
  }
  if (!starts(line, "I")) return 0;
  const std::size_t scope = skip_word(line, 0);
  if (line.compare(scope, 2, "::") != 0) return 0;
  const std::size_t colon = skip_word(line, scope + 2);
  return line.compare(colon, 1, ":") == 0 ? colon + 1 : 0;
}

/// Takes `In function at /path:line` out, wherever it stands, with the bracket round it.
void drop_place(std::string& line) {
  for (std::size_t at = line.find("In "); at != std::string::npos; at = line.find("In ", at + 1)) {
    const std::size_t path = skip_word(line, at + 3);
    if ((at > 0 && is_word(line[at - 1])) || line.compare(path, 5, " at /") != 0) continue;
    const std::size_t begin = at > 0 && line[at - 1] == '(' ? at - 1 : at;
    const std::size_t end = line.find(' ', path + 4);
    line.erase(begin, end == std::string::npos ? end : end - begin);
    return;
  }
}

}  // namespace

Log& Log::shared() {
  static Log* const log = new Log;
  return *log;
}

Log::Text& Log::own() {
  thread_local Text text{};
  return text;
}

void Log::log(Severity severity, const char* message) noexcept {
  if (message == nullptr || (severity != Severity::kINTERNAL_ERROR && severity != Severity::kERROR)) return;
  Text& first = own();
  if (first[0] == '\0') copy(message, first.data(), first.size());
  const std::lock_guard<std::mutex> guard(lock_);
  copy(message, last_.data(), last_.size());
}

void Log::clear() noexcept { own()[0] = '\0'; }

std::string Log::reason() {
  std::string told = plain(own().data());
  const std::lock_guard<std::mutex> guard(lock_);
  if (told.empty()) told = plain(last_.data());
  last_[0] = '\0';
  return told.empty() ? "it does not say why" : told;
}

std::string plain(const std::string& message) {
  // Said on every machine without a GPU, whatever went on; the driver's absence has its own sentence.
  for (const char* chatter : {"cudaError 35", "CUDA driver version is insufficient"}) {
    if (message.find(chatter) != std::string::npos) return "";
  }
  std::string line = trimmed(message.substr(0, message.find('\n')), " \t\r");
  while (const std::size_t prefix = prefix_of(line)) line = trimmed(line.substr(prefix), " \t\r");
  drop_place(line);
  for (const char* start : {"Internal Error (", "API Usage Error ("}) {
    if (!starts(line, start)) continue;
    line.erase(0, std::strlen(start));
    if (!line.empty() && line.back() == ')') line.pop_back();
  }
  return trimmed(line, " \t\r.");
}

}  // namespace byolt
