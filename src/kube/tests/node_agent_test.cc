#include "kube/node_agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/files.h"
#include "kube/tests/fake_cluster_node.h"
#include "kube/tests/scripted_api.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const ApiPatience kQuick{.first_s = 0.001, .most_s = 0.002};

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "sublet-agent-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    ASSERT_TRUE(WriteFileAtomically(root_ / name, text));
  }

  fs::path root_;
};

using LabelPartTest = AgentTest;

TEST_F(LabelPartTest, WhatCantBeMadeIsTriedAgainAndToldOnce) {
  FeaturePublisher publisher({.to = LabelTarget::kFile, .file = root_ / "gfd", .object = {}},
                             nullptr);
  Result<FeatureLabels> made = Fail(ErrorCode::kUnavailable, "no driver", "load it");
  LabelPart part(
      publisher, [&made] { return made; }, 60);
  double now_s = 100;
  double pause_s = 0;
  for (int i = 0; i < 10; ++i) {
    const double next_s = part.Step(now_s);
    EXPECT_GE(next_s - now_s, pause_s * 0.75);
    EXPECT_LE(next_s - now_s, 300);
    pause_s = next_s - now_s;
    now_s = next_s;
  }
  EXPECT_THAT(part.TakeLines(), ElementsAre("the labels stay as they are: no driver; load it"));
  made = FeatureLabels{.labels = {{"nvidia.com/gpu.count", "1"}}, .warnings = {"one", "two"}};
  EXPECT_EQ(part.Step(now_s), now_s + 60);
  EXPECT_THAT(part.TakeLines(), ElementsAre("one\ntwo"));
  EXPECT_EQ(ReadFile(root_ / "gfd", 1000).value_or(""), "nvidia.com/gpu.count=1\n");
  // Not before its time, but when something else has changed.
  made->labels["nvidia.com/gpu.count"] = "2";
  EXPECT_EQ(part.Step(now_s + 1), now_s + 60);
  part.Wake();
  EXPECT_EQ(part.Step(now_s + 2), now_s + 62);
  EXPECT_EQ(ReadFile(root_ / "gfd", 1000).value_or(""), "nvidia.com/gpu.count=2\n");
  EXPECT_THAT(part.TakeLines(), IsEmpty());
}

TEST_F(LabelPartTest, WhatOthersTakeFromTheNodeIsPutBackAfterAMoment) {
  ScriptedApi server([](const ApiCall&) {
    return ApiAnswer{.parts = {R"({"metadata":{"name":"gpu-1","uid":"u"}})"}};
  });
  ApiServerNode node(ApiClient(ApiTransport(server.Place(), {}), kQuick), "gpu-1");
  FeaturePublisher publisher({.to = LabelTarget::kNode, .file = {}, .object = {}}, &node);
  const FeatureLabels made{.labels = {{"nvidia.com/gpu.count", "1"}}, .warnings = {}};
  LabelPart part(
      publisher, [&made] { return made; }, 60);
  const auto patches = [&server] {
    return std::ranges::count(server.Calls(), "PATCH", &ApiCall::method);
  };
  EXPECT_EQ(part.Step(10), 70);
  EXPECT_EQ(patches(), 1);
  NodeObject seen;
  seen.labels = made.labels;
  seen.labels["others"] = "x";
  part.TakeNode(seen);
  EXPECT_EQ(part.Step(11), 70);
  seen.labels["nvidia.com/gpu.count"] = "9";
  part.TakeNode(seen);
  EXPECT_EQ(part.Step(12), 15);
  EXPECT_EQ(part.Step(15), 75);
  EXPECT_EQ(patches(), 2);
}

class ConfigPartTest : public AgentTest {
 protected:
  void SetUp() override {
    AgentTest::SetUp();
    Write("available/a", "version: v1\n");
    Write("available/bad", "version: v9\n");
    part_.emplace(
        NodeConfig({.folder = root_ / "available", .target = root_ / "config.yaml"}), api_,
        [this] { ++changes_; }, +[] { return std::string("2026-11-21T10:00:00Z"); });
  }

  // What the watch would say.
  double See(double now_s) {
    part_->TakeNode(api_.node);
    return part_->Step(now_s);
  }
  std::string Problem() const { return std::string(api_.node.Annotation(kPluginConfigProblem)); }

