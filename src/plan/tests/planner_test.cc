// MakePlan() against an oracle that tries everything, against an independent judge of each
// partition, against properties that any plan must have, and on the fleets of the examples.
#include "plan/planner.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/files.h"
#include "plan/tests/oracle.h"
#include "plan/tests/random_fleet.h"
#include "plan/verify.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr double kMoney = 1e-6;

const Rulebook& Rules() {
  static const Rulebook rules{BuiltInBoards(), DefaultCalibration()};
  return rules;
}

PlanRequest RequestFor(const Fleet& fleet) {
  return {.fleet = fleet,
          .catalogue = &BuiltInBoards(),
          .calibration = &DefaultCalibration(),
          .compare = false};
}

// Everything at once: boards with and without MIG, pools, tenants, isolation, engines, loads.
FleetTaste RandomTaste(int replicas_max, Dice& dice) {
  static const std::vector<std::vector<std::string>> boards = {
      {"a100-80gb"},       {"l4"},           {"a100-80gb", "l4"},     {"a30"},
      {"a100-40gb", "t4"}, {"rtx-pro-6000"}, {"h200", "l40s", "a30"},
  };
  return {.boards = dice.Of(boards),
          .pool_max = dice.Chance(0.4) ? 1 + replicas_max / 3 : 0,
          .replicas_max = replicas_max,
          .workloads_max = dice.Int(1, 6),
          .tenants = dice.Int(1, 3),
          .isolation_max = static_cast<Isolation>(dice.Int(0, 3)),
          .memory_gib_max = dice.Of(std::vector<double>{4, 20, 60}),
          .load_chance = dice.Of(std::vector<double>{0.3, 0.9, 1}),
          .target_chance = 0.7,
          .engine_chance = dice.Of(std::vector<double>{0, 0, 0.5})};
}

Fleet RandomFleetOf(int replicas_max, std::uint64_t seed) {
  Dice dice(seed);
  const FleetTaste taste = RandomTaste(replicas_max, dice);
  return RandomFleet(taste, dice);
}

Fleet ExampleFleet(const std::string& name) {
  const std::string path = std::string(SUBLET_SOURCE_DIR) + "/examples/03_plan/" + name;
  const auto text = ReadFile(path, 1 << 20);
  EXPECT_TRUE(text.has_value()) << path;
  auto fleet = ParseFleet(*text, name);
  EXPECT_TRUE(fleet.has_value()) << fleet.error().message;
  return std::move(*fleet);
}

std::vector<const PlannedReplica*> ReplicasOf(const Plan& plan) {
  std::vector<const PlannedReplica*> replicas;
  for (const PlannedGpu& gpu : plan.gpus) {
    for (const PlannedPartition& partition : gpu.partitions) {
      for (const PlannedReplica& replica : partition.replicas) replicas.push_back(&replica);
    }
  }
  return replicas;
}

// --- The oracle ---------------------------------------------------------------------------------

TEST(MakePlan, CostsWhatTryingEverythingCosts) {
  int planned = 0;
  int several_gpus = 0;
  int cut = 0;
  int servers = 0;
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    const Fleet fleet = RandomFleetOf(7, seed);
    const std::optional<double> cheapest = CheapestByTrying(fleet, Rules());
    const auto plan = MakePlan(RequestFor(fleet));
    ASSERT_EQ(plan.has_value(), cheapest.has_value()) << "seed " << seed;
    if (!plan) {
      ASSERT_EQ(plan.error().code, ErrorCode::kInfeasible) << "seed " << seed;
      continue;
    }
    ASSERT_NEAR(plan->summary.cost_hour_usd, *cheapest, kMoney) << "seed " << seed;
    ASSERT_EQ(plan->summary.verdict, "optimal") << "seed " << seed;
    ++planned;
    several_gpus += plan->gpus.size() > 1 ? 1 : 0;
    for (const PlannedGpu& gpu : plan->gpus) {
      cut += gpu.mig ? 1 : 0;
      for (const PlannedPartition& partition : gpu.partitions) {
        servers += partition.servers.size() > 1 ? 1 : 0;
      }
    }
  }
  // The fleets are no trivial ones.
  EXPECT_GT(planned, 800);
  EXPECT_GT(several_gpus, 200);
  EXPECT_GT(cut, 100);
  EXPECT_GT(servers, 5);
}

