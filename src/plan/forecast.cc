#include "plan/forecast.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "plan/saturation.h"

namespace sublet {
namespace {

// A profile's curve goes through two of the crowds under a cap, and through those exactly.
constexpr double kSamePoint = 1e-4;

const WorkloadProfile* ProfileOf(const Calibration& calibration, const std::string& workload) {
  const auto it = std::ranges::find(calibration.profiles, workload, &WorkloadProfile::name);
  return it == calibration.profiles.end() ? nullptr : &*it;
}

// Copies of one program with one cap, each process with one stream.
bool IsCrowd(const Run& run) {
  return run.tenants.size() >= 2 && run.streams == 1 && run.IsUniform();
}

// By server: how many of the run's tenants are its clients.
std::vector<BusyKind> KindsOf(const Run& run, const WorkloadProfile& profile) {
  const int copies = static_cast<int>(run.tenants.size());
  if (run.mode == SharingMode::kTimeSlicing) {
    return {{.count = copies, .unit_ms = profile.service_ms, .steps = profile.steps}};
  }
  const double cap = run.tenants.front().sm_percent.value_or(100);
  const double speed = profile.SpeedAt(cap);
  BusyKind kind = KindUnderMps(
      profile, {.sm_percent = cap, .stretch = 1 / speed, .capacity = 1, .share = cap / 100});
  std::vector<BusyKind> kinds;
  for (int server = 0; server < run.servers; ++server) {
    kind.server = server;
    kind.count = static_cast<int>(std::ranges::count(run.tenants, server, &TenantFigures::server));
    if (kind.count > 0) kinds.push_back(kind);
  }
  return kinds;
}

std::optional<Forecast> ForecastOf(const Run& run, const Calibration& calibration) {
  const bool sliced = run.mode == SharingMode::kTimeSlicing;
  if ((!sliced && run.mode != SharingMode::kMps) || !IsCrowd(run)) return std::nullopt;
  const WorkloadProfile* const profile = ProfileOf(calibration, run.tenants.front().workload);
  if (profile == nullptr) return std::nullopt;
  const std::vector<BusyKind> kinds = KindsOf(run, *profile);
  const std::vector<BusyFigures> figures = sliced ? TakingTurns(kinds, calibration.switch_ms)
                                                  : UnderMpsServers(kinds, calibration.switch_ms);
  Forecast forecast;
  forecast.run = run.id;
  forecast.rate_per_s = TotalPerS(kinds, figures);
  forecast.latency_ms_p50 = figures.front().latency_ms;
  forecast.given = !sliced && run.servers == 1 &&
                   std::abs(forecast.rate_per_s / run.total_per_s.value - 1) < kSamePoint;
  return forecast;
}

}  // namespace

std::vector<Forecast> ForecastRuns(const Measurement& measurement, const Calibration& calibration) {
  std::vector<Forecast> forecasts;
  for (const Run& run : measurement.runs) {
    if (std::optional<Forecast> forecast = ForecastOf(run, calibration)) {
      forecasts.push_back(*std::move(forecast));
    }
  }
  return forecasts;
}

nlohmann::ordered_json ForecastsToJson(const std::vector<Forecast>& forecasts) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Forecast& forecast : forecasts) {
    json.push_back({{"run", forecast.run},
                    {"rate_per_s", forecast.rate_per_s},
                    {"latency_ms_p50", forecast.latency_ms_p50},
                    {"given", forecast.given}});
  }
  return json;
}

}  // namespace sublet
