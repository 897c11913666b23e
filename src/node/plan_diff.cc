#include "node/plan_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"
#include "node/plan_binding.h"

namespace sublet {
namespace {

const PlannedWorkload& WorkloadOf(const Plan& plan, const PlannedReplica& replica) {
  const auto it =
      std::find_if(plan.workloads.begin(), plan.workloads.end(),
                   [&](const PlannedWorkload& each) { return each.name == replica.workload; });
  CHECK(it != plan.workloads.end());  // ParsePlan() and the planner see to that.
  return *it;
}

std::optional<MigSeat> SeatOf(const PlannedPartition& partition) {
  if (partition.profile.empty()) return std::nullopt;
  MigSeat seat;
  seat.profile = partition.profile;
  seat.profile_id = partition.profile_id;
  seat.start = partition.start;
  seat.size = partition.size;
  return seat;
}

// One GPU's part of a target.
class Binder {
 public:
  Binder(const Plan& plan, const PlannedGpu& planned, const Gpu& gpu, PlanTarget& target)
      : plan_(plan), planned_(planned), gpu_(gpu), target_(target) {}

  Status Bind() {
    if (planned_.mig && !gpu_.mig_capable) {
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("the plan wants MIG on {}, which has none", gpu_.uuid));
    }
    if (gpu_.mig_capable) {
      MigTarget mig;
      mig.gpu_uuid = gpu_.uuid;
      mig.mig = planned_.mig;
      for (const PlannedPartition& partition : planned_.partitions) {
        if (const auto seat = SeatOf(partition)) mig.instances.push_back(*seat);
      }
      target_.mig.push_back(std::move(mig));
    }
    for (const PlannedPartition& partition : planned_.partitions) {
      RETURN_IF_ERROR(BindPartition(partition));
    }
    return {};
  }

 private:
  Status BindPartition(const PlannedPartition& partition) {
    if (partition.mode == SharingMode::kStreams) {
      return Fail(ErrorCode::kUnsupported,
                  "streams share one process: a node can't put replicas into it");
    }
    std::vector<DomainTarget> domains;
    for (const PlannedServer& server : partition.servers) {
      DomainTarget domain;
      domain.domain.name = server.name;
      domain.domain.tenant = server.tenant;
      domain.domain.gpu_uuid = gpu_.uuid;
      domain.domain.planned = true;
      domain.seat = SeatOf(partition);
      domain.sm_count = partition.sm_count;
      domains.push_back(std::move(domain));
    }
    for (const PlannedReplica& replica : partition.replicas) {
      ASSIGN_OR_RETURN(ReplicaTarget bound, BindReplica(partition, replica));
      target_.replicas.push_back(std::move(bound));
    }
    for (std::size_t i = 0; i < domains.size(); ++i) {
      SetDefaults(partition, static_cast<int>(i), domains[i].domain);
      target_.domains.push_back(std::move(domains[i]));
    }
    return {};
  }

  // A server's defaults admit the most that one of its clients needs: each client has its own
  // limits below, and one that drops them still meets these.
  static void SetDefaults(const PlannedPartition& partition, int server, Domain& domain) {
    bool all_memory = true;
    bool all_sm = true;
    for (const PlannedReplica& replica : partition.replicas) {
      if (replica.server != server) continue;
      if (domain.tenant.empty()) domain.tenant = replica.tenant;
      all_memory = all_memory && replica.memory_limit.has_value();
      all_sm = all_sm && replica.sm_percent.has_value();
      if (replica.memory_limit) {
        // MPS counts a client's context against its limit.
        domain.memory_limit = std::max(domain.memory_limit.value_or(Bytes()),
                                       *replica.memory_limit + replica.context);
      }
      if (replica.sm_percent) {
        domain.sm_percent = std::max(domain.sm_percent.value_or(0), *replica.sm_percent);
      }
    }
    if (!all_memory) domain.memory_limit.reset();
    if (!all_sm) domain.sm_percent.reset();
  }

  Result<ReplicaTarget> BindReplica(const PlannedPartition& partition,
                                    const PlannedReplica& replica) const {
    const PlannedWorkload& workload = WorkloadOf(plan_, replica);
    if (workload.command.empty()) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("workload {} has no command, so it can't be started", workload.name),
                  "give it one in the fleet's file: command: [python3, server.py]");
    }
    for (const auto& [name, value] : workload.env) {
      if (!IsShareVariable(name)) continue;
      return Fail(ErrorCode::kInvalid,
                  fmt::format("workload {} sets a variable that Sublet must set itself: {}",
                              workload.name, name),
                  "remove it from the workload's env");
    }
    ReplicaTarget target;
    target.id = replica.id;
    target.share.name = replica.id;
    target.share.tenant = replica.tenant;
    target.share.mode = partition.mode;
    target.share.gpu_uuid = gpu_.uuid;
    target.share.memory = replica.memory;
    target.share.memory_limit = replica.memory_limit;
    target.share.sm_percent = replica.sm_percent;
    if (replica.server) {
      target.share.domain = partition.servers[static_cast<std::size_t>(*replica.server)].name;
    }
    target.share.enforcement = replica.enforcement;
    target.share.reason = replica.reason;
    target.seat = SeatOf(partition);
    target.command = workload.command;
    target.env = workload.env;
    target.port = PortOfReplica(workload.port, replica.id);
    target.readiness = workload.ready;
    target.restart = workload.restart;
    target.stop_timeout_s = workload.stop_timeout_s.value_or(kStopTimeoutSDefault);
    return target;
  }

  const Plan& plan_;
  const PlannedGpu& planned_;
  const Gpu& gpu_;
  PlanTarget& target_;
};