// The planner tries two SM caps for a replica: where its speed stops to grow, and the tightest that
// its target bears. The caps in between could be cheaper in some case that nobody has found yet.
TEST(MakePlan, LosesNothingByTryingTwoCapsOnly) {
  int planned = 0;
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    Dice dice(seed);
    const Fleet fleet = RandomFleet({.boards = {"l40s"},
                                     .replicas_max = 3,
                                     .workloads_max = 3,
                                     .memory_gib_max = 12,
                                     .load_chance = 1,
                                     .target_chance = 1},
                                    dice);
    const auto plan = MakePlan(RequestFor(fleet));
    const std::optional<double> cheapest = CheapestByTrying(fleet, Rules(), Caps::kAll);
    ASSERT_EQ(plan.has_value(), cheapest.has_value()) << "seed " << seed;
    if (!plan) continue;
    ASSERT_NEAR(plan->summary.cost_hour_usd, *cheapest, kMoney) << "seed " << seed;
    ++planned;
  }
  EXPECT_GT(planned, 40);
}

Sharing SharingOf(const PlannedPartition& partition) {
  if (partition.mode == SharingMode::kExclusive) return Sharing::kAlone;
  if (partition.mode == SharingMode::kTimeSlicing) return Sharing::kTurns;
  return partition.servers.size() > 1 ? Sharing::kServerEach : Sharing::kOneServer;
}

void ExpectPredictedAsJudged(const Fleet& fleet, const PlannedGpu& gpu,
                             const PlannedPartition& partition, std::uint64_t seed) {
  const Board& board = **BuiltInBoards().Find(gpu.board);
  std::vector<Occupant> occupants;
  for (const PlannedReplica& replica : partition.replicas) {
    const auto workload =
        std::find_if(fleet.workloads.begin(), fleet.workloads.end(),
                     [&](const Workload& w) { return w.name == replica.workload; });
    ASSERT_NE(workload, fleet.workloads.end());
    occupants.push_back({&*workload, replica.sm_percent.value_or(100)});
  }
  const Verdict verdict = JudgePartition(Rules(), board, board.FindProfile(partition.profile),
                                         SharingOf(partition), occupants);
  EXPECT_EQ(verdict.refusal, "") << "seed " << seed << ", " << partition.name;
  for (std::size_t r = 0; r < partition.replicas.size(); ++r) {
    const PlannedReplica& replica = partition.replicas[r];
    // Both round up to a MiB, after products taken in another order.
    EXPECT_NEAR(static_cast<double>(replica.context.mib()),
                static_cast<double>(verdict.context[r].mib()), 1)
        << "seed " << seed << ", " << replica.id;
    if (!occupants[r].workload->load) continue;
    EXPECT_NEAR(replica.prediction.service_ms, verdict.service_ms[r], 1e-6)
        << "seed " << seed << ", " << replica.id;
    EXPECT_NEAR(replica.prediction.latency_ms_p99.value_or(0), verdict.latency[r].p99_ms, 1e-6)
        << "seed " << seed << ", " << replica.id;
    EXPECT_NEAR(replica.prediction.latency_ms_p50.value_or(0), verdict.latency[r].p50_ms, 1e-6)
        << "seed " << seed << ", " << replica.id;
  }
}

TEST(MakePlan, PredictsWhatTheJudgePredicts) {
  std::set<Sharing> seen;
  for (std::uint64_t seed = 0; seed < 250; ++seed) {
    const Fleet fleet = RandomFleetOf(30, seed);
    const auto plan = MakePlan(RequestFor(fleet));
    if (!plan) continue;
    for (const PlannedGpu& gpu : plan->gpus) {
      for (const PlannedPartition& partition : gpu.partitions) {
        seen.insert(SharingOf(partition));
        ExpectPredictedAsJudged(fleet, gpu, partition, seed);
      }
    }
  }
  EXPECT_EQ(seen.size(), 4u);
}

