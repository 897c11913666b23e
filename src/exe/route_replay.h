// exe/route_replay.h
//
// `sublet route --replay`: policies over a trace, in virtual time.
//
//   auto flags = std::make_shared<RouteReplayFlags>();
//   AddRouteReplayFlags(*verb, *flags);               // All but --policy and --json, which are
//   verb->add_option("--policy", flags->policies);    // the verb's own.
//   if (!flags->trace.empty()) return ReplayRoute(*flags);
//
// Thread safety: one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace sublet {

struct RouteReplayFlags {
  std::string trace;             // A file, or gen:KIND,...
  std::string policies = "all";  // Names with commas between them, or all.
  bool json = false;
  int workers = 8;
  std::optional<std::int64_t> blocks;
  std::optional<int> block_tokens;
  std::string fleet;  // Empty: that many workers with a GPU each.
  double prefill_rate = 5000;
  double load = 1;
  std::string events = "exact";
  double event_delay_ms = 5;
  double objective_ms = 10'000;
  std::uint64_t seed = 1;
};

void AddRouteReplayFlags(CLI::App& verb, RouteReplayFlags& flags);

Result<int> ReplayRoute(const RouteReplayFlags& flags);

}  // namespace sublet