template <typename Limit>
bool Admits(const std::optional<Limit>& kept, const std::optional<Limit>& needed) {
  return !kept || (needed && *kept >= *needed);
}

// Whether a domain that runs can be the one that is wanted.
bool Serves(const DomainTarget& running, const DomainTarget& wanted) {
  return running.seat == wanted.seat && running.domain.tenant == wanted.domain.tenant &&
         running.domain.gpu_uuid == wanted.domain.gpu_uuid &&
         Admits(running.domain.memory_limit, wanted.domain.memory_limit) &&
         Admits(running.domain.sm_percent, wanted.domain.sm_percent);
}

template <typename Target>
const Target* Find(const std::vector<Target>& all, const std::string& name,
                   const std::string& (*name_of)(const Target&)) {
  for (const Target& each : all) {
    if (name_of(each) == name) return &each;
  }
  return nullptr;
}
const std::string& NameOf(const DomainTarget& domain) {
  return domain.domain.name;
}
const std::string& IdOf(const ReplicaTarget& replica) {
  return replica.id;
}

std::string PercentText(const std::optional<int>& percent) {
  return percent ? fmt::format("{} % of the SMs", *percent) : "all SMs";
}

std::string LimitText(const std::optional<Bytes>& limit) {
  return limit ? fmt::format("{} MiB", limit->mib()) : "no memory limit";
}

// Why a replica can't stay as it runs, the first difference that there is.
std::string Difference(const ReplicaTarget& now, const ReplicaTarget& then) {
  if (now.share.gpu_uuid != then.share.gpu_uuid) return "moves to another GPU";
  if (now.seat != then.seat) return "moves to another MIG instance";
  if (now.share.mode != then.share.mode) {
    return fmt::format("is shared by {} instead of {}", SharingModeName(then.share.mode),
                       SharingModeName(now.share.mode));
  }
  if (now.share.domain != then.share.domain) return "moves to another MPS domain";
  if (now.share.sm_percent != then.share.sm_percent) {
    return fmt::format("gets {} instead of {}", PercentText(then.share.sm_percent),
                       PercentText(now.share.sm_percent));
  }
  if (now.share.memory_limit != then.share.memory_limit) {
    return fmt::format("gets {} instead of {}", LimitText(then.share.memory_limit),
                       LimitText(now.share.memory_limit));
  }
  if (now.command != then.command || now.directory != then.directory) {
    return "has another command";
  }
  if (now.env != then.env) return "has another environment";
  if (now.port != then.port) return "has another port";
  return "is started, watched or ended in another way";
}

}  // namespace

bool ReplicaTarget::RunsAs(const ReplicaTarget& other) const {
  return id == other.id && share.tenant == other.share.tenant && share.mode == other.share.mode &&
         share.gpu_uuid == other.share.gpu_uuid && seat == other.seat &&
         share.memory == other.share.memory && share.memory_limit == other.share.memory_limit &&
         share.sm_percent == other.share.sm_percent && share.domain == other.share.domain &&
         command == other.command && directory == other.directory && env == other.env &&
         port == other.port && readiness == other.readiness && restart == other.restart &&
         stop_timeout_s == other.stop_timeout_s;
}

Result<PlanTarget> TargetOf(const Plan& plan, const std::string& directory,
                            const Inventory& inventory) {
  ASSIGN_OR_RETURN(const Plan bound, BindPlan(plan, inventory, {}));
  PlanTarget target;
  for (const PlannedGpu& planned : bound.gpus) {
    const Gpu* const gpu = inventory.FindGpu(planned.uuid);
    CHECK(gpu != nullptr);
    RETURN_IF_ERROR(Binder(plan, planned, *gpu, target).Bind());
  }
  for (ReplicaTarget& replica : target.replicas) replica.directory = directory;
  std::map<std::string, int> priority;
  for (const PlannedWorkload& workload : plan.workloads)
    priority[workload.name] = workload.priority;
  const auto rank = [&](const ReplicaTarget& replica) {
    return priority[replica.id.substr(0, replica.id.rfind('/'))];
  };
  std::stable_sort(target.replicas.begin(), target.replicas.end(),
                   [&](const auto& a, const auto& b) { return rank(a) > rank(b); });
  std::sort(target.domains.begin(), target.domains.end(),
            [](const auto& a, const auto& b) { return a.domain.name < b.domain.name; });
  std::sort(target.mig.begin(), target.mig.end(),
            [](const auto& a, const auto& b) { return a.gpu_uuid < b.gpu_uuid; });
  return target;
}

