// route/ranking.h
//
// The best of a snapshot's replicas, by a figure of which less is better, with ties decided as
// route/policy.h says.
//
//   return {.index = LeastOf(fleet, query, [](const ReplicaView& r) { return r.queued_tokens; })};
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <cstdint>

#include "route/snapshot.h"

namespace sublet {

// A bijection in which every bit of the word reaches every bit of the result.
// Source: David Stafford's variant 13 of the finaliser of MurmurHash3.
inline std::uint64_t MixBits(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
  word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
  return word ^ (word >> 31);
}

// How much a key wants a replica. The key that a tie is decided by is TieKey().
inline std::uint64_t RendezvousRank(std::uint64_t key, const ReplicaView& replica) {
  return MixBits(key ^ replica.identity);
}

inline std::uint64_t TieKey(const PolicyQuery& query) {
  return query.affinity != 0 ? query.affinity : MixBits(query.ordinal + 1);
}

// Whether the key wants `a` rather than `b`. A total order: slots are never equal.
inline bool Rather(std::uint64_t key, const ReplicaView& a, const ReplicaView& b) {
  const std::uint64_t rank_a = RendezvousRank(key, a);
  const std::uint64_t rank_b = RendezvousRank(key, b);
  return rank_a != rank_b ? rank_a > rank_b : a.slot < b.slot;
}

template <typename Figure>
std::size_t LeastOf(const FleetView& fleet, const PolicyQuery& query, const Figure& figure) {
  const std::uint64_t key = TieKey(query);
  std::size_t best = 0;
  double least = figure(fleet.replicas[0]);
  for (std::size_t r = 1; r < fleet.replicas.size(); ++r) {
    const double value = figure(fleet.replicas[r]);
    if (value > least) continue;
    if (value == least && !Rather(key, fleet.replicas[r], fleet.replicas[best])) continue;
    best = r;
    least = value;
  }
  return best;
}

}  // namespace sublet