// A cap at the knee leaves a little less than full speed, and the bandwidth used is less by as
// much: two of these and the third have just room beside each other.
TEST(MakePlan, CountsTheBandwidthOfACappedReplicaAtItsPaceAlsoWithoutLoad) {
  Fleet fleet;
  fleet.gpus = {{"l40s", 1, std::nullopt}};
  fleet.tenants = {{"default", Isolation::kNone}};
  Workload busy;
  busy.name = "busy";
  busy.tenant = "default";
  busy.replicas = 2;
  busy.memory = 1_GiB;
  busy.compute.bandwidth_percent = 41;
  busy.compute.profile = {{30, 0.96}, {100, 1}};
  Workload served = busy;
  served.name = "served";
  served.replicas = 1;
  served.compute.profile.clear();
  served.compute.sm_percent = 20;
  served.compute.bandwidth_percent = 20;
  served.load = Load{.requests_per_second = 10, .service_ms = 10};
  served.latency.p99_ms = 100;
  fleet.workloads = {busy, served};
  const auto plan = MakePlan(RequestFor(fleet));
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
}

// --- Properties ---------------------------------------------------------------------------------

Fleet AnyFleet(int replicas_max) {
  return RandomFleetOf(*rc::gen::inRange(1, replicas_max + 1),
                       *rc::gen::arbitrary<std::uint64_t>());
}

RC_GTEST_PROP(AnyRequest, GivesAPlanThatKeepsItsPromisesOrSaysWhyNot, ()) {
  const Fleet fleet = AnyFleet(60);
  PlanRequest request = RequestFor(fleet);
  request.compare = *rc::gen::arbitrary<bool>();
  const auto plan = MakePlan(request);
  if (!plan) {
    RC_ASSERT(plan.error().code == ErrorCode::kInfeasible);
    RC_ASSERT(!plan.error().message.empty());
    return;
  }
  const Status sound = VerifyPlan(*plan, fleet, BuiltInBoards(), DefaultCalibration());
  RC_ASSERT(sound.has_value());
  RC_ASSERT(plan->summary.lower_bound_month_usd <= plan->summary.cost_month_usd + kMoney);
  RC_ASSERT((plan->summary.verdict == "optimal") == (plan->summary.gap_percent == 0));
  for (const GpuPool& pool : fleet.gpus) {
    const auto used = plan->summary.gpus_by_board.find(pool.board);
    RC_ASSERT(!pool.count || used == plan->summary.gpus_by_board.end() ||
              used->second <= *pool.count);
  }
}

RC_GTEST_PROP(AnyRequest, GivesTheSameBytesTwice, ()) {
  const Fleet fleet = AnyFleet(40);
  PlanRequest request = RequestFor(fleet);
  request.compare = true;
  const auto once = MakePlan(request);
  const auto twice = MakePlan(request);
  RC_ASSERT(once.has_value() == twice.has_value());
  if (once) RC_ASSERT(PlanToJson(*once).dump() == PlanToJson(*twice).dump());
  if (!once) RC_ASSERT(once.error().message == twice.error().message);
}

RC_GTEST_PROP(AnyPlan, SurvivesBeingWrittenAndRead, ()) {
  PlanRequest request = RequestFor(AnyFleet(40));
  request.compare = *rc::gen::arbitrary<bool>();
  const auto plan = MakePlan(request);
  if (!plan) return;
  const std::string text = PlanToJson(*plan).dump();
  const auto read = ParsePlan(text, "plan.json");
  RC_ASSERT(read.has_value());
  RC_ASSERT(PlanToJson(*read).dump() == text);
}

RC_GTEST_PROP(AnyPlan, AsTheCurrentOneMovesNothing, ()) {
  const Fleet fleet = AnyFleet(60);
  PlanRequest request = RequestFor(fleet);
  const auto first = MakePlan(request);
  if (!first) return;
  request.current = &*first;
  const auto second = MakePlan(request);
  RC_ASSERT(second.has_value());
  RC_ASSERT(second->changes.size() == ReplicasOf(*first).size());
  for (const Change& change : second->changes) {
    RC_ASSERT(change.kind == Change::Kind::kKeep);
    RC_ASSERT(change.from == change.to);
  }
}

RC_GTEST_PROP(AnySmallFleet, CostsNoMoreWithMoreGpusToChooseFrom, ()) {
  Fleet fleet = AnyFleet(6);
  for (GpuPool& pool : fleet.gpus) pool.count = *rc::gen::inRange(1, 4);
  const auto few = MakePlan(RequestFor(fleet));
  GpuPool& grown = fleet.gpus[*rc::gen::inRange<std::size_t>(0, fleet.gpus.size())];
  grown.count = *grown.count + 1;
  const auto more = MakePlan(RequestFor(fleet));
  if (!few) return;
  RC_ASSERT(more.has_value());
  RC_ASSERT(more->summary.cost_hour_usd <= few->summary.cost_hour_usd + kMoney);
}

