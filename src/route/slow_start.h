// route/slow_start.h
//
// What part of its due a replica gets that has just begun.
//
//   view.prefill_tokens_per_second = rate * SlowStartPart(now_ns - began_ns);
//
// An engine's first requests are slow: kernels are compiled, CUDA graphs captured, pools of memory
// grown. A replica that joins a loaded fleet is also the emptiest one, so that every policy would
// send it everything at once. So it begins at a tenth of its due and grows to all of it, linearly,
// within half a minute. Policies take the part as if the replica were that much slower or fuller;
// where all replicas are new, all are alike and nothing changes.
//
// Thread safety: pure.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sublet {

inline constexpr double kSlowStartSeconds = 30;  // vLLM captures its graphs within some 20 s.
inline constexpr double kSlowStartPartMin = 0.1;

inline double SlowStartPart(std::int64_t age_ns) {
  const double grown = static_cast<double>(age_ns) / (kSlowStartSeconds * 1e9);
  return std::clamp(grown, kSlowStartPartMin, 1.0);
}

}  // namespace sublet
