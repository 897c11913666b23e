// render/deployment.h
//
// A plan, checked and arranged for writing files: which GPUs stand in which node, who sits where,
// and what everything is called.
//
//   ASSIGN_OR_RETURN(const Deployment deployment, Arrange(plan));
//   for (const NodeGroup& group : deployment.groups)
//     for (const Seat& seat : group.seats) seat.replica->id ...
//
// A plan for GPUs that exist names their nodes, and each node is a group. A plan for GPUs that are
// yet to be found doesn't; then each distinct GPU configuration is a group of its own (`name` is
// empty): nodes of one kind, to be picked by whoever deploys. Targets that describe one machine
// take OneMachine(), where all nameless GPUs stand in the machine "node".
//
// Thread safety: values that point into the plan, which must outlive them.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/plan.h"

namespace sublet {

// One replica and everything around it.
struct Seat {
  const PlannedGpu* gpu = nullptr;
  const PlannedPartition* partition = nullptr;
  const PlannedServer* server = nullptr;  // nullptr unless the partition's mode is kMps.
  const PlannedReplica* replica = nullptr;
  const PlannedWorkload* workload = nullptr;
};

struct NodeGroup {
  std::string node;  // Host name; empty: any node whose GPUs are to be set up so.
  std::vector<const PlannedGpu*> gpus;
  std::vector<Seat> seats;
};

struct Deployment {
  const Plan* plan = nullptr;
  std::vector<NodeGroup> groups;  // In the order of the plan's GPUs.
};

// Checks names, texts and references, and groups the GPUs. Fails with kInvalid (a name that isn't
// fit for a path or unit, a text that can't be carried over, a variable that Sublet sets itself, an
// amount out of range) or kUnsupported (a partition shared by streams, which needs one process).
Result<Deployment> Arrange(const Plan& plan);

// The same GPUs with one group per machine.
std::vector<NodeGroup> OneMachine(const Deployment& deployment);

// What must be set as a process's MPS memory limit so that it can hold `memory_limit`: MPS counts
// the CUDA context as well (measured: under a limit of 2,048 MiB with half of the SMs of an H200,
// 1,700 MiB could be allocated). Absent where the plan sets no limit.
std::optional<Bytes> MpsMemoryLimit(const PlannedReplica& replica);

// The limits that a server, or a whole partition where `server` is nullptr, must allow: the largest
// of its replicas'. A default is absent as soon as one replica has none.
struct ServerDefaults {
  std::optional<Bytes> memory_limit;
  std::optional<int> sm_percent;
};
ServerDefaults DefaultsOf(const PlannedPartition& partition, std::optional<int> server);

// The resource that NVIDIA's device plugin advertises for a partition under its MIG strategy
// "mixed": "nvidia.com/gpu", "nvidia.com/mig-1g.10gb.me".
std::string PluginResource(const PlannedPartition& partition);

// Gives names that are unique within one namespace and hold only letters, digits, '.', '_' and '-'.
//
//   UniqueNames units;
//   units.Name("llama/0")   // "llama-0"
//   units.Name("llama-0")   // "llama-0-2"
class UniqueNames {
 public:
  // kDnsSubdomain: also lower case, no '_', at most 253 characters: names of Kubernetes objects.
  // kDnsLabel: also no '.', at most 63: names of containers and claims in a pod.
  enum class Form { kFile, kDnsSubdomain, kDnsLabel };
  explicit UniqueNames(Form form = Form::kFile) : form_(form) {}

  std::string Name(std::string_view wanted);

 private:
  Form form_;
  std::set<std::string> taken_;
};

}  // namespace sublet
