#include "mig/mig_change.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "model/tests/board_gpu.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Kind = MigStep::Kind;

MigTarget Target(const Gpu& gpu, std::vector<MigSeat> seats) {
  const auto target =
      ResolveTarget(gpu, {.gpu_uuid = gpu.uuid, .mig = true, .instances = std::move(seats)});
  EXPECT_TRUE(target) << target.error().message;
  return *target;
}

MigTarget Off(const Gpu& gpu) {
  return {.gpu_uuid = gpu.uuid, .mig = false, .instances = {}};
}

Gpu CutInto(const std::string& board, std::vector<MigSeat> seats) {
  Gpu gpu = GpuOfBoard(board);
  SetInstances(Target(gpu, std::move(seats)).instances, gpu);
  return gpu;
}

std::vector<std::string> Told(const Result<std::vector<MigStep>>& steps) {
  EXPECT_TRUE(steps) << steps.error().message;
  std::vector<std::string> told;
  if (!steps) return told;
  for (const MigStep& step : *steps) told.push_back(Describe(step));
  return told;
}

MigUse InUse(int id, std::string who) {
  return {.instances = {{id, {std::move(who)}}}, .whole = {}};
}

TEST(MigChange, DestroysBeforeItCreatesAndKeepsTheRest) {
  const Gpu gpu = CutInto("a100-80gb", {{.profile = "3g.40gb", .start = 0},
                                        {.profile = "1g.10gb", .start = 4},
                                        {.profile = "1g.10gb", .start = 6}});
  const MigTarget target = Target(gpu, {{.profile = "1g.10gb", .start = 4},
                                        {.profile = "1g.10gb", .start = 0},
                                        {.profile = "2g.20gb", .start = 2}});
  EXPECT_THAT(
      Told(StepsBetween(gpu, target, {})),
      ElementsAre("destroy 3g.40gb at 0, GPU instance 1", "destroy 1g.10gb at 6, GPU instance 3",
                  "create 1g.10gb at 0", "create 2g.20gb at 2"));
}

TEST(MigChange, TurnsTheModeOnFirstAndOffLast) {
  const Gpu off = GpuOfBoard("a30");
  EXPECT_THAT(Told(StepsBetween(off, Target(off, {{.profile = "4g.24gb", .start = 0}}), {})),
              ElementsAre("turn MIG mode on", "create 4g.24gb at 0"));
  const Gpu on = CutInto("a30", {{.profile = "4g.24gb", .start = 0}});
  EXPECT_THAT(Told(StepsBetween(on, Off(on), {})),
              ElementsAre("destroy 4g.24gb at 0, GPU instance 1", "turn MIG mode off"));
}

TEST(MigChange, HasNoStepsWhereAllIsAsItShallBe) {
  const Gpu gpu = CutInto("h100-80gb", {{.profile = "3g.40gb", .start = 4}});
  EXPECT_THAT(Told(StepsBetween(gpu, *CurrentTarget(gpu), InUse(1, "process 9"))), IsEmpty());
  const Gpu l4 = GpuOfBoard("l4");
  EXPECT_THAT(Told(StepsBetween(l4, Off(l4), {})), IsEmpty());
}

TEST(MigChange, TakesBackAChangeThatWaitsForAReset) {
  Gpu gpu = GpuOfBoard("a100-80gb");
  gpu.mig_pending = true;
  EXPECT_THAT(Told(StepsBetween(gpu, Off(gpu), {})), SizeIs(1));
  EXPECT_EQ(StepsBetween(gpu, Off(gpu), {})->at(0).kind, Kind::kKeepMode);
  // What is pending already is asked for again: the GPU may be idle by now.
  EXPECT_EQ(StepsBetween(gpu, Target(gpu, {}), {})->at(0).kind, Kind::kEnableMode);
}

TEST(MigChange, NeverDestroysWhatIsInUseAndNamesTheUser) {
  const Gpu gpu = CutInto("a100-80gb", {{.profile = "3g.40gb", .start = 4}});
  for (const MigTarget& target :
       {Off(gpu), Target(gpu, {}), Target(gpu, {{.profile = "3g.40gb", .start = 0}})}) {
    const auto steps = StepsBetween(gpu, target, InUse(1, "share s17 of tenant search"));
    ASSERT_FALSE(steps);
    EXPECT_EQ(steps.error().code, ErrorCode::kConflict);
    EXPECT_THAT(steps.error().message, HasSubstr("3g.40gb at 4, GPU instance 1"));
    EXPECT_THAT(steps.error().message, HasSubstr("share s17 of tenant search"));
  }
}

