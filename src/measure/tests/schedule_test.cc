#include "measure/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

LabFacts H200() {
  LabFacts facts;
  facts.memory_free = Bytes::FromMib(143'000);
  facts.no_mig = "MIG is off";
  return facts;
}

std::vector<std::string> Ids(const Schedule& schedule) {
  std::vector<std::string> ids;
  for (const Act& act : schedule.acts) {
    for (const Trial& trial : act.trials) ids.push_back(trial.id);
  }
  return ids;
}

TEST(Schedule, MeasuresAloneFirstAndOnceMoreLast) {
  for (std::uint64_t seed = 1; seed < 20; ++seed) {
    const Schedule schedule = MakeSchedule(H200(), {.seed = seed});
    ASSERT_GT(schedule.acts.size(), 5U);
    EXPECT_EQ(schedule.acts.front().trials.front().series, "alone");
    EXPECT_THAT(schedule.acts.back().trials, Each(Field(&Trial::series, "drift")));
  }
}

TEST(Schedule, ShufflesTheModesBySeedAlone) {
  const auto order = [](std::uint64_t seed) {
    std::vector<std::string> names;
    for (const Act& act : MakeSchedule(H200(), {.seed = seed}).acts) names.push_back(act.name);
    return names;
  };
  EXPECT_EQ(order(3), order(3));
  std::set<std::vector<std::string>> orders;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) orders.insert(order(seed));
  EXPECT_GT(orders.size(), 5U);
}

TEST(Schedule, NamesEachTrialOnce) {
  for (const Effort effort : {Effort::kQuick, Effort::kFull}) {
    std::vector<std::string> ids = Ids(MakeSchedule(H200(), {.effort = effort}));
    std::ranges::sort(ids);
    EXPECT_EQ(std::ranges::adjacent_find(ids), ids.end());
  }
}

TEST(Schedule, AsksNoWorkerThatItsCrewHasNot) {
  for (const Effort effort : {Effort::kQuick, Effort::kFull}) {
    for (const Act& act : MakeSchedule(H200(), {.effort = effort, .faults = true}).acts) {
      for (const Trial& trial : act.trials) {
        for (const Part& part : trial.parts) EXPECT_LT(part.worker, act.workers) << trial.id;
      }
    }
  }
}

TEST(Schedule, RunsEverySizeInThreeModes) {
  const std::vector<std::string> ids = Ids(MakeSchedule(H200(), {}));
  for (const char* mode : {"time-slicing", "mps", "mps-10"}) {
    for (const char* size : {"x2", "x4", "x8", "x16", "x40"}) {
      EXPECT_THAT(ids, Contains(std::string(mode) + "/transformer/" + size));
    }
  }
}

