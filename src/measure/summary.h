// measure/summary.h
//
// A measurement for a terminal: the answer first, then how many replicas fit in each mode, what an
// SM cap does, who disturbs whom, and the grades.
//
//   fmt::print("{}", MeasurementSummary(seen, forecasts, GradeLessons(seen), {.colour =
//   WantsColour()}));
//
// Thread safety: pure function.
#pragma once

#include <string>
#include <vector>

#include "measure/lessons.h"
#include "model/measurement.h"

namespace sublet {

struct MeasurementStyle {
  bool colour = false;
};

std::string MeasurementSummary(const Measurement& seen, const std::vector<Forecast>& forecasts,
                               const std::vector<Lesson>& lessons, const MeasurementStyle& style);

}  // namespace sublet
