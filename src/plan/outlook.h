// plan/outlook.h
//
// What the replicas of a partition can expect of each other: may they be together at all, how fast
// will each be, how much of its latency target is left.
//
//   Outlook outlook = OutlookOf(problem, pattern.board, partition);
//   if (!outlook.refusal.empty()) ...   // "memory: 83 GiB of 79 GiB"
//   outlook.headroom                    // 0.4: the tightest target has 40 % left
//
// The search itself works with sums (plan/pricing.h); this is the same judgement on a finished
// partition, used to compare candidates and to write predictions into the plan. plan/verify.h
// judges once more, from the plan's figures alone.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <vector>

#include "model/plan.h"
#include "plan/pricing.h"

namespace sublet {

struct Outlook {
  std::string refusal;  // Empty when the partition holds; else the first thing that breaks.
  // Of the tightest latency target in it, the part that is left: 1 without any target.
  double headroom = 1;
  // Sum over replicas of service time, neighbours included, over that alone on a whole GPU.
  double stretch_sum = 0;
  // Memory of a MIG instance that its replicas leave and nobody else can use; of a whole GPU
  // nothing is lost, because another replica can come.
  Bytes stranded;
};

Outlook OutlookOf(const Problem& problem, int board, const PartitionChoice& partition);

Prediction PredictIn(const Problem& problem, const PartitionChoice& partition,
                     const Occupancy& occupancy, const Variant& variant);

}  // namespace sublet
