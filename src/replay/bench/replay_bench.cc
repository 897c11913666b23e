// How long a replay takes: reading a trace, its ceiling, and each policy over a tenth of an hour.
#include <benchmark/benchmark.h>

#include <string>

#include "base/check.h"
#include "base/files.h"
#include "replay/ceiling.h"
#include "replay/replay.h"
#include "replay/trace_reader.h"
#include "replay/traffic.h"

namespace sublet {
namespace {

const std::string& ConversationText() {
  static const std::string kText =
      *ReadFile(SUBLET_SOURCE_DIR "/examples/06_route/conversation.jsonl", kTraceBytesMax);
  return kText;
}

Trace ConversationBegin(std::size_t requests) {
  Trace trace = *ParseTrace(ConversationText(), "conversation");
  trace.requests.resize(requests);
  return trace;
}

void ReadConversation(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(ParseTrace(ConversationText(), "conversation"));
  state.SetBytesProcessed(state.iterations() *
                          static_cast<std::int64_t>(ConversationText().size()));
}
BENCHMARK(ReadConversation)->Unit(benchmark::kMillisecond);

void Ceiling(benchmark::State& state) {
  const Trace trace = ConversationBegin(1200);
  for (auto _ : state) benchmark::DoNotOptimize(CeilingHitRatio(trace, 512));
}
BENCHMARK(Ceiling)->Unit(benchmark::kMillisecond);

void ReplayBy(benchmark::State& state, const char* policy) {
  const Trace trace = ConversationBegin(1200);
  ReplayOptions options;
  options.fleet = *ParseReplayFleet("8*100", {});
  for (auto _ : state) {
    const auto outcome = ReplayPolicy(trace, options, policy);
    CHECK(outcome.has_value());
    benchmark::DoNotOptimize(outcome->hit_ratio);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(trace.requests.size()));
}
BENCHMARK_CAPTURE(ReplayBy, cost, "cost")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ReplayBy, round_robin, "round-robin")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
