#include "model/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kHead = "version: sublet.fleet/v1\nname: test\n";

Result<Fleet> Parsed(const std::string& rest) {
  return ParseFleet(std::string(kHead) + rest, "f.yaml");
}

std::string ErrorOf(const std::string& rest) {
  const Result<Fleet> fleet = Parsed(rest);
  if (fleet) return "no error";
  EXPECT_EQ(fleet.error().code, ErrorCode::kInvalid);
  return fleet.error().message + (fleet.error().hint.empty() ? "" : " | " + fleet.error().hint);
}

// A fleet of one workload with these fields more, four spaces in.
std::string OneWith(const std::string& fields) {
  return "workloads:\n  - name: chat\n    " + fields + "\n";
}
std::string OneOf20With(const std::string& fields) {
  return OneWith("memory: 20GiB\n    " + fields);
}

TEST(FleetTest, TheExampleOfTheHeaderIsRead) {
  const Result<Fleet> fleet = Parsed(R"(
gpus:
  - board: a100-80gb
workloads:
  - name: chat
    model: {parameters: 7e9, dtype: bf16, layers: 32, heads: 32, head_dim: 128,
            context_tokens: 4096, concurrency: 2}
    compute: {sm_percent: 30}
    load: {requests_per_second: 0.4, service_ms: 450, steps: 40}
    latency: {p99_ms: 4000}
)");
  ASSERT_TRUE(fleet) << fleet.error().message;
  EXPECT_EQ(fleet->name, "test");
  ASSERT_EQ(fleet->gpus.size(), 1u);
  EXPECT_EQ(fleet->gpus[0].board, "a100-80gb");
  EXPECT_FALSE(fleet->gpus[0].count);
  const Workload& chat = fleet->workloads.at(0);
  EXPECT_EQ(chat.memory_how, "13.0 GiB weights + 4.0 GiB KV cache + 1.4 GiB activations");
  EXPECT_EQ(chat.memory, 13352_MiB + 4096_MiB + 1408_MiB);
  EXPECT_EQ(chat.compute.sm_percent, 30);
  EXPECT_EQ(chat.compute.bandwidth_percent, 100) << "decoding reads every weight for each token";
  EXPECT_EQ(chat.load->steps, 40);
  EXPECT_EQ(chat.latency.p99_ms, 4000);
  EXPECT_FALSE(chat.latency.p50_ms);
}

TEST(FleetTest, EveryDefaultIsFilledIn) {
  const Result<Fleet> fleet = Parsed(OneWith("memory: 1.5GiB"));
  ASSERT_TRUE(fleet) << fleet.error().message;
  EXPECT_TRUE(fleet->gpus.empty());
  const Workload& chat = fleet->workloads.at(0);
  EXPECT_EQ(chat.tenant, "default");
  EXPECT_EQ(chat.replicas, 1);
  EXPECT_EQ(chat.memory, 1536_MiB);
  EXPECT_EQ(chat.memory_how, "given");
  EXPECT_EQ(chat.compute.sm_percent, 100);
  EXPECT_EQ(chat.compute.bandwidth_percent, 100);
  EXPECT_TRUE(chat.compute.profile.empty());
  EXPECT_FALSE(chat.load);
  EXPECT_EQ(chat.isolation, Isolation::kNone);
  EXPECT_EQ(chat.priority, 0);
  EXPECT_EQ(chat.engines, EngineCounts{});
  ASSERT_EQ(fleet->tenants.size(), 1u);
  EXPECT_EQ(fleet->tenants[0].name, "default");
}

