// proxy/route_service.h
//
// `sublet route` as a whole: the data plane, the router and its caches, and around them the tellers
// of replicas, the watch over each, the workers' API, metrics, the access log, and the reload of
// what was configured.
//
//   RouteServiceHooks hooks;
//   hooks.load = [&] { return LoadRouteConfig(path); };
//   ASSIGN_OR_RETURN(auto service, RouteService::Open(std::move(hooks)));
//   RETURN_IF_ERROR(service->Start());
//   service->Run();           // Until SIGTERM or SIGINT, and then until what runs has ended.
//
// At SIGHUP, and when one of its files changes, the configuration is loaded again; one that can't
// be used changes nothing. At SIGTERM no new connections are taken, what runs comes to its end
// within timeouts.drain_s, and a second SIGTERM ends at once.
//
// Thread safety: one thread makes it, starts it and runs it: that is the control loop's. Stop()
// from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/replica_spec.h"
#include "model/route_config.h"

namespace sublet {

// Engines without a model, for replicas that say `simulate`. The library of the engine isn't ours
// to include: exe/ has it.
class SimulatedEngines {
 public:
  virtual ~SimulatedEngines() = default;
  // From now on exactly these run; those that ran with the same settings go on. Returns each one's
  // spec, with the URL and the KV events where it is found now.
  virtual Result<std::vector<ReplicaSpec>> Run(const std::vector<RouteReplica>& replicas) = 0;
};

struct RouteServiceHooks {
  // The configuration as it is now: defaults filled in, paths absolute, discovery resolved.
  std::function<Result<RouteConfig>()> load;
  // Files that a change of means that `load` may say something else.
  std::vector<std::string> files = {};
  SimulatedEngines* engines = nullptr;  // Null: a replica that is to be simulated is an error.
  // Said to the service manager: "READY=1", "STOPPING=1", "WATCHDOG=1". May be empty.
  std::function<void(const std::string&)> notify = {};
  double watchdog_s = 0;  // 0: nobody waits for a sign of life.
  std::uint64_t seed = 1;
  std::string version = {};
  bool signals = true;  // Off for a service within another program: SIGTERM isn't its business.
};

class RouteService {
 public:
  // Loads and listens: who connects from now on waits for Start(). Fails as `load` does, with
  // kConflict where the port is taken, and where a file of keys or certificates, or the access log,
  // can't be used.
  static Result<std::unique_ptr<RouteService>> Open(RouteServiceHooks hooks);
  ~RouteService();
  RouteService(const RouteService&) = delete;
  RouteService& operator=(const RouteService&) = delete;

  Status Start();
  int port() const;
  const RouteConfig& config() const;
  // Until it is told to end. Returns whether all requests came to their end by themselves.
  bool Run();
  void Stop();

 private:
  class Impl;
  explicit RouteService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What of `now` needs a restart, by the names that the file has for it; empty: nothing.
std::vector<std::string> WhatNeedsRestart(const RouteConfig& before, const RouteConfig& now);

}  // namespace sublet
