#include "model/workload_profile.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "model/document.h"

namespace sublet {
namespace {

// Above these a number is a wrong unit or a broken file: a billion units a second, two weeks a
// unit.
constexpr Range kRate{.min = 1e-6, .max = 1e9};
constexpr Range kMilliseconds{.min = 0, .max = 1e9};
constexpr Range kTraffic{.min = 0, .max = 1e9};
constexpr int kCrowdMax = 10'000;  // Processes on one GPU; MPS serves 48.

// Halvings of the range of the sharpness: more than the doubles in it can tell apart.
constexpr int kFitSteps = 60;

// What a product of a few fractions may be off by.
constexpr double kRounding = 1e-9;

// The value at `x` of the line through the points (x, y), ascending in x; REQUIRES: x lies between
// the first and the last.
double OnLine(const std::vector<std::pair<double, double>>& points, double x) {
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (x > points[i].first) continue;
    const double part = (x - points[i - 1].first) / (points[i].first - points[i - 1].first);
    return points[i - 1].second + part * (points[i].second - points[i - 1].second);
  }
  return points.back().second;
}

double SlowdownOf(double alone_per_s, const CrowdRate& crowd) {
  return crowd.copies * alone_per_s / crowd.per_s;
}

Result<ProfilePoint> ReadPoint(const Node& node) {
  ProfilePoint point;
  ObjectReader in(node, "profile point");
  in.Required("sm_percent", point.sm_percent, {.min = 1, .max = 100});
  in.Required("alone_per_s", point.alone_per_s, kRate);
  in.Required("latency_ms_p50", point.latency_ms_p50, kMilliseconds);
  in.Required("latency_ms_p99", point.latency_ms_p99, kMilliseconds);
  in.Optional("crowd_per_s", point.crowd_per_s, kRate);
  in.Optional("sharpness", point.sharpness, {.min = kSharpnessMin, .max = kSharpnessMax});
  in.Required("context_mib", point.context, ReadMib);
  RETURN_IF_ERROR(in.Finish());
  return point;
}

// Points must be as SpeedAt() needs them, and a crowd's figures have a crowd.
void CheckPoints(const WorkloadProfile& profile, ObjectReader& in) {
  const auto descends = [](const ProfilePoint& a, const ProfilePoint& b) {
    return a.sm_percent >= b.sm_percent;
  };
  const auto& points = profile.points;
  if (std::adjacent_find(points.begin(), points.end(), descends) != points.end()) {
    return in.Reject("points", "points must have ascending sm_percent");
  }
  if (points.empty() || points.back().sm_percent != 100) {
    return in.Reject("points", "the last point must be the one at sm_percent 100");
  }
  const bool crowded = std::any_of(points.begin(), points.end(), [](const ProfilePoint& point) {
    return point.crowd_per_s.has_value();
  });
  if (crowded && profile.crowd == 0) {
    in.Reject("points", "points with crowd_per_s need crowd, the number of copies");
  }
}

// Reads all fields; `versioned` where the object is a file of its own.
Result<WorkloadProfile> ReadProfile(const Node& node, bool versioned) {
  WorkloadProfile profile;
  ObjectReader in(node, "workload profile");
  if (versioned) in.Version(kWorkloadProfileVersion);
  in.Required("name", profile.name);
  in.Required("board", profile.board);
  in.Required("source", profile.source);
  in.Required("unit", profile.unit);
  in.Required("service_ms", profile.service_ms, {.min = 0.0001, .max = 1e9});
  in.Optional("steps", profile.steps, {.min = 1, .max = 1'000'000});
  in.Required("memory_mib", profile.memory, ReadMib);
  in.Optional("bandwidth_percent", profile.bandwidth_percent, {.min = 0, .max = 100});
  in.Optional("copy_to_device_mib_s", profile.copy_to_device_mib_s, kTraffic);
  in.Optional("copy_from_device_mib_s", profile.copy_from_device_mib_s, kTraffic);
  in.Optional("crowd", profile.crowd, {.min = 0, .max = kCrowdMax});
  in.Optional("sharpness", profile.sharpness, {.min = kSharpnessMin, .max = kSharpnessMax});
  in.RequiredList("points", profile.points, ReadPoint);
  if (in.Has("name") && profile.name.empty()) in.Reject("name", "name must not be empty");
  if (in.Has("board") && profile.board.empty()) in.Reject("board", "board must not be empty");
  if (profile.crowd == 1) in.Reject("crowd", "one copy is no crowd");
  if (in.Has("points")) CheckPoints(profile, in);
  RETURN_IF_ERROR(in.Finish());
  return profile;
}

}  // namespace

std::vector<double> WorkloadProfile::Speeds() const {
  CHECK(!points.empty());
  const double full = points.back().alone_per_s;
  std::vector<double> speeds;
  double highest = 0;
  for (const ProfilePoint& point : points) {
    highest = std::max(highest, std::min(1.0, point.alone_per_s / full));
    speeds.push_back(highest);
  }
  return speeds;
}

