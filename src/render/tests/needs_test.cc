// What a plan needs is found, and the targets' refusals follow one table.

#include "render/needs.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "plan_builder.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::vector<NeedKind> KindsOf(const Plan& plan) {
  const Result<Deployment> deployment = Arrange(plan);
  EXPECT_TRUE(deployment) << deployment.error().message;
  std::vector<NeedKind> kinds;
  for (const Need& need : FindNeeds(*deployment)) kinds.push_back(need.kind);
  return kinds;
}

struct MpsWish {
  std::vector<ReplicaWish> replicas;
  int servers = 1;
  SharingMode mode = SharingMode::kMps;
};

// One A100-80 in the node "host", with an image and a command for everything.
Plan OneGpu(const MpsWish& wish) {
  PlanBuilder build("one");
  build.AddWorkload("a");
  build.AddWorkload("b");
  PlannedPartition& whole = build.AddWhole(build.AddGpu("gpu0", "a100-80gb", "host"), wish.mode);
  if (wish.mode == SharingMode::kMps) {
    for (int i = 0; i < wish.servers; ++i) build.AddServer(whole, fmt::format("server-{}", i));
  }
  for (const ReplicaWish& replica : wish.replicas) build.AddReplica(whole, replica);
  return build.plan();
}

TEST(FindNeeds, FindsNothingWhereTheDevicePluginsEqualPartsSuffice) {
  const ReplicaWish quarter = {.workload = "a", .memory_limit = 19_GiB, .sm_percent = 25};
  EXPECT_THAT(KindsOf(OneGpu({{quarter, quarter, quarter, quarter}})), IsEmpty());
  // 80 GiB over 4, the context counted: 20 GiB is the most.
  const ReplicaWish most = {.workload = "a", .memory_limit = 19_GiB + 512_MiB, .sm_percent = 25};
  EXPECT_THAT(KindsOf(OneGpu({{most, most, most, most}})), IsEmpty());
}

TEST(FindNeeds, FindsAClientThatMayHaveMoreThanAnEqualPart) {
  for (const ReplicaWish& wish :
       {ReplicaWish{.workload = "a", .memory_limit = 19_GiB, .sm_percent = 26},
        ReplicaWish{.workload = "a", .memory_limit = 19_GiB},
        ReplicaWish{.workload = "a", .memory_limit = 19_GiB + 513_MiB, .sm_percent = 25},
        ReplicaWish{.workload = "a", .memory = 21_GiB, .sm_percent = 25}}) {
    EXPECT_THAT(KindsOf(OneGpu({{wish, wish, wish, wish}})),
                ElementsAre(NeedKind::kMoreThanEqualPart));
  }
}

TEST(FindNeeds, FindsUnequalShares) {
  EXPECT_THAT(KindsOf(OneGpu({{{.workload = "a", .memory_limit = 10_GiB, .sm_percent = 50},
                               {.workload = "a", .memory_limit = 10_GiB, .sm_percent = 40}}})),
              ElementsAre(NeedKind::kUnequalShares));
  EXPECT_THAT(KindsOf(OneGpu({{{.workload = "a", .memory_limit = 10_GiB, .sm_percent = 50},
                               {.workload = "a", .sm_percent = 50}}})),
              ElementsAre(NeedKind::kUnequalShares));
}

TEST(FindNeeds, FindsSeveralServersAndASingleClient) {
  EXPECT_THAT(KindsOf(OneGpu({.replicas = {{.workload = "a", .sm_percent = 50},
                                           {.workload = "a", .sm_percent = 50, .server = 1}},
                              .servers = 2})),
              ElementsAre(NeedKind::kSeveralServers));
  EXPECT_THAT(KindsOf(OneGpu({{{.workload = "a", .sm_percent = 50}}})),
              ElementsAre(NeedKind::kSingleMpsClient));
}

