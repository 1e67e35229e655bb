#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// JSON from anywhere, read strictly: known keys alone, each of its own type and within its bounds.
namespace byolt {

/// What in a JSON document does not fit, as `where: what`.
class FieldError : public std::exception {
 public:
  FieldError(const std::string& where, const std::string& what) : text_(where + ": " + what) {}
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

/// One JSON object whose keys are all known.
class Fields {
 public:
  /// @param known keys that may stand; those that `find` returns null for are optional
  Fields(const nlohmann::json& value, std::string where, std::initializer_list<const char*> known);

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] std::string at(const std::string& key) const { return where_.empty() ? key : where_ + "." + key; }

  [[nodiscard]] const nlohmann::json* find(const std::string& key) const;
  [[nodiscard]] const nlohmann::json& need(const std::string& key) const;

  [[nodiscard]] std::string text(const std::string& key) const;
  [[nodiscard]] std::string one_of(const std::string& key, std::initializer_list<const char*> allowed) const;
  [[nodiscard]] std::string sha256(const std::string& key) const;
  [[nodiscard]] std::string file_name(const std::string& key, const std::string& suffix) const;
  [[nodiscard]] std::string word(const std::string& key) const;
  [[nodiscard]] std::int64_t integer(const std::string& key, std::int64_t least, std::int64_t most) const;
  [[nodiscard]] bool boolean(const std::string& key) const;
  [[nodiscard]] std::vector<std::string> texts(const std::string& key) const;

 private:
  const nlohmann::json& value_;
  std::string where_;
};

std::int64_t to_integer(const nlohmann::json& value, const std::string& where, std::int64_t least, std::int64_t most);
double to_number(const nlohmann::json& value, const std::string& where);
std::string to_text(const nlohmann::json& value, const std::string& where);
const nlohmann::json& to_array(const nlohmann::json& value, const std::string& where, std::size_t least,
                               std::size_t most);

/// @throws FieldError it is no JSON, or nested deeper than anything of byolt's
nlohmann::json parse_json(const std::string& text);

}  // namespace byolt
