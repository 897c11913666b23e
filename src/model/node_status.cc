#include "model/node_status.h"

#include <nlohmann/json.hpp>

#include "model/document.h"
#include "model/json_fields.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

// Above these a number is a broken answer, whatever field it stands in.
constexpr Range kPort{.min = 1, .max = 65535};
constexpr Range kPid{.min = 1, .max = 4'194'304};  // PID_MAX_LIMIT of a 64-bit Linux.
constexpr Range kCount{.min = 0, .max = 1e9};
constexpr Range kSeconds{.min = 0, .max = 1e12};
constexpr Range kPercent{.min = 0, .max = 100};
constexpr Range kSequence{.min = 0, .max = 9e15};

// --- Writing ------------------------------------------------------------------------------------

Json ShareStatusToJson(const ShareStatus& status) {
  Json json{{"share", ShareToJson(status.share)}, {"replica", status.replica}};
  json["state"] = ShareStateName(status.state);
  PutField(json, "why", status.why);
  PutField(json, "pid", status.pid);
  PutField(json, "user", status.user);
  PutField(json, "since", status.since);
  PutField(json, "uptime_s", status.uptime_s);
  json["restarts"] = status.restarts;
  PutField(json, "last_end", status.last_end);
  PutField(json, "memory_used_mib", status.memory_used);
  PutField(json, "sm_used_percent", status.sm_used_percent);
  PutField(json, "log", status.log);
  PutField(json, "port", status.port);
  return json;
}

Json DomainStatusToJson(const DomainStatus& status) {
  Json json{{"domain", DomainToJson(status.domain)}};
  json["state"] = DomainStateName(status.state);
  PutField(json, "why", status.why);
  PutField(json, "pid", status.pid);
  PutField(json, "pipe_directory", status.pipe_directory);
  json["clients"] = status.clients;
  json["restarts"] = status.restarts;
  PutField(json, "sm_used_percent", status.sm_used_percent);
  json["limits_confirmed"] = status.limits_confirmed;
  return json;
}

Json ForeignToJson(const ForeignProcess& process) {
  Json json{{"pid", process.pid}};
  PutField(json, "name", process.name);
  PutField(json, "memory_mib", process.memory);
  return json;
}

Json GpuStatusToJson(const GpuStatus& gpu) {
  Json json{{"uuid", gpu.uuid},
            {"index", gpu.index},
            {"product", gpu.product},
            {"memory_mib", gpu.memory.mib()},
            {"memory_used_mib", gpu.memory_used.mib_rounded_up()},
            {"memory_booked_mib", gpu.memory_booked.mib_rounded_up()},
            {"mig", gpu.mig},
            {"healthy", gpu.healthy}};
  PutField(json, "why", gpu.why);
  PutField(json, "utilisation_percent", gpu.utilisation_percent);
  json["foreign"] = ListToJson(gpu.foreign, ForeignToJson);
  return json;
}

// --- Reading ------------------------------------------------------------------------------------

Result<ShareStatus> ReadShareStatus(const Node& node) {
  ShareStatus status;
  ObjectReader in(node, "share's status");
  in.Required("share", status.share, ReadShare);
  in.Required("replica", status.replica);
  in.RequiredEnum("state", status.state, ShareStateWords());
  in.Optional("why", status.why);
  in.Optional("pid", status.pid, kPid);
  in.Optional("user", status.user);
  in.Optional("since", status.since);
  in.Optional("uptime_s", status.uptime_s, kSeconds);
  in.Required("restarts", status.restarts, kCount);
  in.Optional("last_end", status.last_end);
  in.Optional("memory_used_mib", status.memory_used, ReadMib);
  in.Optional("sm_used_percent", status.sm_used_percent, kPercent);
  in.Optional("log", status.log);
  in.Optional("port", status.port, kPort);
  RETURN_IF_ERROR(in.Finish());
  return status;
}

Result<DomainStatus> ReadDomainStatus(const Node& node) {
  DomainStatus status;
  ObjectReader in(node, "domain's status");
  in.Required("domain", status.domain, ReadDomain);
  in.RequiredEnum("state", status.state, DomainStateWords());
  in.Optional("why", status.why);
  in.Optional("pid", status.pid, kPid);
  in.Optional("pipe_directory", status.pipe_directory);
  in.Required("clients", status.clients, kCount);
  in.Required("restarts", status.restarts, kCount);
  in.Optional("sm_used_percent", status.sm_used_percent, kPercent);
  in.Required("limits_confirmed", status.limits_confirmed);
  RETURN_IF_ERROR(in.Finish());
  return status;
}

