// replay/ceiling.h
//
// What a router is measured against: the share of prompt blocks that one cache for all replicas
// would have.
//
//   CeilingHitRatio(trace, 512)               // 0.366 of the conversation trace.
//   PooledHitRatio(trace, 512, 8 * 1600)      // 0.240
//
// The first cache has no bounds, and no router can exceed it. The second has the memory of the
// whole fleet and forgets the least recently used, as each engine does with its own. It has no
// borders and no queues: eight separate caches come near it only where every request meets its
// prefix, and above it only where requests that nobody returns to are kept away from the rest.
//
// In both, as in an engine, only full blocks are cached, answers are cached too, and a prompt's
// last token is always computed anew. Blocks found are counted over all blocks, the part of one at
// a prompt's end as one.
//
// Thread safety: pure.
#pragma once

#include <cstdint>
#include <optional>

#include "replay/trace.h"

namespace sublet {

// REQUIRES, of both: positive sizes.
double CeilingHitRatio(const Trace& trace, int block_tokens);
// Absent for a closed loop, whose requests have no order before they are served.
std::optional<double> PooledHitRatio(const Trace& trace, int block_tokens, std::int64_t blocks);

}  // namespace sublet
