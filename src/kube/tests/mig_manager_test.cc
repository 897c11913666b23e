#include "kube/mig_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kube/tests/fake_cluster_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr const char* kPlugin = "nvidia.com/gpu.deploy.device-plugin";
constexpr const char* kDcgm = "nvidia.com/gpu.deploy.dcgm";

class FakeMigWork final : public MigWork {
 public:
  Result<int> Plan(std::string_view) override { return plan(); }
  Result<std::string> Fingerprint(std::string_view label) override {
    if (label == "unknown") return Fail(ErrorCode::kNotFound, "no such label: unknown");
    return std::string(label) + file;
  }
  Result<Outcome> Apply(std::string_view label) override {
    applied.emplace_back(label);
    return apply();
  }
  Status Keep() override {
    ended.emplace_back("kept");
    return {};
  }
  Status TakeBack() override {
    ended.emplace_back("taken back");
    return take_back();
  }
  Status Reboot() override {
    ++reboots;
    return reboot();
  }
  std::string BootId() override { return boot; }

  std::function<Result<int>()> plan = [] { return 3; };
  std::function<Result<Outcome>()> apply = [] { return Outcome::kDone; };
  std::function<Status()> take_back = [] { return Status(); };
  std::function<Status()> reboot = [] { return Status(); };
  std::string file = "v1";
  std::string boot = "boot-1";
  std::vector<std::string> applied;
  std::vector<std::string> ended;
  int reboots = 0;
};

class MigManagerTest : public ::testing::Test {
 protected:
  MigManagerTest() { Start(); }

  // As a fresh process would be.
  void Start() { manager_.emplace(work_, api_, MigManagerOptions{}); }
  double Step(double now_s = 0) {
    manager_->TakeNode(api_.node);
    return manager_->Step(now_s);
  }
  std::string State() const { return std::string(api_.node.Label(kMigStateLabel)); }
  std::string Reason() const { return std::string(api_.node.Annotation(kMigReasonAnnotation)); }
  void Want(const std::string& label) { api_.Label(std::string(kMigConfigLabel), label); }

  FakeClusterNode api_;
  FakeMigWork work_;
  std::optional<MigManager> manager_;
};

TEST_F(MigManagerTest, WithoutALabelNothingIsDone) {
  EXPECT_EQ(Step(), MigManager::kNever);
  EXPECT_THAT(api_.states, IsEmpty());
}

TEST_F(MigManagerTest, AChangeIsPendingThenSuccess) {
  Want("all-balanced");
  EXPECT_EQ(Step(), MigManager::kNever);
  EXPECT_THAT(api_.states, ElementsAre("", "pending", "success"));
  EXPECT_THAT(work_.applied, ElementsAre("all-balanced"));
  EXPECT_TRUE(manager_->TakeChanged());
  // The same label isn't worked on again.
  EXPECT_EQ(Step(), MigManager::kNever);
  EXPECT_THAT(work_.applied, SizeIs(1));
}

TEST_F(MigManagerTest, WhatIsInPlaceDisturbsNobody) {
  work_.plan = [] { return 0; };
  api_.Label(kPlugin, "true");
  Want("all-balanced");
  Step();
  EXPECT_EQ(State(), "success");
  EXPECT_THAT(work_.applied, IsEmpty());
  EXPECT_THAT(api_.states, ElementsAre("", "", "success"));
}

TEST_F(MigManagerTest, WhatCantBeFailsWithItsReason) {
  work_.plan = []() -> Result<int> {
    return Fail(ErrorCode::kInfeasible, "GPU 0: eight 1g.10gb don't fit", "seven do");
  };
  Want("too-many");
  Step();
  EXPECT_EQ(State(), "failed");
  EXPECT_EQ(Reason(), "GPU 0: eight 1g.10gb don't fit; seven do");
  ASSERT_THAT(api_.notes, SizeIs(1));
  EXPECT_TRUE(api_.notes[0].warning);
  Want("unknown");
  Step();
  EXPECT_EQ(State(), "failed");
  EXPECT_EQ(Reason(), "no such label: unknown");
  EXPECT_THAT(work_.applied, IsEmpty());
}

