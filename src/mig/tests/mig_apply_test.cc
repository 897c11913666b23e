// On the simulated driver, whose every call can be made to fail.
#include "mig/mig_apply.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <tuple>

#include "inventory/tests/simulated_gpu.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Whoever waits in a test waits in vain.
constexpr MigPatience kNoPatience{.in_use_s = 0};

// What a person would see: "off", or "on: 2g.12gb at 0, 1g.6gb at 3".
std::string Seen(const SimulatedGpu& node) {
  const Gpu gpu = node.Look();
  const auto current = CurrentTarget(gpu);
  if (!current) return current.error().message;
  std::string text = gpu.mig_enabled ? "on" : "off";
  if (gpu.mig_pending != gpu.mig_enabled) text += " (pending)";
  for (const MigSeat& seat : current->instances) text += ", " + DescribeSeat(seat);
  return text;
}

MigTarget Target(const SimulatedGpu& node, bool mig, std::vector<MigSeat> seats) {
  const Gpu gpu = node.Look();
  auto target =
      ResolveTarget(gpu, {.gpu_uuid = gpu.uuid, .mig = mig, .instances = std::move(seats)});
  EXPECT_TRUE(target) << target.error().message;
  return *target;
}

std::vector<MigStep> StepsTo(const SimulatedGpu& node, const MigTarget& target) {
  const Gpu gpu = node.Look();
  auto steps = StepsBetween(gpu, target, UseByProcesses(gpu));
  EXPECT_TRUE(steps) << steps.error().message;
  return *steps;
}

// Cuts the GPU as a test wants to find it.
void Cut(const SimulatedGpu& node, std::vector<MigSeat> seats) {
  NoMigJournal journal;
  const MigTarget target = Target(node, true, std::move(seats));
  const Status done = ApplySteps(node.api(), StepsTo(node, target), journal, kNoPatience);
  ASSERT_TRUE(done) << done.error().message;
}

class Heard final : public MigJournal {
 public:
  Status WillDo(const MigStep& step) override {
    lines.push_back("will " + Describe(step));
    if (refuse_at == lines.size()) return Fail(ErrorCode::kIo, "the disk is full");
    begun.push_back(step);
    return {};
  }
  void Done(const MigStep& step) override { lines.push_back("done " + Describe(step)); }

  std::vector<std::string> lines;
  std::vector<MigStep> begun;
  std::size_t refuse_at = 0;  // Counted in lines.
};

const std::vector<MigSeat> kBefore{{.profile = "2g.12gb", .start = 0},
                                   {.profile = "1g.6gb", .start = 2},
                                   {.profile = "1g.6gb", .start = 3}};
const std::vector<MigSeat> kAfter{{.profile = "1g.6gb", .start = 0},
                                  {.profile = "1g.6gb", .start = 3},
                                  {.profile = "1g.6gb+me", .start = 1}};
constexpr const char* kSeenBefore = "on, 2g.12gb at 0, 1g.6gb at 2, 1g.6gb at 3";
constexpr const char* kSeenAfter = "on, 1g.6gb at 0, 1g.6gb+me at 1, 1g.6gb at 3";

TEST(MigApply, CutsAGpuThatIsWhole) {
  const SimulatedGpu node("a30:1");
  const MigTarget target = Target(node, true, kAfter);
  Heard journal;
  const Status done =
      ApplyTargets(node.api(), StepsTo(node, target), std::vector{target}, journal, kNoPatience);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(Seen(node), kSeenAfter);
  EXPECT_THAT(journal.lines, SizeIs(8));
  EXPECT_EQ(journal.lines[0], "will turn MIG mode on");
  EXPECT_EQ(journal.lines[1], "done turn MIG mode on");
  for (const GpuInstance& instance : node.Look().instances) {
    EXPECT_THAT(instance.compute_instances, SizeIs(1));
  }
}

TEST(MigApply, LeavesTheInstanceAloneThatStays) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  const std::string uuid = node.Look().instances.at(2).compute_instances.at(0).uuid;
  node.StartProcess(static_cast<unsigned>(node.Look().instances.at(2).id), kComputeProcess);
  const MigTarget target = Target(node, true, kAfter);
  NoMigJournal journal;
  const Status done =
      ApplyTargets(node.api(), StepsTo(node, target), std::vector{target}, journal, kNoPatience);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(Seen(node), kSeenAfter);
  EXPECT_EQ(node.Look().instances.at(2).compute_instances.at(0).uuid, uuid);
  EXPECT_THAT(node.Look().processes, SizeIs(1));
}

