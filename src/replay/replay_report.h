// replay/replay_report.h
//
// What a replay found, for programs and for people.
//
//   ReplayReport report{.trace = SummaryOf(trace), .options = options, .ceiling = ceiling};
//   report.policies.push_back(*outcome);
//   fmt::print("{}", ReplayText(report, Painter(colour), columns));
//   fmt::print("{}\n", ReplayToJson(report).dump(2));
//
// docs/formats/replay.md describes the JSON.
//
// Thread safety: values and pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/terminal.h"
#include "replay/replay.h"
#include "replay/trace.h"

namespace sublet {

inline constexpr std::string_view kReplayVersion = "sublet.replay/v1";

struct TraceSummary {
  std::string name;
  std::int64_t requests = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t output_tokens = 0;
  double seconds = 0;        // From the first to the last arrival that is known beforehand.
  bool closed_loop = false;  // Some follow others.
};

TraceSummary SummaryOf(const Trace& trace);

struct ReplayReport {
  TraceSummary trace;
  ReplayOptions options;
  double ceiling = 0;
  std::optional<double> pooled = {};  // PooledHitRatio() of the fleet's memory.
  std::vector<PolicyOutcome> policies = {};
};

nlohmann::ordered_json ReplayToJson(const ReplayReport& report);

// A table of the policies in which hits and first tokens are bars: hits against the ceiling, times
// against the slowest. `columns` is the terminal's width.
std::string ReplayText(const ReplayReport& report, const Painter& paint, int columns);

// "830 ms", "4.17 s", "12 min": what a time looks like in a sentence.
std::string TimeText(double ms);

}  // namespace sublet
