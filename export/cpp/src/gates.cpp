#include "gates.hpp"

#include <algorithm>
#include <cmath>

#include "byolt/error.hpp"
#include "json_fields.hpp"
#include "text.hpp"

namespace byolt {
namespace {

using nlohmann::json;

constexpr double kByChance = 0.001;  // Of golden images drawn again and again, how many may fall short by chance.
constexpr std::size_t kMostJudged = 4096;

Gates built_in(const std::string& precision) {
  if (precision == "fp32") return {1e-4, 1e-4, 0.99999, 0.99, 0.99, 0.99, 0};
  if (precision == "fp16") return {0.03, 0.1, 0.98, 0.99, 0.98, 0.99, 0.2};
  return {0.05, 0.25, 0.9, 0.95, 0.95, 0.97, 0.4};  // int8
}

/// The gates of one entry of parity.json; names that are none of Gates are passed over.
Limits read_limits(const json& value, const std::string& where) {
  if (!value.is_object()) throw FieldError(where, "it must be an object");
  Limits limits;
  for (const auto& item : value.items()) limits[item.key()] = to_number(item.value(), where);
  return limits;
}

}  // namespace

double least_share(double share, std::size_t images) {
  images = std::min(images, kQueries);
  const auto count = static_cast<double>(images);
  double missed = 0, probability = std::pow(share, count), so_far = probability;
  while (so_far < 1 - kByChance && missed < count) {
    probability *= (count - missed) / (missed + 1) * (1 - share) / share;
    missed += 1;
    so_far += probability;
  }
  return (count - missed) / count;
}

Gates gates_of(const std::string& precision, std::size_t images, std::initializer_list<Limits> asked) {
  Gates gates = built_in(precision);
  for (double* share : {&gates.overlap_at_1, &gates.overlap_at_10, &gates.top_1_agreement}) {
    *share = least_share(*share, images);
  }
  const auto tighten = [&](const char* name, double& limit, bool upper) {
    for (const Limits& limits : asked) {
      const auto found = limits.find(name);
      if (found != limits.end()) limit = upper ? std::min(limit, found->second) : std::max(limit, found->second);
    }
  };
  tighten("relative_l2_mean_max", gates.relative_l2_mean_max, true);
  tighten("relative_l2_worst_max", gates.relative_l2_worst_max, true);
  tighten("centred_cosine_worst", gates.centred_cosine_worst, false);
  tighten("overlap_at_1", gates.overlap_at_1, false);
  tighten("overlap_at_10", gates.overlap_at_10, false);
  tighten("top_1_agreement", gates.top_1_agreement, false);
  tighten("unnoticed_perturbation_max", gates.unnoticed_perturbation_max, true);
  tighten("drift_mean_max", gates.drift_mean_max, true);
  return gates;
}

std::map<std::string, Limits> parse_judged_gates(const std::string& text, const std::string& where,
                                                 const std::vector<std::string>& names) {
  std::map<std::string, Limits> judged;
  std::multiset<std::string> listed;
  try {
    const json all = parse_json(text);
    if (!all.is_object() || !all.contains("files")) throw FieldError("the file", "it lists no files");
    for (const json& entry : to_array(all["files"], "files", 0, kMostJudged)) {
      if (!entry.is_object() || !entry.contains("name") || !entry.contains("gates")) {
        throw FieldError("files", "an entry has no name or no gates");
      }
      const std::string name = to_text(entry["name"], "files.name");
      judged[name] = read_limits(entry["gates"], "files.gates");
      listed.insert(name);
    }
  } catch (const FieldError& error) {
    throw Error(Code::input, where + " does not fit: " + error.what() + "; export it again");
  }
  for (const std::string& name : names) {
    if (listed.count(name) != 1) {
      throw Error(Code::input, where + " does not list " + name + " once: export it again");
    }
  }
  return judged;
}

std::vector<std::string> distances(const Measures& measures, const Gates& gates) {
  std::vector<std::string> found;
  if (!measures.finite) found.emplace_back("outputs are not finite");
  if (measures.relative_l2_worst > gates.relative_l2_worst_max) {
    found.push_back("relative L2 " + short_number(measures.relative_l2_worst) + " of image " +
                    std::to_string(measures.worst_image) + " is above " + short_number(gates.relative_l2_worst_max));
  }
  if (measures.relative_l2_mean > gates.relative_l2_mean_max) {
    found.push_back("mean relative L2 " + short_number(measures.relative_l2_mean) + " is above " +
                    short_number(gates.relative_l2_mean_max));
  }
  return found;
}

std::vector<std::string> faults(const Measures& measures, const Gates& gates) {
  std::vector<std::string> found = distances(measures, gates);
  const auto at_least = [&](const char* name, std::optional<double> value, double limit) {
    if (value && *value < limit) {
      found.push_back(std::string(name) + " " + long_number(*value) + " is below " + long_number(limit));
    }
  };
  at_least("centred cosine worst", measures.centred_cosine_worst, gates.centred_cosine_worst);
  at_least("overlap at 1", measures.overlap_at_1, gates.overlap_at_1);
  at_least("overlap at 10", measures.overlap_at_10, gates.overlap_at_10);
  at_least("top 1 agreement", measures.top_1_agreement, gates.top_1_agreement);
  return found;
}

}  // namespace byolt
