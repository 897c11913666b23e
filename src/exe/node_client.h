// exe/node_client.h
//
// The node's API for verbs: values in, values out, over the socket of the node's daemon.
//
//   ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kStart));
//   ASSIGN_OR_RETURN(const GrantedShare granted, node.AskShare(request));
//   for (const auto& [name, value] : granted.environment) ...
//   RETURN_IF_ERROR(node.PutPlan(plan, "/srv/shop", on_step, {}));
//
// What the daemon refuses comes back as it said it: code, message and hint. Where none runs, and
// the verb may start one, an embedded daemon is started, which goes by itself once it has had
// nothing to do for a while. It belongs to no terminal and to no parent, and what it has to say
// stands in daemon.log of its state folder.
//
// A share belongs to the process that asked for it, so who will exec a command asks himself.
//
// Thread safety: one thread at a time for each client. Where a daemon may have to be started, the
// process must have one thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "exe/node_place.h"
#include "http/http_client.h"
#include "model/inventory.h"
#include "model/mig_target.h"
#include "model/node_status.h"
#include "model/plan.h"
#include "model/share.h"

namespace sublet {

// A share, and what its process must be started with.
struct GrantedShare {
  Share share;
  // In this order; absent: to be unset.
  std::vector<std::pair<std::string, std::optional<std::string>>> environment;
  std::string log;  // Path for its output where it runs detached.
};

// What an operation says of itself as it goes.
struct OperationStep {
  std::string step;   // "replica chat/3"
  std::string state;  // "starting", "done", "failed"
  std::string message;
};
using OnStep = std::function<void(const OperationStep&)>;

class NodeClient {
 public:
  // Returns once the daemon has answered. Without `start_if_absent`, or where only the socket's
  // place is known, or at the system's place, a daemon that isn't there is kUnavailable; one that
  // was started and ended gives the error it ended with.
  static Result<NodeClient> Connect(const NodePlace& place, bool start_if_absent);

  Result<NodeStatus> ReadStatus();
  Result<Inventory> ReadInventory();
  Result<std::optional<Plan>> ReadPlan();  // Absent: none is up.

  Result<GrantedShare> AskShare(const ShareRequest& request);
  Status ReleaseShare(const std::string& id);

  // Returns when the plan is up, or what kept it from that; the node goes on if the caller leaves.
  // `directory` is absolute: where relative commands begin. `patience_s` limits the wait.
  Status PutPlan(const Plan& plan, const std::string& directory, const OnStep& on_step,
                 std::optional<double> patience_s);
  Result<std::vector<std::string>> PlanSteps(const Plan& plan, const std::string& directory);
  Status DeletePlan(const OnStep& on_step);

  Status PutMig(const std::vector<MigTarget>& targets, const OnStep& on_step);
  Result<std::vector<std::string>> MigSteps(const std::vector<MigTarget>& targets);

  // Those after the one of that number, each to `on_event`, which returns false for no more.
  Status Events(std::int64_t after, bool follow,
                const std::function<bool(const NodeEvent& event)>& on_event);
  // The last `lines` lines of a replica's or a share's output; absent: all that is kept.
  Status Logs(const std::string& name, std::optional<int> lines, bool follow,
              const std::function<bool(std::string_view line)>& on_line);

  Status Restart(const std::string& replica);
  // The daemon ends; what runs goes on.
  Status Stop();

  const NodePlace& place() const { return place_; }

 private:
  NodeClient(NodePlace place, HttpClient http) : place_(std::move(place)), http_(std::move(http)) {}
  Result<std::string> Get(const std::string& target);
  Result<std::string> Ask(const std::string& method, const std::string& target, std::string body);
  Status Operate(ClientRequest request, const OnStep& on_step);

  NodePlace place_;
  HttpClient http_;
};

// The node of the flag and the environment. Says on standard error what there is to say about the
// choice. `Intent::kStart` starts a daemon where none is.
Result<NodeClient> ConnectToNode(const std::string& socket_flag, Intent intent);

// For codecs' tests: an answer to POST /v1/shares, and a line of an operation. The line's value is
// absent where it says that all is done; an error that the line carries is the Error.
Result<GrantedShare> ParseGrantedShare(std::string_view text, std::string_view source);
Result<std::optional<OperationStep>> ParseOperationLine(std::string_view line);

}  // namespace sublet
