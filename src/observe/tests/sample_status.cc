#include "observe/tests/sample_status.h"

#include <fmt/format.h>

namespace sublet {
namespace {

GpuStatus GpuOf(int index, const std::string& product, Bytes memory) {
  GpuStatus gpu;
  gpu.uuid = fmt::format("GPU-{0}{0}{0}{0}", index);
  gpu.index = index;
  gpu.product = product;
  gpu.memory = memory;
  return gpu;
}

ShareStatus Replica(int number, const std::string& name, const std::string& tenant, Bytes limit,
                    Bytes used, int sm_percent) {
  ShareStatus status;
  Share& share = status.share;
  share.id = fmt::format("s{}", number);
  share.name = name;
  share.tenant = tenant;
  share.mode = SharingMode::kMps;
  share.gpu_uuid = "GPU-0000";
  share.memory = limit + 144_MiB;
  share.memory_limit = limit;
  share.sm_percent = sm_percent;
  share.domain = "gpu0-" + tenant;
  share.enforcement = {{"memory", "MPS pinned device memory limit", true},
                       {"sm", "MPS active thread percentage", true}};
  status.replica = true;
  status.state = ShareState::kReady;
  status.pid = 4000 + number;
  status.user = tenant;
  status.uptime_s = 11520.0 + number;
  status.memory_used = used;
  return status;
}

DomainStatus DomainOf(const std::string& tenant, int clients) {
  DomainStatus status;
  status.domain.name = "gpu0-" + tenant;
  status.domain.tenant = tenant;
  status.domain.gpu_uuid = "GPU-0000";
  status.domain.planned = true;
  status.state = DomainState::kReady;
  status.pid = 300;
  status.clients = clients;
  status.limits_confirmed = true;
  return status;
}

void AddShares(NodeStatus& node) {
  for (int i = 0; i < 4; ++i) {
    node.shares.push_back(Replica(i + 1, fmt::format("chat/{}", i), "search", 24_GiB,
                                  Bytes::FromMib(20480 + 512 * i), 25));
  }
  ShareStatus ill = Replica(5, "embed/0", "ads", 10_GiB, {}, 10);
  ill.state = ShareState::kBackingOff;
  ill.memory_used.reset();
  ill.uptime_s.reset();
  ill.restarts = 7;
  ill.why = "it ended 3 times within a minute; next try in 4 s";
  ill.last_end = "was killed by signal 9 (Killed)";
  node.shares.push_back(ill);

  ShareStatus run;
  run.share.id = "s9";
  run.share.name = "train \x1b[31m\"big\" run\n";
  run.share.tenant = "research";
  run.share.mode = SharingMode::kMig;
  run.share.gpu_uuid = "GPU-1111";
  run.share.mig_uuid = "MIG-1";
  run.share.memory = 40_GiB;
  run.share.memory_limit = 40_GiB;
  run.share.enforcement = {{"memory", "MIG instance", true}, {"sm", "MIG instance", true}};
  run.state = ShareState::kRunning;
  run.pid = 5001;
  run.uptime_s = 59;
  run.memory_used = 41_GiB;
  run.sm_used_percent = 0.4;
  node.shares.push_back(run);

  ShareStatus sliced;
  sliced.share.id = "s10";
  sliced.share.name = "notebook";
  sliced.share.tenant = "research";
  sliced.share.mode = SharingMode::kTimeSlicing;
  sliced.share.gpu_uuid = "GPU-2222";
  sliced.share.memory = 6_GiB;
  sliced.share.memory_limit = 6_GiB;
  sliced.share.sm_percent = 50;
  sliced.share.enforcement = {{"memory", "not enforced", false}, {"sm", "not enforced", false}};
  sliced.state = ShareState::kRunning;
  sliced.pid = 5002;
  sliced.uptime_s = 200000;
  sliced.memory_used = 700_MiB;
  sliced.sm_used_percent = 31;
  node.shares.push_back(sliced);
}

}  // namespace

NodeStatus SampleStatus() {
  NodeStatus node;
  node.hostname = "node1";
  node.time = "2026-11-21T10:00:12Z";
  node.simulated = true;
  node.plan = "shop";
  node.operation = "up shop: starting chat/4";
  GpuStatus first = GpuOf(0, "NVIDIA H200", Bytes::FromMib(143771));
  first.memory_used = 86_GiB;
  first.memory_booked = 107_GiB;
  first.utilisation_percent = 87;
  first.foreign = {{777, "Xorg", 2_GiB}, {778, "", {}}};
  GpuStatus second = GpuOf(1, "NVIDIA A100-SXM4-80GB", 80_GiB);
  second.memory_used = 41_GiB;
  second.memory_booked = 40_GiB;
  second.mig = true;
  GpuStatus third = GpuOf(2, "NVIDIA L4", Bytes::FromMib(23034));
  third.memory_used = 700_MiB;
  third.memory_booked = 6_GiB;
  third.utilisation_percent = 31;
  third.healthy = false;
  third.why =
      "XID 79 (fallen off the bus) at 2026-11-21T09:58:01Z: the GPU can't be reached "
      "over PCIe";
  node.gpus = {first, second, third};
  node.domains = {DomainOf("ads", 0), DomainOf("search", 4)};
  node.domains[0].state = DomainState::kFaulted;
  node.domains[0].why = "a client of 1 made an illegal access";
  node.domains[0].restarts = 2;
  node.domains[1].sm_used_percent = 87;
  AddShares(node);
  return node;
}

NodeCounters SampleCounters() {
  NodeCounters counters;
  counters.version = "0.1.0";
  counters.uptime_s = 3600;
  counters.grants = 12;
  counters.returns = 5;
  counters.refusals = {{"infeasible", 3}, {"permission", 1}};
  counters.share_faults = {{"s5", 4}};
  counters.domains["gpu0-ads"].faults = 2;
  counters.gpus["GPU-2222"].last_xid = 79;
  counters.gpus["GPU-2222"].xids = {{13, 4}, {79, 1}};
  counters.gpus["GPU-2222"].unhealthy = 1;
  counters.unconfined = 1;
  counters.grant_seconds_sum = 0.006;
  counters.events_written = 99;
  return counters;
}

NodeStatus CrowdedStatus(int count) {
  NodeStatus node;
  node.hostname = "node1";
  node.time = "2026-11-21T10:00:12Z";
  GpuStatus gpu = GpuOf(0, "NVIDIA H200", Bytes::FromMib(143771));
  for (int i = 0; i < count; ++i) {
    node.shares.push_back(Replica(i + 1, fmt::format("chat/{}", i), "search", 3_GiB,
                                  Bytes::FromMib(1024 + 47 * i), 5));
    gpu.memory_booked += node.shares.back().share.memory;
    gpu.memory_used += *node.shares.back().memory_used;
  }
  node.gpus = {gpu};
  node.domains = {DomainOf("search", count)};
  return node;
}

}  // namespace sublet
