// The figures that a workload gets in each kind of partition, against arithmetic by hand and
// against what was measured on an H200.
#include "plan/problem.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "plan/outlook.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

const Board& BoardNamed(std::string_view name) {
  return **BuiltInBoards().Find(name);
}

Workload Loaded(double service_ms, int steps, double sm_percent) {
  Workload workload;
  workload.name = "w";
  workload.tenant = "default";
  workload.memory = 1_GiB;
  workload.compute.sm_percent = sm_percent;
  workload.compute.bandwidth_percent = sm_percent;
  workload.load = Load{.requests_per_second = 1, .service_ms = service_ms, .steps = steps};
  return workload;
}

struct Case {
  Fleet fleet;
  Problem problem;

  const Offer& offer(int index = 0) const {
    return problem.boards[0].offers[static_cast<std::size_t>(index)];
  }
  const Offer& instance(std::string_view profile) const {
    const auto& profiles = problem.boards[0].pool.board->profiles;
    for (std::size_t p = 0; p < profiles.size(); ++p) {
      if (profiles[p].name == profile) return offer(static_cast<int>(p) + 1);
    }
    ADD_FAILURE() << "no " << profile;
    return offer();
  }
};

// The Problem keeps a pointer to the fleet, so the Case stays where it is built.
std::unique_ptr<Case> OneWorkload(std::string_view board, const Workload& workload) {
  auto made = std::make_unique<Case>();
  made->fleet.tenants = {{"default", Isolation::kNone}};
  made->fleet.workloads = {workload};
  Pool pool{&BoardNamed(board), -1, 1, {}, nullptr};
  if (pool.board->HasMig()) {
    pool.geometry =
        std::make_shared<const GeometryTable>(std::move(*GeometryTable::Build(*pool.board)));
  }
  auto problem = BuildProblem(made->fleet, {pool}, BuiltInBoards(), DefaultCalibration(), {});
  EXPECT_TRUE(problem.has_value());
  made->problem = std::move(*problem);
  return made;
}

// --- By hand ------------------------------------------------------------------------------------

TEST(Variants, CountTheContextOfTheirMode) {
  const auto c = OneWorkload("h200", Loaded(10, 1, 10));
  const Calibration& h200 = DefaultCalibration();
  EXPECT_EQ(c->offer().exclusive.at(0).memory, 1_GiB + h200.ContextAt(100));
  EXPECT_EQ(c->offer().time_slicing.at(0).memory, 1_GiB + h200.ContextAt(100));
  EXPECT_EQ(c->offer().mps.at(0).memory, 1_GiB + h200.ContextAt(10));
}

TEST(Variants, CapAtTheKneeAndAtTheTightestThatMeetsTheTarget) {
  Workload workload = Loaded(10, 1, 42);
  // At 20 % of the SMs a request takes 10 x 42/20 x 1.03 = 21.6 ms, at 15 % it takes 28.8 ms; each
  // waits for the one before in two or three of a hundred cases.
  workload.latency.p99_ms = 37;
  const auto c = OneWorkload("h200", workload);
  ASSERT_EQ(c->offer().mps.size(), 2u);
  EXPECT_EQ(c->offer().mps[0].sm_percent, 45);
  EXPECT_EQ(c->offer().mps[1].sm_percent, 20);
  EXPECT_NEAR(c->offer().mps[1].stretch, 42.0 / 20 * DefaultCalibration().mps_service_factor, 1e-9);
}

TEST(Variants, OfAWorkloadWithoutLoadHaveTheKneeOnly) {
  Workload workload = Loaded(10, 1, 42);
  workload.load.reset();
  const auto c = OneWorkload("h200", workload);
  ASSERT_EQ(c->offer().mps.size(), 1u);
  EXPECT_EQ(c->offer().mps[0].sm_percent, 45);
  EXPECT_EQ(c->offer().mps[0].load, c->offer().mps[0].share);
}

TEST(Variants, AreSlowerInASmallerInstance) {
  // Half of the SMs and half of the bandwidth, on an instance with 16 of 132 SMs and an eighth of
  // the memory paths.
  const auto c = OneWorkload("h200", Loaded(10, 1, 50));
  const Variant& v = c->instance("1g.18gb").exclusive.at(0);
  EXPECT_NEAR(v.stretch, std::max(0.5 / (16.0 / 132), 0.5 / (1.0 / 8)), 1e-9);
  EXPECT_NEAR(v.service_ms, 10 * v.stretch, 1e-9);
  EXPECT_NEAR(c->offer().exclusive.at(0).stretch, 1, 1e-12);
}

TEST(Variants, OnAnotherBoardAreSlowerByItsDataSheetAndNeverFaster) {
  Workload workload = Loaded(10, 1, 50);
  workload.compute.measured_on = "a100-80gb";
  const Board& a100 = BoardNamed("a100-80gb");
  const Board& l4 = BoardNamed("l4");
  const auto slower = OneWorkload("l4", workload);
  EXPECT_NEAR(slower->offer().exclusive.at(0).stretch,
              a100.memory_bandwidth_gbps / l4.memory_bandwidth_gbps, 1e-9);
  const auto faster = OneWorkload("h200", workload);
  EXPECT_NEAR(faster->offer().exclusive.at(0).stretch, 1, 1e-12);
}

TEST(Variants, NeverMeetAnImpossibleTarget) {
  Workload workload = Loaded(10, 1, 50);
  workload.latency.p99_ms = 9;
  const auto c = OneWorkload("h200", workload);
  for (const Offer& offer : c->problem.boards[0].offers) {
    EXPECT_TRUE(offer.exclusive.empty() && offer.time_slicing.empty() && offer.mps.empty() &&
                offer.servers.empty());
  }
  EXPECT_THAT(WhyNoVariant(c->problem, 0, 0, 0, SharingMode::kExclusive, false),
              HasSubstr("p99 of 10.0 ms"));
}