TEST(MigApply, TakesEverythingApartAndTurnsTheModeOff) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  const MigTarget off = Target(node, false, {});
  NoMigJournal journal;
  ASSERT_TRUE(ApplyTargets(node.api(), StepsTo(node, off), std::vector{off}, journal, kNoPatience));
  EXPECT_EQ(Seen(node), "off");
}

TEST(MigApply, MakesComputeInstancesOfTheirOwnSizes) {
  const SimulatedGpu node("a100-80gb:1");
  Cut(node, {{.profile = "4g.40gb", .start = 0, .compute_slices = {{2, 1, 1}}},
             {.profile = "3g.40gb", .start = 4, .compute_slices = {{}}}});
  EXPECT_EQ(Seen(node),
            "on, 4g.40gb at 0 (compute slices 2+1+1), 3g.40gb at 4 (no compute instances)");
}

TEST(MigApply, WorksOnEveryBoardThatHasMig) {
  for (const Board& board : BuiltInBoards().boards) {
    if (!board.HasMig()) continue;
    SCOPED_TRACE(board.name);
    const SimulatedGpu node(board.name + ":1", {{"SUBLET_SIM_DRIVER", "999"}});
    for (const ReportedProfile& profile : node.Look().profiles) {
      const MigTarget target =
          Target(node, true, {{.profile = profile.name, .start = profile.placements.back().start}});
      NoMigJournal journal;
      const Status done = ApplyTargets(node.api(), StepsTo(node, target), std::vector{target},
                                       journal, kNoPatience);
      ASSERT_TRUE(done) << profile.name << ": " << done.error().message;
    }
  }
}

TEST(MigApply, UndoesAllWhereTheJournalCanNotBeWritten) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  Heard journal;
  journal.refuse_at = 7;
  const Status done =
      ApplySteps(node.api(), StepsTo(node, Target(node, true, kAfter)), journal, kNoPatience);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message, HasSubstr("the disk is full; nothing is changed"));
  EXPECT_EQ(Seen(node), kSeenBefore);
}

TEST(MigApply, UndoesAllWhereAnInstanceIsInUseAfterAll) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  const std::vector<MigStep> steps = StepsTo(node, Target(node, false, {}));
  // Between looking and doing, somebody moves in.
  node.StartProcess(static_cast<unsigned>(node.Look().instances.at(2).id), kComputeProcess);
  NoMigJournal journal;
  const Status done = ApplySteps(node.api(), steps, journal, kNoPatience);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kConflict);
  EXPECT_THAT(done.error().message, HasSubstr("in use"));
  EXPECT_EQ(Seen(node), kSeenBefore);
}

TEST(MigApply, DoesNotDestroyThePartInUseWhenItUndoes) {
  const SimulatedGpu node("a100-80gb:1");
  Cut(node, {{.profile = "3g.40gb", .start = 0, .compute_slices = {{1, 1, 1}}}});
  const std::vector<MigStep> steps = StepsTo(node, Target(node, false, {}));
  // The other two compute instances are destroyed before the driver refuses this one.
  node.StartProcess(static_cast<unsigned>(node.Look().instances.at(0).id), kComputeProcess, 1);
  NoMigJournal journal;
  const Status done = ApplySteps(node.api(), steps, journal, kNoPatience);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message, HasSubstr("nothing is changed"));
  EXPECT_EQ(Seen(node), "on, 3g.40gb at 0 (compute slices 1+1+1)");
  EXPECT_THAT(node.Look().processes, SizeIs(1));
}

TEST(MigApply, RefusesWhereTheGpuHasChangedSinceItWasLookedAt) {
  const SimulatedGpu node("a30:1");
  node.SetMig(true);
  const std::vector<MigStep> steps =
      StepsTo(node, Target(node, true, {{.profile = "4g.24gb", .start = 0}}));
  node.AddInstance(14);
  NoMigJournal journal;
  const Status done = ApplySteps(node.api(), steps, journal, kNoPatience);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kConflict);
  EXPECT_THAT(done.error().message, HasSubstr("has changed meanwhile"));
  EXPECT_THAT(node.Look().instances, SizeIs(1));
}

