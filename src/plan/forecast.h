// plan/forecast.h
//
// What the planner's model expects of the lab's own runs, to be held against what was measured.
//
//   for (const Forecast& f : ForecastRuns(measurement, calibration)) {
//     const Run& run = *measurement.Find(f.run);
//     f.rate_per_s / run.total_per_s.value      // 1 where the model is right
//   }
//
// There is one for each run of several copies of one workload that has a profile in the
// calibration, under time-slicing, MPS, or two MPS servers. Where a profile's crowd was measured by
// the run itself, the model can only return it; the others are predictions.
//
// Pure. Thread safety: no shared state.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "model/calibration.h"
#include "model/measurement.h"

namespace sublet {

std::vector<Forecast> ForecastRuns(const Measurement& measurement, const Calibration& calibration);

// [{"run", "rate_per_s", "latency_ms_p50", "given"}]
nlohmann::ordered_json ForecastsToJson(const std::vector<Forecast>& forecasts);

}  // namespace sublet
