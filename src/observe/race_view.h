// observe/race_view.h
//
// The same traffic under two or more routing policies, side by side, as `sublet route --demo` shows
// it: how much of the prompts was in a cache, how long first tokens took, who got the requests.
//
//   screen.Draw(RaceFrame(race, {.columns = 120, .rows = 30, .colour = true}));
//   fmt::print("{}", RaceFrame(race, {.columns = 100, .rows = 0}));   // The end of it, for a file.
//
// A frame has exactly `rows` lines, each lane as wide as the others; rows = 0 has as many as it
// takes. Lanes' plots have one scale, so that one sees which is higher.
//
// Thread safety: pure functions of values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "observe/live_view.h"

namespace sublet {

struct RaceReplica {
  std::string name;
  std::string gpu;                   // What it shares with others: "0"; empty: it has its own.
  std::optional<double> sm_percent;  // Of that GPU.
  std::int64_t requests = 0;
  int in_flight = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
};

struct RaceLane {
  std::string policy;
  std::int64_t served = 0;
  std::int64_t failed = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
  // Of all answers so far; absent before the first.
  std::optional<double> ttft_ms_p50 = {};
  std::optional<double> ttft_ms_p90 = {};
  std::optional<double> ttft_ms_p99 = {};
  std::vector<double> ttft_ms_history = {};  // The p90 of each moment, the oldest first.
  std::vector<RaceReplica> replicas = {};
};

struct Race {
  std::string traffic;  // "48 conversations, 12 turns each"
  double elapsed_s = 0;
  double total_s = 0;
  std::vector<RaceLane> lanes;
};

std::string RaceFrame(const Race& race, const LiveSize& size);

}  // namespace sublet
