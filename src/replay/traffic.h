// replay/traffic.h
//
// Generated traffic: the kinds of load that a cache-aware router is for, each of a few parameters
// and a seed.
//
//   ASSIGN_OR_RETURN(const Trace trace, GenerateTraffic("gen:shared-prefix,groups=150,rate=20"));
//
// | kind | who sends it |
// |---|---|
// | shared-prefix | groups that ask several questions each about a long text of their own |
// | chat | people who write again when they have read the answer; the conversation grows |
// | agents | programs with one long system prompt and tools, whose every step adds a result |
// | rag | questions behind documents, of which few are asked for often, in any order |
// | video | videos and images, by content, behind a common head, beside plain text |
//
// TrafficKinds() has the parameters, their defaults and what they mean; `sublet route --help`
// prints them. Lengths vary between half and one and a half of the mean that is given, but for
// those of shared-prefix, which are exact, as in the benchmark that it is taken from (llm-d's, 8
// pods of Qwen3-32B: routing by exact events against routing by load).
//
// Chats and agents are closed loops: a turn comes some time after the answer to the one before,
// and has that answer in its prompt.
//
// Thread safety: pure; the same text gives the same trace.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "replay/trace.h"

namespace sublet {

struct TrafficParameter {
  std::string_view name;
  double value = 0;  // Unless it is given.
  double min = 0;
  double max = 0;
  std::string_view meaning;
};

struct TrafficKind {
  std::string_view name;
  std::string_view meaning;
  std::vector<TrafficParameter> parameters;  // `seed` among them.
};

inline constexpr std::string_view kTrafficPrefix = "gen:";

const std::vector<TrafficKind>& TrafficKinds();

// `text` is "gen:KIND" or "gen:KIND,name=value,...". Fails with kUsage for a kind, a parameter or a
// value that isn't one, kInvalid where it makes too much.
Result<Trace> GenerateTraffic(std::string_view text);

}  // namespace sublet
