// The codec of ReplicaTarget (node/plan_diff.h).

#include <nlohmann/json.hpp>

#include "model/document.h"
#include "model/json_fields.h"
#include "node/plan_diff.h"

namespace sublet {
namespace {

Result<std::map<std::string, std::string>> ReadVariables(const Node& node) {
  std::map<std::string, std::string> variables;
  if (node.kind != Node::Kind::kMap) return FailAt(node, "an object is expected here");
  for (const auto& [name, value] : node.fields) {
    ASSIGN_OR_RETURN(variables[name], ReadString(value));
  }
  return variables;
}

Result<ReplicaTarget> ReadTarget(const Node& node) {
  ReplicaTarget target;
  ObjectReader in(node, "replica");
  in.Required("id", target.id);
  in.Required("share", target.share, ReadShare);
  in.Optional("seat", target.seat, ReadMigSeat);
  in.RequiredList("command", target.command, ReadString);
  in.Required("env", target.env, ReadVariables);
  in.Optional("port", target.port);
  in.Optional("readiness", target.readiness, ReadReadiness);
  in.RequiredEnum("restart", target.restart, RestartPolicyWords());
  in.Required("stop_timeout_s", target.stop_timeout_s);
  in.Required("directory", target.directory);
  RETURN_IF_ERROR(in.Finish());
  return target;
}

}  // namespace

nlohmann::ordered_json ReplicaTargetToJson(const ReplicaTarget& target) {
  nlohmann::ordered_json json{{"id", target.id}, {"share", ShareToJson(target.share)}};
  if (target.seat) json["seat"] = MigSeatToJson(*target.seat);
  json["command"] = target.command;
  json["env"] = target.env;
  PutField(json, "port", target.port);
  if (target.readiness) json["readiness"] = ReadinessToJson(*target.readiness);
  json["restart"] = RestartPolicyName(target.restart);
  json["stop_timeout_s"] = target.stop_timeout_s;
  json["directory"] = target.directory;
  return json;
}

Result<ReplicaTarget> ParseReplicaTarget(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadTarget);
}

}  // namespace sublet
