#include "model/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "embedded/model_data.h"
#include "model/document.h"

namespace sublet {
namespace {

// docs/decisions/0003-scaling-calibrations.md derives both.
constexpr double kScaledSwitch = 1.5;
constexpr double kScaledContext = 1.25;

Bytes RoundedUpToMib(double bytes) {
  return Bytes::FromMib(static_cast<std::int64_t>(std::ceil(bytes / (1 << 20))));
}

Result<ContextPoint> ReadContextPoint(const Node& node) {
  ContextPoint point;
  ObjectReader in(node, "context");
  in.Required("sm_percent", point.sm_percent, {.min = 1, .max = 100});
  in.Required("memory_mib", point.memory, ReadMib);
  RETURN_IF_ERROR(in.Finish());
  return point;
}

// Contexts must be as ContextAt() needs them.
void CheckContexts(const std::vector<ContextPoint>& contexts, ObjectReader& in) {
  const auto descends = [](const ContextPoint& a, const ContextPoint& b) {
    return a.sm_percent >= b.sm_percent;
  };
  if (std::adjacent_find(contexts.begin(), contexts.end(), descends) != contexts.end()) {
    return in.Reject("contexts", "contexts must have ascending sm_percent");
  }
  if (contexts.empty() || contexts.back().sm_percent != 100) {
    in.Reject("contexts", "the last context must be the one at sm_percent 100");
  }
}

// Each name once, so that a fleet's "cal.json#transformer" means one profile.
void CheckProfiles(const std::vector<WorkloadProfile>& profiles, ObjectReader& in) {
  std::set<std::string> names;
  for (const WorkloadProfile& profile : profiles) {
    if (names.insert(profile.name).second) continue;
    return in.Reject("profiles", fmt::format("two profiles of one name: '{}'", profile.name));
  }
}

// The evidence belongs to another reader; here it only has to be an object.
Result<bool> PassOver(const Node& node) {
  if (node.kind != Node::Kind::kMap) return FailAt(node, "an object is expected here");
  return true;
}

Result<Calibration> ReadCalibration(const Node& node) {
  Calibration calibration;
  ObjectReader in(node, "calibration");
  in.Version(kCalibrationVersion);
  in.Required("board", calibration.board);
  in.Required("source", calibration.source);
  in.Optional("scaled", calibration.scaled);
  // The upper ends are a thousand times what was ever measured: above is a wrong unit.
  in.Required("switch_ms", calibration.switch_ms, {.min = 0, .max = 1000});
  in.Required("mps_service_factor", calibration.mps_service_factor, {.min = 1, .max = 1000});
  in.Required("mps_clients_max", calibration.mps_clients_max, {.min = 1, .max = 100'000});
  in.RequiredList("contexts", calibration.contexts, ReadContextPoint);
  in.Required("device_reserve_mib", calibration.device_reserve, ReadMib);
  in.OptionalList("profiles", calibration.profiles, ReadProfileEntry);
  bool has_evidence = false;
  in.Optional("measurement", has_evidence, PassOver);
  CheckProfiles(calibration.profiles, in);
  if (in.Has("contexts")) CheckContexts(calibration.contexts, in);
  if (in.Has("board") && calibration.board.empty()) in.Reject("board", "board must not be empty");
  RETURN_IF_ERROR(in.Finish());
  return calibration;
}

// Where the JSON string that begins at `at` ends: behind its closing quote, or at the text's end.
std::size_t EndOfString(std::string_view text, std::size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\' ? 1 : 0;
  return std::min(at + 1, text.size());
}

// Where the JSON object that begins at `at` ends; npos where it doesn't.
std::size_t EndOfObject(std::string_view text, std::size_t at) {
  int depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      at = EndOfString(text, at);
      continue;
    }
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    ++at;
    if (depth == 0) return at;
  }
  return std::string_view::npos;
}

// The evidence of a full measurement is a hundred times what it proves, and a tree of it takes
// longer than a plan. So it is cut down to {} before the text is parsed, found by its brackets
// alone (ParseMeasurement() reads it strictly); line ends stay, so that errors keep their lines.
// Text that this doesn't understand is left as it is, for the parser to judge.
std::string WithoutEvidence(std::string_view text) {
  constexpr std::string_view kKey = "\"measurement\"";
  constexpr std::string_view kBlank = " \t\r\n";
  int depth = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (c != '"') {
      ++at;
      continue;
    }
    const std::size_t end = EndOfString(text, at);
    const bool named = depth == 1 && text.substr(at, end - at) == kKey;
    at = end;
    if (!named) continue;
    const std::size_t colon = std::min(text.find_first_not_of(kBlank, end), text.size());
    if (text.substr(colon, 1) != ":") continue;
    const std::size_t begin = std::min(text.find_first_not_of(kBlank, colon + 1), text.size());
    if (text.substr(begin, 1) != "{") continue;
    const std::size_t until = EndOfObject(text, begin);
    if (until == std::string_view::npos) break;
    std::string cut(text.substr(0, begin + 1));
    cut.append(static_cast<std::size_t>(
                   std::count(text.begin() + static_cast<std::ptrdiff_t>(begin),
                              text.begin() + static_cast<std::ptrdiff_t>(until), '\n')),
               '\n');
    return cut.append("}").append(text.substr(until));
  }
  return std::string(text);
}

// The profiles in a file, whichever of the two kinds it is.
Result<std::vector<WorkloadProfile>> ReadProfiles(const Node& node) {
  const Node* version = node.Find("version");
  if (version != nullptr && version->scalar.starts_with("sublet.calibration/")) {
    ASSIGN_OR_RETURN(Calibration calibration, ReadCalibration(node));
    return std::move(calibration.profiles);
  }
  ASSIGN_OR_RETURN(WorkloadProfile profile, ReadWorkloadProfile(node));
  return std::vector<WorkloadProfile>{std::move(profile)};
}

}  // namespace