TEST(FleetTest, EveryFieldIsRead) {
  const Result<Fleet> fleet = Parsed(R"(
gpus:
  - {board: h200, count: 2, price_usd_hour: 1.5}
  - {board: h200, price_usd_hour: 4}
tenants:
  - {name: search, isolation: fault}
  - name: lab
workloads:
  - name: embed.v2
    tenant: search
    replicas: 3
    memory: 6GB
    compute: {bandwidth_percent: 12.5, measured_on: h200,
              profile: [{sm_percent: 25, speed: 0.7}, {sm_percent: 50, speed: 1},
                        {sm_percent: 100, speed: 1}]}
    load: {requests_per_second: 30, service_ms: 8, service_variability: 0.5, burstiness: 2}
    latency: {p50_ms: 20, p99_ms: 60}
    isolation: memory
    engines: {decoder: 1, jpeg: 2}
    priority: -5
    command: [serve, --port, 8000]
    image: registry.example/embed:2
    env: {LOG: "1", MODE: fast}
)");
  ASSERT_TRUE(fleet) << fleet.error().message;
  EXPECT_EQ(fleet->gpus[0].count, 2);
  EXPECT_EQ(fleet->gpus[1].price_usd_hour, 4);
  const Workload& embed = fleet->workloads.at(0);
  EXPECT_EQ(embed.memory, 5723_MiB) << "6 * 10^9 bytes, rounded up";
  EXPECT_EQ(embed.compute.sm_percent, 50) << "the first point of full speed";
  EXPECT_EQ(embed.compute.bandwidth_percent, 12.5);
  EXPECT_EQ(embed.compute.profile.size(), 3u);
  EXPECT_EQ(embed.compute.measured_on, "h200");
  EXPECT_EQ(embed.load->service_variability, 0.5);
  EXPECT_EQ(embed.load->burstiness, 2);
  EXPECT_EQ(embed.isolation, Isolation::kFault) << "raised to its tenant's";
  EXPECT_EQ(embed.engines.decoder, 1);
  EXPECT_EQ(embed.engines.jpeg, 2);
  EXPECT_EQ(embed.priority, -5);
  EXPECT_THAT(embed.command, ElementsAre("serve", "--port", "8000"));
  EXPECT_EQ(embed.image, "registry.example/embed:2");
  EXPECT_EQ(embed.env.at("MODE"), "fast");
  EXPECT_EQ(fleet->ReplicaCount(), 3);
  ASSERT_EQ(fleet->tenants.size(), 2u);
}

TEST(FleetTest, JsonIsReadAsYamlIs) {
  const Result<Fleet> fleet = ParseFleet(
      R"({"version": "sublet.fleet/v1", "name": "j",
          "workloads": [{"name": "a", "memory": "2GiB"}]})",
      "f.json");
  ASSERT_TRUE(fleet) << fleet.error().message;
  EXPECT_EQ(fleet->workloads[0].memory, 2_GiB);
}

TEST(FleetTest, AMistypedKeyHasItsPlaceAndASuggestion) {
  EXPECT_EQ(ErrorOf(OneOf20With("replcas: 2")),
            "f.yaml:6:5: unknown key in workload: 'replcas' | did you mean 'replicas'?");
  EXPECT_EQ(ErrorOf(OneWith("memroy: 2GiB")),
            "f.yaml:5:5: unknown key in workload: 'memroy' | did you mean 'memory'?");
  EXPECT_THAT(ErrorOf(OneOf20With("load: {requests_per_second: 1, servce_ms: 5}")),
              HasSubstr("unknown key in load: 'servce_ms' | did you mean 'service_ms'?"));
  EXPECT_THAT(ErrorOf("workload: []\n"), HasSubstr("did you mean 'workloads'?"));
}

