// Plans for replicas that are always busy and whose profile was measured: what MakePlan() predicts
// for them, which SM cap it gives them, and what VerifyPlan() refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>

#include "plan/planner.h"
#include "plan/saturation.h"
#include "plan/tests/random_fleet.h"
#include "plan/verify.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

// A 6-layer encoder on an H200: together forty copies get 25,589 units/s under a cap of 10 %,
// 10,790 without. The rate of one under the cap is made up.
WorkloadProfile Encoder() {
  WorkloadProfile profile;
  profile.name = "encoder";
  profile.board = "h200";
  profile.source = "a test";
  profile.unit = "forward pass";
  profile.service_ms = 0.2356;
  profile.memory = 85_MiB;
  profile.bandwidth_percent = 8;
  profile.crowd = 40;
  profile.sharpness = 2.23;
  profile.points = {{10, 2500, 0.4, 0.4, 25'589, {}, 325_MiB},
                    {100, 4111, 0.242, 0.242, 10'790, {}, 868_MiB}};
  return profile;
}

// What ParseFleet() makes of `compute: {profile: ...}`.
Workload Busy(const std::string& name, int replicas, const WorkloadProfile& profile) {
  Workload workload;
  workload.name = name;
  workload.tenant = "default";
  workload.replicas = replicas;
  workload.memory = std::max(1_MiB, profile.memory);
  workload.memory_how = "measured";
  const std::vector<double> speeds = profile.Speeds();
  for (std::size_t i = 0; i < speeds.size(); ++i) {
    workload.compute.profile.push_back(
        {static_cast<double>(profile.points[i].sm_percent), speeds[i]});
  }
  workload.compute.measured_on = profile.board;
  workload.compute.bandwidth_percent = profile.bandwidth_percent.value_or(100);
  workload.compute.measured = profile;
  return workload;
}

Fleet FleetOf(std::vector<Workload> workloads, const std::string& board,
              std::optional<int> count = std::nullopt) {
  Fleet fleet;
  fleet.name = "busy";
  fleet.gpus = {{board, count, std::nullopt}};
  fleet.tenants = {{"default", Isolation::kNone}};
  for (const Workload& workload : workloads) {
    if (workload.tenant != "default") fleet.tenants.push_back({workload.tenant, {}});
  }
  fleet.workloads = std::move(workloads);
  return fleet;
}

Plan PlanFor(const Fleet& fleet, bool compare = false) {
  const auto plan = MakePlan({.fleet = fleet,
                              .catalogue = &BuiltInBoards(),
                              .calibration = &DefaultCalibration(),
                              .compare = compare});
  if (!plan) ADD_FAILURE() << plan.error().message;
  return plan.value_or(Plan{});
}

TEST(BusyPlan, FortyEncodersGetTheCapThatWasBest) {
  const Plan plan = PlanFor(FleetOf({Busy("encoder", 40, Encoder())}, "h200", 1));
  ASSERT_EQ(plan.gpus.size(), 1u);
  const PlannedPartition& whole = plan.gpus[0].partitions.at(0);
  EXPECT_EQ(whole.mode, SharingMode::kMps);
  ASSERT_EQ(whole.replicas.size(), 40u);
  for (const PlannedReplica& replica : whole.replicas) {
    EXPECT_EQ(replica.sm_percent, 10);
    EXPECT_NEAR(*replica.prediction.throughput_per_s, 25'589 / 40.0, 1);
    EXPECT_NEAR(*replica.prediction.latency_ms_p50, 1000 * 40 / 25'589.0, 0.01);
    EXPECT_NEAR(replica.prediction.service_ms, 0.4, 1e-9);
    EXPECT_FALSE(replica.prediction.latency_ms_p99.has_value());
    EXPECT_THAT(replica.reason, HasSubstr("25,589"));
    EXPECT_THAT(replica.reason, HasSubstr("10,790 without one"));
  }
  EXPECT_NEAR(*plan.summary.throughput_per_s, 25'589, 10);
  for (const std::string& warning : plan.warnings) {
    EXPECT_THAT(warning, Not(HasSubstr("no latency is predicted")));
  }
}

TEST(BusyPlan, EveryModeAloneSaysWhatItWouldGive) {
  const Plan plan = PlanFor(FleetOf({Busy("encoder", 40, Encoder())}, "h200", 1), true);
  std::map<std::string, Strategy> strategies;
  for (const Strategy& strategy : plan.strategies) strategies[strategy.name] = strategy;
  EXPECT_NEAR(*strategies.at("chosen").throughput_per_s, 25'589, 10);
  EXPECT_NEAR(*strategies.at("mps").throughput_per_s, 25'589, 10);
  EXPECT_NEAR(*strategies.at("mps-uncapped").throughput_per_s, 10'790, 10);
  EXPECT_NEAR(*strategies.at("time-slicing").throughput_per_s,
              1000 / (0.2356 + DefaultCalibration().switch_ms), 1);
  EXPECT_EQ(strategies.at("time-slicing").gpus, 1);
  EXPECT_FALSE(strategies.at("streams").throughput_per_s.has_value());
}

TEST(BusyPlan, UncappedMeansUncappedWhereverTheKneeIs) {
  WorkloadProfile profile = Encoder();
  profile.points[0].alone_per_s = 4100;  // A tenth of the SMs is all that one copy can use.
  const Plan plan = PlanFor(FleetOf({Busy("encoder", 40, profile)}, "h200", 1), true);
  for (const Strategy& strategy : plan.strategies) {
    if (strategy.name != "mps-uncapped") continue;
    EXPECT_NEAR(*strategy.throughput_per_s, 10'790, 10);
  }
}

TEST(BusyPlan, EachWorkloadGetsTheCapThatSuitsIt) {
  WorkloadProfile wide = Encoder();  // In small shares a crowd of them does less.
  wide.points = {{10, 2000, 0.5, 0.5, 4'000, {}, 325_MiB},
                 {100, 4111, 0.242, 0.242, 10'790, {}, 868_MiB}};
  const Plan plan =
      PlanFor(FleetOf({Busy("narrow", 20, Encoder()), Busy("wide", 5, wide)}, "h200", 1));
  std::map<std::string, int> caps;
  for (const PlannedReplica& replica : plan.gpus.at(0).partitions.at(0).replicas) {
    caps[replica.workload] = replica.sm_percent.value_or(0);
  }
  EXPECT_EQ(caps.at("narrow"), 10);
  EXPECT_GT(caps.at("wide"), 50);
}

// Measured on an H200 with twenty PyTorch encoders behind each of two servers: 21,643 units/s under
// a cap of 5 %, 8,235 under one of 75 %.
TEST(BusyPlan, BehindServersOfTheirOwnTheyGetTheBestCapToo) {
  WorkloadProfile profile = Encoder();
  profile.service_ms = 0.2863;
  profile.bandwidth_percent.reset();
  profile.sharpness = 2.26;
  profile.points = {{5, 1782, 0.518, 0.945, 29'505, 1.63, 58_MiB},
                    {10, 1922, 0.471, 0.904, 23'474, 2.27, 72_MiB},
                    {25, 2069, 0.435, 0.919, 16'478, 2.26, 144_MiB},
                    {100, 3036, 0.292, 0.652, 9'959, 2.26, 516_MiB}};
  Workload left = Busy("left", 20, profile);
  Workload right = Busy("right", 20, profile);
  left.tenant = "left";
  right.tenant = "right";
  left.isolation = right.isolation = Isolation::kFault;
  const Plan plan = PlanFor(FleetOf({left, right}, "h200", 1));
  ASSERT_EQ(plan.gpus.size(), 1u);
  const PlannedPartition& whole = plan.gpus[0].partitions.at(0);
  EXPECT_EQ(whole.servers.size(), 2u);
  for (const PlannedReplica& replica : whole.replicas) EXPECT_EQ(replica.sm_percent, 5);
  EXPECT_NEAR(*plan.summary.throughput_per_s, 21'643, 0.1 * 21'643);
}

TEST(BusyPlan, WithoutBusyReplicasNothingIsSaidOfThroughput) {
  Workload plain = Busy("plain", 3, Encoder());
  plain.compute.measured.reset();
  const Plan plan = PlanFor(FleetOf({plain}, "h200", 1), true);
  EXPECT_FALSE(plan.summary.throughput_per_s.has_value());
  for (const Strategy& strategy : plan.strategies) {
    EXPECT_NE(strategy.name, "mps-uncapped");
    EXPECT_FALSE(strategy.throughput_per_s.has_value());
  }
}

TEST(BusyPlan, OneAloneHasTheGpu) {
  const Plan plan = PlanFor(FleetOf({Busy("encoder", 1, Encoder())}, "h200", 1));
  EXPECT_EQ(plan.gpus.at(0).partitions.at(0).mode, SharingMode::kExclusive);
  EXPECT_NEAR(*plan.summary.throughput_per_s, 1000 / 0.2356, 1);
}

TEST(BusyPlan, AmongEqualCapsTheTightestIsTaken) {
  WorkloadProfile profile = Encoder();
  profile.points = {{10, 4100, 0.25, 0.25, 10'750, {}, 325_MiB},
                    {100, 4111, 0.242, 0.242, 10'790, {}, 868_MiB}};
  const Plan plan = PlanFor(FleetOf({Busy("encoder", 12, profile)}, "h200", 1));
  EXPECT_EQ(plan.gpus.at(0).partitions.at(0).replicas.at(0).sm_percent, 10);
}

TEST(BusyPlan, BesideAReplicaWithALoadTheRestIsLeft) {
  Workload served = Busy("served", 1, Encoder());
  served.compute.measured.reset();
  served.compute.profile.clear();
  served.compute.sm_percent = 30;
  served.load = Load{.requests_per_second = 20, .service_ms = 10};
  served.latency.p99_ms = 60;
  const Plan both = PlanFor(FleetOf({Busy("encoder", 4, Encoder()), served}, "h200", 1));
  const Plan alone = PlanFor(FleetOf({Busy("encoder", 4, Encoder())}, "h200", 1));
  ASSERT_TRUE(both.summary.throughput_per_s.has_value());
  EXPECT_LT(*both.summary.throughput_per_s, *alone.summary.throughput_per_s);
  EXPECT_GT(*both.summary.throughput_per_s, 0);
  for (const PlannedReplica& replica : both.gpus.at(0).partitions.at(0).replicas) {
    EXPECT_EQ(replica.workload == "served", replica.prediction.latency_ms_p99.has_value());
  }
}

TEST(BusyPlan, AnotherBoardEarnsNoCredit) {
  const Plan h200 = PlanFor(FleetOf({Busy("encoder", 6, Encoder())}, "h200", 1));
  const Plan l4 = PlanFor(FleetOf({Busy("encoder", 6, Encoder())}, "l4", 1));
  EXPECT_LT(*l4.summary.throughput_per_s, *h200.summary.throughput_per_s / 4);
}

// --- Properties ---------------------------------------------------------------------------------

WorkloadProfile RandomProfile(Dice& dice) {
  WorkloadProfile profile;
  profile.name = "random";
  profile.board = dice.Of(std::vector<std::string>{"h200", "a100-80gb", "l4"});
  profile.source = "dice";
  profile.unit = "unit";
  profile.service_ms = dice.Real(0.05, 50);
  profile.steps = dice.Int(1, 5);
  profile.memory = Bytes::FromMib(dice.Int(0, 4000));
  if (dice.Chance(0.7)) profile.bandwidth_percent = dice.Real(0, 100);
  profile.crowd = dice.Int(2, 40);
  if (dice.Chance(0.7)) profile.sharpness = dice.Real(kSharpnessMin, 8);
  const double alone = 1000 / profile.service_ms * dice.Real(0.9, 1);
  for (const int percent : {5, 10, 25, 50, 100}) {
    if (percent < 100 && dice.Chance(0.4)) continue;
    const double speed = percent == 100 ? 1 : std::min(1.05, dice.Real(0.5, 4) * percent / 50);
    ProfilePoint point{percent, alone * speed, 1, 1, {}, {}, 300_MiB};
    if (dice.Chance(0.8)) point.crowd_per_s = point.alone_per_s * dice.Real(0.9, 20);
    profile.points.push_back(point);
  }
  return profile;
}

Fleet RandomBusyFleet(std::uint64_t seed) {
  Dice dice(seed);
  const FleetTaste taste{.boards = dice.Of(std::vector<std::vector<std::string>>{
                             {"h200"}, {"a100-80gb"}, {"l4"}, {"a100-80gb", "l4"}}),
                         .replicas_max = 30,
                         .workloads_max = 5,
                         .tenants = dice.Int(1, 3),
                         .isolation_max = static_cast<Isolation>(dice.Int(0, 3)),
                         .memory_gib_max = 8,
                         .load_chance = 0.3};
  Fleet fleet = RandomFleet(taste, dice);
  for (Workload& workload : fleet.workloads) {
    if (workload.load || dice.Chance(0.2)) continue;
    const Workload busy = Busy(workload.name, workload.replicas, RandomProfile(dice));
    workload.compute = busy.compute;
    workload.memory = busy.memory;
  }
  return fleet;
}

// MakePlan() returns nothing that VerifyPlan() refuses, and VerifyPlan() works the rates out again.
TEST(BusyPlan, WhateverTheProfilesThePlanStandsVerification) {
  int predicted = 0;
  int beside_load = 0;
  int servers = 0;
  int cut = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const auto plan = MakePlan({.fleet = RandomBusyFleet(seed),
                                .catalogue = &BuiltInBoards(),
                                .calibration = &DefaultCalibration(),
                                .compare = seed % 8 == 0});
    if (!plan) {
      ASSERT_EQ(plan.error().code, ErrorCode::kInfeasible) << seed << ": " << plan.error().message;
      continue;
    }
    for (const PlannedGpu& gpu : plan->gpus) {
      for (const PlannedPartition& partition : gpu.partitions) {
        const auto rates = std::count_if(
            partition.replicas.begin(), partition.replicas.end(),
            [](const PlannedReplica& r) { return r.prediction.throughput_per_s.has_value(); });
        predicted += static_cast<int>(rates);
        if (rates == 0) continue;
        beside_load += rates < static_cast<int>(partition.replicas.size()) ? 1 : 0;
        servers += partition.servers.size() > 1 ? 1 : 0;
        cut += gpu.mig ? 1 : 0;
      }
    }
  }
  EXPECT_GT(predicted, 1000);
  EXPECT_GT(beside_load, 20);
  EXPECT_GT(servers, 3);
  EXPECT_GT(cut, 10);
}

// The planner's cap against every cap, tried by a profile that has no other.
RC_GTEST_PROP(BusyPlanProperties, NoSingleCapGivesNoticeablyMore, (std::uint64_t seed)) {
  Dice dice(seed);
  WorkloadProfile profile = RandomProfile(dice);
  profile.board = "h200";
  profile.memory = 100_MiB;
  const int replicas = dice.Int(2, 48);
  const Plan plan = PlanFor(FleetOf({Busy("w", replicas, profile)}, "h200", 1));
  RC_ASSERT(!plan.gpus.empty());
  RC_PRE(plan.gpus.size() == 1 && plan.gpus[0].partitions[0].mode == SharingMode::kMps);
  const double planned = *plan.summary.throughput_per_s;
  const double bandwidth = profile.bandwidth_percent.value_or(100) / 100;
  for (int cap = 5; cap <= 100; cap += 5) {
    const double stretch = std::max(1.0, 1 / profile.SpeedAt(cap));
    BusyKind kind =
        KindUnderMps(profile, {.sm_percent = static_cast<double>(cap),
                               .stretch = stretch,
                               .share = std::min(1.0, std::max(cap / 100.0, bandwidth / stretch))});
    kind.count = replicas;
    RC_ASSERT(TotalPerS({kind}, UnderMps({kind}, 0)) <= planned * 1.011);
  }
}

// --- What VerifyPlan() must notice ---------------------------------------------------------------

TEST(BusyPlan, VerificationRefusesRatesThatDontFollow) {
  const Fleet fleet = FleetOf({Busy("encoder", 40, Encoder())}, "h200", 1);
  const Plan sound = PlanFor(fleet);
  const auto refusal = [&](const auto& breaking) {
    Plan plan = sound;
    breaking(plan, plan.gpus[0].partitions[0].replicas[3]);
    const Status status = VerifyPlan(plan, fleet, BuiltInBoards(), DefaultCalibration());
    return status ? std::string("accepted") : status.error().message;
  };
  EXPECT_EQ(refusal([](Plan&, PlannedReplica&) {}), "accepted");
  EXPECT_THAT(refusal([](Plan& plan, PlannedReplica& replica) {
                *replica.prediction.throughput_per_s += 10;
                *plan.summary.throughput_per_s += 10;
              }),
              HasSubstr("follow from its profile"));
  EXPECT_THAT(
      refusal([](Plan&, PlannedReplica& replica) { *replica.prediction.latency_ms_p50 /= 2; }),
      HasSubstr("follow from its profile"));
  EXPECT_THAT(
      refusal([](Plan&, PlannedReplica& replica) { replica.prediction.throughput_per_s.reset(); }),
      HasSubstr("doesn't predict a throughput"));
  EXPECT_THAT(refusal([](Plan& plan, PlannedReplica&) { *plan.summary.throughput_per_s += 1; }),
              HasSubstr("its throughput is"));
}

// In every mode, on every board: what the search states is all that the profiles bear, so a little
// more is refused. Without this a judge that is too lenient would never be noticed. Beside a
// replica with a load the search rounds that load up, and may state less.
TEST(BusyPlan, VerificationRefusesALittleMoreOfAnyRate) {
  std::map<SharingMode, int> raised;
  int servers = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Fleet fleet = RandomBusyFleet(seed);
    auto plan = MakePlan(
        {.fleet = fleet, .catalogue = &BuiltInBoards(), .calibration = &DefaultCalibration()});
    if (!plan) continue;
    for (PlannedGpu& gpu : plan->gpus) {
      for (PlannedPartition& partition : gpu.partitions) {
        if (!std::ranges::all_of(partition.replicas, [](const PlannedReplica& r) {
              return r.prediction.throughput_per_s.has_value();
            })) {
          continue;
        }
        PlannedReplica& replica = partition.replicas.back();
        const double sound = *replica.prediction.throughput_per_s;
        const double sum = *plan->summary.throughput_per_s;
        *replica.prediction.throughput_per_s = sound * 1.0001;
        *plan->summary.throughput_per_s = sum + sound * 0.0001;
        const Status status = VerifyPlan(*plan, fleet, BuiltInBoards(), DefaultCalibration());
        ASSERT_FALSE(status.has_value()) << "seed " << seed << ", " << replica.id;
        EXPECT_THAT(status.error().message, HasSubstr("follow from its profile"));
        *replica.prediction.throughput_per_s = sound;
        *plan->summary.throughput_per_s = sum;
        ++raised[partition.mode];
        servers += partition.servers.size() > 1 ? 1 : 0;
      }
    }
  }
  EXPECT_GT(raised[SharingMode::kExclusive], 3);
  EXPECT_GT(raised[SharingMode::kMps], 100);
  EXPECT_GT(raised[SharingMode::kTimeSlicing], 3);
  EXPECT_GT(servers, 3);
}

}  // namespace
}  // namespace sublet
