#include "model/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "model/document.h"

namespace sublet {
namespace {

constexpr int kPortMax = 65535;
constexpr std::size_t kHttpPathMax = 1000;
// A probe more often than every 50 ms would cost more than it tells; a model that loads from a
// cold disk may take hours, not days.
constexpr Range kPeriod{.min = 0.05, .max = 3600};
constexpr Range kTimeout{.min = 0.1, .max = 86'400};

Result<std::string> ReadHttpPath(const Node& node) {
  ASSIGN_OR_RETURN(std::string path, ReadString(node));
  const bool visible =
      std::all_of(path.begin(), path.end(), [](char c) { return c > ' ' && c < 127; });
  if (path.starts_with('/') && visible && path.size() <= kHttpPathMax) return path;
  return FailAt(node, fmt::format("not a path of a URL: '{}'", path.substr(0, 64)),
                "write it like /health; host and port are the replica's own");
}

}  // namespace

const std::vector<std::pair<std::string_view, RestartPolicy>>& RestartPolicyWords() {
  static const std::vector<std::pair<std::string_view, RestartPolicy>> kWords{
      {"always", RestartPolicy::kAlways},
      {"on-failure", RestartPolicy::kOnFailure},
      {"never", RestartPolicy::kNever}};
  return kWords;
}

std::string_view RestartPolicyName(RestartPolicy policy) {
  for (const auto& [name, known] : RestartPolicyWords()) {
    if (known == policy) return name;
  }
  CHECK(false);
}

std::optional<int> PortOfReplica(std::optional<int> first_port, std::string_view replica_id) {
  const std::size_t slash = replica_id.rfind('/');
  if (!first_port || slash == std::string_view::npos) return std::nullopt;
  const std::string_view digits = replica_id.substr(slash + 1);
  int number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number < 0 ||
      number > kPortMax - *first_port) {
    return std::nullopt;
  }
  return *first_port + number;
}

nlohmann::ordered_json ReadinessToJson(const Readiness& readiness) {
  nlohmann::ordered_json json;
  if (!readiness.http.empty()) json["http"] = readiness.http;
  if (readiness.tcp) json["tcp"] = true;
  if (!readiness.command.empty()) json["command"] = readiness.command;
  json["period_s"] = readiness.period_s;
  json["timeout_s"] = readiness.timeout_s;
  return json;
}

Result<Readiness> ReadReadiness(const Node& node) {
  Readiness ready;
  ObjectReader in(node, "readiness");
  in.Optional("http", ready.http, ReadHttpPath);
  in.Optional("tcp", ready.tcp);
  in.OptionalList("command", ready.command, ReadString);
  in.Optional("period_s", ready.period_s, kPeriod);
  in.Optional("timeout_s", ready.timeout_s, kTimeout);
  const int kinds =
      (ready.http.empty() ? 0 : 1) + (ready.tcp ? 1 : 0) + (ready.command.empty() ? 0 : 1);
  if (kinds == 0) {
    in.RejectMissing("readiness needs a probe",
                     "give one of http: /path, tcp: true and command: [word, ...]");
  }
  if (kinds > 1) {
    in.Reject(ready.command.empty() ? "tcp" : "command", "readiness needs one probe, not several",
              "keep one of http, tcp and command");
  }
  RETURN_IF_ERROR(in.Finish());
  return ready;
}

std::string PortProblem(std::optional<int> first_port, int replicas,
                        const std::optional<Readiness>& ready) {
  if (first_port && *first_port + std::max(replicas, 1) - 1 > kPortMax) {
    return fmt::format("the last of {} replicas would have a port above {}: {}", replicas, kPortMax,
                       *first_port + replicas - 1);
  }
  if (!first_port && ready && (!ready->http.empty() || ready->tcp)) {
    return fmt::format("a readiness probe by {} needs the workload's port",
                       ready->tcp ? "tcp" : "http");
  }
  return {};
}

}  // namespace sublet
