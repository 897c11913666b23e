// The planner's model against what the lab measured on an H200 (docs/measured/h200.json).
#include "plan/forecast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/files.h"
#include "model/document.h"
#include "plan/planner.h"

namespace sublet {
namespace {

Measurement H200() {
  const std::string path = SUBLET_SOURCE_DIR "/docs/measured/h200.json";
  const Result<std::string> text = ReadFile(path, kDocumentBytesMax);
  const Result<Measurement> seen = ParseMeasurement(text.value_or(""), path);
  EXPECT_TRUE(seen.has_value()) << seen.error().message;
  return seen.value_or(Measurement{});
}

double MedianP50(const sublet::Run& run) {
  std::vector<double> all;
  for (const TenantFigures& tenant : run.tenants) all.push_back(tenant.latency_ms_p50);
  std::ranges::sort(all);
  return all[all.size() / 2];
}

TEST(Forecast, IsWithinFifteenPercentOfEveryRun) {
  const Measurement seen = H200();
  int predicted = 0;
  for (const Forecast& forecast : ForecastRuns(seen, DefaultCalibration())) {
    const sublet::Run& run = *seen.Find(forecast.run);
    EXPECT_NEAR(forecast.rate_per_s / run.total_per_s.value, 1, 0.15) << run.id;
    EXPECT_NEAR(forecast.latency_ms_p50 / MedianP50(run), 1, 0.15) << run.id;
    predicted += forecast.given ? 0 : 1;
  }
  // Of each mode and size some, and not only what the model was drawn through.
  EXPECT_GE(predicted, 12);
}

TEST(Forecast, OfAWorkloadWithoutAProfileIsNone) {
  Calibration without = DefaultCalibration();
  without.profiles.clear();
  EXPECT_TRUE(ForecastRuns(H200(), without).empty());
}

// The best cap of the sweep and the one that the planner picks, by what was measured.
TEST(Forecast, TheCapPickedForFortyReplicasReaches95PercentOfTheBest) {
  const std::string path = SUBLET_SOURCE_DIR "/examples/03_plan/forty-encoders.yaml";
  const Result<std::string> text = ReadFile(path, kDocumentBytesMax);
  const auto beside = [](const std::string& file) {
    return ReadFile(SUBLET_SOURCE_DIR "/examples/03_plan/" + file, kDocumentBytesMax);
  };
  PlanRequest request;
  Result<Fleet> fleet = ParseFleet(text.value_or(""), path, beside);
  ASSERT_TRUE(fleet.has_value()) << fleet.error().message;
  request.fleet = *std::move(fleet);
  request.catalogue = &BuiltInBoards();
  request.calibration = &DefaultCalibration();
  const Result<Plan> plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  const std::optional<int> picked = plan->gpus.at(0).partitions.at(0).replicas.at(0).sm_percent;
  double best = 0;
  double reached = 0;
  for (const sublet::Run& run : H200().runs) {
    if (run.mode != SharingMode::kMps || run.servers != 1 || run.tenants.size() != 40) continue;
    best = std::max(best, run.total_per_s.value);
    if (run.tenants[0].sm_percent == picked) reached = run.total_per_s.value;
  }
  ASSERT_GT(best, 0);
  EXPECT_GE(reached, 0.95 * best) << "picked " << picked.value_or(100);
}

}  // namespace
}  // namespace sublet
