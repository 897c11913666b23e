// replay/replay_fleet.h
//
// The fleet of a replay, written in one word: which GPUs, and which shares of them.
//
//   ASSIGN_OR_RETURN(const std::vector<ReplayReplica> fleet,
//                    ParseReplayFleet("2*60/25/15+100", {.kv_blocks = 1600}));
//
// GPUs are joined by '+', the replicas of one by '/'. A replica is its percent of the SMs, and
// behind a colon its percent of the memory for KV blocks, where that is another: an engine that
// started second has less than its due. `N*` repeats a GPU. "uneven" stands for kUnevenFleet.
//
// Thread safety: pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

// A whole GPU, of which a replica gets its percent. 5,000 tokens a second of a model of 70 billion
// parameters are 35 % of an H200's peak in FP8. With that, round robin over eight takes 95 % of
// them for the conversation trace: where routing begins to matter.
struct ReplayGpu {
  double prefill_tokens_per_second = 5000;
  std::int64_t kv_blocks = 1600;
};

struct ReplayReplica {
  std::string name;  // "gpu0/1", or "gpu3" where it is alone.
  std::string gpu;   // "gpu0"
  double sm_percent = 100;
  double prefill_tokens_per_second = 5000;  // Alone on the GPU.
  std::int64_t kv_blocks = 1600;

  friend bool operator==(const ReplayReplica&, const ReplayReplica&) = default;
};

// Nine replicas on four GPUs: two GPUs cut unequally, one cut into halves of which the second
// started late and got 2.8 times fewer blocks (sglang-omni's issue 921), and a whole one.
inline constexpr std::string_view kUnevenFleet = "2*60/25/15+50:74/50:26+100";

inline constexpr int kReplayReplicasMax = 4096;  // FleetCache::kSlotsMax.

// Fails with kUsage.
Result<std::vector<ReplayReplica>> ParseReplayFleet(std::string_view text, const ReplayGpu& gpu);

}  // namespace sublet