TEST(FindNeeds, FindsLimitsThatNothingEnforces) {
  const SharingMode sliced = SharingMode::kTimeSlicing;
  EXPECT_THAT(
      KindsOf(OneGpu({.replicas = {{.workload = "a", .memory_limit = 10_GiB}, {.workload = "a"}},
                      .mode = sliced})),
      ElementsAre(NeedKind::kLimitsWithoutMps));
  EXPECT_THAT(KindsOf(OneGpu({.replicas = {{.workload = "a"}, {.workload = "a", .sm_percent = 30}},
                              .mode = sliced})),
              ElementsAre(NeedKind::kLimitsWithoutMps));
  EXPECT_THAT(KindsOf(OneGpu({.replicas = {{.workload = "a"}, {.workload = "a"}}, .mode = sliced})),
              IsEmpty());
  // Alone, a replica is limited by what the partition has.
  EXPECT_THAT(KindsOf(OneGpu({.replicas = {{.workload = "a", .memory_limit = 79_GiB}},
                              .mode = SharingMode::kExclusive})),
              IsEmpty());
}

TEST(FindNeeds, FindsWhatDiffersWithinANode) {
  PlanBuilder build("node");
  build.AddWorkload("a");
  PlannedPartition& two =
      build.AddWhole(build.AddGpu("gpu0", "l4", "host"), SharingMode::kTimeSlicing);
  build.AddReplica(two, {.workload = "a"});
  build.AddReplica(two, {.workload = "a"});
  build.AddReplica(build.AddWhole(build.AddGpu("gpu1", "l4", "host"), SharingMode::kExclusive),
                   {.workload = "a"});
  EXPECT_THAT(KindsOf(build.plan()), ElementsAre(NeedKind::kReplicaCountsDiffer));
  // In two nodes each has its own configuration.
  Plan apart = build.plan();
  apart.gpus[1].node = "other";
  EXPECT_THAT(KindsOf(apart), IsEmpty());
  // Where no node is named, whoever deploys picks nodes for each kind.
  apart.gpus[0].node = apart.gpus[1].node = "";
  EXPECT_THAT(KindsOf(apart), IsEmpty());
}

TEST(FindNeeds, FindsMpsBesideOthers) {
  PlanBuilder build("node");
  build.AddWorkload("a");
  PlannedPartition& mps =
      build.AddWhole(build.AddGpu("gpu0", "a100-80gb", "host"), SharingMode::kMps);
  build.AddServer(mps, "s");
  PlannedPartition& sliced =
      build.AddWhole(build.AddGpu("gpu1", "a100-80gb", "host"), SharingMode::kTimeSlicing);
  for (int i = 0; i < 2; ++i) {
    build.AddReplica(mps, {.workload = "a", .sm_percent = 50});
    build.AddReplica(sliced, {.workload = "a"});
  }
  EXPECT_THAT(KindsOf(build.plan()), ElementsAre(NeedKind::kModesDiffer));

  build.AddReplica(build.AddInstance(build.AddGpu("gpu2", "a100-80gb", "host"), "7g.80gb", 0,
                                     SharingMode::kExclusive),
                   {.workload = "a"});
  EXPECT_THAT(KindsOf(build.plan()), ElementsAre(NeedKind::kModesDiffer, NeedKind::kMpsBesideMig));
}

TEST(FindNeeds, FindsAChoiceOfNeighboursThatASchedulerDoesNotKnow) {
  PlanBuilder build("node");
  build.AddWorkload("a");
  build.AddWorkload("b");
  for (const char* name : {"gpu0", "gpu1"}) {
    PlannedPartition& sliced =
        build.AddWhole(build.AddGpu(name, "l4", "host"), SharingMode::kTimeSlicing);
    build.AddReplica(sliced, {.workload = "a"});
    build.AddReplica(sliced, {.workload = "b"});
  }
  EXPECT_THAT(KindsOf(build.plan()), ElementsAre(NeedKind::kWhoSharesWithWhom));
}

TEST(FindNeeds, FindsMissingImageCommandAndIndex) {
  PlanBuilder build("bare");
  build.AddWorkload("a", {}).image.clear();
  build.AddReplica(build.AddInstance(build.AddGpu("gpu0", "a100-80gb", "host"), "3g.40gb", 0,
                                     SharingMode::kExclusive),
                   {.workload = "a"});
  PlannedGpu& whole = build.AddGpu("gpu1", "a100-80gb", "host");
  build.AddReplica(build.AddWhole(whole, SharingMode::kExclusive), {.workload = "a"});
  whole.index = -1;
  EXPECT_THAT(KindsOf(build.plan()),
              ElementsAre(NeedKind::kGpuIndex, NeedKind::kImage, NeedKind::kCommand));
}

