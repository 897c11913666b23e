// plan/exact.h
//
// The best plan for a handful of replicas, by trying every set of them on every kind of GPU.
//
//   std::optional<Solution> best = SolveExactly(problem);   // nullopt: nothing holds them all
//
// Dynamic programming over subsets: which sets fit into each kind of partition, which into each cut
// of a GPU, and which GPUs together hold all, at the least cost; among equal costs the one whose
// tightest latency target has the most left. Both are exact. Ties go to what slows replicas the
// least, then strands the least memory in MIG instances, then to the simpler modes; these compare
// parts, so a better whole of worse parts can be missed.
//
// 3^n steps for n replicas and each kind, so n is at most kExactReplicasMax.
//
// Thread safety: pure function.
#pragma once

#include <optional>

#include "plan/solver.h"

namespace sublet {

// REQUIRES: at most kExactReplicasMax replicas.
std::optional<Solution> SolveExactly(const Problem& problem);

}  // namespace sublet