RC_GTEST_PROP(AnySmallFleet, CostsNoMoreWithLooserTargets, ()) {
  Fleet fleet = AnyFleet(6);
  const auto tight = MakePlan(RequestFor(fleet));
  const double factor = 1 + *rc::gen::inRange(1, 200) / 100.0;
  for (Workload& workload : fleet.workloads) {
    if (workload.latency.p99_ms) *workload.latency.p99_ms *= factor;
    if (workload.latency.p50_ms) *workload.latency.p50_ms *= factor;
  }
  const auto loose = MakePlan(RequestFor(fleet));
  if (!tight) return;
  RC_ASSERT(loose.has_value());
  RC_ASSERT(loose->summary.cost_hour_usd <= tight->summary.cost_hour_usd + kMoney);
}

// --- The examples -------------------------------------------------------------------------------

const Strategy& StrategyNamed(const Plan& plan, std::string_view name) {
  const auto it = std::find_if(plan.strategies.begin(), plan.strategies.end(),
                               [&](const Strategy& s) { return s.name == name; });
  CHECK(it != plan.strategies.end());
  return *it;
}

TEST(FourSevenB, NeedFourGpusAloneAndOneTogether) {
  PlanRequest request = RequestFor(ExampleFleet("four-7b.yaml"));
  request.compare = true;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->summary.gpus, 1);
  EXPECT_DOUBLE_EQ(plan->summary.cost_month_usd, 2372.5);
  EXPECT_EQ(plan->summary.verdict, "optimal");
  const Strategy& exclusive = StrategyNamed(*plan, "exclusive");
  EXPECT_TRUE(exclusive.feasible);
  EXPECT_EQ(exclusive.gpus, 4);
  EXPECT_DOUBLE_EQ(exclusive.cost_month_usd, 9490);
  for (const char* shared : {"chosen", "time-slicing", "mps", "mig"}) {
    const Strategy& strategy = StrategyNamed(*plan, shared);
    EXPECT_TRUE(strategy.feasible) << shared;
    EXPECT_EQ(strategy.gpus, 1) << shared;
    EXPECT_DOUBLE_EQ(strategy.cost_month_usd, 2372.5) << shared;
    EXPECT_EQ(strategy.holds, 4) << shared;
  }
}

TEST(FortySmallModels, ShareOneGpuThroughMps) {
  PlanRequest request = RequestFor(ExampleFleet("forty-small.yaml"));
  request.compare = true;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->summary.gpus, 1);
  EXPECT_EQ(plan->summary.replicas, 40);
  ASSERT_EQ(plan->gpus[0].partitions.size(), 1u);
  EXPECT_EQ(plan->gpus[0].partitions[0].mode, SharingMode::kMps);
  EXPECT_EQ(StrategyNamed(*plan, "mps").gpus, 1);
  EXPECT_EQ(StrategyNamed(*plan, "mps").holds, 40);
  EXPECT_EQ(StrategyNamed(*plan, "mps").isolation, "memory");
  EXPECT_EQ(StrategyNamed(*plan, "mig").holds, 7);
  EXPECT_EQ(StrategyNamed(*plan, "mig").isolation, "hardware");
  const Strategy& sliced = StrategyNamed(*plan, "time-slicing");
  EXPECT_NE(sliced.gpus, 1);
  EXPECT_LT(sliced.holds, 40);
  EXPECT_THAT(sliced.breaks, Contains(AnyOf(HasSubstr("latency"), HasSubstr("load"))));
}

// --- Bad input ----------------------------------------------------------------------------------

Workload Plain(const std::string& name, Bytes memory) {
  Workload workload;
  workload.name = name;
  workload.tenant = "default";
  workload.memory = memory;
  workload.compute.sm_percent = 50;
  workload.compute.bandwidth_percent = 50;
  return workload;
}

Fleet PlainFleet(std::vector<GpuPool> pools, std::vector<Workload> workloads) {
  Fleet fleet;
  fleet.name = "plain";
  fleet.gpus = std::move(pools);
  fleet.tenants = {{"default", Isolation::kNone}, {"other", Isolation::kNone}};
  fleet.workloads = std::move(workloads);
  return fleet;
}