TEST_F(MigManagerTest, AFailureIsTriedAgainWhenTheFileChanges) {
  work_.apply = []() -> Result<MigWork::Outcome> {
    return Fail(ErrorCode::kConflict, "process 7 uses GPU 0");
  };
  Want("a");
  Step();
  EXPECT_EQ(State(), "failed");
  manager_->LookAgain();
  Step(1);
  EXPECT_THAT(work_.applied, SizeIs(1));
  work_.file = "v2";
  work_.apply = [] { return MigWork::Outcome::kDone; };
  manager_->LookAgain();
  Step(2);
  EXPECT_EQ(State(), "success");
  EXPECT_EQ(Reason(), "");
}

TEST_F(MigManagerTest, ClientsArePausedWaitedForAndBroughtBack) {
  api_.Label(kPlugin, "true");
  api_.Label(kDcgm, "false");
  api_.pods = {"gpu-operator/nvidia-device-plugin-daemonset-x"};
  Want("a");
  EXPECT_EQ(Step(10), 12);
  EXPECT_EQ(State(), "pending");
  EXPECT_EQ(api_.node.Label(kPlugin), kMigPaused);
  EXPECT_EQ(api_.node.Label(kDcgm), "false");
  EXPECT_THAT(api_.asked_apps, ElementsAre("nvidia-device-plugin-daemonset"));
  EXPECT_EQ(api_.asked_namespace, "gpu-operator");
  EXPECT_THAT(work_.applied, IsEmpty());
  api_.pods.clear();
  Step(12);
  EXPECT_EQ(State(), "success");
  EXPECT_EQ(api_.node.Label(kPlugin), "true");
  EXPECT_EQ(api_.node.Label(kDcgm), "false");
}

TEST_F(MigManagerTest, ClientsThatStayMakeItFail) {
  api_.Label(kPlugin, "true");
  api_.pods = {"gpu-operator/stubborn"};
  Want("a");
  Step(0);
  Step(299);
  EXPECT_EQ(State(), "pending");
  Step(300);
  EXPECT_EQ(State(), "failed");
  EXPECT_THAT(Reason(), HasSubstr("gpu-operator/stubborn"));
  EXPECT_EQ(api_.node.Label(kPlugin), "true");
  EXPECT_THAT(work_.applied, IsEmpty());
}

TEST_F(MigManagerTest, NothingIsTouchedWhileTheApiServerIsAway) {
  Want("a");
  manager_->TakeNode(api_.node);
  api_.away = true;
  EXPECT_EQ(manager_->Step(0), 5);
  EXPECT_EQ(manager_->Step(5), 10);
  EXPECT_THAT(work_.applied, IsEmpty());
  EXPECT_THAT(manager_->TakeLines(), SizeIs(2));  // The plan, and once what keeps it.
  api_.away = false;
  manager_->Step(10);
  EXPECT_EQ(State(), "success");
}

TEST_F(MigManagerTest, TheLastWordIsTriedUntilItIsTaken) {
  Want("a");
  work_.apply = [this]() -> Result<MigWork::Outcome> {
    api_.away = true;
    return MigWork::Outcome::kDone;
  };
  EXPECT_EQ(Step(0), 5);
  EXPECT_EQ(State(), "pending");
  manager_->Step(5);
  manager_->Step(10);
  api_.away = false;
  manager_->Step(15);
  EXPECT_EQ(State(), "success");
  EXPECT_THAT(work_.applied, SizeIs(1));
}

TEST_F(MigManagerTest, WaitingForClientsWithoutAnApiServerEnds) {
  api_.Label(kPlugin, "true");
  api_.pods = {"gpu-operator/x"};
  Want("a");
  Step(0);
  api_.away = true;
  manager_->Step(300);
  api_.away = false;
  manager_->Step(305);
  EXPECT_EQ(State(), "failed");
  EXPECT_EQ(api_.node.Label(kPlugin), "true");
}

TEST_F(MigManagerTest, ANodeThatOthersChangeIsReadAgain) {
  api_.Label(kPlugin, "true");
  Want("a");
  manager_->TakeNode(api_.node);
  api_.Label("someone", "else");
  api_.Label(kPlugin, "false");
  double next_s = manager_->Step(0);
  while (next_s == 0) next_s = manager_->Step(0);
  EXPECT_EQ(State(), "success");
  EXPECT_EQ(api_.node.Label(kPlugin), "false");
}