std::string Describe(const PlanStep& step) {
  switch (step.kind) {
    case PlanStep::Kind::kStopReplica:
      return fmt::format("stop {}: {}", step.name, step.why);
    case PlanStep::Kind::kEndDomain:
      return fmt::format("end MPS domain {}: {}", step.name, step.why);
    case PlanStep::Kind::kChangeMig:
      return fmt::format("change MIG of {}: {}", step.name, step.why);
    case PlanStep::Kind::kStartDomain:
      return fmt::format("start MPS domain {}: {}", step.name, step.why);
    case PlanStep::Kind::kStartReplica:
      return fmt::format("start {}: {}", step.name, step.why);
  }
  return "";
}

namespace {

std::vector<PlanStep> MigSteps(const PlanTarget& current, const PlanTarget& target) {
  std::vector<PlanStep> steps;
  for (const MigTarget& wanted : target.mig) {
    const auto now = std::find_if(current.mig.begin(), current.mig.end(), [&](const auto& each) {
      return each.gpu_uuid == wanted.gpu_uuid;
    });
    if (now != current.mig.end() && *now == wanted) continue;
    std::string layout;
    for (const MigSeat& seat : wanted.instances) {
      layout += fmt::format("{}{}", layout.empty() ? "" : ", ", DescribeSeat(seat));
    }
    if (!wanted.mig) layout = "off";
    if (layout.empty()) layout = "no instances";
    steps.push_back({PlanStep::Kind::kChangeMig, wanted.gpu_uuid, std::move(layout)});
  }
  return steps;
}

}  // namespace

std::vector<PlanStep> StepsBetween(const PlanTarget& current, const PlanTarget& target) {
  using Kind = PlanStep::Kind;
  std::vector<PlanStep> steps;
  std::vector<PlanStep> domains_end;
  std::vector<PlanStep> domains_start;
  std::set<std::string> replaced;  // Domains that don't stay.
  for (const DomainTarget& now : current.domains) {
    const DomainTarget* const then = Find(target.domains, now.domain.name, NameOf);
    if (then != nullptr && Serves(now, *then)) continue;
    replaced.insert(now.domain.name);
    domains_end.push_back({Kind::kEndDomain, now.domain.name,
                           then == nullptr ? "is not in the plan" : "gets other limits or place"});
  }
  for (const DomainTarget& then : target.domains) {
    const DomainTarget* const now = Find(current.domains, then.domain.name, NameOf);
    if (now != nullptr && Serves(*now, then)) continue;
    domains_start.push_back({Kind::kStartDomain, then.domain.name,
                             now == nullptr ? "is new" : "gets other limits or place"});
  }
  std::vector<PlanStep> starts;
  std::set<std::string> moved;
  for (const ReplicaTarget& now : current.replicas) {
    const ReplicaTarget* const then = Find(target.replicas, now.id, IdOf);
    std::string why;
    if (then == nullptr) {
      why = "is not in the plan";
    } else if (!now.RunsAs(*then)) {
      why = Difference(now, *then);
    } else if (replaced.count(now.share.domain) > 0) {
      why = "its MPS domain is replaced";
    } else {
      continue;
    }
    moved.insert(now.id);
    steps.push_back({Kind::kStopReplica, now.id, std::move(why)});
  }
  for (const ReplicaTarget& then : target.replicas) {
    const bool there = Find(current.replicas, then.id, IdOf) != nullptr;
    if (there && moved.count(then.id) == 0) continue;
    starts.push_back({Kind::kStartReplica, then.id, there ? "in its new place" : "is new"});
  }
  // What goes last was started last.
  std::reverse(steps.begin(), steps.end());
  for (auto* part : {&domains_end}) steps.insert(steps.end(), part->begin(), part->end());
  const std::vector<PlanStep> mig = MigSteps(current, target);
  steps.insert(steps.end(), mig.begin(), mig.end());
  steps.insert(steps.end(), domains_start.begin(), domains_start.end());
  steps.insert(steps.end(), starts.begin(), starts.end());
  return steps;
}

PlanTarget Settled(const PlanTarget& current, PlanTarget target) {
  for (DomainTarget& then : target.domains) {
    const DomainTarget* const now = Find(current.domains, then.domain.name, NameOf);
    if (now != nullptr && Serves(*now, then)) then.domain = now->domain;
  }
  return target;
}

}  // namespace sublet