TEST(FleetTest, VersionAndNameAreRequired) {
  EXPECT_THAT(ParseFleet("name: x\n", "f.yaml").error().hint,
              HasSubstr("version: sublet.fleet/v1"));
  EXPECT_THAT(ParseFleet("version: sublet.fleet/v2\n", "f.yaml").error().message,
              HasSubstr("f.yaml:1:10: unknown version of fleet: 'sublet.fleet/v2'"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("missing key in fleet: 'workloads'"));
  EXPECT_THAT(ErrorOf("workloads: []\n"), HasSubstr("a fleet needs a workload"));
}

TEST(FleetTest, NamesMustFitKubernetesAndSystemd) {
  const auto named = [](const std::string& name) {
    return ErrorOf("workloads:\n  - {name: \"" + name + "\", memory: 1GiB}\n");
  };
  for (const char* good : {"a", "7b", "a-b", "a--b", "a.b", "v1.2-x", "0"}) {
    EXPECT_EQ(named(good), "no error") << good;
  }
  for (const std::string bad : {"", "A", "a_b", "-a", "a-", ".a", "a.", "a..b", "a.-b", "a-.b",
                                "a b", "../x", "a/b", "ä", "a\\n", "$(x)"}) {
    EXPECT_THAT(named(bad), HasSubstr("not a name")) << bad;
  }
  EXPECT_EQ(named(std::string(63, 'a')), "no error");
  EXPECT_THAT(named(std::string(64, 'a')), HasSubstr("not a name"));
}

TEST(FleetTest, NamesAreUnique) {
  EXPECT_EQ(ErrorOf("workloads:\n  - {name: a, memory: 1GiB}\n  - {name: a, memory: 2GiB}\n"),
            "f.yaml:5:5: two workloads of one name: 'a'");
  EXPECT_THAT(ErrorOf("tenants: [{name: t}, {name: t}]\n" + OneOf20With("tenant: t")),
              HasSubstr("two tenants of one name: 't'"));
  EXPECT_THAT(ErrorOf("gpus: [{board: l4}, {board: l4, count: 2}]\n" + OneOf20With("")),
              HasSubstr("the same board at the same price twice: 'l4'"));
}

TEST(FleetTest, TenantsAreResolved) {
  const Result<Fleet> implied = Parsed(OneOf20With("tenant: lab"));
  ASSERT_TRUE(implied);
  EXPECT_EQ(implied->tenants.at(0).name, "lab");
  EXPECT_EQ(ErrorOf("tenants: [{name: search, isolation: fault}]\n" + OneOf20With("tenant: serch")),
            "f.yaml:7:13: no such tenant: 'serch' | did you mean 'search'?");
  const Result<Fleet> fleet =
      Parsed("tenants: [{name: search, isolation: fault}]\n" + OneOf20With("isolation: hardware"));
  ASSERT_TRUE(fleet) << "a workload without a tenant belongs to 'default'";
  ASSERT_EQ(fleet->tenants.size(), 2u);
  EXPECT_EQ(fleet->tenants[0].name, "search") << "declared ones first";
  EXPECT_EQ(fleet->workloads[0].isolation, Isolation::kHardware);
}

TEST(FleetTest, ExactlyOneOfMemoryAndModelIsGiven) {
  EXPECT_THAT(ErrorOf(OneWith("replicas: 1")), HasSubstr("a workload needs memory or model"));
  EXPECT_THAT(ErrorOf(OneOf20With("model: {parameters: 7e9}")),
              HasSubstr("give memory or model, not both"));
  EXPECT_THAT(ErrorOf(OneWith("memory: 20")), HasSubstr("too little memory to be meant: 20 B"));
  EXPECT_THAT(ErrorOf(OneWith("memory: 17TiB")), HasSubstr("more memory than any GPU has"));
  EXPECT_THAT(ErrorOf(OneWith("memory: -1GiB")), HasSubstr("not an amount of memory: '-1GiB'"));
  EXPECT_THAT(ErrorOf(OneWith("model: {parameters: 9e13}")),
              HasSubstr("needs more memory than any GPU has"));
}

TEST(FleetTest, ALatencyTargetNeedsALoad) {
  EXPECT_EQ(ErrorOf(OneOf20With("latency: {p99_ms: 5}")),
            "f.yaml:6:14: a latency target needs load | give load: {requests_per_second: ..., "
            "service_ms: ...}");
  const std::string load = "load: {requests_per_second: 1, service_ms: 5}\n    ";
  EXPECT_THAT(ErrorOf(OneOf20With(load + "latency: {}")), HasSubstr("needs p50_ms or p99_ms"));
  EXPECT_THAT(ErrorOf(OneOf20With(load + "latency: {p50_ms: 9, p99_ms: 8}")),
              HasSubstr("p50_ms 9 is above p99_ms 8"));
}

TEST(FleetTest, AbsurdNumbersAreRefused) {
  for (const char* field : {"replicas: 0",
                            "replicas: -1",
                            "replicas: 1.5",
                            "replicas: 100001",
                            "priority: 101",
                            "priority: -101",
                            "compute: {sm_percent: 0}",
                            "compute: {sm_percent: 101}",
                            "compute: {bandwidth_percent: -1}",
                            "load: {requests_per_second: -1, service_ms: 5}",
                            "load: {requests_per_second: 1, service_ms: 0}",
                            "load: {requests_per_second: .nan, service_ms: 5}",
                            "load: {requests_per_second: 1e300, service_ms: 5}",
                            "load: {requests_per_second: 1, service_ms: 5, steps: 0}",
                            "load: {requests_per_second: 1, service_ms: 5, burstiness: -1}",
                            "engines: {decoder: -1}",
                            "engines: {decoder: 65}",
                            "engines: {copy: 1}",
                            "isolation: total",
                            "memory: 2GiB",
                            "command: serve",
                            "env: [A]",
                            "env: {1A: x}",
                            "env: {\"A=B\": x}",
                            "image: [a]"}) {
    EXPECT_NE(ErrorOf(OneOf20With(field)), "no error") << field;
  }
  for (const char* pool : {"{board: l4, count: 0}", "{board: l4, price_usd_hour: 0}",
                           "{board: l4, price_usd_hour: -1}", "{board: ''}", "{count: 1}"}) {
    EXPECT_NE(ErrorOf("gpus: [" + std::string(pool) + "]\n" + OneOf20With("")), "no error") << pool;
  }
}

TEST(FleetTest, AProfileAscendsToFullSpeed) {
  const auto profile = [](const std::string& points) {
    return ErrorOf(OneOf20With("compute: {profile: [" + points + "]}"));
  };
  EXPECT_EQ(profile("{sm_percent: 100, speed: 1}"), "no error");
  EXPECT_THAT(profile(""), HasSubstr("the last point must be"));
  EXPECT_THAT(profile("{sm_percent: 50, speed: 1}"), HasSubstr("the last point must be"));
  EXPECT_THAT(profile("{sm_percent: 50, speed: 0.9}, {sm_percent: 50, speed: 1}"),
              HasSubstr("the points must ascend: 50 % after 50 %"));
  EXPECT_THAT(profile("{sm_percent: 50, speed: 0.9}, {sm_percent: 60, speed: 0.8}"),
              HasSubstr("the points must ascend"));
  EXPECT_THAT(profile("{sm_percent: 50, speed: 0}"), HasSubstr("must be from 0.0001 to 1: 0"));
  EXPECT_THAT(
      ErrorOf(OneOf20With("compute: {sm_percent: 5, profile: [{sm_percent: 100, speed: 1}]}")),
      HasSubstr("give sm_percent or profile, not both"));
}

TEST(FleetTest, BandwidthFollowsTheKindOfWorkload) {
  const auto bandwidth = [](const std::string& fields) {
    const Result<Fleet> fleet = Parsed(OneWith(fields));
    EXPECT_TRUE(fleet) << fleet.error().message;
    return fleet ? fleet->workloads[0].compute.bandwidth_percent : -1;
  };
  EXPECT_EQ(bandwidth("memory: 1GiB\n    compute: {sm_percent: 20}"), 20);
  EXPECT_EQ(bandwidth("model: {parameters: 1e8}\n    compute: {sm_percent: 20}"), 20);
  const std::string decoder =
      "model: {parameters: 1e9, layers: 2, heads: 4, head_dim: 64, context_tokens: 128}";
  EXPECT_EQ(bandwidth(decoder + "\n    compute: {sm_percent: 20}"), 100);
  EXPECT_EQ(bandwidth(decoder + "\n    compute: {bandwidth_percent: 30}"), 30);
}

TEST(FleetTest, TheLimitsOnWorkloadsAndReplicasHold) {
  std::string many = "workloads:\n";
  for (int i = 0; i <= kWorkloadsMax; ++i) {
    many += "  - {name: w" + std::to_string(i) + ", memory: 1GiB}\n";
  }
  EXPECT_THAT(ErrorOf(many), HasSubstr("more than 2000 workloads"));
  EXPECT_THAT(ErrorOf("workloads:\n  - {name: a, memory: 1GiB, replicas: 99999}\n"
                      "  - {name: b, memory: 1GiB, replicas: 2}\n"),
              HasSubstr("f.yaml:5:5: more than 100000 replicas"));
}

TEST(FleetTest, AModelIsCheckedForWhatItsCacheNeeds) {
  const auto model = [](const std::string& fields) {
    return ErrorOf(OneWith("model: {parameters: 7e9, " + fields + "}"));
  };
  EXPECT_EQ(model("layers: 32, heads: 32, hidden_size: 4096, context_tokens: 8"), "no error");
  EXPECT_THAT(model("layers: 32, head_dim: 128, context_tokens: 8"), HasSubstr("needs heads"));
  EXPECT_THAT(model("layers: 32, heads: 32, head_dim: 128"), HasSubstr("needs context_tokens"));
  EXPECT_THAT(model("layers: 32, heads: 32, context_tokens: 8"),
              HasSubstr("needs head_dim or hidden_size"));
  EXPECT_THAT(model("layers: 32, heads: 30, hidden_size: 4096, context_tokens: 8"),
              HasSubstr("hidden_size 4096 is no multiple of heads 30"));
  EXPECT_THAT(model("layers: 2, heads: 32, kv_heads: 5, head_dim: 8, context_tokens: 8"),
              HasSubstr("heads 32 is no multiple of kv_heads 5"));
  EXPECT_THAT(model("kv_heads: 8"), HasSubstr("without layers there is no KV cache"));
  EXPECT_THAT(model("dtype: fp17"), HasSubstr("unknown data type: 'fp17' | did you mean 'fp"));
  EXPECT_THAT(model("concurrency: 0"), HasSubstr("must be from 1"));
  EXPECT_THAT(ErrorOf(OneWith("model: {dtype: bf16}")), HasSubstr("missing key in model"));
}

// ---- EstimateMemory() against what is known of these models ------------------------------------

ModelShape Llama2With7b() {
  return {.parameters = 6.738e9,
          .layers = 32,
          .heads = 32,
          .head_dim = 128,
          .kv_dtype = "",
          .context_tokens = 4096,
          .concurrency = 1};
}

ModelShape Llama3With8b() {
  ModelShape model = {.parameters = 8.03e9,
                      .layers = 32,
                      .heads = 32,
                      .kv_heads = 8,
                      .kv_dtype = "",
                      .context_tokens = 8192,
                      .concurrency = 1};
  model.hidden_size = 4096;
  return model;
}

TEST(EstimateMemoryTest, Llama2With7bKeepsHalfAMebibyteForEachToken) {
  const MemoryEstimate estimate = EstimateMemory(Llama2With7b());
  // 6.738e9 * 2 bytes = 12.55 GiB; 2 * 32 layers * 32 heads * 128 * 2 bytes = 512 KiB a token.
  EXPECT_EQ(estimate.weights, 12852_MiB);
  EXPECT_EQ(estimate.kv_cache, 2_GiB);
  EXPECT_EQ(estimate.Total(), estimate.weights + estimate.kv_cache + estimate.activations);
}

TEST(EstimateMemoryTest, Llama3With8bMatchesWhatAnEngineReported) {
  const MemoryEstimate estimate = EstimateMemory(Llama3With8b());
  // vLLM on an A100-80: weights 14.96 GiB, activations 1.26 GiB at 8,192 tokens; 128 KiB a token.
  EXPECT_NEAR(estimate.weights.gib(), 14.96, 0.05);
  EXPECT_EQ(estimate.kv_cache, 1_GiB) << "grouped queries: a quarter of the heads";
  EXPECT_GE(estimate.activations.gib(), 1.26);
  EXPECT_LE(estimate.activations.gib(), 1.26 * 1.2);
}

TEST(EstimateMemoryTest, QuantisedWeightsShrinkAndTheCacheDoesNotUnlessTold) {
  ModelShape llama70b = {.parameters = 70.55e9,
                         .dtype = "fp8",
                         .layers = 80,
                         .heads = 64,
                         .kv_heads = 8,
                         .head_dim = 128,
                         .kv_dtype = "",
                         .context_tokens = 4096,
                         .concurrency = 8};
  const MemoryEstimate in_16_bits = EstimateMemory(llama70b);
  EXPECT_NEAR(in_16_bits.weights.gib(), 65.7, 0.05);
  EXPECT_EQ(in_16_bits.kv_cache, 10_GiB) << "320 KiB a token";
  llama70b.kv_dtype = "fp8";
  EXPECT_EQ(EstimateMemory(llama70b).kv_cache, 5_GiB);
  EXPECT_EQ(EstimateMemory(llama70b).weights, in_16_bits.weights);
}

TEST(EstimateMemoryTest, FourBitTypesPayForTheirBlockScales) {
  const auto gib = [](const std::string& dtype) {
    ModelShape model;
    model.parameters = 8.0 * (1LL << 30);  // One GiB for each bit.
    model.dtype = dtype;
    return EstimateMemory(model).weights.gib();
  };
  EXPECT_DOUBLE_EQ(gib("mxfp4"), 4.25);
  EXPECT_DOUBLE_EQ(gib("nvfp4"), 4.5);
  EXPECT_DOUBLE_EQ(gib("int4"), 4.15625);
  EXPECT_DOUBLE_EQ(gib("int8"), 8);
  EXPECT_DOUBLE_EQ(gib("fp16"), 16);
  EXPECT_DOUBLE_EQ(gib("tf32"), 32);
}

TEST(EstimateMemoryTest, ActivationsGrowWithTheBatchUpToAChunk) {
  ModelShape model = Llama3With8b();
  model.context_tokens = 2048;
  const Bytes quarter = EstimateMemory(model).activations;
  EXPECT_EQ(quarter, 352_MiB) << "22 * 2048 * 4096 * 2 bytes";
  model.context_tokens = 131072;
  EXPECT_EQ(EstimateMemory(model).activations, quarter * 4) << "8,192 tokens at once at most";
  model.layers = 0;
  EXPECT_EQ(EstimateMemory(model).activations, quarter * 64) << "an encoder reads all at once";
}

TEST(EstimateMemoryTest, WithoutAShapeActivationsAreAFifthOfTheWeights) {
  ModelShape model;
  model.parameters = 5.0 * (1 << 20);  // 10 MiB in bf16.
  const MemoryEstimate estimate = EstimateMemory(model);
  EXPECT_EQ(estimate.weights, 10_MiB);
  EXPECT_EQ(estimate.kv_cache, Bytes{0});
  EXPECT_EQ(estimate.activations, 2_MiB);
}

TEST(EstimateMemoryTest, TheLargestShapeDoesNotOverflow) {
  const ModelShape model = {.parameters = 1e14,
                            .dtype = "fp32",
                            .layers = 10'000,
                            .heads = 100'000,
                            .kv_heads = 100'000,
                            .head_dim = 100'000,
                            .kv_dtype = "fp32",
                            .context_tokens = 1'000'000'000,
                            .concurrency = 1'000'000};
  EXPECT_GT(EstimateMemory(model).Total(), 16384_GiB);
}

// A profile as `sublet profile` writes it, with any fields on top.
std::string ProfileText(const std::string& more = "") {
  return R"({"version": "sublet.profile/v1", "name": "encoder", "board": "h200", "source": "test",
             "unit": "forward pass", "service_ms": 0.25, "steps": 3, "memory_mib": 700,
             "crowd": 16, "points": [
               {"sm_percent": 10, "alone_per_s": 2000, "latency_ms_p50": 0.5,
                "latency_ms_p99": 0.6, "crowd_per_s": 20000, "context_mib": 410},
               {"sm_percent": 100, "alone_per_s": 4000, "latency_ms_p50": 0.25,
                "latency_ms_p99": 0.3, "crowd_per_s": 10000, "context_mib": 950}])" +
         more + "}";
}

