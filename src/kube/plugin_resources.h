// kube/plugin_resources.h
//
// What a node offers to kubelet: each resource's name and devices, out of what the driver reports
// and the configuration.
//
//   PluginResourcesInput input{.inventory = inventory, .config = config};
//   ASSIGN_OR_RETURN(const AdvertisedNode node, AdvertiseNode(input));
//   for (const AdvertisedResource& resource : node.resources) {
//     resource.name                     // "nvidia.com/gpu", "nvidia.com/mig-1g.10gb.shared"
//     for (const AdvertisedReplica& replica : resource.replicas) {
//       replica.id                      // "GPU-5c1e...::0", as NVIDIA's plugin names it
//       resource.devices[replica.device].numa_node
//     }
//   }
//
// Names, ids, MIG strategies and their errors are those of NVIDIA's plugin, so a node can move from
// one to the other while pods run. Resources stand in order of their name, devices in that of their
// index, replicas in that of their device, then of their number: the same node and configuration
// give the same bytes. A device is of one resource, or, cut into unequal shares, of several.
//
// Health is no matter of this list: an unhealthy GPU is on it, too.
//
// Thread safety: pure functions of values.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/device_plugin_config.h"
#include "model/inventory.h"
#include "model/plan.h"

namespace sublet {

// A whole GPU or a MIG device, as one resource offers it.
struct AdvertisedDevice {
  std::string uuid;      // "GPU-..." or "MIG-..."
  std::string gpu_uuid;  // Of the GPU that it is, or is on.
  int gpu_index = 0;
  std::string index;    // "0", of a MIG device "0:1": as deviceIDStrategy index hands it out.
  std::string profile;  // Of a MIG device: "1g.10gb"; empty: a whole GPU.
  std::optional<int> gpu_instance;  // Of a MIG device: NVML's ids.
  std::optional<int> compute_instance;
  std::optional<int> numa_node;
  std::vector<std::string> paths;              // "/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12"
  SharingMode mode = SharingMode::kExclusive;  // Or kTimeSlicing, kMps.
  Bytes memory;                                // All of the device's.
  int replicas = 1;                            // Of this resource on it.
  ShareSize size;  // Limits of one replica; empty where nothing is limited.

  bool IsMig() const { return !profile.empty(); }
};

// What kubelet calls a device.
struct AdvertisedReplica {
  std::string id;
  std::size_t device = 0;  // Index into the resource's devices.
};

struct AdvertisedResource {
  std::string name;  // "nvidia.com/gpu.shared"
  // How its devices are shared; where some are and some aren't, how those are that are.
  SharingMode mode = SharingMode::kExclusive;
  // Of `sublet.shares`: a request for several is for several times the size, so they should lie on
  // one device.
  bool sized = false;
  bool fail_requests_greater_than_one = false;
  std::vector<AdvertisedDevice> devices;
  std::vector<AdvertisedReplica> replicas;

  bool Shared() const { return mode != SharingMode::kExclusive; }
};

struct AdvertisedNode {
  std::vector<AdvertisedResource> resources;  // Ascending name; none is without devices.
  std::vector<std::string> warnings;          // What isn't advertised and why, in sentences.

  const AdvertisedResource* Find(std::string_view name) const;
};

struct PluginResourcesInput {
  const Inventory& inventory;
  const DevicePluginConfig& config;
  // For shares whose count is that of the plan.
  const Plan* plan = nullptr;
  // By UUID of a MIG device: its capability nodes under /dev, which the driver numbers. A whole
  // GPU's node follows from its minor number.
  std::map<std::string, std::vector<std::string>> mig_nodes = {};
};

// Fails with
//  - kConflict where the MIG strategy doesn't fit the node, in the words of NVIDIA's plugin;
//  - kUnsupported where MPS can't be: MIG devices under sharing.mps, more replicas than a server
//    takes clients, a GPU on which MPS can't run;
//  - kInfeasible where shares don't fit their device;
//  - kNotFound for a device that a rule names and the node lacks;
//  - kInvalid where two rules claim one device, or one resource has devices in two sharing modes;
//  - what FillDevice() fails with (kube/share_fill.h).
Result<AdvertisedNode> AdvertiseNode(const PluginResourcesInput& input);

// "GPU-5c1e...::3" → "GPU-5c1e...": the device of a replica.
std::string_view PhysicalId(std::string_view replica_id);

// Finds replicas by id, as kubelet names them. Keeps pointers into the resource.
class ReplicaIndex {
 public:
  explicit ReplicaIndex(const AdvertisedResource& resource);

  const AdvertisedReplica* Find(std::string_view id) const;
  const AdvertisedResource& resource() const { return *resource_; }

 private:
  const AdvertisedResource* resource_;
  std::unordered_map<std::string_view, const AdvertisedReplica*> by_id_;
};

}  // namespace sublet