  FakeClusterNode api_;
  int changes_ = 0;
  std::optional<ConfigPart> part_;
};

TEST_F(ConfigPartTest, WakesOthersByAChangeAndOnlyThen) {
  // Before the node is known, nothing is in effect.
  EXPECT_EQ(part_->Step(0), AgentPart::kNever);
  api_.Label(std::string(kPluginConfigLabel), "a");
  EXPECT_EQ(See(1), 16);
  EXPECT_TRUE(part_->Wakes());
  EXPECT_FALSE(part_->Wakes());
  EXPECT_EQ(changes_, 1);
  EXPECT_EQ(See(16), 31);
  EXPECT_FALSE(part_->Wakes());
  EXPECT_EQ(api_.node.annotations.size(), 0u);
}

TEST_F(ConfigPartTest, AProblemIsOnTheNodeUntilItIsNone) {
  api_.Label(std::string(kPluginConfigLabel), "bad");
  See(0);
  EXPECT_THAT(Problem(), HasSubstr("unknown version"));
  EXPECT_THAT(api_.notes, SizeIs(1));
  EXPECT_THAT(part_->TakeLines(), SizeIs(1));
  See(15);
  EXPECT_THAT(api_.notes, SizeIs(1));
  Write("available/bad", "version: v1\n");
  EXPECT_EQ(part_->Step(30), 45);
  EXPECT_EQ(Problem(), "");
  EXPECT_EQ(changes_, 1);
}

TEST_F(ConfigPartTest, AProblemThatCantBeToldIsToldLater) {
  api_.Label(std::string(kPluginConfigLabel), "bad");
  part_->TakeNode(api_.node);
  api_.away = true;
  EXPECT_EQ(part_->Step(0), 5);
  part_->TakeLines();
  EXPECT_EQ(part_->Step(5), 10);
  EXPECT_THAT(part_->TakeLines(), IsEmpty());
  api_.away = false;
  part_->Step(10);
  EXPECT_THAT(Problem(), HasSubstr("unknown version"));
  EXPECT_THAT(api_.notes, SizeIs(1));
}

// Writes down what happens to it.
class NotingPart final : public AgentPart {
 public:
  void TakeNode(const NodeObject& node) override {
    notes.push_back("node " + node.resource_version);
  }
  void Wake() override { notes.emplace_back("woken"); }
  double Step(double /*now_s*/) override {
    notes.emplace_back("step");
    return kNever;
  }
  bool Wakes() override { return std::exchange(wakes, false); }
  std::vector<std::string> TakeLines() override { return std::exchange(lines, {}); }

  std::vector<std::string> notes;
  std::vector<std::string> lines;
  bool wakes = false;
};

TEST(NodeAgent, HandsChangesAndWakesOn) {
  ScriptedApi server([](const ApiCall& call) {
    if (call.target.find("watch=1") != std::string::npos) {
      return ApiAnswer{.end = ApiAnswer::End::kHold};
    }
    return ApiAnswer{.parts = {R"({"metadata":{"resourceVersion":"8"},"items":[)"
                               R"({"metadata":{"name":"gpu-1","resourceVersion":"7"}}]})"}};
  });
  ApiWatch watch(ApiTransport(server.Place(), {}), {.path = "/api/v1/nodes", .name = "gpu-1"},
                 kQuick);
  NotingPart first;
  NotingPart second;
  second.wakes = true;
  second.lines = {"hello"};
  std::vector<std::string> said;
  const FileDescriptor stop(::eventfd(1, EFD_CLOEXEC));
  NodeAgent agent(
      watch, {&first, &second},
      {.say = [&said](const std::string& line) { said.push_back(line); }, .stop_fd = stop.get()});
  int rounds = 0;
  agent.Run([&rounds] { return ++rounds > 2; });
  EXPECT_THAT(first.notes, ElementsAre("step", "woken", "node 7", "step"));
  EXPECT_THAT(second.notes, ElementsAre("step", "node 7", "step"));
  EXPECT_THAT(said, ElementsAre("hello"));
}

}  // namespace
}  // namespace sublet
