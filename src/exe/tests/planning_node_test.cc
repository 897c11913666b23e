#include "exe/planning_node.h"

#include <gmock/gmock.h>

namespace sublet {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

// Two GPUs with one process each, 100 on the first and 200 on the second.
Inventory Node() {
  Inventory node;
  for (const int index : {0, 1}) {
    Gpu gpu;
    gpu.index = index;
    gpu.uuid = index == 0 ? "GPU-0" : "GPU-1";
    GpuProcess process;
    process.pid = 100 * (index + 1);
    gpu.processes.push_back(process);
    node.gpus.push_back(gpu);
  }
  return node;
}

NodeStatus Status() {
  NodeStatus status;
  for (const char* uuid : {"GPU-0", "GPU-1"}) {
    GpuStatus gpu;
    gpu.uuid = uuid;
    status.gpus.push_back(gpu);
  }
  return status;
}

ShareStatus ShareOn(const std::string& uuid, SharingMode mode, bool replica) {
  ShareStatus share;
  share.share.gpu_uuid = uuid;
  share.share.name = "train";
  share.share.mode = mode;
  share.replica = replica;
  share.pid = 100;
  return share;
}

TEST(PlanningNode, WhatTheNodeRunsItselfIsNoReasonToLeaveAGpuOut) {
  const Inventory seen = ForPlanning(Node(), Status());
  EXPECT_THAT(seen.gpus[0].processes, IsEmpty());
  EXPECT_THAT(seen.gpus[1].processes, IsEmpty());
}

TEST(PlanningNode, ForeignProcessesStay) {
  NodeStatus status = Status();
  status.gpus[1].foreign.push_back({.pid = 200, .name = "other", .memory = {}});
  const Inventory seen = ForPlanning(Node(), status);
  EXPECT_THAT(seen.gpus[0].processes, IsEmpty());
  ASSERT_THAT(seen.gpus[1].processes, SizeIs(1));
  EXPECT_EQ(seen.gpus[1].processes[0].pid, 200);
}

TEST(PlanningNode, ACommandThatHasItsGpuToItselfStays) {
  NodeStatus status = Status();
  status.shares.push_back(ShareOn("GPU-0", SharingMode::kExclusive, /*replica=*/false));
  const Inventory seen = ForPlanning(Node(), status);
  ASSERT_THAT(seen.gpus[0].processes, SizeIs(1));
  EXPECT_EQ(seen.gpus[0].processes[0].name, "train");
  EXPECT_THAT(seen.gpus[1].processes, IsEmpty());
}

TEST(PlanningNode, ACommandBesideOthersAndAReplicaDoNotKeepOthersAway) {
  NodeStatus status = Status();
  status.shares.push_back(ShareOn("GPU-0", SharingMode::kMps, /*replica=*/false));
  status.shares.push_back(ShareOn("GPU-1", SharingMode::kExclusive, /*replica=*/true));
  const Inventory seen = ForPlanning(Node(), status);
  EXPECT_THAT(seen.gpus[0].processes, IsEmpty());
  EXPECT_THAT(seen.gpus[1].processes, IsEmpty());
}

TEST(PlanningNode, AnUnhealthyGpuHasAProblem) {
  NodeStatus status = Status();
  status.gpus[0].healthy = false;
  status.gpus[0].why = "XID 79";
  EXPECT_EQ(ForPlanning(Node(), status).gpus[0].problem, "XID 79");
}

TEST(PlanningNode, AGpuThatTheNodeDoesNotKnowStaysAsItIs) {
  NodeStatus status = Status();
  status.gpus.pop_back();
  EXPECT_THAT(ForPlanning(Node(), status).gpus[1].processes, SizeIs(1));
}

}  // namespace
}  // namespace sublet