// A loader that has this one file, and counts how often it is asked.
FileLoader OneFile(const std::string& path, const std::string& text, int* asked = nullptr) {
  return [=](const std::string& wanted) -> Result<std::string> {
    if (asked != nullptr) ++*asked;
    if (wanted == path) return text;
    return Fail(ErrorCode::kNotFound, std::string("no such file: ").append(wanted), "look again");
  };
}

Result<Fleet> ParsedWith(const FileLoader& loader, const std::string& fields) {
  return ParseFleet(std::string(kHead) + OneWith(fields), "f.yaml", loader);
}

std::string ErrorWith(const FileLoader& loader, const std::string& fields) {
  const Result<Fleet> fleet = ParsedWith(loader, fields);
  if (fleet) return "no error";
  return fleet.error().message + (fleet.error().hint.empty() ? "" : " | " + fleet.error().hint);
}

TEST(FleetProfileTest, AMeasuredProfileFillsInWhatTheFleetLeavesOut) {
  const auto fleet = ParsedWith(OneFile("p.json", ProfileText()), "compute: {profile: p.json}");
  ASSERT_TRUE(fleet) << fleet.error().message;
  const Workload& chat = fleet->workloads.at(0);
  EXPECT_EQ(chat.memory, 700_MiB);
  EXPECT_EQ(chat.memory_how, "measured: encoder at its peak");
  EXPECT_FALSE(chat.load.has_value());
  ASSERT_TRUE(chat.compute.measured.has_value());
  EXPECT_EQ(chat.compute.measured_on, "h200");
  ASSERT_EQ(chat.compute.profile.size(), 2u);
  EXPECT_EQ(chat.compute.profile[0].sm_percent, 10);
  EXPECT_EQ(chat.compute.profile[0].speed, 0.5);
  EXPECT_EQ(chat.compute.sm_percent, 100);
  EXPECT_EQ(chat.compute.bandwidth_percent, 100) << "not measured: as the SMs";
}