Error ErrorOf(const PlanRequest& request) {
  const auto plan = MakePlan(request);
  EXPECT_FALSE(plan.has_value());
  return plan ? Error{} : plan.error();
}

TEST(MakePlan, NamesTheModelThatFitsNoGpuAndWhatComesClosest) {
  const Error error = ErrorOf(RequestFor(PlainFleet(
      {{"l4", {}, {}}, {"a100-40gb", {}, {}}}, {Plain("small", 1_GiB), Plain("huge", 100_GiB)})));
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message,
              AllOf(HasSubstr("huge fits no GPU"), HasSubstr("a whole l4"),
                    HasSubstr("a whole a100-40gb"), HasSubstr("39.1 GiB are there")));
  EXPECT_FALSE(error.hint.empty());
}

TEST(MakePlan, SaysThatATargetCanNotBeMetEvenAlone) {
  Workload workload = Plain("w", 1_GiB);
  workload.load = Load{.requests_per_second = 1, .service_ms = 20};
  workload.latency.p99_ms = 19;
  const Error error = ErrorOf(RequestFor(PlainFleet({{"l4", {}, {}}}, {workload})));
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message, HasSubstr("p99 of"));
}

TEST(MakePlan, SaysThatAReplicaIsOverloadedEvenAlone) {
  Workload workload = Plain("w", 1_GiB);
  workload.load = Load{.requests_per_second = 49, .service_ms = 20};
  const Error error = ErrorOf(RequestFor(PlainFleet({{"l4", {}, {}}}, {workload})));
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message, HasSubstr("busy 98 %"));
}

TEST(MakePlan, FindsHardwareIsolationImpossibleOnTooFewGpusWithoutMig) {
  Workload ours = Plain("ours", 1_GiB);
  ours.isolation = Isolation::kHardware;
  Workload theirs = Plain("theirs", 1_GiB);
  theirs.tenant = "other";
  const Error error = ErrorOf(RequestFor(PlainFleet({{"l4", 1, {}}}, {ours, theirs})));
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message, HasSubstr("the 1 GPU offered can't hold the fleet"));
  EXPECT_EQ(error.hint, "2 GPUs of these boards would do");
  EXPECT_TRUE(MakePlan(RequestFor(PlainFleet({{"l4", 2, {}}}, {ours, theirs}))).has_value());
  EXPECT_TRUE(MakePlan(RequestFor(PlainFleet({{"a30", 1, {}}}, {ours, theirs}))).has_value());
}

TEST(MakePlan, SaysHowManyGpusWouldDo) {
  Workload workload = Plain("w", 15_GiB);
  workload.replicas = 25;
  const Error error = ErrorOf(RequestFor(PlainFleet({{"l4", 20, {}}}, {workload})));
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message, AllOf(HasSubstr("20 GPUs"), HasSubstr("5 of 25 replicas of w")));
  EXPECT_EQ(error.hint, "25 GPUs of these boards would do");
}

TEST(MakePlan, RefusesAnUnknownBoard) {
  const Error error = ErrorOf(RequestFor(PlainFleet({{"l5", {}, {}}}, {Plain("w", 1_GiB)})));
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_THAT(error.message, HasSubstr("l5"));
}

TEST(MakePlan, RefusesToPlanForNoGpus) {
  const Error error = ErrorOf(RequestFor(PlainFleet({}, {Plain("w", 1_GiB)})));
  EXPECT_EQ(error.code, ErrorCode::kInvalid);
}

// --- Nodes --------------------------------------------------------------------------------------

Inventory NodeOf(const std::string& board_name, int count) {
  const Board& board = **BuiltInBoards().Find(board_name);
  Inventory node;
  node.host.hostname = "node-a";
  node.host.cpu_cores = 64;
  std::vector<int> indices;
  for (int i = 0; i < count; ++i) {
    Gpu gpu;
    gpu.index = i;
    gpu.uuid = fmt::format("GPU-{}", i);
    gpu.product = board.product;
    gpu.board = board.name;
    gpu.memory = board.memory;
    node.gpus.push_back(gpu);
    indices.push_back(i);
  }
  for (const SharingMode mode :
       {SharingMode::kExclusive, SharingMode::kTimeSlicing, SharingMode::kMps, SharingMode::kMig}) {
    node.modes.push_back({mode, indices, {}});
  }
  return node;
}