TEST(Schedule, FitsTheCrowdIntoTheMemoryAndSaysSo) {
  LabFacts small = H200();
  small.memory_free = Bytes::FromMib(8'000);
  const Schedule schedule = MakeSchedule(small, {});
  for (const Act& act : schedule.acts) EXPECT_LE(act.workers, 11);
  EXPECT_THAT(schedule.skipped, Contains(Field(&Skipped::what, HasSubstr("x40"))));
}

TEST(Schedule, SaysWhyAModeIsMissing) {
  LabFacts facts = H200();
  facts.no_mps = "nvidia-cuda-mps-control is not installed";
  const Schedule schedule = MakeSchedule(facts, {});
  EXPECT_THAT(schedule.acts, Each(Field(&Act::mode, Not(SharingMode::kMps))));
  EXPECT_THAT(schedule.skipped,
              Contains(Field(&Skipped::reason, "nvidia-cuda-mps-control is not installed")));
}

TEST(Schedule, LeavesTensorCoresOutWhereThereAreNone) {
  LabFacts facts = H200();
  facts.tensor_cores = false;
  const Schedule schedule = MakeSchedule(facts, {.effort = Effort::kFull});
  for (const std::string& id : Ids(schedule)) {
    EXPECT_THAT(id, Not(HasSubstr("gemm")));
    EXPECT_THAT(id, Not(HasSubstr("transformer")));
  }
  EXPECT_THAT(schedule.skipped, Contains(Field(&Skipped::what, HasSubstr("gemm"))));
}

TEST(Schedule, DoesOnlyWhatWasAskedAndAlwaysAlone) {
  const Schedule schedule = MakeSchedule(H200(), {.only = {LabPart::kServers}});
  ASSERT_THAT(schedule.acts, SizeIs(3));
  EXPECT_EQ(schedule.acts[1].servers, 2);
}

TEST(Schedule, LetsNobodyMisbehaveUnasked) {
  for (const Act& act : MakeSchedule(H200(), {.effort = Effort::kFull}).acts) {
    EXPECT_NE(act.kind, ActKind::kFaults);
  }
  int faults = 0;
  for (const Act& act : MakeSchedule(H200(), {.faults = true}).acts) {
    faults += act.kind == ActKind::kFaults ? 1 : 0;
  }
  EXPECT_EQ(faults, 3);
}

TEST(Schedule, MeasuresInstancesOnlyWhileMigIsOn) {
  LabFacts facts = H200();
  facts.mig = true;
  facts.no_mig = "";
  facts.mig_uuids = {"MIG-a", "MIG-b"};
  facts.mig_profiles = {"1g.18gb", "2g.35gb"};
  const Schedule schedule = MakeSchedule(facts, {});
  ASSERT_THAT(schedule.acts, SizeIs(1));
  EXPECT_EQ(schedule.acts[0].mode, SharingMode::kMig);
  EXPECT_EQ(schedule.acts[0].MigProfileOf(1), "2g.35gb");
  EXPECT_THAT(Ids(schedule), Contains("mig/all/small"));
  EXPECT_THAT(schedule.skipped, Not(SizeIs(0)));
}

LabFacts MayCut() {
  LabFacts facts = H200();
  facts.may_cut_mig = true;
  return facts;
}

TEST(Schedule, CutsMigAfterAllThatNeedsTheWholeGpu) {
  for (std::uint64_t seed = 1; seed < 20; ++seed) {
    const Schedule schedule = MakeSchedule(MayCut(), {.faults = true, .seed = seed});
    const auto cut = std::ranges::find(schedule.acts, ActKind::kCutMig, &Act::kind);
    ASSERT_NE(cut, schedule.acts.end());
    // What follows shows whether the GPU is as it was.
    ASSERT_EQ(cut + 2, schedule.acts.end());
    EXPECT_THAT(cut[1].trials, Each(Field(&Trial::series, "drift")));
    EXPECT_GT(cut->ExpectedSeconds(Effort::kQuick), 5);
    EXPECT_THAT(schedule.skipped, Not(Contains(Field(&Skipped::what, "mig"))));
  }
}

TEST(Schedule, CutsMigOnlyWhereItMayAndIsAskedTo) {
  const auto cuts = [](const LabFacts& facts, const LabRequest& request) {
    return std::ranges::count(MakeSchedule(facts, request).acts, ActKind::kCutMig, &Act::kind);
  };
  EXPECT_EQ(cuts(H200(), {}), 0);
  EXPECT_EQ(cuts(MayCut(), {}), 1);
  EXPECT_EQ(cuts(MayCut(), {.only = {LabPart::kMig}}), 1);
  EXPECT_EQ(cuts(MayCut(), {.only = {LabPart::kMps}}), 0);
}

TEST(Schedule, CutsAGpuWhoseMigModeIsOnWithoutInstances) {
  LabFacts facts = MayCut();
  facts.mig = true;
  const Schedule schedule = MakeSchedule(facts, {});
  ASSERT_THAT(schedule.acts, SizeIs(1));
  EXPECT_EQ(schedule.acts[0].kind, ActKind::kCutMig);
}

TEST(Schedule, MeasuresInNewInstancesAloneAndAllAtOnce) {
  LabFacts facts = MayCut();
  facts.mig_uuids = {"MIG-a", "MIG-b"};
  facts.mig_profiles = {"1g.18gb", "1g.18gb"};
  const Act act = MigAct(facts, {});
  EXPECT_EQ(act.kind, ActKind::kTrials);
  EXPECT_EQ(act.workers, 2);
  EXPECT_EQ(act.mig_uuids, facts.mig_uuids);
  for (const std::string workload : {"small", "mem", "transformer"}) {
    std::vector<std::vector<int>> workers;
    for (const Trial& trial : act.trials) {
      if (trial.parts[0].workload != workload) continue;
      workers.emplace_back();
      for (const Part& part : trial.parts) workers.back().push_back(part.worker);
    }
    EXPECT_EQ(workers, (std::vector<std::vector<int>>{{0}, {1}, {0, 1}})) << workload;
  }
}

}  // namespace
}  // namespace sublet
