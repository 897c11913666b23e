// proxy/node_discovery.h
//
// The replicas of the plan that is up on this machine, as its daemon tells of them over its UNIX
// socket: each with the GPU and the part of it that its share gives it.
//
//   NodeWatch watch(loop, settings, [&](std::vector<ReplicaSpec> replicas) { ... });
//   asio::co_spawn(loop, watch.Run(), ...);
//
// A replica counts from when it is ready until it isn't. A daemon that is away, or starts anew,
// changes nothing: its last list stands, because its replicas outlive it.
//
// Thread safety: the loop's thread; ReplicasOfNode() is pure.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "http/event_loop.h"
#include "model/node_status.h"
#include "model/replica_spec.h"
#include "model/route_config.h"
#include "proxy/source_state.h"

namespace sublet {

// By name. Replicas without a port, and those of workloads that weren't asked for, are left out.
std::vector<ReplicaSpec> ReplicasOfNode(const NodeStatus& status, const NodeDiscovery& wanted);

class NodeWatch {
 public:
  using OnReplicas = std::function<void(std::vector<ReplicaSpec>)>;
  NodeWatch(asio::io_context& loop, NodeDiscovery wanted, OnReplicas on_replicas)
      : loop_(loop), wanted_(std::move(wanted)), on_replicas_(std::move(on_replicas)) {}

  // Until it is cancelled.
  Task<void> Run();
  const SourceState& state() const { return state_; }

 private:
  asio::io_context& loop_;
  const NodeDiscovery wanted_;
  const OnReplicas on_replicas_;
  SourceState state_;
};

}  // namespace sublet
