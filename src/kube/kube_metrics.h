// kube/kube_metrics.h
//
// What Prometheus reads of a device plugin: each container's use of its devices, their health, what
// isn't anybody's. docs/operating/kubernetes-metrics.md explains every name.
//
//   response.body = KubeMetricsText(state, sight.get(), late);
//
// Thread safety: pure.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kube/plugin_resources.h"
#include "kube/pod_meter.h"
#include "model/inventory.h"
#include "model/node_status.h"

namespace sublet {

// What the plugin itself knows.
struct PluginState {
  std::string hostname;
  std::string version;
  std::shared_ptr<const Inventory> inventory;  // Null before the start is over.
  std::vector<AdvertisedResource> resources;
  std::set<std::string, std::less<>> unhealthy;  // UUIDs of GPUs and MIG devices.
  std::set<std::string, std::less<>> waiting;    // UUIDs of devices with an obstacle.
  std::vector<DomainStatus> servers;             // MPS.
  // Where each tenant has a server of his own: its name, by the container's claim.
  std::map<std::string, std::string, std::less<>> claims;
  std::map<std::string, int, std::less<>> last_xid;  // By the GPU's UUID.
};

// `sight`: null where there is none. `age_s`: how old it is.
std::string KubeMetricsText(const PluginState& state, const PodSight* sight, double age_s,
                            int late);

}  // namespace sublet