Result<ForeignProcess> ReadForeign(const Node& node) {
  ForeignProcess process;
  ObjectReader in(node, "foreign process");
  in.Required("pid", process.pid, kPid);
  in.Optional("name", process.name);
  in.Optional("memory_mib", process.memory, ReadMib);
  RETURN_IF_ERROR(in.Finish());
  return process;
}

Result<GpuStatus> ReadGpuStatus(const Node& node) {
  GpuStatus gpu;
  ObjectReader in(node, "gpu's status");
  in.Required("uuid", gpu.uuid);
  in.Required("index", gpu.index, kCount);
  in.Required("product", gpu.product);
  in.Required("memory_mib", gpu.memory, ReadMib);
  in.Required("memory_used_mib", gpu.memory_used, ReadMib);
  in.Required("memory_booked_mib", gpu.memory_booked, ReadMib);
  in.Required("mig", gpu.mig);
  in.Required("healthy", gpu.healthy);
  in.Optional("why", gpu.why);
  in.Optional("utilisation_percent", gpu.utilisation_percent, kPercent);
  in.RequiredList("foreign", gpu.foreign, ReadForeign);
  RETURN_IF_ERROR(in.Finish());
  return gpu;
}

Result<NodeStatus> ReadNodeStatus(const Node& node) {
  NodeStatus status;
  ObjectReader in(node, "status");
  in.Version(kNodeStatusVersion);
  in.Required("hostname", status.hostname);
  in.Required("time", status.time);
  in.Required("simulated", status.simulated);
  in.Optional("plan", status.plan);
  in.Optional("operation", status.operation);
  in.RequiredList("gpus", status.gpus, ReadGpuStatus);
  in.RequiredList("domains", status.domains, ReadDomainStatus);
  in.RequiredList("shares", status.shares, ReadShareStatus);
  RETURN_IF_ERROR(in.Finish());
  return status;
}

Result<NodeEvent> ReadNodeEvent(const Node& node) {
  NodeEvent event;
  ObjectReader in(node, "event");
  in.Required("sequence", event.sequence, kSequence);
  in.Required("time", event.time);
  in.Required("subject_kind", event.subject_kind);
  in.Required("subject", event.subject);
  in.Required("what", event.what);
  in.Required("message", event.message);
  RETURN_IF_ERROR(in.Finish());
  return event;
}

}  // namespace

const EnumWords<ShareState>& ShareStateWords() {
  static const EnumWords<ShareState> kWords{
      {"waiting", ShareState::kWaiting},        {"starting", ShareState::kStarting},
      {"running", ShareState::kRunning},        {"ready", ShareState::kReady},
      {"backing-off", ShareState::kBackingOff}, {"ending", ShareState::kEnding},
      {"stopped", ShareState::kStopped}};
  return kWords;
}

std::string_view ShareStateName(ShareState state) {
  return WordOf(ShareStateWords(), state);
}

const EnumWords<DomainState>& DomainStateWords() {
  static const EnumWords<DomainState> kWords{{"starting", DomainState::kStarting},
                                             {"ready", DomainState::kReady},
                                             {"faulted", DomainState::kFaulted},
                                             {"wedged", DomainState::kWedged},
                                             {"ending", DomainState::kEnding}};
  return kWords;
}

std::string_view DomainStateName(DomainState state) {
  return WordOf(DomainStateWords(), state);
}

Json NodeStatusToJson(const NodeStatus& status) {
  Json json{{"version", kNodeStatusVersion},
            {"hostname", status.hostname},
            {"time", status.time},
            {"simulated", status.simulated}};
  PutField(json, "plan", status.plan);
  PutField(json, "operation", status.operation);
  json["gpus"] = ListToJson(status.gpus, GpuStatusToJson);
  json["domains"] = ListToJson(status.domains, DomainStatusToJson);
  json["shares"] = ListToJson(status.shares, ShareStatusToJson);
  return json;
}

Result<NodeStatus> ParseNodeStatus(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadNodeStatus);
}

Json NodeEventToJson(const NodeEvent& event) {
  return {{"sequence", event.sequence}, {"time", event.time}, {"subject_kind", event.subject_kind},
          {"subject", event.subject},   {"what", event.what}, {"message", event.message}};
}

Result<NodeEvent> ParseNodeEvent(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadNodeEvent);
}

}  // namespace sublet
