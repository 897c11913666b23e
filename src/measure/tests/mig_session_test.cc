// On the simulated driver, whose every call can be made to fail.
#include "measure/mig_session.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "inventory/nvml_library.h"
#include "inventory/tests/simulated_gpu.h"
#include "model/board.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ContainsRegex;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

// Whoever waits in a test waits in vain.
const MigSessionOptions kNoPatience{.profile = {}, .patience_s = 0};

void ExpectOffAndUncut(const SimulatedGpu& node) {
  const Gpu gpu = node.Look();
  EXPECT_FALSE(gpu.mig_enabled);
  EXPECT_FALSE(gpu.mig_pending);
  EXPECT_THAT(gpu.instances, IsEmpty());
}

TEST(MigSession, FillsTheGpuWithTheSmallestInstancesAndPutsItBack) {
  const SimulatedGpu node("h200:1");
  Result<MigSession> session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_TRUE(session) << session.error().message;
  EXPECT_EQ(session->profile(), "1g.18gb");
  ASSERT_THAT(session->instances(), SizeIs(7));
  EXPECT_THAT(session->instances(), Each(AllOf(Field(&MigInstance::uuid, StartsWith("MIG-")),
                                               Field(&MigInstance::profile, "1g.18gb"))));
  const Gpu cut = node.Look();
  EXPECT_TRUE(cut.mig_enabled);
  ASSERT_THAT(cut.instances, SizeIs(7));
  std::set<std::string> uuids;
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(cut.instances[i].compute_instances.at(0).uuid, session->instances()[i].uuid);
    uuids.insert(session->instances()[i].uuid);
  }
  EXPECT_THAT(uuids, SizeIs(7));
  const Status restored = session->Restore();
  EXPECT_TRUE(restored) << restored.error().message;
  ExpectOffAndUncut(node);
}

TEST(MigSession, MakesWhatProfileIsAskedFor) {
  const SimulatedGpu node("h200:1");
  const auto count = [&](const std::string& profile) -> std::size_t {
    const auto session = MigSession::Start(node.api(), node.Uuid(), {profile, 0});
    EXPECT_TRUE(session) << session.error().message;
    return session ? session->instances().size() : 0;
  };
  EXPECT_EQ(count("3g.71gb"), 2U);
  EXPECT_EQ(count("1g.35gb"), 4U);
  EXPECT_EQ(count("1g.18gb+me"), 1U);
  ExpectOffAndUncut(node);
}

TEST(MigSession, GivesEachInstanceAllOfItsSlices) {
  const SimulatedGpu node("h200:1");
  const auto session = MigSession::Start(node.api(), node.Uuid(), {"3g.71gb", 0});
  ASSERT_TRUE(session) << session.error().message;
  for (const GpuInstance& instance : node.Look().instances) {
    ASSERT_THAT(instance.compute_instances, SizeIs(1));
    EXPECT_EQ(instance.compute_instances[0].placement, (Placement{0, 3}));
  }
}

TEST(MigSession, WorksOnEveryBoardThatHasMig) {
  for (const Board& board : BuiltInBoards().boards) {
    if (!board.HasMig()) continue;
    SCOPED_TRACE(board.name);
    const SimulatedGpu node(board.name + ":1", {{"SUBLET_SIM_DRIVER", "999"}});
    auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
    ASSERT_TRUE(session) << session.error().message;
    EXPECT_THAT(session->profile(), Not(HasSubstr("+")));
    const auto profile = std::ranges::find(board.profiles, session->profile(), &MigProfile::name);
    ASSERT_NE(profile, board.profiles.end());
    EXPECT_EQ(static_cast<int>(session->instances().size()), profile->max_instances);
    EXPECT_TRUE(session->Restore());
    ExpectOffAndUncut(node);
  }
}

TEST(MigSession, RestoresWhenItGoes) {
  const SimulatedGpu node("h200:1");
  {
    const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
    ASSERT_TRUE(session) << session.error().message;
  }
  ExpectOffAndUncut(node);
}

TEST(MigSession, LeavesMigModeOnWhereItFoundItOn) {
  const SimulatedGpu node("h200:1");
  node.SetMig(true);
  auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_TRUE(session) << session.error().message;
  EXPECT_THAT(session->instances(), SizeIs(7));
  EXPECT_TRUE(session->Restore());
  EXPECT_TRUE(node.Look().mig_enabled);
  EXPECT_THAT(node.Look().instances, IsEmpty());
}

TEST(MigSession, NeverTouchesInstancesThatExist) {
  const SimulatedGpu node("h200:1");
  node.SetMig(true);
  node.AddInstance(9);
  const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, ErrorCode::kConflict);
  EXPECT_THAT(session.error().message, HasSubstr("instances already: 1"));
  EXPECT_THAT(node.Look().instances, SizeIs(1));
  EXPECT_TRUE(node.Look().mig_enabled);
}

