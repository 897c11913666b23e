#include "measure/crowd_profile.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "measure/lab_runs.h"
#include "measure/statistics.h"
#include "measure/workload.h"

namespace sublet {
namespace {

// The runs of one workload: by cap, then by the number of copies.
using Grid = std::map<int, std::map<int, const Run*>>;

Grid GridOf(const Measurement& measurement, std::string_view workload) {
  Grid grid;
  for (const Run* run : UniformRuns(measurement, SharingMode::kMps, workload)) {
    const Run*& place = grid[CapOf(*run)][static_cast<int>(run->tenants.size())];
    // Of a run without a cap and one capped at 100 %, the one without says what no cap means.
    if (place == nullptr || !run->tenants.front().sm_percent) place = run;
  }
  return grid;
}

// 0 where no cap has a crowd together with a run alone.
int CrowdOf(const Grid& grid) {
  std::map<int, int> caps;  // By the number of copies.
  for (const auto& [cap, by_copies] : grid) {
    if (!by_copies.contains(1)) continue;
    for (const auto& [copies, run] : by_copies) {
      if (copies >= 2) ++caps[copies];
    }
  }
  int crowd = 0;
  int most = 0;
  for (const auto& [copies, count] : caps) {
    if (count >= most) {
      most = count;
      crowd = copies;
    }
  }
  return crowd;
}

Bytes ContextOf(const Run& run, std::string_view workload, const Calibration& calibration) {
  const TenantFigures& tenant = run.tenants.front();
  const std::optional<Bytes> buffers = BuffersOf(workload, 1);
  if (tenant.memory && buffers && *tenant.memory > *buffers) return *tenant.memory - *buffers;
  return calibration.ContextAt(CapOf(run));
}

ProfilePoint PointAt(const std::map<int, const Run*>& by_copies, int crowd) {
  const Run& alone = *by_copies.at(1);
  ProfilePoint point;
  point.sm_percent = CapOf(alone);
  point.alone_per_s = alone.total_per_s.value;
  point.latency_ms_p50 = alone.tenants.front().latency_ms_p50;
  point.latency_ms_p99 = alone.tenants.front().latency_ms_p99;
  const auto all = by_copies.find(crowd);
  if (all == by_copies.end()) return point;
  point.crowd_per_s = all->second->total_per_s.value;
  std::vector<CrowdRate> fewer;
  for (const auto& [copies, run] : by_copies) {
    if (copies > 1 && copies < crowd) fewer.push_back({copies, run->total_per_s.value});
  }
  point.sharpness = CrowdSharpness(point.alone_per_s, fewer, {crowd, *point.crowd_per_s});
  return point;
}

// As model/workload_profile.h has the curve.
double SlowdownOnCurve(int copies, double demand, double sharpness) {
  return std::pow(1 + (std::pow(copies, sharpness) - 1) * std::pow(demand, sharpness),
                  1 / sharpness);
}

}  // namespace

std::optional<double> CrowdSharpness(double alone_per_s, const std::vector<CrowdRate>& fewer,
                                     const CrowdRate& crowd) {
  std::optional<double> best;
  double least = std::numeric_limits<double>::infinity();
  for (const CrowdRate& few : fewer) {
    const std::optional<double> sharpness = FitSharpness(alone_per_s, few, crowd);
    if (!sharpness) return std::nullopt;
    const double demand = DemandOfOne(alone_per_s, crowd, *sharpness);
    double error = 0;
    for (const CrowdRate& seen : fewer) {
      const double slowdown = SlowdownOnCurve(seen.copies, demand, *sharpness);
      const double rate = seen.copies * alone_per_s / slowdown;
      error += std::pow(std::log(rate / seen.per_s), 2);
    }
    if (error < least) {
      least = error;
      best = sharpness;
    }
  }
  return best;
}

Result<WorkloadProfile> ProfileFromLab(const Measurement& measurement, std::string_view workload,
                                       const Calibration& calibration) {
  const WorkloadFacts* facts = FindWorkload(workload);
  const Run* alone = AloneRun(measurement, workload);
  if (facts == nullptr || alone == nullptr) {
    return Fail(ErrorCode::kNotFound, fmt::format("no run alone: {}", workload));
  }
  const Grid grid = GridOf(measurement, workload);
  WorkloadProfile profile;
  profile.crowd = CrowdOf(grid);
  for (const auto& [cap, by_copies] : grid) {
    if (!by_copies.contains(1)) continue;
    profile.points.push_back(PointAt(by_copies, profile.crowd));
    profile.points.back().context = ContextOf(*by_copies.at(1), workload, calibration);
  }
  if (profile.points.size() < 2 || profile.points.back().sm_percent != 100) {
    return Fail(ErrorCode::kNotFound,
                fmt::format("not run alone under several SM caps and without one: {}", workload));
  }
  profile.name = workload;
  profile.board = calibration.board;
  profile.source = calibration.source;
  profile.unit = facts->unit;
  profile.service_ms = 1000 / alone->total_per_s.value;
  profile.memory = *BuffersOf(workload, 1);
  // The whole GPU's curve also stands for caps at which only one size of crowd was run.
  profile.sharpness = profile.points.back().sharpness;
  return profile;
}

}  // namespace sublet
