// kube/allocation_desk.h
//
// Answers kubelet's questions about one resource from memory: what is offered, and in which
// condition it is now. The loop changes both, the server's thread reads them.
//
//   auto desk = std::make_shared<AllocationDesk>(pre_start);
//   desk->Set(facts);            // Another configuration, or another node.
//   desk->Set(condition);        // A device has become unhealthy, a server is ready.
//   ASSIGN_OR_RETURN(const ContainerGrant grant, desk->Allocate(ids));
//
// Fails closed: a device that is unhealthy, or whose MPS server takes nobody, isn't handed out,
// whatever kubelet believes.
//
// Thread safety: any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "kube/plugin_resources.h"
#include "kube/resource_endpoint.h"
#include "model/device_plugin_config.h"
#include "model/inventory.h"

namespace sublet {

// What changes with the configuration or the node. Immutable once made.
struct ResourceFacts {
  ResourceFacts(AdvertisedResource advertised, std::shared_ptr<const Inventory> node,
                std::shared_ptr<const DevicePluginConfig> configuration)
      : resource(std::move(advertised)),
        index(resource),
        inventory(std::move(node)),
        config(std::move(configuration)) {}
  ResourceFacts(const ResourceFacts&) = delete;
  ResourceFacts& operator=(const ResourceFacts&) = delete;

  const AdvertisedResource resource;
  const ReplicaIndex index;
  const std::shared_ptr<const Inventory> inventory;
  const std::shared_ptr<const DevicePluginConfig> config;
  std::set<std::string, std::less<>> present_nodes = {};  // As AllocationContext has it.

  // Its containers have MPS servers of their tenants.
  bool PerTenant() const;
};

// What changes by itself.
struct ResourceCondition {
  std::set<std::string, std::less<>> unhealthy;               // UUIDs of GPUs and MIG devices.
  std::map<std::string, std::string, std::less<>> obstacles;  // By device: why not now.
  std::map<std::string, MpsServerFolder, std::less<>> mps;    // By device, without a claim.

  bool Well(const AdvertisedDevice& device) const {
    return !unhealthy.contains(device.uuid) && !unhealthy.contains(device.gpu_uuid) &&
           !obstacles.contains(device.uuid);
  }
};

// What kubelet is told.
std::vector<ListedDevice> ListDevices(const AdvertisedResource& resource,
                                      const ResourceCondition& condition);

class AllocationDesk final : public ResourceDesk {
 public:
  using PreStartHandler =
      std::function<void(std::vector<std::string> ids, std::function<void(Status)> done)>;
  // `pre_start` is called in the server's thread.
  explicit AllocationDesk(PreStartHandler pre_start) : pre_start_(std::move(pre_start)) {}

  void Set(std::shared_ptr<const ResourceFacts> facts);
  void Set(std::shared_ptr<const ResourceCondition> condition);
  std::shared_ptr<const ResourceFacts> facts() const;

  OptionalCalls Options() override;
  Result<std::vector<std::string>> Prefer(PreferenceRequest request) override;
  Result<ContainerGrant> Allocate(const std::vector<std::string>& ids) override;
  void PreStart(std::vector<std::string> ids, std::function<void(Status)> done) override;

 private:
  std::shared_ptr<const ResourceCondition> condition() const;

  const PreStartHandler pre_start_;
  mutable std::mutex mutex_;  // Guards the pointers.
  std::shared_ptr<const ResourceFacts> facts_;
  std::shared_ptr<const ResourceCondition> condition_;
};

}  // namespace sublet