Bytes Calibration::ContextAt(double sm_percent) const {
  CHECK(!contexts.empty());
  const auto above = std::find_if(contexts.begin(), contexts.end(), [&](const ContextPoint& point) {
    return static_cast<double>(point.sm_percent) >= sm_percent;
  });
  if (above == contexts.begin()) return RoundedUpToMib(static_cast<double>(above->memory.count));
  const ContextPoint& low = *std::prev(above);
  if (above == contexts.end()) return RoundedUpToMib(static_cast<double>(low.memory.count));
  const double part = (sm_percent - low.sm_percent) / (above->sm_percent - low.sm_percent);
  const double step = static_cast<double>(above->memory.count - low.memory.count);
  return RoundedUpToMib(static_cast<double>(low.memory.count) + part * step);
}

const Calibration& DefaultCalibration() {
  static const Calibration kDefault = [] {
    Result<Calibration> parsed = ParseCalibration(embedded::h200_json, "h200.json");
    CHECK(parsed.has_value());
    return *std::move(parsed);
  }();
  return kDefault;
}

Calibration ForBoard(const Calibration& calibration, const Board& board) {
  if (calibration.board == board.name) return calibration;
  Calibration scaled = calibration;
  scaled.board = board.name;
  scaled.source = fmt::format("scaled from {}: {}", calibration.board, calibration.source);
  scaled.scaled = true;
  scaled.profiles.clear();
  scaled.switch_ms *= kScaledSwitch;
  for (ContextPoint& point : scaled.contexts) {
    point.memory = RoundedUpToMib(static_cast<double>(point.memory.count) * kScaledContext);
  }
  return scaled;
}

nlohmann::ordered_json CalibrationToJson(const Calibration& calibration) {
  nlohmann::ordered_json contexts = nlohmann::ordered_json::array();
  for (const ContextPoint& point : calibration.contexts) {
    contexts.push_back({{"sm_percent", point.sm_percent}, {"memory_mib", point.memory.mib()}});
  }
  nlohmann::ordered_json json{{"version", kCalibrationVersion},
                              {"board", calibration.board},
                              {"source", calibration.source},
                              {"scaled", calibration.scaled},
                              {"switch_ms", calibration.switch_ms},
                              {"mps_service_factor", calibration.mps_service_factor},
                              {"mps_clients_max", calibration.mps_clients_max},
                              {"contexts", std::move(contexts)},
                              {"device_reserve_mib", calibration.device_reserve.mib()}};
  if (calibration.profiles.empty()) return json;
  nlohmann::ordered_json& profiles = json["profiles"] = nlohmann::ordered_json::array();
  for (const WorkloadProfile& profile : calibration.profiles) {
    profiles.push_back(ProfileEntryToJson(profile));
  }
  return json;
}

Result<Calibration> ParseCalibration(std::string_view text, std::string_view source) {
  return ParseAs(WithoutEvidence(text), source, ReadCalibration);
}

Result<WorkloadProfile> ParseProfileNamed(std::string_view text, std::string_view source,
                                          std::string_view name) {
  ASSIGN_OR_RETURN(const std::vector<WorkloadProfile> profiles,
                   ParseAs(WithoutEvidence(text), source, ReadProfiles));
  std::vector<std::string_view> known;
  for (const WorkloadProfile& profile : profiles) {
    if (profile.name == name || (name.empty() && profiles.size() == 1)) return profile;
    known.push_back(profile.name);
  }
  if (profiles.empty()) {
    return Fail(ErrorCode::kInvalid, fmt::format("no workload profiles in {}", source),
                "measure one: sublet profile -o FILE -- COMMAND");
  }
  if (name.empty()) {
    return Fail(ErrorCode::kInvalid, fmt::format("several workload profiles in {}", source),
                fmt::format("name one behind '#': {}", fmt::join(known, ", ")));
  }
  return Fail(ErrorCode::kInvalid,
              fmt::format("no such workload profile in {}: '{}'", source, name.substr(0, 64)),
              SuggestFor(name, known));
}

}  // namespace sublet
