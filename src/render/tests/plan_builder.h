// render/tests/plan_builder.h
//
// Small plans, written as one would say them:
//
//   PlanBuilder build("shop");
//   build.AddWorkload("chat", {"serve", "--port", "8000"});
//   PlannedGpu& gpu = build.AddGpu("gpu0", "a100-80gb");
//   PlannedPartition& whole = build.AddWhole(gpu, SharingMode::kMps);
//   build.AddServer(whole, "gpu0-a");
//   build.AddReplica(whole, {.workload = "chat", .memory_limit = 10_GiB, .sm_percent = 25});
//   Render(build.plan(), ...);
//
// References stay valid while the builder lives.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/plan.h"

namespace sublet {

struct ReplicaWish {
  std::string workload;
  Bytes memory = 8_GiB;  // Context included.
  Bytes context = 512_MiB;
  std::optional<Bytes> memory_limit = {};  // Context not included, as in the plan.
  std::optional<int> sm_percent = {};
  int server = 0;  // Where the partition is shared by MPS.
};

class PlanBuilder {
 public:
  explicit PlanBuilder(std::string fleet);

  PlannedWorkload& AddWorkload(const std::string& name,
                               std::vector<std::string> command = {"serve"});
  // A GPU of a node that exists if `node` is given: then it also has a UUID and an index.
  PlannedGpu& AddGpu(const std::string& name, const std::string& board,
                     const std::string& node = "");
  // The whole GPU as one partition.
  PlannedPartition& AddWhole(PlannedGpu& gpu, SharingMode mode);
  // A MIG instance; its id, size and memory are the catalogue's.
  PlannedPartition& AddInstance(PlannedGpu& gpu, const std::string& profile, int start,
                                SharingMode mode);
  void AddServer(PlannedPartition& partition, const std::string& name);
  PlannedReplica& AddReplica(PlannedPartition& partition, const ReplicaWish& wish);

  const Plan& plan() const { return plan_; }

 private:
  Plan plan_;
};

// The plans whose renderings lie in tests/golden/render/, and which other tests render too.
struct RenderCase {
  std::string name;
  Plan plan;
};
const std::vector<RenderCase>& RenderCases();
const Plan& CaseNamed(const std::string& name);

}  // namespace sublet
