// What an hour of a conversation trace costs in virtual time: prompts of 24 blocks of 512 tokens,
// 343 tokens of output, on eight engines.

#include <benchmark/benchmark.h>

#include <random>

#include "engine/engine.h"
#include "engine/tokenizer.h"

namespace sublet {
namespace {

constexpr int kRequests = 12'031;
constexpr int kBlocks = 24;
constexpr int kBlockTokens = 512;
constexpr std::int64_t kHourNs = 3'600'000'000'000;

std::vector<EngineRequest> Trace() {
  std::mt19937_64 random(1);
  std::vector<EngineRequest> requests;
  for (int i = 0; i < kRequests; ++i) {
    EngineRequest request{.prompt_tokens = kBlocks * kBlockTokens - 100, .output_tokens = 343};
    const std::uint64_t conversation = random() % 4000;
    const std::uint64_t shared = random() % kBlocks;  // Of its blocks, those of earlier turns.
    for (std::uint64_t b = 0; b < kBlocks; ++b) {
      request.contents.push_back(b < shared ? (conversation << 32) + b : random());
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

void BM_TraceOfAnHour(benchmark::State& state) {
  const std::vector<EngineRequest> trace = Trace();
  std::int64_t steps = 0;
  std::int64_t cached = 0;
  for (auto _ : state) {
    auto gpu = std::make_shared<SharedGpu>();
    std::vector<std::unique_ptr<Engine>> engines;
    for (int i = 0; i < 8; ++i) {
      engines.push_back(
          std::make_unique<Engine>(EngineOptions{.kv_blocks = 1600, .block_tokens = kBlockTokens}));
    }
    EngineStep step;
    const auto advance = [&](std::int64_t to_ns) {
      for (const auto& engine : engines) {
        while (engine->NextStepEnd() && *engine->NextStepEnd() <= to_ns) {
          engine->Advance(*engine->NextStepEnd(), step);
          benchmark::DoNotOptimize(step.events.data());
        }
      }
    };
    for (int i = 0; i < kRequests; ++i) {
      const std::int64_t now_ns = kHourNs / kRequests * i;
      advance(now_ns);
      benchmark::DoNotOptimize(engines[static_cast<std::size_t>(i) % 8]->Submit(
          trace[static_cast<std::size_t>(i)], now_ns));
    }
    advance(INT64_MAX);
    for (const auto& engine : engines) {
      steps += engine->counters().steps;
      cached += engine->counters().cached_tokens;
    }
  }
  state.counters["steps"] =
      benchmark::Counter(static_cast<double>(steps), benchmark::Counter::kAvgIterations);
  state.counters["cached"] =
      benchmark::Counter(static_cast<double>(cached), benchmark::Counter::kAvgIterations);
}
BENCHMARK(BM_TraceOfAnHour)->Unit(benchmark::kMillisecond);

void BM_Tokenize(benchmark::State& state) {
  std::string text;
  while (text.size() < 16'384) text += "The engine keeps its blocks until they are needed. ";
  std::vector<TokenId> tokens;
  for (auto _ : state) {
    tokens.clear();
    Tokenize(text, tokens);
    benchmark::DoNotOptimize(tokens.data());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}
BENCHMARK(BM_Tokenize);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
