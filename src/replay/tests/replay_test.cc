#include "replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "replay/ceiling.h"
#include "replay/traffic.h"
#include "route/policy.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

Trace Generated(std::string_view text) {
  Result<Trace> trace = GenerateTraffic(text);
  EXPECT_TRUE(trace) << trace.error().message;
  return trace ? std::move(*trace) : Trace{};
}

ReplayOptions OptionsFor(std::string_view fleet, const ReplayGpu& gpu = {}, int block_tokens = 64) {
  ReplayOptions options;
  options.fleet = *ParseReplayFleet(fleet, gpu);
  options.block_tokens = block_tokens;
  return options;
}

PolicyOutcome Replayed(const Trace& trace, const ReplayOptions& options,
                       std::string_view policy = "cost") {
  const Result<PolicyOutcome> outcome = ReplayPolicy(trace, options, policy);
  EXPECT_TRUE(outcome) << outcome.error().message;
  return outcome ? *outcome : PolicyOutcome{};
}

// What both runs gave, but for the time that decisions took here.
void ExpectSame(const PolicyOutcome& a, const PolicyOutcome& b) {
  EXPECT_EQ(a.hit_ratio, b.hit_ratio);
  EXPECT_EQ(a.ttft_ms_mean, b.ttft_ms_mean);
  EXPECT_EQ(a.ttft_ms_p99, b.ttft_ms_p99);
  EXPECT_EQ(a.tpot_ms_p90, b.tpot_ms_p90);
  EXPECT_EQ(a.duration_s, b.duration_s);
  ASSERT_EQ(a.replicas.size(), b.replicas.size());
  for (std::size_t i = 0; i < a.replicas.size(); ++i) {
    EXPECT_EQ(a.replicas[i].computed_tokens, b.replicas[i].computed_tokens);
  }
}

TEST(Replay, ServesEveryRequestUnderEveryPolicy) {
  const Trace trace = Generated("gen:rag,requests=200");
  const ReplayOptions options = OptionsFor("4*100", {.kv_blocks = 3000});
  for (const std::string& policy : PolicyNames()) {
    const PolicyOutcome outcome = Replayed(trace, options, policy);
    EXPECT_EQ(outcome.policy, policy);
    EXPECT_EQ(outcome.requests, 200);
    EXPECT_EQ(outcome.served, 200);
    EXPECT_EQ(outcome.rejected, 0);
    EXPECT_GT(outcome.hit_ratio, 0.02) << policy;
    EXPECT_LE(outcome.hit_ratio, CeilingHitRatio(trace, 64)) << policy;
    EXPECT_GT(outcome.ttft_ms_p50, 0);
    EXPECT_LE(outcome.ttft_ms_p50, outcome.ttft_ms_p90);
    EXPECT_LE(outcome.ttft_ms_p90, outcome.ttft_ms_p99);
    std::int64_t requests = 0;
    for (const ReplicaOutcome& replica : outcome.replicas) requests += replica.requests;
    EXPECT_EQ(requests, 200);
  }
}

TEST(Replay, IsTheSameEachTime) {
  const Trace trace = Generated("gen:chat,sessions=40");
  const ReplayOptions options = OptionsFor("2*60/25/15", {.kv_blocks = 3000});
  for (const std::string& policy : PolicyNames()) {
    ExpectSame(Replayed(trace, options, policy), Replayed(trace, options, policy));
  }
}

TEST(Replay, DrawsAnewFromAnotherSeed) {
  const Trace trace = Generated("gen:rag,requests=200");
  ReplayOptions options = OptionsFor("4*100", {.kv_blocks = 3000});
  const PolicyOutcome one = Replayed(trace, options, "power-of-two");
  options.seed = 2;
  EXPECT_NE(one.ttft_ms_mean, Replayed(trace, options, "power-of-two").ttft_ms_mean);
}