TEST(Variants, BearNoMoreLoadThanTheirTargetAllows) {
  Workload workload = Loaded(10, 1, 100);
  workload.latency.p99_ms = 45;
  const auto c = OneWorkload("h200", workload);
  const Variant& v = c->offer().time_slicing.at(0);
  const double most = v.load_max[1] - v.load;
  const RequestStream stream{.rate_per_s = 1, .service_ms = v.service_ms};
  EXPECT_LE(PredictLatency(stream, SlowdownBy({.others_load = most, .slots = 1})).p99_ms, 45);
  EXPECT_GT(PredictLatency(stream, SlowdownBy({.others_load = most + 1.0 / kLoadGrid, .slots = 1}))
                .p99_ms,
            45);
}

TEST(Variants, NeedTheEnginesOfTheirInstance) {
  Workload workload = Loaded(10, 1, 10);
  workload.engines.decoder = 2;
  const auto c = OneWorkload("a100-80gb", workload);
  EXPECT_TRUE(c->instance("1g.10gb").exclusive.empty());
  EXPECT_FALSE(c->instance("3g.40gb").exclusive.empty());
  EXPECT_THAT(WhyNoVariant(c->problem, 0, 1, 0, SharingMode::kExclusive, false),
              HasSubstr("engines"));
}

TEST(BuildProblem, RefusesAnUnknownBoardOfMeasurement) {
  Fleet fleet;
  fleet.tenants = {{"default", Isolation::kNone}};
  fleet.workloads = {Loaded(10, 1, 10)};
  fleet.workloads[0].compute.measured_on = "h300";
  const auto problem = BuildProblem(fleet, {Pool{&BoardNamed("h200"), -1, 1, {}, nullptr}},
                                    BuiltInBoards(), DefaultCalibration(), {});
  ASSERT_FALSE(problem.has_value());
  EXPECT_EQ(problem.error().code, ErrorCode::kNotFound);
}

// --- Against measurements -----------------------------------------------------------------------

// Closed loops of kernels under time-slicing on an H200, each launch awaited: kernels/s of one
// process alone and of all together. What is lost is the switch after each kernel.
struct SlicedLoop {
  const char* name;
  double alone_per_s;
  double together_per_s;
};

TEST(MeasuredOnH200, TimeSlicingKeepsWhatTheSwitchesLeave) {
  for (const auto& [name, alone_per_s, together_per_s] :
       {SlicedLoop{"small, 2 processes", 10'013, 2 * 2'197},
        SlicedLoop{"small, 4", 10'013, 4 * 1'121}, SlicedLoop{"big, 2", 2'391, 2 * 921},
        SlicedLoop{"big, 4", 2'391, 4 * 459}, SlicedLoop{"memory, 2", 6'823, 2 * 1'805},
        SlicedLoop{"memory, 4", 6'823, 4 * 905}, SlicedLoop{"encoder, 4", 4'244, 2'709},
        SlicedLoop{"encoder, 40", 4'244, 2'762}}) {
    const double kernel_ms = 1000 / alone_per_s;
    const auto c = OneWorkload("h200", Loaded(kernel_ms, 1, 100));
    const double predicted = kernel_ms / c->offer().time_slicing.at(0).service_ms;
    EXPECT_NEAR(together_per_s / alone_per_s, predicted, 0.02) << name;
  }
}

// 520 MiB a process without a cap beside its own 84, 74 MiB at a tenth of the SMs.
TEST(MeasuredOnH200, FortyProcessesHoldTheMemoryOfTheirContexts) {
  const auto c = OneWorkload("h200", Loaded(0.235, 1, 10));
  const double gib_uncapped = 40 * c->offer().time_slicing.at(0).context.gib();
  const double gib_capped = 40 * c->offer().mps.at(0).context.gib();
  EXPECT_NEAR(gib_uncapped, 20.3, 0.2);
  EXPECT_NEAR(gib_capped, 2.9, 0.1);
}

// 4,244 requests/s alone without MPS, 4,111 as the only client of a server.
TEST(MeasuredOnH200, MpsCostsALoneClientItsFactor) {
  const auto c = OneWorkload("h200", Loaded(1000 / 4'244.0, 1, 100));
  EXPECT_NEAR(1000 / c->offer().mps.at(0).service_ms, 4'111, 0.01 * 4'111);
}

// `count` replicas that may be busy all the time, as a closed loop is.
double SlowdownOfLoops(double sm_percent, int count) {
  Workload workload = Loaded(0.4, 1, sm_percent);
  workload.load.reset();
  workload.replicas = count;
  const auto c = OneWorkload("h200", workload);
  const PartitionChoice partition{0, SharingMode::kMps, false, {{&c->offer().mps.at(0), count}}};
  return PredictIn(c->problem, 0, partition, OccupancyOf(partition), c->offer().mps[0])
      .slowdown_mean;
}

// `big` fills the card: 1.8 and 3.7 times slower beside one and three of its kind; two of them with
// a cap of 25 % each don't slow each other.
TEST(MeasuredOnH200, LoopsUnderMpsAreNoSlowerThanPredictedAndNotMuchFaster) {
  for (const auto& [sm_percent, count, measured] :
       {std::tuple{100.0, 2, 2'391.0 / 1'305}, std::tuple{100.0, 4, 2'391.0 / 652},
        std::tuple{25.0, 2, 2'391.0 / 2'377}}) {
    const double predicted = SlowdownOfLoops(sm_percent, count);
    EXPECT_GE(predicted * 1.01, measured) << count;
    EXPECT_LE(predicted, measured * 1.15) << count;
  }
}

}  // namespace
}  // namespace sublet
