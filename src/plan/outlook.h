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
  // Of its always-busy replicas whose profile is known: units a second, and the same in GPUs'
  // worth, each unit counted with the time that it takes alone on a whole GPU. Units of different
  // workloads add up only in the latter.
  double throughput_per_s = 0;
  double work = 0;
  Bytes memory;  // Of all replicas.
};

Outlook OutlookOf(const Problem& problem, int board, const PartitionChoice& partition);

// What each always-busy replica gets, by index into `partition.contents`; a rate of 0 where nothing
// can be said.
std::vector<BusyFigures> BusyIn(const Problem& problem, int board,
                                const PartitionChoice& partition);

Prediction PredictIn(const Problem& problem, int board, const PartitionChoice& partition,
                     const Occupancy& occupancy, const Variant& variant);

}  // namespace sublet