TEST(Render, RefusesWhatTheTargetCanNotExpressAndNamesThoseThatCan) {
  const Plan plan = OneGpu({{{.workload = "a", .memory_limit = 40_GiB, .sm_percent = 50},
                             {.workload = "b", .memory_limit = 20_GiB, .sm_percent = 20}}});
  const Result<Rendering> refused = Render(plan, Target::kNvidiaDevicePlugin, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("unequal shares on gpu0: a/0"));
  EXPECT_THAT(refused.error().hint, HasSubstr("targets that can: dra, linux, compose;"));

  const Result<Rendering> lossy = Render(plan, Target::kNvidiaDevicePlugin, {.lossy = true});
  ASSERT_TRUE(lossy);
  ASSERT_THAT(lossy->warnings, Not(IsEmpty()));
  for (const RenderedFile& file : lossy->files) {
    EXPECT_THAT(file.content, HasSubstr("WARNING: left out, because nvidia-device-plugin"))
        << file.path;
  }
}

TEST(Render, SaysSoWhereNoTargetCan) {
  const Plan plan = OneGpu({.replicas = {{.workload = "a", .memory_limit = 10_GiB},
                                         {.workload = "a", .memory_limit = 10_GiB}},
                            .mode = SharingMode::kTimeSlicing});
  for (const Target target : AllTargets()) {
    const Result<Rendering> out = Render(plan, target, {});
    if (target == Target::kMig) {
      EXPECT_TRUE(out);  // It says nothing about processes.
      continue;
    }
    ASSERT_FALSE(out) << TargetName(target);
    EXPECT_THAT(out.error().message, HasSubstr("which nothing enforces"));
    EXPECT_THAT(out.error().hint, HasSubstr("no target can"));
  }
}

// Whoever is proposed for a need must not refuse it: each need, met by a plan of its own.
TEST(TargetsFor, ProposesNobodyWhoWouldRefuse) {
  for (const NeedKind kind : AllNeedKinds()) {
    for (const Target target : TargetsFor({{kind, ""}})) {
      EXPECT_TRUE(CanExpress(target, kind)) << TargetName(target);
      EXPECT_NE(target, Target::kMig);
      EXPECT_NE(target, Target::kNvidiaDevicePlugin);
    }
  }
}

TEST(ParseTarget, KnowsEveryNameAndListsThemOtherwise) {
  for (const Target target : AllTargets()) EXPECT_EQ(ParseTarget(TargetName(target)), target);
  const Result<Target> unknown = ParseTarget("helm");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kUsage);
  EXPECT_THAT(unknown.error().hint, HasSubstr("kubernetes, dra, linux, compose"));
}

// --- plans that can't be trusted ---

struct BadPlan {
  std::string says;
  std::function<void(Plan&)> spoil;
};