TEST_F(MigManagerTest, ARestartEndsWhatIsPending) {
  api_.Label(kPlugin, std::string(kMigPaused));
  api_.Label(std::string(kMigStateLabel), "pending");
  Want("a");
  work_.plan = [] { return 0; };  // It was killed after the last step.
  Step();
  EXPECT_EQ(State(), "success");
  EXPECT_EQ(api_.node.Label(kPlugin), "true");
}

TEST_F(MigManagerTest, WithoutADriverItIsTriedAgainAndToldOnce) {
  Want("a");
  work_.plan = []() -> Result<int> { return Fail(ErrorCode::kUnavailable, "no driver"); };
  Step(0);
  EXPECT_EQ(State(), "failed");
  manager_->LookAgain();
  Step(15);
  EXPECT_THAT(api_.notes, SizeIs(1));
  EXPECT_THAT(manager_->TakeLines(), SizeIs(1));
  work_.plan = [] { return 3; };
  // The node's changes aren't the driver's; a look is.
  Step(16);
  EXPECT_THAT(work_.applied, IsEmpty());
  manager_->LookAgain();
  Step(30);
  EXPECT_THAT(work_.applied, ElementsAre("a"));
  EXPECT_EQ(State(), "success");
  EXPECT_EQ(Reason(), "");
}

TEST_F(MigManagerTest, WhatWasBegunIsKeptOrTakenBackBeforeTheLastWord) {
  Want("a");
  work_.apply = [this] {
    EXPECT_THAT(work_.ended, IsEmpty());
    return MigWork::Outcome::kDone;
  };
  Step(0);
  EXPECT_THAT(work_.ended, ElementsAre("kept"));

  // Killed within Apply(); when it comes back, the label says something that can't be.
  work_.ended.clear();
  api_.Set({.labels = {{std::string(kMigConfigLabel), "unknown"},
                       {std::string(kMigStateLabel), "pending"}}});
  work_.take_back = [this]() -> Status {
    EXPECT_EQ(State(), "pending");
    return Fail(ErrorCode::kUnavailable, "the driver is gone");
  };
  Start();
  Step(0);
  EXPECT_THAT(work_.ended, ElementsAre("taken back"));
  EXPECT_EQ(State(), "failed");
  EXPECT_THAT(Reason(), HasSubstr("no such label"));
  EXPECT_THAT(Reason(), HasSubstr("can't be undone: the driver is gone"));
}

TEST_F(MigManagerTest, ALabelTakenAwayEndsIt) {
  api_.Label(std::string(kMigStateLabel), "pending");
  Step();
  EXPECT_EQ(State(), "failed");
  EXPECT_THAT(Reason(), HasSubstr("removed"));
}

TEST_F(MigManagerTest, AWatchThatLagsDoesntRepeatAFailure) {
  work_.apply = []() -> Result<MigWork::Outcome> { return Fail(ErrorCode::kConflict, "in use"); };
  Want("a");
  Step();
  NodeObject stale = api_.node;
  stale.labels[std::string(kMigStateLabel)] = "pending";
  stale.resource_version = "0";
  manager_->TakeNode(stale);
  while (manager_->Step(1) == 1) {
  }
  EXPECT_EQ(State(), "failed");
  EXPECT_EQ(Reason(), "in use");
  EXPECT_THAT(work_.applied, SizeIs(1));
}

TEST_F(MigManagerTest, AnotherLabelMeanwhileComesAfterIt) {
  Want("a");
  work_.apply = [this] {
    if (work_.applied.size() == 1) Want("b");
    return MigWork::Outcome::kDone;
  };
  double next_s = Step(0);
  while (next_s == 0) next_s = manager_->Step(0);
  Step(1);
  EXPECT_THAT(work_.applied, ElementsAre("a", "b"));
  EXPECT_EQ(State(), "success");
}