TEST(MigChange, ChangesTheModeOfAnIdleGpuOnly) {
  const Gpu gpu = GpuOfBoard("a100-80gb");
  const MigUse use{.instances = {}, .whole = {"process 7 (python3)"}};
  const auto steps = StepsBetween(gpu, Target(gpu, {}), use);
  ASSERT_FALSE(steps);
  EXPECT_EQ(steps.error().code, ErrorCode::kConflict);
  EXPECT_THAT(steps.error().message, HasSubstr("process 7 (python3)"));
  EXPECT_THAT(Told(StepsBetween(gpu, Off(gpu), use)), IsEmpty());
}

TEST(MigChange, MakesAnInstanceAgainWhoseComputeInstancesDiffer) {
  // As a program leaves it that was killed between the two calls.
  const Gpu gpu = CutInto("a30", {{.profile = "2g.12gb", .start = 0, .compute_slices = {{}}}});
  EXPECT_THAT(Told(StepsBetween(gpu, Target(gpu, {{.profile = "2g.12gb", .start = 0}}), {})),
              ElementsAre("destroy 2g.12gb at 0 (no compute instances), GPU instance 1",
                          "create 2g.12gb at 0"));
}

TEST(MigChange, RefusesAGpuThatIsBroken) {
  Gpu gpu = GpuOfBoard("a30");
  gpu.problem = "gpu is lost";
  const auto steps = StepsBetween(gpu, Off(gpu), {});
  ASSERT_FALSE(steps);
  EXPECT_EQ(steps.error().code, ErrorCode::kUnavailable);
}

TEST(MigChange, GoesThroughTheGpusOfANode) {
  Inventory node;
  node.gpus = {GpuOfBoard("a30"), CutInto("h200", {{.profile = "7g.141gb", .start = 0}})};
  node.gpus[1].index = 1;
  const std::vector<MigTarget> targets{Target(node.gpus[0], {}), Off(node.gpus[1])};
  EXPECT_THAT(Told(StepsForNode(node, targets, {})),
              ElementsAre("turn MIG mode on", "destroy 7g.141gb at 0, GPU instance 1",
                          "turn MIG mode off"));
  const auto conflict = StepsForNode(node, targets, {{node.gpus[1].uuid, InUse(1, "process 3")}});
  ASSERT_FALSE(conflict);
  EXPECT_THAT(conflict.error().message, HasSubstr("GPU 1: "));
  const auto unknown =
      StepsForNode(node, {{.gpu_uuid = "GPU-x", .mig = false, .instances = {}}}, {});
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kNotFound);
}

TEST(MigChange, SaysEveryDifference) {
  const Gpu gpu = CutInto("a30", {{.profile = "2g.12gb", .start = 0}});
  EXPECT_THAT(DifferencesFrom(gpu, *CurrentTarget(gpu)), IsEmpty());
  EXPECT_THAT(DifferencesFrom(gpu, Target(gpu, {{.profile = "2g.12gb", .start = 2}})),
              ElementsAre("no 2g.12gb at 2", "2g.12gb at 0 is there, too"));
  EXPECT_THAT(DifferencesFrom(gpu, Off(gpu)),
              ElementsAre("MIG mode is on, not off", "2g.12gb at 0 is there, too"));
}

TEST(MigChange, StepsComeBackFromTheirJson) {
  const Gpu gpu = CutInto("a30", {{.profile = "2g.12gb", .start = 0, .compute_slices = {{1, 1}}}});
  auto steps = *StepsBetween(gpu, Off(gpu), {});
  steps.push_back(Inverse(steps[0]));
  const auto read = ParseMigSteps(MigStepsToJson(steps).dump(), "journal");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, steps);
  EXPECT_FALSE(ParseMigSteps(R"([{"step":"create","gpu":"GPU-1"}])", "journal"));
  EXPECT_FALSE(ParseMigSteps(R"([{"step":"make","gpu":"GPU-1"}])", "journal"));
}

TEST(MigChange, TellsTheCommandsForAPerson) {
  const Gpu gpu = CutInto("a30", {{.profile = "2g.12gb", .start = 2}});
  const auto steps = *StepsBetween(gpu, Off(gpu), {});
  EXPECT_EQ(CommandFor(steps[0]),
            "nvidia-smi mig -i GPU-of-a30 -dci -gi 1 && nvidia-smi mig -i GPU-of-a30 -dgi -gi 1");
  EXPECT_EQ(CommandFor(steps[1]), "nvidia-smi -i GPU-of-a30 -mig 0");
  EXPECT_EQ(CommandFor(Inverse(steps[0])), "nvidia-smi mig -i GPU-of-a30 -cgi 5:2 -C");
}

