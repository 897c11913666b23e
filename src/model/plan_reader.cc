#include <fmt/format.h>

#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "model/document.h"
#include "model/plan.h"

namespace sublet {
namespace {

// Above these a number is a broken file, whatever field it stands in.
constexpr Range kCount{.min = 0, .max = 10'000'000};
constexpr Range kAmount{.min = 0, .max = 1e15};
constexpr Range kPercent{.min = 1, .max = 100};

Result<int> ReadCount(const Node& node) {
  ASSIGN_OR_RETURN(const std::int64_t count, ReadInteger(node, kCount));
  return static_cast<int>(count);
}

// A map from text to whatever `read` reads.
template <typename T>
Result<std::map<std::string, T>> ReadMap(const Node& node, Result<T> (*read)(const Node&)) {
  if (node.kind != Node::Kind::kMap) return FailAt(node, "a map is expected here");
  std::map<std::string, T> map;
  for (const auto& [key, value] : node.fields) {
    ASSIGN_OR_RETURN(map[key], read(value));
  }
  return map;
}

Result<Enforcement> ReadEnforcement(const Node& node) {
  Enforcement enforcement;
  ObjectReader in(node, "enforcement");
  in.Required("what", enforcement.what);
  in.Required("by", enforcement.by);
  in.Required("enforced", enforcement.enforced);
  RETURN_IF_ERROR(in.Finish());
  return enforcement;
}

Result<Prediction> ReadPrediction(const Node& node) {
  Prediction prediction;
  ObjectReader in(node, "prediction");
  in.Required("service_ms", prediction.service_ms, kAmount);
  in.Required("slowdown_mean", prediction.slowdown_mean, kAmount);
  in.Required("utilisation", prediction.utilisation, kAmount);
  in.Optional("latency_ms_p50", prediction.latency_ms_p50, kAmount);
  in.Optional("latency_ms_p99", prediction.latency_ms_p99, kAmount);
  in.Optional("headroom_percent", prediction.headroom_percent, {.min = -1e15, .max = 100});
  in.Optional("throughput_per_s", prediction.throughput_per_s, kAmount);
  RETURN_IF_ERROR(in.Finish());
  return prediction;
}

Result<PlannedReplica> ReadReplica(const Node& node) {
  PlannedReplica replica;
  ObjectReader in(node, "replica");
  in.Required("id", replica.id);
  in.Required("workload", replica.workload);
  in.Required("tenant", replica.tenant);
  in.Required("memory_mib", replica.memory, ReadMib);
  in.Required("context_mib", replica.context, ReadMib);
  in.Optional("memory_limit_mib", replica.memory_limit, ReadMib);
  in.Optional("sm_percent", replica.sm_percent, kPercent);
  in.Optional("server", replica.server, kCount);
  in.Required("prediction", replica.prediction, ReadPrediction);
  in.RequiredList("enforcement", replica.enforcement, ReadEnforcement);
  in.Required("reason", replica.reason);
  if (replica.context > replica.memory) {
    in.Reject("context_mib", "the context is a part of memory_mib, so it can't be larger");
  }
  RETURN_IF_ERROR(in.Finish());
  return replica;
}

Result<PlannedServer> ReadServer(const Node& node) {
  PlannedServer server;
  ObjectReader in(node, "server");
  in.Required("name", server.name);
  in.Required("tenant", server.tenant);
  RETURN_IF_ERROR(in.Finish());
  return server;
}

// The replicas' `server` must be one of the partition's, and there is one for each under MPS.
void CheckServers(const PlannedPartition& partition, ObjectReader& in) {
  const bool mps = partition.mode == SharingMode::kMps;
  if (!mps && !partition.servers.empty()) {
    return in.Reject("servers", fmt::format("servers are for mode 'mps', not for '{}'",
                                            SharingModeName(partition.mode)));
  }
  const int servers = static_cast<int>(partition.servers.size());
  for (const PlannedReplica& replica : partition.replicas) {
    if (mps && !replica.server) {
      return in.Reject("replicas",
                       fmt::format("under MPS a replica needs a server: '{}'", replica.id));
    }
    if (replica.server && *replica.server >= servers) {
      return in.Reject("replicas",
                       fmt::format("replica '{}' names a server that isn't there: {} of {}",
                                   replica.id, *replica.server, servers));
    }
  }
}

Result<PlannedPartition> ReadPartition(const Node& node) {
  PlannedPartition partition;
  ObjectReader in(node, "partition");
  in.Required("name", partition.name);
  in.Required("profile", partition.profile);
  in.Required("profile_id", partition.profile_id, {.min = -1, .max = 1e6});
  in.Required("start", partition.start, kCount);
  in.Required("size", partition.size, kCount);
  in.Required("memory_mib", partition.memory, ReadMib);
  in.Required("sm_count", partition.sm_count, kCount);
  in.RequiredEnum("mode", partition.mode, SharingModeWords());
  in.RequiredList("servers", partition.servers, ReadServer);
  in.RequiredList("replicas", partition.replicas, ReadReplica);
  if (partition.mode == SharingMode::kMig) {
    in.Reject("mode", "'mig' cuts a GPU; processes share a partition in another mode");
  }
  CheckServers(partition, in);
  RETURN_IF_ERROR(in.Finish());
  return partition;
}

Result<PlannedGpu> ReadGpu(const Node& node) {
  PlannedGpu gpu;
  ObjectReader in(node, "gpu");
  in.Required("name", gpu.name);
  in.Required("board", gpu.board);
  in.Required("node", gpu.node);
  in.Required("uuid", gpu.uuid);
  in.Required("index", gpu.index, {.min = -1, .max = 1e6});
  in.Required("mig", gpu.mig);
  in.Required("memory_mib", gpu.memory, ReadMib);
  in.Required("sm_count", gpu.sm_count, kCount);
  in.Required("memory_units", gpu.memory_units, kCount);
  in.Required("price_usd_hour", gpu.price_usd_hour, kAmount);
  in.RequiredList("partitions", gpu.partitions, ReadPartition);
  in.Required("reason", gpu.reason);
  for (const PlannedPartition& partition : gpu.partitions) {
    if (partition.profile.empty() != gpu.mig) continue;
    in.Reject("partitions",
              fmt::format("with MIG {}, a partition {} a profile: '{}'", gpu.mig ? "on" : "off",
                          gpu.mig ? "needs" : "can't have", partition.name));
  }
  RETURN_IF_ERROR(in.Finish());
  return gpu;
}

Result<PlannedWorkload> ReadWorkload(const Node& node) {
  PlannedWorkload workload;
  ObjectReader in(node, "workload");
  in.Required("name", workload.name);
  in.Required("tenant", workload.tenant);
  in.Required("replicas", workload.replicas, kCount);
  in.RequiredEnum("isolation", workload.isolation, IsolationWords());
  in.Required("priority", workload.priority);
  in.RequiredList("command", workload.command, ReadString);
  in.Required("image", workload.image);
  in.Required("env", workload.env,
              [](const Node& env) { return ReadMap<std::string>(env, ReadString); });
  in.Required("memory_mib", workload.memory, ReadMib);
  in.Required("memory_how", workload.memory_how);
  in.Optional("latency_ms_p50_target", workload.latency_ms_p50_target, kAmount);
  in.Optional("latency_ms_p99_target", workload.latency_ms_p99_target, kAmount);
  in.Optional("port", workload.port, {.min = 1, .max = 65535});
  in.Optional("ready", workload.ready, ReadReadiness);
  in.OptionalEnum("restart", workload.restart, RestartPolicyWords());
  in.Optional("stop_timeout_s", workload.stop_timeout_s, {.min = 0, .max = 86'400});
  if (std::string wrong = PortProblem(workload.port, workload.replicas, workload.ready);
      !wrong.empty()) {
    in.Reject(in.Has("port") ? "port" : "ready", std::move(wrong));
  }
  RETURN_IF_ERROR(in.Finish());
  return workload;
}

Result<Strategy> ReadStrategy(const Node& node) {
  Strategy strategy;
  ObjectReader in(node, "strategy");
  in.Required("name", strategy.name);
  in.Required("feasible", strategy.feasible);
  in.Required("gpus", strategy.gpus, kCount);
  in.Required("cost_month_usd", strategy.cost_month_usd, kAmount);
  in.Required("isolation", strategy.isolation);
  in.Optional("latency_ms_p50", strategy.latency_ms_p50, kAmount);
  in.Optional("latency_ms_p99", strategy.latency_ms_p99, kAmount);
  in.Optional("throughput_per_s", strategy.throughput_per_s, kAmount);
  in.Required("holds", strategy.holds, kCount);
  in.RequiredList("breaks", strategy.breaks, ReadString);
  RETURN_IF_ERROR(in.Finish());
  return strategy;
}

Result<Rejection> ReadRejection(const Node& node) {
  Rejection rejection;
  ObjectReader in(node, "rejection");
  in.Required("workload", rejection.workload);
  in.RequiredEnum("mode", rejection.mode, SharingModeWords());
  in.Required("reason", rejection.reason);
  RETURN_IF_ERROR(in.Finish());
  return rejection;
}

Result<Change> ReadChange(const Node& node) {
  Change change;
  ObjectReader in(node, "change");
  in.RequiredEnum("kind", change.kind, ChangeKindWords());
  in.Required("replica", change.replica);
  in.Required("from", change.from);
  in.Required("to", change.to);
  RETURN_IF_ERROR(in.Finish());
  return change;
}

Result<PlanSummary> ReadSummary(const Node& node) {
  PlanSummary summary;
  ObjectReader in(node, "summary");
  in.Required("gpus", summary.gpus, kCount);
  in.Required("replicas", summary.replicas, kCount);
  in.Required("gpus_by_board", summary.gpus_by_board,
              [](const Node& boards) { return ReadMap<int>(boards, ReadCount); });
  in.Required("cost_hour_usd", summary.cost_hour_usd, kAmount);
  in.Required("cost_month_usd", summary.cost_month_usd, kAmount);
  in.Required("lower_bound_month_usd", summary.lower_bound_month_usd, kAmount);
  in.Required("gap_percent", summary.gap_percent, kAmount);
  in.Required("verdict", summary.verdict);
  in.Required("headroom_percent_min", summary.headroom_percent_min, {.min = -1e15, .max = 100});
  in.Optional("throughput_per_s", summary.throughput_per_s, kAmount);
  RETURN_IF_ERROR(in.Finish());
  return summary;
}

// What holds across the whole plan. A name that occurs twice, or that nothing has, would send a
// replica to the wrong place.
class References {
 public:
  explicit References(const Plan& plan) : plan_(plan) {}

  // The first violation as a sentence; empty when there is none.
  std::string Violation() {
    for (const PlannedWorkload& workload : plan_.workloads) {
      if (!workloads_.emplace(workload.name, 0).second) return Twice("workload", workload.name);
      ports_.emplace(workload.name, workload.port);
    }
    for (const PlannedGpu& gpu : plan_.gpus) {
      if (!gpus_.insert(gpu.name).second) return Twice("gpu", gpu.name);
      for (const PlannedPartition& partition : gpu.partitions) {
        if (std::string wrong = InPartition(partition); !wrong.empty()) return wrong;
      }
    }
    return InTheRest();
  }

 private:
  static std::string Twice(std::string_view what, std::string_view name) {
    return fmt::format("two of one name: {} '{}'", what, name);
  }

  std::string InPartition(const PlannedPartition& partition) {
    if (!partitions_.insert(partition.name).second) return Twice("partition", partition.name);
    for (const PlannedServer& server : partition.servers) {
      if (!servers_.insert(server.name).second) return Twice("server", server.name);
    }
    for (const PlannedReplica& replica : partition.replicas) {
      if (!replicas_.insert(replica.id).second) return Twice("replica", replica.id);
      const auto workload = workloads_.find(replica.workload);
      if (workload == workloads_.end()) {
        return fmt::format("replica '{}' names a workload that isn't there: '{}'", replica.id,
                           replica.workload);
      }
      ++workload->second;
      if (std::string wrong = InPort(replica); !wrong.empty()) return wrong;
    }
    return {};
  }

  // Two replicas on one port would fight for it: the ids give the ports.
  std::string InPort(const PlannedReplica& replica) {
    const std::optional<int> first = ports_.at(replica.workload);
    if (!first) return {};
    const std::optional<int> port = PortOfReplica(first, replica.id);
    if (!port) {
      return fmt::format("a replica of a workload with a port needs a number: '{}'", replica.id);
    }
    const auto [taken, added] = port_owners_.emplace(*port, replica.id);
    if (added) return {};
    return fmt::format("two replicas on port {}: '{}' and '{}'", *port, taken->second, replica.id);
  }

  std::string InTheRest() const {
    for (const PlannedWorkload& workload : plan_.workloads) {
      const int placed = workloads_.at(workload.name);
      if (placed != workload.replicas) {
        return fmt::format("workload '{}' has {} replicas, but {} are placed", workload.name,
                           workload.replicas, placed);
      }
    }
    for (const Rejection& rejection : plan_.rejections) {
      if (workloads_.contains(rejection.workload)) continue;
      return fmt::format("a rejection names a workload that isn't there: '{}'", rejection.workload);
    }
    return InChanges();
  }

  // What a change removes, and where it moves from, belongs to the state before; the rest must be
  // in this plan.
  std::string InChanges() const {
    for (const Change& change : plan_.changes) {
      if (change.kind == Change::Kind::kRemove) continue;
      if (!replicas_.contains(change.replica)) {
        return fmt::format("a change names a replica that isn't there: '{}'", change.replica);
      }
      if (!partitions_.contains(change.to)) {
        return fmt::format("a change names a partition that isn't there: '{}'", change.to);
      }
    }
    return {};
  }

  const Plan& plan_;
  std::unordered_map<std::string_view, int> workloads_;             // Replicas seen of each.
  std::unordered_map<std::string_view, std::optional<int>> ports_;  // The first of each workload.
  std::unordered_map<int, std::string_view> port_owners_;
  std::unordered_set<std::string_view> gpus_, partitions_, servers_, replicas_;
};

Result<Plan> ReadPlan(const Node& node) {
  Plan plan;
  ObjectReader in(node, "plan");
  in.Version(kPlanVersion);
  in.Required("fleet", plan.fleet);
  in.Required("summary", plan.summary, ReadSummary);
  in.RequiredList("gpus", plan.gpus, ReadGpu);
  in.RequiredList("workloads", plan.workloads, ReadWorkload);
  in.RequiredList("strategies", plan.strategies, ReadStrategy);
  in.RequiredList("rejections", plan.rejections, ReadRejection);
  in.RequiredList("changes", plan.changes, ReadChange);
  in.RequiredList("warnings", plan.warnings, ReadString);
  in.Required("calibration", plan.calibration);
  RETURN_IF_ERROR(in.Finish());
  if (std::string wrong = References(plan).Violation(); !wrong.empty()) {
    return FailAt(node, std::move(wrong),
                  "the file was changed by hand or cut; make the plan again");
  }
  return plan;
}

}  // namespace

Result<Plan> ParsePlan(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadPlan);
}

}  // namespace sublet