TEST(Arrange, RefusesWhatCanNotBeWrittenSafely) {
  const std::vector<BadPlan> bad_plans = {
      {"not a name", [](Plan& p) { p.gpus[0].name = "../etc"; }},
      {"not a name", [](Plan& p) { p.gpus[0].node = "a b"; }},
      {"not a name", [](Plan& p) { p.gpus[0].uuid = "GPU-$(id)"; }},
      {"not a name", [](Plan& p) { p.gpus[0].partitions[0].servers[0].name = "x/../y"; }},
      {"not a name", [](Plan& p) { p.gpus[0].partitions[0].name = std::string(64, 'a'); }},
      {"not a name", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].id = "a'b"; }},
      {"control character", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].reason = "\x1b"; }},
      {"control character", [](Plan& p) { p.workloads[0].command[0] = "a\rb"; }},
      {"control character", [](Plan& p) { p.workloads[0].env["X"] = std::string("\0", 1); }},
      {"not UTF-8", [](Plan& p) { p.workloads[0].image = "\xff"; }},
      {"not an environment variable's name", [](Plan& p) { p.workloads[0].env["A-B"] = ""; }},
      {"not an environment variable's name", [](Plan& p) { p.workloads[0].env["1A"] = ""; }},
      {"must set itself: CUDA_MPS_PIPE_DIRECTORY",
       [](Plan& p) { p.workloads[0].env["CUDA_MPS_PIPE_DIRECTORY"] = "/tmp"; }},
      {"must set itself: CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
       [](Plan& p) { p.workloads[0].env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = "0=1G,7=1G"; }},
      {"must set itself: CUDA_VISIBLE_DEVICES",
       [](Plan& p) { p.workloads[0].env["CUDA_VISIBLE_DEVICES"] = "1"; }},
      {"does not begin with a program", [](Plan& p) { p.workloads[0].command = {"A=b"}; }},
      {"does not begin with a program", [](Plan& p) { p.workloads[0].command = {""}; }},
      {"not in 1..100", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].sm_percent = 0; }},
      {"not positive", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].memory_limit = 0_MiB; }},
      {"no MPS server", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].server = 7; }},
      {"no MPS server", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].server.reset(); }},
      {"no such workload", [](Plan& p) { p.gpus[0].partitions[0].replicas[0].workload = "c"; }},
      {"two replicas of one name",
       [](Plan& p) {
         p.gpus[0].partitions[0].replicas[1].id = p.gpus[0].partitions[0].replicas[0].id;
       }},
      {"don't agree", [](Plan& p) { p.gpus[0].mig = true; }},
      {"a way to cut", [](Plan& p) { p.gpus[0].partitions[0].mode = SharingMode::kMig; }},
      {"several replicas",
       [](Plan& p) {
         p.gpus[0].partitions[0].mode = SharingMode::kExclusive;
         for (PlannedReplica& r : p.gpus[0].partitions[0].replicas) r.server.reset();
       }},
  };
  for (const BadPlan& bad : bad_plans) {
    Plan plan =
        OneGpu({{{.workload = "a", .sm_percent = 50}, {.workload = "a", .sm_percent = 50}}});
    ASSERT_TRUE(Arrange(plan));
    bad.spoil(plan);
    for (const bool lossy : {false, true}) {
      const Result<Rendering> out = Render(plan, Target::kLinux, {.lossy = lossy});
      ASSERT_FALSE(out) << bad.says;
      EXPECT_EQ(out.error().code, ErrorCode::kInvalid) << out.error().message;
      EXPECT_THAT(out.error().message, HasSubstr(bad.says));
    }
  }
}

TEST(Arrange, SaysThatStreamsNeedOneProcess) {
  Plan plan = OneGpu({.replicas = {{.workload = "a"}}, .mode = SharingMode::kStreams});
  const Result<Rendering> out = Render(plan, Target::kLinux, {});
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, ErrorCode::kUnsupported);
}

TEST(UniqueNames, KeepsNamesApartAndFit) {
  UniqueNames files;
  EXPECT_EQ(files.Name("llama/0"), "llama-0");
  EXPECT_EQ(files.Name("llama-0"), "llama-0-2");
  EXPECT_EQ(files.Name("1g.10gb+me"), "1g.10gb-me");
  UniqueNames labels(UniqueNames::Form::kDnsLabel);
  EXPECT_EQ(labels.Name("Odd.Name-"), "odd-name");
  EXPECT_LE(labels.Name(std::string(300, 'a')).size(), 63u);
  EXPECT_LE(labels.Name(std::string(300, 'a')).size(), 63u);
  UniqueNames subdomains(UniqueNames::Form::kDnsSubdomain);
  EXPECT_EQ(subdomains.Name("a.-b-.c..d"), "a.b--c.d");
}

TEST(MpsMemoryLimit, CountsTheContextAsMpsDoes) {
  PlannedReplica replica;
  replica.context = 512_MiB;
  EXPECT_EQ(MpsMemoryLimit(replica), std::nullopt);
  replica.memory_limit = 10_GiB;
  EXPECT_EQ(MpsMemoryLimit(replica), 10_GiB + 512_MiB);
}

}  // namespace
}  // namespace sublet