// With one replica that holds everything, what is found is what there is to find.
TEST(Replay, FindsOnOneReplicaWhatTheCeilingAllows) {
  for (const char* kind : {"gen:chat,sessions=30,rate=0.1", "gen:agents,runs=10,rate=0.05",
                           "gen:video,requests=60,rate=0.1"}) {
    const Trace trace = Generated(kind);
    const PolicyOutcome outcome = Replayed(trace, OptionsFor("100", {.kv_blocks = 100'000}));
    EXPECT_NEAR(outcome.hit_ratio, CeilingHitRatio(trace, 64), 1e-9) << kind;
    EXPECT_EQ(outcome.rejected, 0);
  }
}

TEST(Replay, LetsATurnFollowTheAnswerBefore) {
  const Trace trace = Generated("gen:chat,sessions=1,turns=40,think=1000,seed=3");
  ASSERT_GT(trace.requests.size(), 5u);
  double pauses_s = 0;
  for (const TraceRequest& request : trace.requests) {
    if (request.after) pauses_s += static_cast<double>(request.at_ns) / 1e9;
  }
  const PolicyOutcome outcome = Replayed(trace, OptionsFor("2*100", {.kv_blocks = 10'000}));
  EXPECT_GT(outcome.duration_s, pauses_s);
  EXPECT_LT(outcome.duration_s, pauses_s + 20.0 * static_cast<double>(trace.requests.size()));
}

TEST(Replay, CountsWhatNoReplicaCanHoldAndAllThatWouldHaveFollowed) {
  TraceBuilder builder("t", std::nullopt);
  builder.Piece(1, 64 * 100);
  const RequestIndex large = builder.Add({.at_ns = 1});
  builder.Piece(2, 64);
  builder.Add({.at_ns = 1, .after = large});
  builder.Piece(3, 64);
  builder.Add({.at_ns = 5});
  const Result<Trace> trace = builder.Finish();
  ASSERT_TRUE(trace) << trace.error().message;
  for (const std::string& policy : PolicyNames()) {
    const PolicyOutcome outcome = Replayed(*trace, OptionsFor("2*100", {.kv_blocks = 50}), policy);
    EXPECT_EQ(outcome.rejected, 2) << policy;
    EXPECT_EQ(outcome.served, 1) << policy;
    EXPECT_NEAR(outcome.in_time, 1.0 / 3, 1e-9) << policy;
  }
}

TEST(Replay, LetsRequestsWaitWhereAllAreFullAndTurnsAwayTheRest) {
  TraceBuilder builder("t", std::nullopt);
  for (int i = 0; i < 10; ++i) {
    builder.Piece(builder.NewContent(), 640);
    builder.Add({.at_ns = i, .output_tokens = 50});
  }
  const Result<Trace> trace = builder.Finish();
  ASSERT_TRUE(trace) << trace.error().message;
  ReplayOptions options = OptionsFor("2*100");
  options.in_flight_max = 1;
  options.waiting_max = 5;
  PolicyOutcome outcome = Replayed(*trace, options);
  EXPECT_EQ(outcome.queued, 5);
  EXPECT_EQ(outcome.served, 7);
  EXPECT_EQ(outcome.rejected, 3);
  // The last of them waits for three others, each of which decodes for half a second.
  EXPECT_GT(outcome.ttft_ms_p99, 1500);
  options.wait_s_max = 0.1;
  outcome = Replayed(*trace, options);
  EXPECT_EQ(outcome.queued, 5);
  EXPECT_EQ(outcome.served, 2);
  EXPECT_EQ(outcome.rejected, 8);
}

TEST(Replay, LetsReplicasOfOneGpuSlowEachOther) {
  TraceBuilder builder("t", std::nullopt);
  for (int i = 0; i < 2; ++i) {
    builder.Piece(builder.NewContent(), 64 * 400);
    builder.Add({.at_ns = i});
  }
  const Result<Trace> trace = builder.Finish();
  ASSERT_TRUE(trace) << trace.error().message;
  ReplayOptions together = OptionsFor("100:50/100:50", {.kv_blocks = 2000});
  ReplayOptions apart = together;
  apart.fleet[1].gpu = "gpu1";
  EXPECT_GT(Replayed(*trace, together, "round-robin").ttft_ms_p50,
            1.5 * Replayed(*trace, apart, "round-robin").ttft_ms_p50);
}

TEST(Replay, ComesAsFastAsItIsTold) {
  const Trace trace = Generated("gen:rag,requests=600,rate=1");
  ReplayOptions options = OptionsFor("4*100", {.kv_blocks = 3000});
  const double slow_s = Replayed(trace, options).duration_s;
  options.load = 4;
  EXPECT_NEAR(Replayed(trace, options).duration_s * 4, slow_s, slow_s * 0.2);
}

// Without events the router knows what it sent where, which on a fleet that nobody else uses is
// nearly as good.
TEST(Replay, RoutesWithoutEvents) {
  const Trace trace = Generated("gen:shared-prefix,groups=20,output=50");
  ReplayOptions options = OptionsFor("4*100", {.kv_blocks = 6000});
  const double exact = Replayed(trace, options).hit_ratio;
  options.events = false;
  EXPECT_GT(Replayed(trace, options).hit_ratio, 0.9 * exact);
}

TEST(Replay, TellsHowFarItIs) {
  const Trace trace = Generated("gen:rag,requests=300");
  std::vector<double> told;
  const auto outcome = ReplayPolicy(trace, OptionsFor("4*100", {.kv_blocks = 3000}), "cost",
                                    [&](double part) { told.push_back(part); });
  ASSERT_TRUE(outcome) << outcome.error().message;
  ASSERT_GT(told.size(), 50u);
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_NEAR(told.back(), 1, 0.02);
}

TEST(Replay, RefusesWhatCannotBe) {
  const Trace trace = Generated("gen:rag,requests=3");
  const auto error_of = [&](const ReplayOptions& options, std::string_view policy) {
    const auto outcome = ReplayPolicy(trace, options, policy);
    EXPECT_FALSE(outcome);
    return outcome ? Error{} : outcome.error();
  };
  EXPECT_EQ(error_of(OptionsFor("100"), "fastest").code, ErrorCode::kUsage);
  EXPECT_EQ(error_of({}, "cost").code, ErrorCode::kUsage);
  ReplayOptions options = OptionsFor("100");
  options.load = 0;
  EXPECT_THAT(error_of(options, "cost").message, HasSubstr("not a load"));
}

}  // namespace
}  // namespace sublet
