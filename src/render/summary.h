// render/summary.h
//
// A plan for a terminal: what it costs, each GPU as a bar with its replicas, the single modes
// beside it, and what the reader must know.
//
//   fmt::print("{}", PlanSummaryText(plan, {.colour = isatty(1)}));
//
// GPUs with the same layout are shown once, with their number, so that a plan of 200 GPUs stays
// readable; at most kSummaryLayoutsMax layouts are shown, the most frequent first.
//
// Thread safety: pure function.
#pragma once

#include <string>

#include "model/plan.h"

namespace sublet {

inline constexpr int kSummaryLayoutsMax = 12;   // About a screen.
inline constexpr int kSummaryReplicasMax = 12;  // Lines a layout; the rest is counted.

struct SummaryStyle {
  bool colour = false;
};

std::string PlanSummaryText(const Plan& plan, const SummaryStyle& style);

}  // namespace sublet