TEST(FleetProfileTest, WhatTheFleetSaysItselfCounts) {
  const auto fleet = ParsedWith(OneFile("p.json", ProfileText(R"(, "bandwidth_percent": 40)")),
                                "memory: 2GiB\n    compute: {profile: p.json}\n"
                                "    load: {requests_per_second: 5, service_ms: 7}");
  ASSERT_TRUE(fleet) << fleet.error().message;
  const Workload& chat = fleet->workloads.at(0);
  EXPECT_EQ(chat.memory, 2048_MiB);
  EXPECT_EQ(chat.memory_how, "given");
  EXPECT_EQ(chat.load->service_ms, 7);
  EXPECT_EQ(chat.load->steps, 3) << "from the profile";
  EXPECT_EQ(chat.compute.bandwidth_percent, 40) << "from the profile";
  const auto other = ParsedWith(OneFile("p.json", ProfileText(R"(, "bandwidth_percent": 40)")),
                                "compute: {profile: p.json, bandwidth_percent: 30}\n"
                                "    load: {requests_per_second: 5, steps: 9}\n"
                                "    latency: {p99_ms: 5}");
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ(other->workloads[0].compute.bandwidth_percent, 30);
  EXPECT_EQ(other->workloads[0].load->service_ms, 0.25) << "from the profile";
  EXPECT_EQ(other->workloads[0].load->steps, 9);
}

