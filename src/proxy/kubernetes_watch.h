// proxy/kubernetes_watch.h
//
// The endpoints of a Kubernetes service, from the API server: a list, then a watch from the list's
// version, as client-go does it.
//
//   ASSIGN_OR_RETURN(const KubernetesDiscovery settings, InCluster(config, environment));
//   KubernetesWatch watch(loop, settings, seed, [&](std::vector<ReplicaSpec> replicas) { ... });
//   asio::co_spawn(loop, watch.Run(), ...);
//
// A watch that ends goes on from the last version, bookmarks included. One whose version is gone
// (410) begins with a list. A server that can't be reached is asked again after a pause that
// doubles to 30 s; meanwhile the last list stands.
//
// The token's file is read for each request, because Kubernetes replaces it within the hour, and it
// is sent only over TLS.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"
#include "model/route_config.h"
#include "proxy/endpoint_slices.h"
#include "proxy/fetch.h"
#include "proxy/source_state.h"

namespace sublet {

// Fills in what the file left out from what a pod has. `service_host` and `service_port` are the
// variables KUBERNETES_SERVICE_HOST and _PORT, `name_space` the service account's file. kNotFound
// where something is missing: this is no pod, and the file must say it.
Result<KubernetesDiscovery> InCluster(KubernetesDiscovery wanted, std::string_view service_host,
                                      std::string_view service_port, std::string_view name_space);

struct KubernetesTimes {
  double answer_s = 10;
  double watch_s = 300;    // Asked of the server: then it ends the watch, and a new one begins.
  double silence_s = 330;  // A watch that says nothing for so long is dead.
  double pause_first_s = 0.5;
  double pause_most_s = 30;
};

class KubernetesWatch {
 public:
  using OnReplicas = std::function<void(std::vector<ReplicaSpec>)>;
  KubernetesWatch(asio::io_context& loop, KubernetesDiscovery wanted, std::uint64_t seed,
                  OnReplicas on_replicas, KubernetesTimes times = {});

  // Until it is cancelled.
  Task<void> Run();
  const SourceState& state() const { return state_; }

 private:
  Task<Status> List();
  Task<Status> WatchOnce();
  Result<FetchRequest> Request(std::string query) const;
  void Tell();

  asio::io_context& loop_;
  const KubernetesDiscovery wanted_;
  const OnReplicas on_replicas_;
  const KubernetesTimes times_;
  std::minstd_rand random_;
  FetchConnection server_;
  EndpointSlices slices_;
  SourceState state_;
  bool expired_ = true;  // There is no version to watch from.
  std::string left_out_;
};

}  // namespace sublet
