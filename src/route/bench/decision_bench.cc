// What the route module costs. Budgets: a decision at 8 replicas 5 us, at 1,000 replicas 50 us with
// a million blocks in the index; an operation of a queue with 10,000 waiting 1 us; metrics of an
// engine at 500 MB/s.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "route/admission_queue.h"
#include "route/engine_metrics.h"
#include "route/policy.h"
#include "route/ranking.h"
#include "route/router.h"

namespace sublet {
namespace {

constexpr std::int64_t kMs = 1'000'000;

// ---- a policy by itself ------------------------------------------------------------------------

void BM_Policy(benchmark::State& state, const Policy& policy) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<ReplicaView> replicas(count);
  std::vector<CoTenancy> gpus((count + 3) / 4);
  for (std::size_t r = 0; r < count; ++r) {
    const std::uint64_t draw = MixBits(r + 1);
    replicas[r] = {.slot = static_cast<ReplicaSlot>(r),
                   .identity = draw,
                   .in_flight = static_cast<double>(draw % 30),
                   .queued_tokens = static_cast<double>(draw % 20'000),
                   .decoding = 4,
                   .decode_step_ms = 20,
                   .cached_tokens = static_cast<std::uint32_t>(draw % 4096),
                   .tokens_capacity = 400'000,
                   .gpu = static_cast<int>(r / 4),
                   .tenant = static_cast<std::uint32_t>(r % 4)};
  }
  for (std::size_t g = 0; g < gpus.size(); ++g) {
    std::vector<TenantLoad> tenants;
    for (std::size_t r = g * 4; r < std::min(count, g * 4 + 4); ++r) {
      tenants.push_back(
          {.sm_part = 0.4, .prefill_ms = replicas[r].queued_tokens / 8, .decoding = 4});
    }
    gpus[g].Build(tenants);
  }
  const FleetView fleet{.replicas = replicas, .gpus = gpus, .mean_prefills = 2};
  PolicyQuery query{.prompt_tokens = 5000};
  for (auto _ : state) {
    ++query.ordinal;
    query.random = MixBits(query.ordinal);
    query.affinity = query.random;
    benchmark::DoNotOptimize(policy.choose(fleet, query));
  }
}

// ---- the router, with its caches ---------------------------------------------------------------

RequestPrefix Prompt(std::uint64_t conversation, std::size_t blocks) {
  RequestPrefix prefix;
  prefix.known = true;
  prefix.model = "m";
  prefix.stream = true;
  for (std::size_t b = 0; b < blocks; ++b) {
    prefix.text.push_back(MixBits(b < 4 ? b + 1 : conversation * 100'003 + b) | 1);
  }
  prefix.text_bytes = blocks * kTextBlockBytes;
  return prefix;
}

struct Fleet {
  // `blocks` are held in all, by conversations of 128 blocks each.
  Fleet(const std::string& policy, std::size_t replicas, std::size_t blocks, bool shared) {
    router = Router::Make({.policy = policy}, caches).value();
    for (std::size_t r = 0; r < replicas; ++r) {
      ReplicaSpec spec;
      spec.name = "replica-" + std::to_string(r);
      spec.models = {"m"};
      if (shared) spec.share.gpu = "GPU-" + std::to_string(r / 4);
      spec.share.kv_blocks = 1 << 20;
      spec.share.kv_block_tokens = 64;
      spec.in_flight_max = 1 << 20;
      (void)router->Add(spec, 0);
    }
    conversations = std::max<std::size_t>(1, blocks / 128);
    for (std::size_t c = 0; c < conversations; ++c) {
      auto lease = router->Choose({.prefix = Keep(Prompt(c, 128))}, Next());
      lease->OnFirstToken(now_ns);
      lease->Finish({}, now_ns);
    }
    // What is under way: some requests a replica.
    for (std::size_t i = 0; i < 3 * replicas; ++i) {
      waiting.push_back(std::move(*router->Choose({.prefix = Keep(Prompt(i, 20))}, Next())));
    }
  }
  const RequestPrefix* Keep(RequestPrefix prompt) {
    prefix = std::move(prompt);
    return &prefix;
  }
  std::int64_t Next() { return now_ns += kMs / 4; }

  FleetCache caches{{.bytes_max = 512u << 20}};
  std::unique_ptr<Router> router;
  std::size_t conversations = 0;
  RequestPrefix prefix;
  std::vector<Lease> waiting;
  std::int64_t now_ns = 0;
};

// Choose() alone is timed, as a request waits for it; what follows when it is on its way is not.
// Arguments: replicas, blocks indexed, blocks of the prompt.
void BM_Choose(benchmark::State& state, const std::string& policy, bool shared) {
  Fleet fleet(policy, static_cast<std::size_t>(state.range(0)),
              static_cast<std::size_t>(state.range(1)), shared);
  std::vector<RequestPrefix> prompts;
  for (std::size_t c = 0; c < 512; ++c) {
    prompts.push_back(
        Prompt(MixBits(c) % fleet.conversations, static_cast<std::size_t>(state.range(2))));
  }
  std::size_t at = 0;
  for (auto _ : state) {
    const std::int64_t begin_ns = MonotonicNanoseconds();
    auto lease = fleet.router->Choose({.prefix = &prompts[at++ % prompts.size()]}, fleet.Next());
    state.SetIterationTime(static_cast<double>(MonotonicNanoseconds() - begin_ns) / 1e9);
    lease->OnSent();
    lease->OnFirstToken(fleet.now_ns);
    lease->Finish({}, fleet.now_ns);
  }
}

// What the caches take: to find a prompt, which is part of Choose(), and to note it, which is
// OnSent().
void BM_CachesOfAMillion(benchmark::State& state, bool predict) {
  Fleet fleet("cost", static_cast<std::size_t>(state.range(0)),
              static_cast<std::size_t>(state.range(1)), false);
  std::vector<RequestPrefix> prompts;
  for (std::size_t c = 0; c < 512; ++c) {
    prompts.push_back(
        Prompt(MixBits(c) % fleet.conversations, static_cast<std::size_t>(state.range(2))));
  }
  std::vector<CacheMatch> matches;
  std::size_t at = 0;
  for (auto _ : state) {
    const RequestPrefix& prompt = prompts[at++ % prompts.size()];
    const std::int64_t begin_ns = MonotonicNanoseconds();
    PredictionId id = 0;
    if (predict) {
      id = fleet.caches.Predict(0, prompt, fleet.Next());
    } else {
      fleet.caches.Match(prompt, matches);
    }
    state.SetIterationTime(static_cast<double>(MonotonicNanoseconds() - begin_ns) / 1e9);
    if (predict) fleet.caches.Confirm(0, id, {}, fleet.now_ns);
  }
}

// ---- the queue and the reader ------------------------------------------------------------------

// One leaves and one enters, while so many wait of so many tenants.
void BM_AdmissionQueue(benchmark::State& state) {
  AdmissionQueue queue({.waiting_max = 20'000, .waiting_max_a_tenant = 20'000});
  std::uint64_t draw = 1;
  std::int64_t now_ns = 0;
  std::vector<std::string> names;
  for (std::int64_t t = 0; t < state.range(1); ++t) names.push_back("tenant-" + std::to_string(t));
  const auto enter = [&] {
    draw = MixBits(draw + 1);
    (void)queue.Enter({.tenant = names[draw % names.size()],
                       .priority = static_cast<PriorityClass>(draw / 7 % 3),
                       .tokens = static_cast<std::uint32_t>(draw >> 50)},
                      now_ns);
  };
  for (std::int64_t i = 0; i < state.range(0); ++i) enter();
  for (auto _ : state) {
    now_ns += 1000;
    queue.Leave(*queue.Next(now_ns));
    enter();
    benchmark::DoNotOptimize(queue.Expire(now_ns));
  }
}

void BM_EngineMetrics(benchmark::State& state) {
  std::string page;
  for (int histogram = 0; histogram < 20; ++histogram) {
    for (int bucket = 0; bucket < 30; ++bucket) {
      page += "vllm:time_per_output_token_seconds_bucket{engine=\"0\",le=\"0.0" +
              std::to_string(bucket) + "\",model_name=\"meta-llama/Llama-3.1-8B\"} 123456.0\n";
    }
  }
  page +=
      "vllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_waiting{engine=\"0\"} 2.0\n"
      "vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n"
      "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"27401\"} 1.0\n";
  for (auto _ : state) benchmark::DoNotOptimize(ParseEngineMetrics(page));
  state.SetBytesProcessed(static_cast<std::int64_t>(page.size()) * state.iterations());
}
BENCHMARK(BM_EngineMetrics);
BENCHMARK(BM_AdmissionQueue)
    ->ArgNames({"waiting", "tenants"})
    ->Args({100, 8})
    ->Args({10'000, 8})
    ->Args({10'000, 2000});

void RegisterAll() {
  for (const Policy& policy : Policies()) {
    const std::string name(policy.name);
    benchmark::RegisterBenchmark(("BM_Policy/" + name).c_str(),
                                 [policy](benchmark::State& state) { BM_Policy(state, policy); })
        ->ArgName("replicas")
        ->Arg(8)
        ->Arg(64)
        ->Arg(1000);
    auto* const choose = benchmark::RegisterBenchmark(
        ("BM_Choose/" + name).c_str(),
        [name](benchmark::State& state) { BM_Choose(state, name, true); });
    choose->ArgNames({"replicas", "blocks", "prompt"})->UseManualTime();
    choose->Args({8, 1024, 32});  // What a test run does.
    for (const int replicas : {8, 64, 1000}) choose->Args({replicas, 100'000, 32});
  }
  for (const bool shared : {false, true}) {
    benchmark::RegisterBenchmark(
        shared ? "BM_ChooseOfAMillion/shared" : "BM_ChooseOfAMillion",
        [shared](benchmark::State& state) { BM_Choose(state, "cost", shared); })
        ->ArgNames({"replicas", "blocks", "prompt"})
        ->UseManualTime()
        ->Args({8, 1 << 20, 32})
        ->Args({8, 1 << 20, 128})
        ->Args({64, 1 << 20, 32})
        ->Args({1000, 1 << 20, 32});
  }
  for (const bool predict : {false, true}) {
    benchmark::RegisterBenchmark(
        predict ? "BM_PredictOfAMillion" : "BM_MatchOfAMillion",
        [predict](benchmark::State& state) { BM_CachesOfAMillion(state, predict); })
        ->ArgNames({"replicas", "blocks", "prompt"})
        ->UseManualTime()
        ->Args({8, 1 << 20, 32})
        ->Args({8, 1 << 20, 128})
        ->Args({1000, 1 << 20, 32});
  }
}

}  // namespace
}  // namespace sublet

int main(int argc, char** argv) {
  sublet::RegisterAll();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
