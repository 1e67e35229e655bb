#include "json_fields.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace byolt {
namespace {

using nlohmann::json;

constexpr int kDeepest = 16;
constexpr std::size_t kLongestName = 91;  // Before the suffix.
constexpr std::size_t kLongestWord = 61;

bool is_alphanumeric(char letter) {
  return (letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z');
}

/// A key as it may stand in a sentence: what is not plain is left out.
std::string plain(const std::string& key) {
  std::string kept = key.substr(0, 40);
  kept.erase(
      std::remove_if(kept.begin(), kept.end(), [](char c) { return !is_alphanumeric(c) && c != '_' && c != '.'; }),
      kept.end());
  return kept;
}

std::string joined(std::initializer_list<const char*> words) {
  std::string all;
  for (const char* word : words) all += (all.empty() ? "" : ", ") + std::string(word);
  return all;
}

}  // namespace

Fields::Fields(const json& value, std::string where, std::initializer_list<const char*> known)
    : value_(value), where_(std::move(where)) {
  if (!value.is_object()) throw FieldError(where_.empty() ? "the file" : where_, "it must be an object");
  for (const auto& item : value.items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end())
      throw FieldError(at(plain(item.key())), "unknown key");
  }
}

const json* Fields::find(const std::string& key) const {
  const auto found = value_.find(key);
  return found == value_.end() ? nullptr : &*found;
}

const json& Fields::need(const std::string& key) const {
  const json* found = find(key);
  if (found == nullptr) throw FieldError(at(key), "it is missing");
  return *found;
}

std::string Fields::text(const std::string& key) const { return to_text(need(key), at(key)); }

std::string Fields::one_of(const std::string& key, std::initializer_list<const char*> allowed) const {
  const std::string value = text(key);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    throw FieldError(at(key), "it must be one of " + joined(allowed));
  }
  return value;
}

std::string Fields::sha256(const std::string& key) const {
  const std::string value = text(key);
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (value.size() != 64 || !std::all_of(value.begin(), value.end(), is_hex)) {
    throw FieldError(at(key), "it must be a SHA-256 of 64 hex digits");
  }
  return value;
}

// No way out of the folder: no separator, and no dot in front.
std::string Fields::file_name(const std::string& key, const std::string& suffix) const {
  const std::string value = text(key);
  const auto allowed = [](char c) { return is_alphanumeric(c) || c == '.' || c == '_' || c == '-'; };
  const bool fits = value.size() > suffix.size() && value.size() - suffix.size() <= kLongestName &&
                    value.compare(value.size() - suffix.size(), suffix.size(), suffix) == 0 &&
                    is_alphanumeric(value[0]) && std::all_of(value.begin(), value.end(), allowed);
  if (!fits) throw FieldError(at(key), "it must be a plain file name that ends in " + suffix);
  return value;
}

std::string Fields::word(const std::string& key) const {
  const std::string value = text(key);
  const auto allowed = [](char c) { return is_alphanumeric(c) || c == '.' || c == '_' || c == '+' || c == '-'; };
  const bool fits = !value.empty() && value.size() <= kLongestWord && is_alphanumeric(value[0]) &&
                    std::all_of(value.begin(), value.end(), allowed);
  if (!fits) throw FieldError(at(key), "it must be a plain word");
  return value;
}

std::int64_t Fields::integer(const std::string& key, std::int64_t least, std::int64_t most) const {
  return to_integer(need(key), at(key), least, most);
}

bool Fields::boolean(const std::string& key) const {
  const json& value = need(key);
  if (!value.is_boolean()) throw FieldError(at(key), "it must be true or false");
  return value.get<bool>();
}

std::vector<std::string> Fields::texts(const std::string& key) const {
  std::vector<std::string> all;
  for (const json& value : to_array(need(key), at(key), 0, SIZE_MAX)) {
    all.push_back(to_text(value, at(key) + "." + std::to_string(all.size())));
  }
  return all;
}

std::int64_t to_integer(const json& value, const std::string& where, std::int64_t least, std::int64_t most) {
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)) &&
      value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most;
  if (!fits) {
    const std::string upper = most == INT64_MAX ? "" : " to " + std::to_string(most);
    throw FieldError(where, "it must be a whole number from " + std::to_string(least) + upper);
  }
  return value.get<std::int64_t>();
}

double to_number(const json& value, const std::string& where) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) throw FieldError(where, "it must be a finite number");
  return value.get<double>();
}

std::string to_text(const json& value, const std::string& where) {
  if (!value.is_string()) throw FieldError(where, "it must be a text");
  return value.get<std::string>();
}

const json& to_array(const json& value, const std::string& where, std::size_t least, std::size_t most) {
  if (!value.is_array() || value.size() < least || value.size() > most) {
    const std::string upper = most == SIZE_MAX ? "" : " to " + std::to_string(most);
    throw FieldError(where, "it must be a list of " + std::to_string(least) + upper + " entries");
  }
  return value;  // NOLINT(bugprone-return-const-ref-from-parameter): part of the document, which stays.
}

json parse_json(const std::string& text) {
  const auto watch = [](int depth, json::parse_event_t, json&) {
    if (depth > kDeepest) throw FieldError("the file", "it is nested too deeply");
    return true;
  };
  // RFC 8259 lets a reader pass over it; byolt writes none, and Python's reader refuses it too.
  if (text.rfind("\xef\xbb\xbf", 0) == 0) throw FieldError("the file", "it starts with a byte order mark");
  try {
    return json::parse(text, watch);
  } catch (const json::exception&) {  // Its own words quote the file, which may hold anything.
    throw FieldError("the file", "it is not JSON");
  }
}

}  // namespace byolt
