// What the index costs: memory, events, matches, drops.
//
//   kvcache_bench --benchmark_filter=Match
//
// Budgets: with a million blocks indexed, a match of 200 blocks 5 us at 8 replicas and 50 us at
// 1,000; events of 16-token blocks at 1 million blocks/s; at most 64 MiB for a million blocks,
// whether 8 replicas hold them or 1,000 hold the same 1,000; a drop that takes as long for a
// million blocks as for a thousand; memory that doesn't grow from round to round.
#include <benchmark/benchmark.h>
#include <time.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/check.h"
#include "kvcache/fleet_cache.h"

namespace sublet {
namespace {

constexpr int kBlockTokens = 16;
constexpr std::size_t kMillion = 1'000'000;
constexpr double kMib = 1 << 20;

// Of this thread, so that a busy machine doesn't count.
double CpuSeconds() {
  timespec time{};
  CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Blocks that no other `from` has, the first of them a prompt's first.
KvEvent StoredEvent(std::uint32_t from, std::size_t blocks) {
  KvEvent event;
  event.block_tokens = kBlockTokens;
  for (std::size_t i = 0; i < blocks; ++i) {
    event.blocks.push_back((std::uint64_t{from} << 32 | i) * 0x9e3779b97f4a7c15u);
    for (std::size_t t = 0; t < kBlockTokens; ++t) {
      event.tokens.push_back(from * 977 + static_cast<TokenId>(i * kBlockTokens + t));
    }
  }
  return event;
}

KvEventBatch BatchOf(KvEvent event) {
  KvEventBatch batch;
  batch.events.push_back(std::move(event));
  return batch;
}

void AddReplicas(FleetCache& caches, ReplicaSlot from, ReplicaSlot to) {
  for (ReplicaSlot slot = from; slot < to; ++slot) {
    caches.Add(slot,
               {.model = "m", .blocks = 1 << 20, .block_tokens = kBlockTokens, .events = true}, 0);
    caches.SetKnowledge(slot, CacheKnowledge::kExact, "", false, 0);
  }
}

// A million blocks over the replicas, in prompts of 250.
void FillDistinct(FleetCache& caches, ReplicaSlot replicas, std::size_t blocks = kMillion) {
  for (std::uint32_t prompt = 0; prompt < blocks / 250; ++prompt) {
    caches.Apply(prompt % replicas, BatchOf(StoredEvent(1'000'000 + prompt, 250)), 0);
  }
}

RequestPrefix PromptOf(const KvEvent& event) {
  RequestPrefix prefix;
  prefix.known = true;
  prefix.model = "m";
  prefix.token_ids = event.tokens;
  return prefix;
}

void ReportMemory(benchmark::State& state, const FleetCache& caches) {
  const FleetCacheStatus status = caches.Status();
  state.counters["mib"] = static_cast<double>(status.bytes) / kMib;
  state.counters["bytes_a_holding"] =
      static_cast<double>(status.bytes) / static_cast<double>(status.holdings);
  state.counters["holdings"] = static_cast<double>(status.holdings);
}

void MemoryOfDistinctBlocks(benchmark::State& state) {
  for (auto _ : state) {
    FleetCache caches;
    AddReplicas(caches, 0, 8);
    FillDistinct(caches, 8);
    ReportMemory(state, caches);
  }
}
BENCHMARK(MemoryOfDistinctBlocks)->Unit(benchmark::kMillisecond)->Iterations(1);

void MemoryOfCommonBlocks(benchmark::State& state) {
  for (auto _ : state) {
    FleetCache caches;
    AddReplicas(caches, 0, 1000);
    const KvEventBatch batch = BatchOf(StoredEvent(1, 1000));
    for (ReplicaSlot slot = 0; slot < 1000; ++slot) caches.Apply(slot, batch, 0);
    ReportMemory(state, caches);
  }
}
BENCHMARK(MemoryOfCommonBlocks)->Unit(benchmark::kMillisecond)->Iterations(1);

// Events of 64 blocks come to and go from an index that holds a million others.
void Apply(benchmark::State& state, bool stored) {
  FleetCache caches;
  AddReplicas(caches, 0, 8);
  FillDistinct(caches, 8);
  std::vector<KvEventBatch> come;
  std::vector<KvEventBatch> go;
  for (std::uint32_t i = 0; i < 1024; ++i) {
    come.push_back(BatchOf(StoredEvent(i, 64)));
    go.push_back(come.back());
    go.back().events[0].what = KvEvent::What::kRemoved;
    go.back().events[0].tokens.clear();
  }
  const auto apply = [&](const std::vector<KvEventBatch>& batches) {
    for (std::size_t i = 0; i < batches.size(); ++i) {
      caches.Apply(static_cast<ReplicaSlot>(i % 8), batches[i], 0);
    }
  };
  for (auto _ : state) {
    if (!stored) apply(come);
    const double start = CpuSeconds();
    apply(stored ? come : go);
    const double end = CpuSeconds();
    if (stored) apply(go);
    state.SetIterationTime(end - start);
  }
  state.SetItemsProcessed(state.iterations() * 1024 * 64);
}
BENCHMARK_CAPTURE(Apply, stored, true)->Unit(benchmark::kMillisecond)->UseManualTime();
BENCHMARK_CAPTURE(Apply, removed, false)->Unit(benchmark::kMillisecond)->UseManualTime();

// A million others are there; the prompts asked for are many, so that they lie in no small cache.
void Match(benchmark::State& state, std::size_t held) {
  const auto replicas = static_cast<ReplicaSlot>(state.range(0));
  FleetCache caches;
  AddReplicas(caches, 0, replicas);
  FillDistinct(caches, replicas);
  std::vector<RequestPrefix> prompts;
  for (std::uint32_t i = 0; i < 64; ++i) {
    KvEvent event = StoredEvent(i, 200);
    prompts.push_back(PromptOf(event));
    event.blocks.resize(held);
    event.tokens.resize(held * kBlockTokens);
    if (held == 0) continue;
    for (ReplicaSlot slot = 0; slot < replicas; ++slot) caches.Apply(slot, BatchOf(event), 0);
  }
  std::vector<CacheMatch> matches;
  std::size_t next = 0;
  for (auto _ : state) {
    caches.Match(prompts[next], matches);
    benchmark::DoNotOptimize(matches.data());
    next = (next + 1) % prompts.size();
  }
  state.counters["matches"] = static_cast<double>(matches.size());
}
BENCHMARK_CAPTURE(Match, unknown, 0)->Arg(8)->Arg(1000)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(Match, common_beginning, 4)->Arg(8)->Arg(1000)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(Match, common_throughout, 200)->Arg(8)->Arg(1000)->Unit(benchmark::kMicrosecond);

// One replica holds all of it: the usual case.
void MatchOwn(benchmark::State& state) {
  const auto replicas = static_cast<ReplicaSlot>(state.range(0));
  const auto blocks = static_cast<std::size_t>(state.range(1));
  FleetCache caches;
  AddReplicas(caches, 0, replicas);
  FillDistinct(caches, replicas);
  std::vector<RequestPrefix> prompts;
  for (std::uint32_t i = 0; i < 64; ++i) {
    const KvEvent event = StoredEvent(i, blocks);
    prompts.push_back(PromptOf(event));
    caches.Apply(i % replicas, BatchOf(event), 0);
  }
  std::vector<CacheMatch> matches;
  std::size_t next = 0;
  for (auto _ : state) {
    caches.Match(prompts[next], matches);
    benchmark::DoNotOptimize(matches.data());
    next = (next + 1) % prompts.size();
  }
  CHECK(matches.size() == 1 && matches[0].tokens == blocks * kBlockTokens);
}
BENCHMARK(MatchOwn)
    ->Args({8, 200})
    ->Args({1000, 200})
    ->Args({8, 4000})
    ->Unit(benchmark::kMicrosecond);

// Texts of 200 blocks whose tokens were learnt: 800 blocks of 16.
void MatchText(benchmark::State& state) {
  const auto replicas = static_cast<ReplicaSlot>(state.range(0));
  FleetCache caches;
  AddReplicas(caches, 0, replicas);
  FillDistinct(caches, replicas);
  std::vector<RequestPrefix> prompts;
  for (std::uint32_t i = 0; i < 64; ++i) {
    RequestPrefix& prompt = prompts.emplace_back();
    prompt.known = true;
    prompt.model = "m";
    BlockHash at = TextChainSeed({.model = "m", .salt = std::to_string(i)});
    for (int block = 0; block < 200; ++block) {
      prompt.text.push_back(at = ExtendChain(at, std::string_view("text")));
    }
    prompt.text_bytes = 200 * kTextBlockBytes;
    const KvEvent event = StoredEvent(i, 800);
    caches.Apply(i % replicas, BatchOf(event), 0);
    caches.LearnTokens(prompt, event.tokens);
  }
  std::vector<CacheMatch> matches;
  std::size_t next = 0;
  for (auto _ : state) {
    caches.Match(prompts[next], matches);
    benchmark::DoNotOptimize(matches.data());
    next = (next + 1) % prompts.size();
  }
  CHECK(matches.size() == 1 && matches[0].tokens > 11'000);
}
BENCHMARK(MatchText)->Arg(8)->Arg(1000)->Unit(benchmark::kMicrosecond);

// A request's whole account: matched, predicted, confirmed.
void PredictAndConfirm(benchmark::State& state) {
  FleetCache caches;
  caches.Add(0, {.model = "m", .blocks = 1 << 16, .block_tokens = kBlockTokens}, 0);
  std::vector<RequestPrefix> prompts;
  for (std::uint32_t i = 0; i < 1024; ++i) prompts.push_back(PromptOf(StoredEvent(i, 200)));
  std::size_t next = 0;
  for (auto _ : state) {
    const RequestPrefix& prompt = prompts[next];
    caches.Confirm(0, caches.Predict(0, prompt, 0), 3200, 0);
    next = (next + 1) % prompts.size();
  }
}
BENCHMARK(PredictAndConfirm)->Unit(benchmark::kMicrosecond);

void Drop(benchmark::State& state) {
  const auto blocks = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    FleetCache caches;
    AddReplicas(caches, 0, 1);
    FillDistinct(caches, 1, blocks);
    const double start = CpuSeconds();
    caches.Drop(0);
    const double end = CpuSeconds();
    state.SetIterationTime(end - start);
  }
}
BENCHMARK(Drop)
    ->Arg(1000)
    ->Arg(100'000)
    ->Arg(1'000'000)
    ->Unit(benchmark::kMicrosecond)
    ->UseManualTime()
    ->Iterations(3);

// Ten rounds in which a hundred replicas come, store more than fits, and go.
void Churn(benchmark::State& state) {
  for (auto _ : state) {
    FleetCache caches({.bytes_max = 64u << 20});
    double after_first = 0;
    for (std::uint32_t round = 0; round < 10; ++round) {
      AddReplicas(caches, 0, 100);
      for (std::uint32_t i = 0; i < 1000; ++i) {
        caches.Apply(i % 100, BatchOf(StoredEvent(round * 1000 + i, 250)), 0);
      }
      for (ReplicaSlot slot = 0; slot < 100; ++slot) caches.Drop(slot);
      if (round == 0) after_first = static_cast<double>(caches.Status().bytes) / kMib;
    }
    state.counters["mib_after_1"] = after_first;
    state.counters["mib_after_10"] = static_cast<double>(caches.Status().bytes) / kMib;
    state.counters["forgotten"] = static_cast<double>(caches.Status().forgotten);
  }
}
BENCHMARK(Churn)->Unit(benchmark::kMillisecond)->Iterations(1);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
