// model/launch.h
//
// How the processes of a workload are started, known to be ready, started again and ended. A
// fleet gives it, a plan carries it, the node acts by it and render/ translates it.
//
//   workloads:
//     - name: chat
//       port: 8100                      # Replica k listens on 8100 + k, its variable PORT.
//       ready: {http: /health, timeout_s: 300}
//       restart: on-failure
//       stop_timeout_s: 30
//
// Thread safety: values; nothing is shared.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace sublet {

struct Node;  // model/document.h

// Between SIGTERM and SIGKILL, where the workload doesn't say: what Docker gives too.
inline constexpr double kStopTimeoutSDefault = 10;

// How it is found out that a replica can do its work. Exactly one of http, tcp and command is set.
struct Readiness {
  // "/health": GET on the replica's port is answered with a status of 200 to 399.
  std::string http;
  bool tcp = false;                  // A connection to the replica's port is accepted.
  std::vector<std::string> command;  // Ends with status 0, in the replica's environment.
  double period_s = 0.5;             // Between the end of one try and the next.
  // From the start of the process. What isn't ready by then has failed, as if it had ended.
  double timeout_s = 120;

  friend bool operator==(const Readiness&, const Readiness&) = default;
};

// Whether a process that ended is started again.
enum class RestartPolicy { kAlways, kOnFailure, kNever };
const std::vector<std::pair<std::string_view, RestartPolicy>>& RestartPolicyWords();
std::string_view RestartPolicyName(RestartPolicy policy);  // "always", "on-failure", "never"

// The port of the replica "chat/2" of a workload whose first port is 8100: 8102. Absent where the
// workload has no port, or the id isn't "<workload>/<number>".
std::optional<int> PortOfReplica(std::optional<int> first_port, std::string_view replica_id);

nlohmann::ordered_json ReadinessToJson(const Readiness& readiness);
// Fails with kInvalid unless exactly one kind of probe is given.
Result<Readiness> ReadReadiness(const Node& node);

// What is wrong with the port and the probe of a workload together, as a sentence; empty: nothing.
// The port of the last replica must be one, and http and tcp need a port.
std::string PortProblem(std::optional<int> first_port, int replicas,
                        const std::optional<Readiness>& ready);

}  // namespace sublet
