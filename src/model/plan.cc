#include "model/plan.h"

#include <nlohmann/json.hpp>

#include "model/json_fields.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

Json EnforcementToJson(const Enforcement& enforcement) {
  return {{"what", enforcement.what}, {"by", enforcement.by}, {"enforced", enforcement.enforced}};
}

Json PredictionToJson(const Prediction& prediction) {
  Json json{{"service_ms", prediction.service_ms},
            {"slowdown_mean", prediction.slowdown_mean},
            {"utilisation", prediction.utilisation}};
  PutField(json, "latency_ms_p50", prediction.latency_ms_p50);
  PutField(json, "latency_ms_p99", prediction.latency_ms_p99);
  PutField(json, "headroom_percent", prediction.headroom_percent);
  PutField(json, "throughput_per_s", prediction.throughput_per_s);
  return json;
}

Json ReplicaToJson(const PlannedReplica& replica) {
  Json json{{"id", replica.id},
            {"workload", replica.workload},
            {"tenant", replica.tenant},
            {"memory_mib", replica.memory.mib_rounded_up()},
            {"context_mib", replica.context.mib_rounded_up()}};
  PutField(json, "memory_limit_mib", replica.memory_limit);
  PutField(json, "sm_percent", replica.sm_percent);
  PutField(json, "server", replica.server);
  json["prediction"] = PredictionToJson(replica.prediction);
  json["enforcement"] = ListToJson(replica.enforcement, EnforcementToJson);
  json["reason"] = replica.reason;
  return json;
}

Json ServerToJson(const PlannedServer& server) {
  return {{"name", server.name}, {"tenant", server.tenant}};
}

Json PartitionToJson(const PlannedPartition& partition) {
  return {{"name", partition.name},
          {"profile", partition.profile},
          {"profile_id", partition.profile_id},
          {"start", partition.start},
          {"size", partition.size},
          {"memory_mib", partition.memory.mib()},
          {"sm_count", partition.sm_count},
          {"mode", SharingModeName(partition.mode)},
          {"servers", ListToJson(partition.servers, ServerToJson)},
          {"replicas", ListToJson(partition.replicas, ReplicaToJson)}};
}

Json GpuToJson(const PlannedGpu& gpu) {
  return {{"name", gpu.name},
          {"board", gpu.board},
          {"node", gpu.node},
          {"uuid", gpu.uuid},
          {"index", gpu.index},
          {"mig", gpu.mig},
          {"memory_mib", gpu.memory.mib()},
          {"sm_count", gpu.sm_count},
          {"memory_units", gpu.memory_units},
          {"price_usd_hour", gpu.price_usd_hour},
          {"partitions", ListToJson(gpu.partitions, PartitionToJson)},
          {"reason", gpu.reason}};
}

Json WorkloadToJson(const PlannedWorkload& workload) {
  Json json{{"name", workload.name},
            {"tenant", workload.tenant},
            {"replicas", workload.replicas},
            {"isolation", IsolationName(workload.isolation)},
            {"priority", workload.priority},
            {"command", workload.command},
            {"image", workload.image},
            {"env", workload.env},
            {"memory_mib", workload.memory.mib_rounded_up()},
            {"memory_how", workload.memory_how}};
  PutField(json, "latency_ms_p50_target", workload.latency_ms_p50_target);
  PutField(json, "latency_ms_p99_target", workload.latency_ms_p99_target);
  PutField(json, "port", workload.port);
  if (workload.ready) json["ready"] = ReadinessToJson(*workload.ready);
  if (workload.restart != RestartPolicy::kAlways) {
    json["restart"] = RestartPolicyName(workload.restart);
  }
  PutField(json, "stop_timeout_s", workload.stop_timeout_s);
  return json;
}

Json StrategyToJson(const Strategy& strategy) {
  Json json{{"name", strategy.name},
            {"feasible", strategy.feasible},
            {"gpus", strategy.gpus},
            {"cost_month_usd", strategy.cost_month_usd},
            {"isolation", strategy.isolation}};
  PutField(json, "latency_ms_p50", strategy.latency_ms_p50);
  PutField(json, "latency_ms_p99", strategy.latency_ms_p99);
  PutField(json, "throughput_per_s", strategy.throughput_per_s);
  json["holds"] = strategy.holds;
  json["breaks"] = strategy.breaks;
  return json;
}

Json RejectionToJson(const Rejection& rejection) {
  return {{"workload", rejection.workload},
          {"mode", SharingModeName(rejection.mode)},
          {"reason", rejection.reason}};
}

Json ChangeToJson(const Change& change) {
  return {{"kind", ChangeKindName(change.kind)},
          {"replica", change.replica},
          {"from", change.from},
          {"to", change.to}};
}

Json SummaryToJson(const PlanSummary& summary) {
  Json json{{"gpus", summary.gpus},
            {"replicas", summary.replicas},
            {"gpus_by_board", summary.gpus_by_board},
            {"cost_hour_usd", summary.cost_hour_usd},
            {"cost_month_usd", summary.cost_month_usd},
            {"lower_bound_month_usd", summary.lower_bound_month_usd},
            {"gap_percent", summary.gap_percent},
            {"verdict", summary.verdict},
            {"headroom_percent_min", summary.headroom_percent_min}};
  PutField(json, "throughput_per_s", summary.throughput_per_s);
  return json;
}

}  // namespace

const EnumWords<SharingMode>& SharingModeWords() {
  static const EnumWords<SharingMode> kWords{{"exclusive", SharingMode::kExclusive},
                                             {"streams", SharingMode::kStreams},
                                             {"time-slicing", SharingMode::kTimeSlicing},
                                             {"mps", SharingMode::kMps},
                                             {"mig", SharingMode::kMig}};
  return kWords;
}

const EnumWords<Isolation>& IsolationWords() {
  static const EnumWords<Isolation> kWords{{"none", Isolation::kNone},
                                           {"memory", Isolation::kMemory},
                                           {"fault", Isolation::kFault},
                                           {"hardware", Isolation::kHardware}};
  return kWords;
}

const EnumWords<Change::Kind>& ChangeKindWords() {
  static const EnumWords<Change::Kind> kWords{{"keep", Change::Kind::kKeep},
                                              {"move", Change::Kind::kMove},
                                              {"add", Change::Kind::kAdd},
                                              {"remove", Change::Kind::kRemove}};
  return kWords;
}

std::string_view SharingModeName(SharingMode mode) {
  return WordOf(SharingModeWords(), mode);
}
std::string_view IsolationName(Isolation isolation) {
  return WordOf(IsolationWords(), isolation);
}
std::string_view ChangeKindName(Change::Kind kind) {
  return WordOf(ChangeKindWords(), kind);
}

nlohmann::ordered_json PlanToJson(const Plan& plan) {
  return {{"version", kPlanVersion},
          {"fleet", plan.fleet},
          {"summary", SummaryToJson(plan.summary)},
          {"gpus", ListToJson(plan.gpus, GpuToJson)},
          {"workloads", ListToJson(plan.workloads, WorkloadToJson)},
          {"strategies", ListToJson(plan.strategies, StrategyToJson)},
          {"rejections", ListToJson(plan.rejections, RejectionToJson)},
          {"changes", ListToJson(plan.changes, ChangeToJson)},
          {"warnings", plan.warnings},
          {"calibration", plan.calibration}};
}

}  // namespace sublet