TEST_F(MigManagerTest, RebootsWhereItMust) {
  api_.Label(kPlugin, "true");
  Want("a");
  work_.apply = [] { return MigWork::Outcome::kNeedsReboot; };
  EXPECT_EQ(Step(0), 600);
  EXPECT_EQ(State(), "rebooting");
  EXPECT_EQ(api_.node.Label(kPlugin), kMigPaused);
  EXPECT_EQ(work_.reboots, 1);

  // Killed before the machine went down: it asks again.
  Start();
  EXPECT_EQ(Step(0), 600);
  EXPECT_EQ(work_.reboots, 2);

  // After it.
  work_.boot = "boot-2";
  work_.apply = [] { return MigWork::Outcome::kDone; };
  Start();
  Step(0);
  EXPECT_EQ(State(), "success");
  EXPECT_EQ(api_.node.Label(kPlugin), "true");
  EXPECT_EQ(api_.node.Annotation(kMigBootAnnotation), "");
  EXPECT_EQ(work_.reboots, 2);
}

TEST_F(MigManagerTest, DoesntRebootTwiceForOneChange) {
  Want("a");
  work_.apply = [] { return MigWork::Outcome::kNeedsReboot; };
  Step(0);
  work_.boot = "boot-2";
  Start();
  Step(0);
  EXPECT_EQ(State(), "failed");
  EXPECT_THAT(Reason(), HasSubstr("after a reboot"));
  EXPECT_EQ(work_.reboots, 1);
}

TEST_F(MigManagerTest, ARebootThatCantBeOrDoesntComeIsAFailure) {
  Want("a");
  work_.apply = [] { return MigWork::Outcome::kNeedsReboot; };
  Step(0);
  EXPECT_EQ(State(), "rebooting");
  manager_->Step(600);
  EXPECT_EQ(State(), "failed");
  EXPECT_THAT(Reason(), HasSubstr("600 s"));
  work_.reboot = []() -> Status { return Fail(ErrorCode::kUnsupported, "no systemd"); };
  Want("b");
  Step(601);
  EXPECT_EQ(State(), "failed");
  EXPECT_THAT(Reason(), HasSubstr("no systemd"));
}

// Whatever happens to the API server, the process, clients and the GPUs: once all are well again,
// the state ends, and nobody is left paused.
RC_GTEST_PROP(MigManager, AlwaysEnds, ()) {
  FakeClusterNode api;
  FakeMigWork work;
  api.Label(kPlugin, "true");
  std::optional<MigManager> manager(std::in_place, work, api, MigManagerOptions{});
  work.plan = [&] { return *rc::gen::inRange(0, 3); };
  work.apply = [&]() -> Result<MigWork::Outcome> {
    if (*rc::gen::inRange(0, 4) == 0) api.away = true;
    switch (*rc::gen::inRange(0, 3)) {
      case 0:
        return Fail(ErrorCode::kConflict, "in use");
      case 1:
        return MigWork::Outcome::kNeedsReboot;
      default:
        return MigWork::Outcome::kDone;
    }
  };
  double now_s = 0;
  const int events = *rc::gen::inRange(1, 40);
  for (int i = 0; i < events; ++i) {
    switch (*rc::gen::inRange(0, 8)) {
      case 0:
        api.away = true;
        break;
      case 1:
        api.away = false;
        break;
      case 2:  // Killed and started again.
        manager.emplace(work, api, MigManagerOptions{});
        break;
      case 3:
        work.boot += "'";
        manager.emplace(work, api, MigManagerOptions{});
        break;
      case 4:
        api.Label(std::string(kMigConfigLabel),
                  *rc::gen::element<std::string>("a", "b", "unknown"));
        break;
      case 5:
        api.pods = {"gpu-operator/x"};
        break;
      case 6:
        api.pods.clear();
        break;
      default:
        now_s += *rc::gen::inRange(0, 400);
    }
    if (!api.away) manager->TakeNode(api.node);
    manager->Step(now_s);
  }
  api.away = false;
  work.apply = [] { return MigWork::Outcome::kDone; };
  for (int i = 0; i < 10; ++i) {
    now_s += 700;
    manager->TakeNode(api.node);
    manager->Step(now_s);
    api.away = false;
  }
  const std::string state(api.node.Label(kMigStateLabel));
  RC_ASSERT(state != "pending");
  RC_ASSERT(state != "rebooting");
  RC_ASSERT(api.node.Label(kPlugin) == "true");
  if (!api.node.Label(kMigConfigLabel).empty()) RC_ASSERT(!state.empty());
}

}  // namespace
}  // namespace sublet