// What holds the GPU need not be in the driver's lists, as monitoring agents aren't.
TEST(MigApply, TakesBackAModeThatStaysPendingAndSaysWhatToDo) {
  const SimulatedGpu node(
      "a100-80gb:1",
      {{"SUBLET_SIM_FAULTS", fmt::format("fail=nvmlDeviceGetGraphicsRunningProcesses_v3:{}",
                                         static_cast<int>(nvml::kNotSupported))}});
  const std::vector<MigStep> steps = StepsTo(node, Target(node, true, {}));
  node.StartProcess(nvml::kNoInstance, kGraphicsProcess);
  NoMigJournal journal;
  const Status done = ApplySteps(node.api(), steps, journal, kNoPatience);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message, HasSubstr("pending until the GPU is reset"));
  EXPECT_THAT(done.error().hint, HasSubstr("reset the GPU"));
  EXPECT_EQ(Seen(node), "off");
}

TEST(MigApply, TakesBackSomebodyElsesPendingChange) {
  const SimulatedGpu node("a100-80gb:1");
  node.StartProcess(nvml::kNoInstance, kGraphicsProcess);
  nvml::Return activation = nvml::kSuccess;
  ASSERT_EQ(node.api().set_mig_mode(node.Device(), nvml::kMigEnable, &activation), nvml::kSuccess);
  ASSERT_EQ(Seen(node), "off (pending)");
  const MigTarget off = Target(node, false, {});
  NoMigJournal journal;
  const Status done =
      ApplyTargets(node.api(), StepsTo(node, off), std::vector{off}, journal, kNoPatience);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(Seen(node), "off");
}

TEST(MigApply, VerifiesWhatIsThereNotWhatWasSaid) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  EXPECT_TRUE(VerifyTarget(node.api(), Target(node, true, kBefore)));
  const Status verified = VerifyTarget(node.api(), Target(node, true, kAfter));
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code, ErrorCode::kConflict);
  EXPECT_THAT(verified.error().message, HasSubstr("no 1g.6gb+me at 1"));
  EXPECT_THAT(verified.error().message, HasSubstr("2g.12gb at 0 is there, too"));
}

TEST(MigApply, ABoardWithoutMigIsAsATargetWithoutMigHasIt) {
  const SimulatedGpu node("l4:1");
  EXPECT_TRUE(VerifyTarget(node.api(), Target(node, false, {})));
}

TEST(MigApply, AUserWithoutPrivilegeChangesNothing) {
  const SimulatedGpu node("a30:1", {{"SUBLET_SIM_UNPRIVILEGED", "1"}});
  NoMigJournal journal;
  const Status done =
      ApplySteps(node.api(), StepsTo(node, Target(node, true, {})), journal, kNoPatience);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kPermission);
  EXPECT_EQ(Seen(node), "off");
}

// ---- killed at any point ----

// Where a change is killed, by the one who does it.
enum class Moment { kBeforeAStep, kBetweenTheCallsOfACreate, kAfterAStep };

struct Killer final : MigJournal {
  static inline int steps_left = 0;  // Until the one at which it comes.
  static inline Moment moment = Moment::kBeforeAStep;
  static inline const nvml::Api* real = nullptr;

  static void Come(Moment now) {
    if (moment == now && --steps_left == 0) ::raise(SIGKILL);
  }
  Status WillDo(const MigStep& /*step*/) override {
    Come(Moment::kBeforeAStep);
    return {};
  }
  void Done(const MigStep& /*step*/) override { Come(Moment::kAfterAStep); }
  static nvml::Return CreateCompute(nvml::GpuInstance parent, unsigned profile,
                                    nvml::ComputeInstance* made) {
    Come(Moment::kBetweenTheCallsOfACreate);
    return real->create_compute_instance(parent, profile, made);
  }
};