double WorkloadProfile::SpeedAt(double sm_percent) const {
  const std::vector<double> speeds = Speeds();
  std::vector<std::pair<double, double>> line{{0, 0}};
  for (std::size_t i = 0; i < points.size(); ++i) {
    line.emplace_back(points[i].sm_percent, speeds[i]);
  }
  return OnLine(line, sm_percent);
}

int WorkloadProfile::Knee(double part) const {
  const std::vector<double> speeds = Speeds();
  const auto knee = std::find_if(speeds.begin(), speeds.end(), [&](double v) { return v >= part; });
  return knee == speeds.end() ? 100
                              : points[static_cast<std::size_t>(knee - speeds.begin())].sm_percent;
}

std::optional<double> WorkloadProfile::CrowdAt(double sm_percent) const {
  std::vector<std::pair<double, double>> line{{0, 0}};
  for (const ProfilePoint& point : points) {
    if (point.crowd_per_s) line.emplace_back(point.sm_percent, *point.crowd_per_s);
  }
  // A looser cap can have the smaller capacity, so nothing is said above the last. But 55 % of the
  // 60 SMs of a MIG instance, of 132, are 25 % in whatever order they are multiplied.
  const double last = line.back().first;
  if (crowd < 2 || sm_percent > last * (1 + kRounding)) return std::nullopt;
  return OnLine(line, std::min(sm_percent, last));
}

double WorkloadProfile::SharpnessAt(double sm_percent) const {
  std::vector<std::pair<double, double>> line;
  for (const ProfilePoint& point : points) {
    const std::optional<double> known = point.sharpness ? point.sharpness : sharpness;
    if (known) line.emplace_back(point.sm_percent, *known);
  }
  if (line.empty()) return kSharpnessUnknown;
  return sm_percent <= line.front().first ? line.front().second : OnLine(line, sm_percent);
}

double DemandOfOne(double alone_per_s, const CrowdRate& crowd, double sharpness) {
  CHECK(crowd.copies >= 2);
  const double slowdown = SlowdownOf(alone_per_s, crowd);
  if (slowdown <= 1) return 0;
  const double ratio =
      (std::pow(slowdown, sharpness) - 1) / (std::pow(crowd.copies, sharpness) - 1);
  return std::min(1.0, std::pow(ratio, 1 / sharpness));
}

std::optional<double> FitSharpness(double alone_per_s, const CrowdRate& few,
                                   const CrowdRate& crowd) {
  CHECK(few.copies > 1 && few.copies < crowd.copies);
  if (SlowdownOf(alone_per_s, crowd) <= 1) return std::nullopt;
  const double seen = SlowdownOf(alone_per_s, few);
  // The sharper the curve, the later the few are slowed.
  const auto slowdown = [&](double sharpness) {
    const double demand = DemandOfOne(alone_per_s, crowd, sharpness);
    return std::pow(1 + (std::pow(few.copies, sharpness) - 1) * std::pow(demand, sharpness),
                    1 / sharpness);
  };
  double low = kSharpnessMin;
  double high = kSharpnessMax;
  for (int step = 0; step < kFitSteps; ++step) {
    const double middle = (low + high) / 2;
    (slowdown(middle) > seen ? low : high) = middle;
  }
  return (low + high) / 2;
}

nlohmann::ordered_json ProfileEntryToJson(const WorkloadProfile& profile) {
  nlohmann::ordered_json points = nlohmann::ordered_json::array();
  for (const ProfilePoint& point : profile.points) {
    nlohmann::ordered_json json{{"sm_percent", point.sm_percent},
                                {"alone_per_s", point.alone_per_s},
                                {"latency_ms_p50", point.latency_ms_p50},
                                {"latency_ms_p99", point.latency_ms_p99}};
    if (point.crowd_per_s) json["crowd_per_s"] = *point.crowd_per_s;
    if (point.sharpness) json["sharpness"] = *point.sharpness;
    json["context_mib"] = point.context.mib_rounded_up();
    points.push_back(std::move(json));
  }
  nlohmann::ordered_json json{{"name", profile.name},
                              {"board", profile.board},
                              {"source", profile.source},
                              {"unit", profile.unit},
                              {"service_ms", profile.service_ms},
                              {"steps", profile.steps},
                              {"memory_mib", profile.memory.mib_rounded_up()}};
  if (profile.bandwidth_percent) json["bandwidth_percent"] = *profile.bandwidth_percent;
  json["copy_to_device_mib_s"] = profile.copy_to_device_mib_s;
  json["copy_from_device_mib_s"] = profile.copy_from_device_mib_s;
  json["crowd"] = profile.crowd;
  if (profile.sharpness) json["sharpness"] = *profile.sharpness;
  json["points"] = std::move(points);
  return json;
}

nlohmann::ordered_json WorkloadProfileToJson(const WorkloadProfile& profile) {
  nlohmann::ordered_json json{{"version", kWorkloadProfileVersion}};
  json.update(ProfileEntryToJson(profile));
  return json;
}

Result<WorkloadProfile> ReadProfileEntry(const Node& node) {
  return ReadProfile(node, false);
}

Result<WorkloadProfile> ReadWorkloadProfile(const Node& node) {
  return ReadProfile(node, true);
}

Result<WorkloadProfile> ParseWorkloadProfile(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadWorkloadProfile);
}

}  // namespace sublet