TEST(FleetProfileTest, AFileIsLoadedOnceHoweverManyWorkloadsNameIt) {
  int asked = 0;
  const auto fleet =
      ParseFleet(std::string(kHead) +
                     "workloads:\n  - {name: a, compute: {profile: 'd/p.json'}}\n"
                     "  - {name: b, compute: {profile: 'd/p.json'}}\n"
                     "  - {name: c, memory: 1GiB, compute: {profile: 'd/p.json#encoder'}}\n",
                 "f.yaml", OneFile("d/p.json", ProfileText(), &asked));
  ASSERT_TRUE(fleet) << fleet.error().message;
  EXPECT_EQ(asked, 2) << "once for each way of writing it";
}

TEST(FleetProfileTest, ErrorsSayWhereAndWhatToDo) {
  const FileLoader loader = OneFile("p.json", ProfileText());
  const std::string missing = ErrorWith(loader, "compute: {profile: q.json}");
  EXPECT_THAT(missing, HasSubstr("f.yaml:5:24: profile: no such file: q.json | look again"));
  EXPECT_EQ(ParsedWith(loader, "compute: {profile: q.json}").error().code, ErrorCode::kNotFound);
  EXPECT_THAT(ErrorWith(loader, "compute: {profile: 'p.json#encodr'}"),
              HasSubstr("no such workload profile in p.json: 'encodr' | did you mean 'encoder'?"));
  EXPECT_THAT(
      ErrorWith(OneFile("p.json", ProfileText(R"(, "colour": 1)")), "compute: {profile: p.json}"),
      HasSubstr("f.yaml:5:24: profile: p.json:"));
  EXPECT_THAT(ErrorWith(loader, "compute: {profile: ''}"), HasSubstr("no file is named"));
  EXPECT_THAT(ErrorWith(loader, "compute: {profile: '#encoder'}"), HasSubstr("no file is named"));
  EXPECT_THAT(ErrorWith({}, "compute: {profile: p.json}"),
              HasSubstr("can't be read here | list its points"));
  EXPECT_THAT(ErrorWith(loader, "compute: {profile: p.json, sm_percent: 5}"),
              HasSubstr("give sm_percent or profile, not both"));
  EXPECT_THAT(ErrorWith(loader, "compute: {profile: p.json, measured_on: l4}"),
              HasSubstr("says itself where it was measured"));
}

TEST(FleetProfileTest, WithoutAProfileALoadNeedsItsServiceTime) {
  EXPECT_THAT(ErrorOf(OneOf20With("load: {requests_per_second: 5}")),
              HasSubstr("missing key in load: 'service_ms'"));
}

}  // namespace
}  // namespace sublet