TEST(MakePlanForANode, UsesItsGpusByName) {
  Workload workload = Plain("w", 15_GiB);
  workload.replicas = 3;
  const Inventory node = NodeOf("l4", 4);
  PlanRequest request = RequestFor(PlainFleet({}, {workload}));
  request.node = &node;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  ASSERT_EQ(plan->gpus.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(plan->gpus[static_cast<std::size_t>(i)].uuid, fmt::format("GPU-{}", i));
    EXPECT_EQ(plan->gpus[static_cast<std::size_t>(i)].node, "node-a");
    EXPECT_EQ(plan->gpus[static_cast<std::size_t>(i)].index, i);
  }
}

TEST(MakePlanForANode, LeavesOutModesThatItCanNotRun) {
  Workload workload = Plain("w", 2_GiB);
  workload.replicas = 3;
  workload.load = Load{.requests_per_second = 3, .service_ms = 10};
  Inventory node = NodeOf("a100-80gb", 1);
  for (ModeCheck& check : node.modes) {
    if (check.mode == SharingMode::kMps || check.mode == SharingMode::kMig) check.gpus.clear();
  }
  PlanRequest request = RequestFor(PlainFleet({}, {workload}));
  request.node = &node;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->gpus.at(0).partitions.at(0).mode, SharingMode::kTimeSlicing);
}

TEST(MakePlanForANode, LeavesOutGpusOnWhichSomethingElseRuns) {
  Inventory node = NodeOf("l4", 2);
  GpuProcess process;
  process.pid = 4711;
  process.name = "train.py";
  node.gpus[0].processes.push_back(process);
  PlanRequest request = RequestFor(PlainFleet({}, {Plain("w", 1_GiB)}));
  request.node = &node;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->gpus.at(0).uuid, "GPU-1");
  EXPECT_THAT(plan->warnings,
              Contains(AllOf(HasSubstr("GPU 0 is left out"), HasSubstr("train.py"))));
  node.gpus[1].problem = "gpu is lost";
  const Error error = ErrorOf(request);
  EXPECT_EQ(error.code, ErrorCode::kInvalid);
  EXPECT_THAT(error.message, HasSubstr("gpu is lost"));
}

TEST(MakePlanForANode, RefusesACurrentPlanForGpusThatAreGone) {
  const Inventory four = NodeOf("l4", 4);
  Workload workload = Plain("w", 15_GiB);
  workload.replicas = 4;
  PlanRequest request = RequestFor(PlainFleet({}, {workload}));
  request.node = &four;
  const auto current = MakePlan(request);
  ASSERT_TRUE(current.has_value());
  const Inventory three = NodeOf("l4", 3);
  request.node = &three;
  request.current = &*current;
  const Error error = ErrorOf(request);
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("GPU-3"));
}

// What the current plan started may keep running where it runs.
TEST(MakePlanForANode, MovesNothingThatMayStay) {
  Inventory node = NodeOf("l4", 4);
  Workload first = Plain("first", 15_GiB);
  first.replicas = 2;
  PlanRequest request = RequestFor(PlainFleet({}, {first}));
  request.node = &node;
  auto current = MakePlan(request);
  ASSERT_TRUE(current.has_value());
  // As if it had been planned for the last two GPUs.
  current->gpus[0].uuid = "GPU-2";
  current->gpus[1].uuid = "GPU-3";
  GpuProcess process;
  process.pid = 1;
  node.gpus[2].processes.push_back(process);
  request.fleet = PlainFleet({}, {Plain("second", 15_GiB), first});
  request.current = &*current;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  std::map<std::string, Change::Kind> kinds;
  for (const Change& change : plan->changes) kinds[change.replica] = change.kind;
  EXPECT_EQ(kinds.at("first/0"), Change::Kind::kKeep);
  EXPECT_EQ(kinds.at("first/1"), Change::Kind::kKeep);
  EXPECT_EQ(kinds.at("second/0"), Change::Kind::kAdd);
  request.fleet = PlainFleet({}, {first});
  request.fleet.workloads[0].replicas = 1;
  const auto smaller = MakePlan(request);
  ASSERT_TRUE(smaller.has_value());
  EXPECT_EQ(std::count_if(smaller->changes.begin(), smaller->changes.end(),
                          [](const Change& c) { return c.kind == Change::Kind::kRemove; }),
            1);
}

}  // namespace
}  // namespace sublet
