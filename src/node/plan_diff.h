// node/plan_diff.h
//
// A plan on this machine's GPUs, and the smallest list of steps to it from what runs.
//
//   ASSIGN_OR_RETURN(PlanTarget target, TargetOf(plan, directory, inventory));
//   for (const PlanStep& step : StepsBetween(current, target)) Do(step);
//
// TargetOf() binds the plan's GPUs to those that are here and says what is to exist: MIG instances,
// MPS domains, replicas in the order in which they are to start. A MIG instance has no UUID before
// it is made, so a place in one is named by its seat.
//
// What is the same before and after appears in no step: its processes aren't touched. A domain is
// kept as long as its defaults admit what its replicas need, because a server's defaults can't be
// changed while it runs; and a replica whose domain has to be replaced is started again with it.
//
// Pure. Thread safety: no shared state.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/inventory.h"
#include "model/launch.h"
#include "model/mig_target.h"
#include "model/plan.h"
#include "model/share.h"

namespace sublet {

// An MPS domain, and the MIG instance that it serves.
struct DomainTarget {
  Domain domain;                // mig_uuid may be empty where `seat` is given.
  std::optional<MigSeat> seat;  // Absent: the whole GPU.
  int sm_count = 0;             // Of its device.

  friend bool operator==(const DomainTarget&, const DomainTarget&) = default;
};

struct ReplicaTarget {
  std::string id;  // "chat/0"
  Share share;     // Without id until it is booked, without mig_uuid until the instance is made.
  std::optional<MigSeat> seat;
  std::vector<std::string> command;
  std::string directory;  // Where it begins, and where relative paths in the command do.
  std::map<std::string, std::string> env;
  std::optional<int> port;  // Its own.
  std::optional<Readiness> readiness;
  RestartPolicy restart = RestartPolicy::kAlways;
  double stop_timeout_s = kStopTimeoutSDefault;

  // Whether its process can stay when the one becomes the other: all but id, UUID and reasons.
  bool RunsAs(const ReplicaTarget& other) const;
};

// As the node's store keeps it.
nlohmann::ordered_json ReplicaTargetToJson(const ReplicaTarget& target);
Result<ReplicaTarget> ParseReplicaTarget(std::string_view text, std::string_view source);

struct PlanTarget {
  std::vector<MigTarget> mig;           // Of the plan's GPUs that can have MIG; by UUID.
  std::vector<DomainTarget> domains;    // By name.
  std::vector<ReplicaTarget> replicas;  // In the order in which they start.
};

// Fails with kInfeasible where the node doesn't have the plan's GPUs, kInvalid where a workload has
// no command, kUnsupported for a mode that no process can be put into from outside (streams).
Result<PlanTarget> TargetOf(const Plan& plan, const std::string& directory,
                            const Inventory& inventory);

struct PlanStep {
  enum class Kind { kStopReplica, kEndDomain, kChangeMig, kStartDomain, kStartReplica };
  Kind kind = Kind::kStopReplica;
  std::string name;  // Of the replica or domain; of kChangeMig, the GPU's UUID.
  std::string why;   // "is not in the plan", "gets 20 % of the SMs instead of 10 %"

  friend bool operator==(const PlanStep&, const PlanStep&) = default;
};
std::string Describe(const PlanStep& step);

// In the order in which they are to be done: what goes, first the replicas and then their domains;
// MIG; the domains that come; the replicas that come, in their order. `current.mig` is the geometry
// that there is.
std::vector<PlanStep> StepsBetween(const PlanTarget& current, const PlanTarget& target);

// The domain of a plan that is kept is as it runs, not as a plan would have it made anew; this is
// what there is once the steps are done.
PlanTarget Settled(const PlanTarget& current, PlanTarget target);

}  // namespace sublet