TEST(MigSession, RefusesABusyGpuAndNamesWhoUsesIt) {
  const SimulatedGpu node("h200:1");
  node.StartProcess(nvml::kNoInstance, kComputeProcess);
  const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, ErrorCode::kConflict);
  EXPECT_THAT(session.error().message, HasSubstr(fmt::format("{}", ::getpid())));
  ExpectOffAndUncut(node);
}

TEST(MigSession, TellsAUserWithoutPrivilegeWhatIsMissing) {
  const SimulatedGpu node("h200:1", {{"SUBLET_SIM_UNPRIVILEGED", "1"}});
  const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, ErrorCode::kPermission);
  EXPECT_THAT(session.error().hint, HasSubstr("root"));
  ExpectOffAndUncut(node);
}

TEST(MigSession, RefusesABoardWithoutMig) {
  const SimulatedGpu node("l4:1");
  const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(session.error().message, HasSubstr("no MIG"));
}

TEST(MigSession, NamesTheFunctionThatAnOldDriverLacks) {
  const SimulatedGpu node("h200:1");
  nvml::Api old = node.api();
  old.destroy_gpu_instance = nullptr;
  const auto session = MigSession::Start(old, node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(session.error().message, HasSubstr("nvmlGpuInstanceDestroy"));
  ExpectOffAndUncut(node);
}

TEST(MigSession, ListsTheProfilesWhereOneIsUnknownAndChangesNothing) {
  const SimulatedGpu node("h200:1");
  const auto session = MigSession::Start(node.api(), node.Uuid(), {"1g.10gb", 0});
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(session.error().hint, HasSubstr("1g.18gb"));
  ExpectOffAndUncut(node);
}

// What holds the GPU need not be in the driver's lists, as monitoring agents aren't.
TEST(MigSession, TakesAModeBackThatStaysPending) {
  const SimulatedGpu node(
      "a100-80gb:1",
      {{"SUBLET_SIM_FAULTS", fmt::format("fail=nvmlDeviceGetGraphicsRunningProcesses_v3:{}",
                                         static_cast<int>(nvml::kNotSupported))}});
  node.StartProcess(nvml::kNoInstance, kGraphicsProcess);
  const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_THAT(session.error().message, HasSubstr("pending"));
  EXPECT_THAT(session.error().hint, HasSubstr("reset"));
  ExpectOffAndUncut(node);
}

TEST(MigSession, RefusesWhereSomebodyElsesChangeIsPending) {
  const SimulatedGpu node("a100-80gb:1");
  node.StartProcess(nvml::kNoInstance, kGraphicsProcess);
  nvml::Return activation = nvml::kSuccess;
  ASSERT_EQ(node.api().set_mig_mode(node.Device(), nvml::kMigEnable, &activation), nvml::kSuccess);
  node.StopProcess();
  const auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_FALSE(session);
  EXPECT_THAT(session.error().message, HasSubstr("waits for a reset"));
  EXPECT_TRUE(node.Look().mig_pending);
}

TEST(MigSession, SaysWhatIsLeftWhileAWorkerLivesAndFinishesLater) {
  const SimulatedGpu node("h200:1");
  auto session = MigSession::Start(node.api(), node.Uuid(), kNoPatience);
  ASSERT_TRUE(session) << session.error().message;
  const int busy = node.Look().instances.at(2).id;
  node.StartProcess(static_cast<unsigned>(busy), kComputeProcess);
  const Status restored = session->Restore();
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, ErrorCode::kConflict);
  EXPECT_THAT(restored.error().message, HasSubstr("MIG mode is on, it was off"));
  EXPECT_THAT(restored.error().message, HasSubstr(fmt::format("GPU instance {}", busy)));
  EXPECT_THAT(restored.error().hint, HasSubstr(fmt::format("-dgi -gi {} ", busy)));
  EXPECT_THAT(restored.error().hint, HasSubstr("-mig 0"));
  EXPECT_THAT(node.Look().instances, SizeIs(1));
  node.StopProcess();
  EXPECT_TRUE(session->Restore());
  ExpectOffAndUncut(node);
}