// ---- properties ----

// Any set of instances that don't overlap, some with two compute instances or none.
std::vector<MigSeat> AnySeats(const Gpu& gpu) {
  const auto wanted = *rc::gen::container<std::vector<std::pair<int, int>>>(
      rc::gen::pair(rc::gen::inRange(0, 64), rc::gen::inRange(0, 64)));
  std::vector<MigSeat> seats;
  std::set<int> taken;
  for (const auto& [row, column] : wanted) {
    const ReportedProfile& profile =
        gpu.profiles[static_cast<std::size_t>(row) % gpu.profiles.size()];
    const Placement place =
        profile.placements[static_cast<std::size_t>(column) % profile.placements.size()];
    bool free = true;
    for (int unit = place.start; unit < place.start + place.size; ++unit) {
      free = free && !taken.contains(unit);
    }
    if (!free) continue;
    for (int unit = place.start; unit < place.start + place.size; ++unit) taken.insert(unit);
    MigSeat seat{.profile = profile.name,
                 .profile_id = profile.id,
                 .start = place.start,
                 .size = place.size};
    if (column % 5 == 0) seat.compute_slices.emplace();
    if (column % 5 == 1 && profile.compute_slices > 1) {
      seat.compute_slices = {{profile.compute_slices - 1, 1}};
    }
    seats.push_back(seat);
  }
  std::ranges::sort(seats, {}, &MigSeat::start);
  return seats;
}

// Does a step to a model of the GPU, and insists on what a driver insists on.
void DoTo(const MigStep& step, std::vector<MigSeat>& seats, bool& mode) {
  if (step.kind == Kind::kEnableMode || step.kind == Kind::kDisableMode) {
    RC_ASSERT(seats.empty());
    RC_ASSERT(mode != (step.kind == Kind::kEnableMode));
    mode = !mode;
  } else if (step.kind == Kind::kDestroy) {
    const auto there = std::ranges::find(seats, step.seat);
    RC_ASSERT(mode && there != seats.end());
    seats.erase(there);
  } else {
    RC_ASSERT(mode && step.kind == Kind::kCreate);
    for (const MigSeat& seat : seats) {
      RC_ASSERT(seat.start + seat.size <= step.seat.start ||
                step.seat.start + step.seat.size <= seat.start);
    }
    seats.push_back(step.seat);
  }
}

RC_GTEST_PROP(MigChange, StepsLeadToTheTargetAndTouchNothingInUse, ()) {
  const auto& boards = BuiltInBoards().boards;
  const Board& board = boards[*rc::gen::inRange<std::size_t>(0, boards.size())];
  RC_PRE(board.HasMig());
  Gpu gpu = GpuOfBoard(board);
  std::vector<MigSeat> seats;
  bool mode = *rc::gen::arbitrary<bool>();
  if (mode) {
    seats = AnySeats(gpu);
    SetInstances(seats, gpu);
  }
  MigTarget target = Off(gpu);
  target.mig = *rc::gen::arbitrary<bool>();
  if (target.mig) target.instances = AnySeats(gpu);
  MigUse use;
  std::size_t differing = 0;
  bool in_the_way = false;
  for (const GpuInstance& instance : gpu.instances) {
    const bool used = *rc::gen::arbitrary<bool>();
    if (used) use.instances[instance.id] = {"somebody"};
    const auto seat = std::ranges::find(seats, instance.placement.start, &MigSeat::start);
    const bool stays = std::ranges::find(target.instances, *seat) != target.instances.end();
    if (!stays) ++differing;
    in_the_way = in_the_way || (used && !stays);
  }
  for (const MigSeat& seat : target.instances) {
    if (std::ranges::find(seats, seat) == seats.end()) ++differing;
  }

  const auto steps = StepsBetween(gpu, target, use);
  RC_ASSERT(steps.has_value() == !in_the_way);
  if (!steps) return;
  RC_ASSERT(steps->size() == differing + (mode == target.mig ? 0 : 1));
  for (const MigStep& step : *steps) {
    if (step.kind == Kind::kDestroy) RC_ASSERT(!use.instances.contains(*step.instance_id));
    DoTo(step, seats, mode);
  }
  std::ranges::sort(seats, {}, &MigSeat::start);
  RC_ASSERT(seats == target.instances);
  RC_ASSERT(mode == target.mig);
  // And back again.
  for (auto step = steps->rbegin(); step != steps->rend(); ++step) {
    DoTo(Inverse(*step), seats, mode);
  }
  RC_ASSERT(mode == gpu.mig_enabled);
  RC_ASSERT(seats.size() == gpu.instances.size());
}

}  // namespace
}  // namespace sublet
