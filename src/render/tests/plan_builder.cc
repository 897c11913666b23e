#include "plan_builder.h"

#include <fmt/format.h>

#include "base/check.h"
#include "model/board.h"

namespace sublet {
namespace {

constexpr std::size_t kItemsMax = 64;  // Reserved at once, so that references stay valid.

const Board& BoardNamed(const std::string& name) {
  const Result<const Board*> board = BuiltInBoards().Find(name);
  CHECK(board);
  return **board;
}

Plan ExclusivePlan() {
  PlanBuilder build("two alone");
  build.AddWorkload("train", {"python3", "train.py"});
  for (const char* name : {"gpu0", "gpu1"}) {
    PlannedPartition& whole =
        build.AddWhole(build.AddGpu(name, "a100-80gb"), SharingMode::kExclusive);
    build.AddReplica(whole, {.workload = "train", .memory = 60_GiB});
  }
  return build.plan();
}

Plan TimeSlicingPlan() {
  PlanBuilder build("embedders");
  build.AddWorkload("embed", {"embed-server", "--port=8080"}).env["LOG_LEVEL"] = "info";
  PlannedPartition& whole =
      build.AddWhole(build.AddGpu("gpu0", "l4", "edge-1"), SharingMode::kTimeSlicing);
  for (int i = 0; i < 3; ++i) build.AddReplica(whole, {.workload = "embed", .memory = 6_GiB});
  return build.plan();
}

Plan EqualMpsPlan() {
  PlanBuilder build("four-7b");
  build.AddWorkload("chat", {"vllm", "serve", "some/model"});
  PlannedPartition& whole =
      build.AddWhole(build.AddGpu("gpu0", "a100-80gb", "gpu-a"), SharingMode::kMps);
  build.AddServer(whole, "gpu0-default");
  for (int i = 0; i < 4; ++i) {
    build.AddReplica(
        whole,
        {.workload = "chat", .memory = 18_GiB, .memory_limit = 17_GiB + 512_MiB, .sm_percent = 25});
  }
  return build.plan();
}

// Two tenants with a server each, and clients of different sizes.
Plan UnequalMpsPlan() {
  PlanBuilder build("two tenants");
  build.AddWorkload("rank", {"rank-server"});
  build.AddWorkload("search", {"search-server", "--shards", "4"}).image.clear();
  PlannedPartition& whole = build.AddWhole(build.AddGpu("gpu0", "h200"), SharingMode::kMps);
  build.AddServer(whole, "gpu0-blue");
  build.AddServer(whole, "gpu0-green");
  build.AddReplica(whole, {.workload = "search",
                           .memory = 40_GiB,
                           .memory_limit = 39_GiB,
                           .sm_percent = 40,
                           .server = 0});
  build.AddReplica(whole, {.workload = "search",
                           .memory = 20_GiB,
                           .memory_limit = 19_GiB,
                           .sm_percent = 10,
                           .server = 0});
  build.AddReplica(whole, {.workload = "rank", .memory = 30_GiB, .sm_percent = 30, .server = 1});
  return build.plan();
}

Plan MigPlan() {
  PlanBuilder build("pieces");
  build.AddWorkload("video", {"transcode"});
  build.AddWorkload("chat", {"serve", "chat"});
  build.AddWorkload("embed", {"serve", "embed"});
  PlannedGpu& gpu = build.AddGpu("gpu0", "a100-80gb", "gpu-a");
  PlannedPartition& large = build.AddInstance(gpu, "3g.40gb", 0, SharingMode::kMps);
  build.AddServer(large, "gpu0-3g.40gb-0-default");
  for (int i = 0; i < 2; ++i) {
    build.AddReplica(large, {.workload = "chat", .memory_limit = 12_GiB, .sm_percent = 50});
  }
  build.AddReplica(build.AddInstance(gpu, "2g.20gb", 4, SharingMode::kExclusive),
                   {.workload = "video"});
  PlannedPartition& small = build.AddInstance(gpu, "1g.10gb+me", 6, SharingMode::kTimeSlicing);
  for (int i = 0; i < 2; ++i) build.AddReplica(small, {.workload = "embed", .memory = 3_GiB});
  return build.plan();
}

Plan NodesPlan() {
  PlanBuilder build("three nodes");
  build.AddWorkload("chat");
  build.AddWorkload("embed");
  build.AddWorkload("small");
  PlannedPartition& mps =
      build.AddWhole(build.AddGpu("gpu0", "a100-80gb", "node-a"), SharingMode::kMps);
  build.AddServer(mps, "gpu0-default");
  for (int i = 0; i < 2; ++i) {
    build.AddReplica(mps, {.workload = "chat", .memory_limit = 20_GiB, .sm_percent = 50});
  }
  for (const char* name : {"gpu1", "gpu2"}) {
    PlannedPartition& sliced =
        build.AddWhole(build.AddGpu(name, "a100-80gb", "node-b"), SharingMode::kTimeSlicing);
    for (int i = 0; i < 2; ++i) build.AddReplica(sliced, {.workload = "embed"});
  }
  PlannedGpu& cut = build.AddGpu("gpu3", "h100-80gb", "node-c");
  for (int start = 0; start < 7; ++start) {
    build.AddReplica(build.AddInstance(cut, "1g.10gb", start, SharingMode::kExclusive),
                     {.workload = "small", .memory = 4_GiB});
  }
  build.AddReplica(
      build.AddWhole(build.AddGpu("gpu4", "h100-80gb", "node-c"), SharingMode::kExclusive),
      {.workload = "chat"});
  return build.plan();
}

// Everything that some shell, YAML reader, compose or kubelet would like to interpret.
Plan QuotingPlan() {
  PlanBuilder build("it's \"quoted\": yes # really");
  PlannedWorkload& workload = build.AddWorkload(
      "odd.name",
      {"sh",         "-c",   "echo \"$HOME\" '$(id)' `id` ${X:-y} %h $$ \\n; # no comment",
       "two\nlines", "",     " ",
       "*",          "~",    "-n",
       "yes",        "null", "0x1F",
       "1e3",        "a: b", "- c",
       "{d}",        "[e]",  "&f",
       "!g",         "|h",   ">i",
       "@j",         "\tk",  "caf\u00e9 \u2713"});
  workload.env = {{"EMPTY", ""},
                  {"ON", "true"},
                  {"NUMBER", "017"},
                  {"DOLLARS", "$HOME $(HOSTNAME) $$ ${PATH}"},
                  {"LINES", "one\n  two\n"},
                  {"QUOTES", "'\"`\\"}};
  workload.tenant = "R&D: \"left\"";
  PlannedPartition& whole = build.AddWhole(build.AddGpu("gpu0", "h200"), SharingMode::kMps);
  build.AddServer(whole, "gpu0-default");
  for (int i = 0; i < 2; ++i) {
    build.AddReplica(whole, {.workload = "odd.name", .memory_limit = 30_GiB, .sm_percent = 50})
        .reason = "line one\nset -x; $(id) `id` \\";
  }
  return build.plan();
}

}  // namespace

PlanBuilder::PlanBuilder(std::string fleet) {
  plan_.fleet = std::move(fleet);
  plan_.gpus.reserve(kItemsMax);
  plan_.workloads.reserve(kItemsMax);
}

PlannedWorkload& PlanBuilder::AddWorkload(const std::string& name,
                                          std::vector<std::string> command) {
  CHECK(plan_.workloads.size() < kItemsMax);
  PlannedWorkload& workload = plan_.workloads.emplace_back();
  workload.name = name;
  workload.tenant = "default";
  workload.command = std::move(command);
  workload.image = fmt::format("registry.example/{}:1.0", name);
  return workload;
}

PlannedGpu& PlanBuilder::AddGpu(const std::string& name, const std::string& board_name,
                                const std::string& node) {
  CHECK(plan_.gpus.size() < kItemsMax);
  const Board& board = BoardNamed(board_name);
  int index = 0;
  for (const PlannedGpu& other : plan_.gpus) index += other.node == node ? 1 : 0;
  PlannedGpu& gpu = plan_.gpus.emplace_back();
  gpu.name = name;
  gpu.board = board_name;
  gpu.node = node;
  if (!node.empty()) {
    gpu.index = index;
    gpu.uuid = fmt::format("GPU-{:08}-0000-4000-8000-000000000000", plan_.gpus.size());
  }
  gpu.memory = board.memory;
  gpu.sm_count = board.sm_count;
  gpu.partitions.reserve(kItemsMax);
  return gpu;
}

PlannedPartition& PlanBuilder::AddWhole(PlannedGpu& gpu, SharingMode mode) {
  PlannedPartition& partition = gpu.partitions.emplace_back();
  partition.name = gpu.name;
  partition.memory = gpu.memory - 1_GiB;
  partition.sm_count = gpu.sm_count;
  partition.mode = mode;
  return partition;
}

PlannedPartition& PlanBuilder::AddInstance(PlannedGpu& gpu, const std::string& profile, int start,
                                           SharingMode mode) {
  const MigProfile* shape = BoardNamed(gpu.board).FindProfile(profile);
  CHECK(shape != nullptr);
  gpu.mig = true;
  PlannedPartition& partition = gpu.partitions.emplace_back();
  partition.name = fmt::format("{}-{}-{}", gpu.name, profile, start);
  partition.profile = profile;
  partition.profile_id = shape->id;
  partition.start = start;
  partition.size = shape->size;
  partition.memory = shape->memory;
  partition.sm_count = shape->sm_count;
  partition.mode = mode;
  return partition;
}

void PlanBuilder::AddServer(PlannedPartition& partition, const std::string& name) {
  partition.servers.push_back({name, "default"});
}

PlannedReplica& PlanBuilder::AddReplica(PlannedPartition& partition, const ReplicaWish& wish) {
  int number = 0;
  for (const PlannedGpu& gpu : plan_.gpus) {
    for (const PlannedPartition& other : gpu.partitions) {
      for (const PlannedReplica& replica : other.replicas) {
        number += replica.workload == wish.workload ? 1 : 0;
      }
    }
  }
  PlannedReplica replica;
  replica.id = fmt::format("{}/{}", wish.workload, number);
  replica.workload = wish.workload;
  replica.tenant = "default";
  replica.memory = wish.memory;
  replica.context = wish.context;
  replica.memory_limit = wish.memory_limit;
  replica.sm_percent = wish.sm_percent;
  if (partition.mode == SharingMode::kMps) replica.server = wish.server;
  replica.reason = "it fits here";
  return partition.replicas.emplace_back(std::move(replica));
}

const std::vector<RenderCase>& RenderCases() {
  static const std::vector<RenderCase> cases = {
      {"exclusive", ExclusivePlan()},
      {"time-slicing", TimeSlicingPlan()},
      {"mps-equal", EqualMpsPlan()},
      {"mps-unequal", UnequalMpsPlan()},
      {"mig", MigPlan()},
      {"nodes", NodesPlan()},
      {"quoting", QuotingPlan()},
  };
  return cases;
}

const Plan& CaseNamed(const std::string& name) {
  for (const RenderCase& known : RenderCases()) {
    if (known.name == name) return known.plan;
  }
  CHECK(false);
}

}  // namespace sublet