void KilledAt(const SimulatedGpu& node, const std::vector<MigStep>& steps, Moment moment,
              int step) {
  Killer::steps_left = step;
  Killer::moment = moment;
  Killer::real = &node.api();
  const pid_t child = ::fork();
  if (child == 0) {
    nvml::Api api = node.api();
    api.create_compute_instance = &Killer::CreateCompute;
    Killer journal;
    const Status done = ApplySteps(api, steps, journal, kNoPatience);
    ::_exit(done ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

TEST(MigApply, AKilledChangeIsUndoneOrFinished) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  const MigTarget after = Target(node, true, kAfter);
  const std::vector<MigStep> steps = StepsTo(node, after);
  ASSERT_THAT(steps, SizeIs(4));  // Two destroys, two creates.
  for (const Moment moment :
       {Moment::kBeforeAStep, Moment::kBetweenTheCallsOfACreate, Moment::kAfterAStep}) {
    const bool creates_only = moment == Moment::kBetweenTheCallsOfACreate;
    for (int i = 1; i <= (creates_only ? 2 : 4); ++i) {
      for (const bool undo : {true, false}) {
        SCOPED_TRACE(fmt::format("moment {} of step {}", static_cast<int>(moment), i));
        Cut(node, kBefore);
        KilledAt(node, steps, moment, i);
        if (HasFailure()) return;
        if (undo) {
          const auto begun =
              std::span(steps).first(static_cast<std::size_t>(creates_only ? i + 2 : i));
          const Status undone = UndoSteps(node.api(), begun, kNoPatience);
          ASSERT_TRUE(undone) << undone.error().message;
          EXPECT_EQ(Seen(node), kSeenBefore);
        } else {
          NoMigJournal journal;
          const Status done = ApplyTargets(node.api(), StepsTo(node, after), std::vector{after},
                                           journal, kNoPatience);
          ASSERT_TRUE(done) << done.error().message;
          EXPECT_EQ(Seen(node), kSeenAfter);
        }
      }
    }
  }
}

TEST(MigApply, UndoingTwiceIsUndoingOnce) {
  const SimulatedGpu node("a30:1");
  Cut(node, kBefore);
  const std::vector<MigStep> steps = StepsTo(node, Target(node, false, {}));
  NoMigJournal journal;
  ASSERT_TRUE(ApplySteps(node.api(), steps, journal, kNoPatience));
  ASSERT_TRUE(UndoSteps(node.api(), steps, kNoPatience));
  ASSERT_TRUE(UndoSteps(node.api(), steps, kNoPatience));
  EXPECT_EQ(Seen(node), kSeenBefore);
}

// ---- every call, in every way ----

class EveryCallOfApply : public ::testing::TestWithParam<std::tuple<Failure, bool>> {};

// From kBefore to kAfter with the mode on, or from off to kAfter.
TEST_P(EveryCallOfApply, EndsAsItWasOrAsItShallBeOrIsTold) {
  const auto [failure, was_on] = GetParam();
  const SimulatedGpu node("a30:1");
  const auto start_over = [&] {
    node.Reset();
    if (was_on) Cut(node, kBefore);
  };
  start_over();
  const MigTarget after = Target(node, true, kAfter);
  const std::vector<MigStep> steps = StepsTo(node, after);
  const std::string seen_before = was_on ? kSeenBefore : "off";
  const nvml::Api api = TroubledApi(node.api());
  int undone = 0;
  int told = 0;
  for (int turn = 1;; ++turn) {
    ASSERT_LT(turn, 5000) << "the calls don't end";
    SCOPED_TRACE(fmt::format("call {}", turn));
    start_over();
    Trouble::calls = 0;
    Trouble::turn = turn;
    Trouble::failure = failure;
    Heard journal;
    const Status done = ApplyTargets(api, steps, std::vector{after}, journal, kNoPatience);
    const bool all_called = Trouble::calls < turn;
    Trouble::turn = 0;
    if (done) {
      ASSERT_EQ(Seen(node), kSeenAfter);
    } else if (done.error().message.ends_with("; nothing is changed")) {
      ++undone;
      ASSERT_EQ(Seen(node), seen_before) << done.error().message;
    } else {
      // The driver is gone for good: what is left is said, and can be done once it is back.
      ++told;
      ASSERT_EQ(failure, Failure::kForGood) << done.error().message;
      ASSERT_EQ(done.error().code, ErrorCode::kUnavailable);
      ASSERT_THAT(done.error().message, HasSubstr("what is left to do: "));
      ASSERT_THAT(done.error().hint, HasSubstr("nvidia-smi"));
      const Status later = UndoSteps(node.api(), journal.begun, kNoPatience);
      ASSERT_TRUE(later) << later.error().message;
      ASSERT_EQ(Seen(node), seen_before);
    }
    if (all_called) break;
  }
  EXPECT_GT(undone + told, 20);
  EXPECT_EQ(told > 5, failure == Failure::kForGood);
}

std::string CaseName(const ::testing::TestParamInfo<EveryCallOfApply::ParamType>& tested) {
  const auto [failure, was_on] = tested.param;
  const std::string how = failure == Failure::kBefore       ? "Once"
                          : failure == Failure::kAfterwards ? "InItsAnswer"
                                                            : "ForGood";
  return how + (was_on ? "WithMigOn" : "WithMigOff");
}

INSTANTIATE_TEST_SUITE_P(
    MigApply, EveryCallOfApply,
    ::testing::Combine(::testing::Values(Failure::kBefore, Failure::kAfterwards, Failure::kForGood),
                       ::testing::Bool()),
    CaseName);

}  // namespace
}  // namespace sublet
