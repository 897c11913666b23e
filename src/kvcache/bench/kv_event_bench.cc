// What reading and writing engines' events costs, in blocks of 16 tokens.
#include <benchmark/benchmark.h>

#include "base/check.h"
#include "kvcache/kv_event.h"

namespace sublet {
namespace {

constexpr int kBlockTokens = 16;
constexpr std::int64_t kBlocks = 4096;

// As a prefill makes them: each event has `blocks` blocks with the hashes and tokens that are
// usual.
KvEventBatch Batch(std::int64_t blocks) {
  KvEventBatch batch;
  std::uint64_t random = 1;
  const auto next = [&random] {
    return random = random * 6364136223846793005u + 1442695040888963407u;
  };
  for (std::int64_t done = 0; done < kBlocks; done += blocks) {
    KvEvent event;
    event.parent = next();
    event.block_tokens = kBlockTokens;
    for (std::int64_t i = 0; i < blocks; ++i) event.blocks.push_back(next());
    for (std::int64_t i = 0; i < blocks * kBlockTokens; ++i) {
      event.tokens.push_back(static_cast<TokenId>((next() >> 40) % 128000));
    }
    batch.events.push_back(std::move(event));
  }
  return batch;
}

void BM_Decode(benchmark::State& state) {
  const auto encoding = static_cast<KvEncoding>(state.range(1));
  const std::string bytes = EncodeKvEventBatch(Batch(state.range(0)), encoding);
  CHECK(DecodeKvEventBatch(bytes).has_value());
  for (auto _ : state) {
    auto batch = DecodeKvEventBatch(bytes);
    benchmark::DoNotOptimize(batch);
  }
  state.SetItemsProcessed(state.iterations() * kBlocks);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes.size()));
}
BENCHMARK(BM_Decode)
    ->ArgNames({"blocks_an_event", "encoding"})
    ->Args({1, 0})
    ->Args({1, 2})
    ->Args({64, 0})
    ->Args({64, 2});

void BM_Encode(benchmark::State& state) {
  const KvEventBatch batch = Batch(state.range(0));
  for (auto _ : state) {
    auto bytes = EncodeKvEventBatch(batch, KvEncoding::kArrays);
    benchmark::DoNotOptimize(bytes);
  }
  state.SetItemsProcessed(state.iterations() * kBlocks);
}
BENCHMARK(BM_Encode)->Arg(1)->Arg(64);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
