// measure/profile_chart.h
//
// A workload profile as text for a terminal: the curve of throughput over SM caps with the knee
// marked, and a table. At most 80 columns.
//
// Pure. Thread safety: no shared state.
#pragma once

#include <string>

#include "model/workload_profile.h"

namespace sublet {

struct ChartStyle {
  bool colour = false;
  bool unicode = true;  // Braille dots for the curve; else plain characters.
};

std::string ProfileChart(const WorkloadProfile& profile, const ChartStyle& style);
std::string ProfileTable(const WorkloadProfile& profile, const ChartStyle& style);

// "4,244", "12.3", "0.0521": three digits that count, from a thousand on all before the point.
std::string RateText(double per_s);

}  // namespace sublet