TEST(MigSession, LeavesAloneWhatOthersMadeMeanwhile) {
  const SimulatedGpu node("h200:1");
  auto session = MigSession::Start(node.api(), node.Uuid(), {"3g.71gb", 0});
  ASSERT_TRUE(session) << session.error().message;
  const int ours = node.Look().instances.at(0).id;
  // Somebody destroys one of ours and puts an instance of another shape there.
  nvml::GpuInstance gone = nullptr;
  unsigned count = 1;
  std::array<nvml::GpuInstance, 2> handles{};
  count = handles.size();
  ASSERT_EQ(node.api().gpu_instances(node.Device(), 9, handles.data(), &count), nvml::kSuccess);
  for (const nvml::GpuInstance handle : handles) {
    nvml::GpuInstanceInfo info{};
    ASSERT_EQ(node.api().gpu_instance_info(handle, &info), nvml::kSuccess);
    if (static_cast<int>(info.id) == ours) gone = handle;
  }
  nvml::ComputeInstance compute = nullptr;
  count = 1;
  ASSERT_EQ(node.api().compute_instances(gone, 2, &compute, &count), nvml::kSuccess);
  ASSERT_EQ(node.api().destroy_compute_instance(compute), nvml::kSuccess);
  ASSERT_EQ(node.api().destroy_gpu_instance(gone), nvml::kSuccess);
  node.AddInstance(19);
  const Status restored = session->Restore();
  ASSERT_FALSE(restored);
  EXPECT_THAT(restored.error().message, HasSubstr("not known as ours"));
  ASSERT_THAT(node.Look().instances, SizeIs(1));
  EXPECT_EQ(node.Look().instances[0].profile, "1g.18gb");
  EXPECT_THAT(restored.error().hint, Not(HasSubstr("-dgi")));
}

// ---- every call, in every way ----

// Either the GPU is as before, or `error` says what isn't.
void ExpectRestoredOrTold(const SimulatedGpu& node, const std::optional<Error>& error,
                          bool was_on) {
  const Gpu gpu = node.Look();
  const bool as_found =
      gpu.mig_enabled == was_on && gpu.mig_pending == was_on && gpu.instances.empty();
  if (as_found) return;
  ASSERT_TRUE(error) << "something is left and nobody says so";
  EXPECT_THAT(error->code, AnyOf(ErrorCode::kUnavailable, ErrorCode::kConflict));
  if (gpu.mig_enabled != was_on) {
    EXPECT_THAT(error->message, HasSubstr("MIG mode is on"));
    EXPECT_THAT(error->hint, HasSubstr("-mig 0"));
  }
  // The UUID has digits, too.
  std::string message = error->message;
  for (auto at = message.find(gpu.uuid); at != std::string::npos; at = message.find(gpu.uuid)) {
    message.erase(at, gpu.uuid.size());
  }
  for (const GpuInstance& instance : gpu.instances) {
    EXPECT_THAT(message,
                AnyOf(ContainsRegex(fmt::format("(instance|ids|,) {}([^0-9]|$)", instance.id)),
                      ContainsRegex("ids .*unknown")));
  }
}

class EveryCall : public ::testing::TestWithParam<std::tuple<Failure, bool>> {};

TEST_P(EveryCall, IsUndoneOrToldWhereItFails) {
  const auto [failure, was_on] = GetParam();
  const SimulatedGpu node("a30:1");
  const MigSessionOptions two_instances{.profile = "2g.12gb", .patience_s = 0};
  const std::string uuid = node.Uuid();
  const nvml::Api api = TroubledApi(node.api());
  int failed_to_start = 0;
  int failed_to_restore = 0;
  for (int turn = 1;; ++turn) {
    ASSERT_LT(turn, 5000) << "the calls don't end";
    SCOPED_TRACE(fmt::format("call {}", turn));
    node.Reset();
    if (was_on) node.SetMig(true);
    Trouble::calls = 0;
    Trouble::turn = turn;
    Trouble::failure = failure;
    std::optional<Error> error;
    bool all_called = false;
    {
      Result<MigSession> session = MigSession::Start(api, uuid, two_instances);
      if (!session) {
        error = session.error();
        ++failed_to_start;
      } else if (const Status restored = session->Restore(); !restored) {
        error = restored.error();
        ++failed_to_restore;
      }
      all_called = Trouble::calls < turn;
      Trouble::turn = 0;
      ExpectRestoredOrTold(node, error, was_on);
      if (HasFailure()) return;
      if (!session) continue;
      error.reset();
    }
    // The driver has recovered by now, and a session that goes tries once more.
    ExpectRestoredOrTold(node, error, was_on);
    if (HasFailure()) return;
    if (all_called) break;
  }
  EXPECT_GT(failed_to_start, 20);
  if (failure == Failure::kForGood) {
    EXPECT_GT(failed_to_restore, 5);
  }
}

std::string CaseName(const ::testing::TestParamInfo<EveryCall::ParamType>& tested) {
  const auto [failure, was_on] = tested.param;
  const std::string how = failure == Failure::kBefore       ? "Once"
                          : failure == Failure::kAfterwards ? "InItsAnswer"
                                                            : "ForGood";
  return how + (was_on ? "WithMigOn" : "WithMigOff");
}

INSTANTIATE_TEST_SUITE_P(
    MigSession, EveryCall,
    ::testing::Combine(::testing::Values(Failure::kBefore, Failure::kAfterwards, Failure::kForGood),
                       ::testing::Bool()),
    CaseName);

}  // namespace
}  // namespace sublet
