// proxy/replica_fleet.h
//
// Brings the router to what the tellers of replicas say, step by step, and keeps it there.
//
//   ReplicaFleet fleet(router, hooks);
//   fleet.Tell(kFromConfig, specs, now_ns);
//   RETURN_IF_ERROR(fleet.Add(spec, now_ns));            // The workers' API.
//   fleet.Tick(now_ns);                                  // Now and then: who drains may be done.
//
// A replica that goes is drained: it gets nothing new, and is removed when its last request is done
// or after drain_s. One that comes back under its name meanwhile is a new one: the old is removed
// at once, and its requests come to their end without it.
//
// Thread safety: the control loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proxy/replica_sources.h"
#include "route/router.h"

namespace sublet {

struct FleetHooks {
  std::function<void(ReplicaSlot, const ReplicaSpec&)> added;
  // Before it goes; `slot` may be another's soon.
  std::function<void(ReplicaSlot, const ReplicaSpec&)> removed;
};

class ReplicaFleet {
 public:
  // `router` must outlive it.
  ReplicaFleet(Router& router, FleetHooks hooks, double drain_s);

  // What this teller knows of, all of it.
  void Tell(std::string_view teller, std::vector<ReplicaSpec> replicas, std::int64_t now_ns);
  // By the API. Fails with kConflict where another teller, or the API, has the name or the URL.
  Status Add(ReplicaSpec spec, std::int64_t now_ns);
  // `name` may be a URL as well. Fails with kNotFound; with kConflict where another teller told of
  // it, which would tell of it again.
  Status Remove(std::string_view name, std::int64_t now_ns);
  void Tick(std::int64_t now_ns);
  void set_drain_s(double drain_s) { drain_s_ = drain_s; }

  // Told of, and not there, with the reason.
  const std::vector<RefusedReplica>& refused() const { return refused_; }
  std::size_t CountOf(std::string_view teller) const;
  bool draining() const { return !draining_.empty(); }

 private:
  struct Held {
    ReplicaSpec spec;
    ReplicaSlot slot = 0;
  };

  void Apply(std::int64_t now_ns);
  void Do(const ReplicaStep& step, std::int64_t now_ns);
  void AddTo(const ReplicaSpec& spec, std::int64_t now_ns);
  void Drop(const std::string& name);
  std::vector<ReplicaSpec> Specs() const;

  Router& router_;
  const FleetHooks hooks_;
  double drain_s_;
  ReplicaSources sources_;
  std::map<std::string, Held> held_;  // Those that serve.
  struct Draining {
    Held held;
    std::int64_t until_ns = 0;
  };
  std::map<std::string, Draining> draining_;
  std::vector<RefusedReplica> refused_;
};

}  // namespace sublet
