// kube/physical_devices.h
//
// The whole GPUs and MIG devices of a node as candidates for its resources, and which of them
// NVIDIA's MIG strategies advertise.
//
//   const std::vector<PhysicalDevice> devices = PhysicalDevicesOf(inventory, mig_nodes);
//   ASSIGN_OR_RETURN(const std::vector<const PhysicalDevice*> chosen,
//                    SelectDevices(rule.devices, candidates, "nvidia.com/gpu"));
//
// Thread safety: pure functions of values.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "kube/plugin_resources.h"
#include "model/device_plugin_config.h"
#include "model/inventory.h"

namespace sublet {

struct PhysicalDevice {
  AdvertisedDevice device;  // Without replicas and size.
  Bytes usable;             // Memory that shares can have: the driver's reserve taken off.
  bool mig_mode = false;    // A whole GPU that is in MIG mode.
  int start = 0;            // Of a MIG device: its instance's first memory unit.
  // Of a MIG device: what "of one type" means under strategy single.
  int instance_profile_id = 0;
  int compute_slices = 0;
  // Clients that an MPS server on it takes.
  int mps_clients_max = 0;
  // Its clients' memory and SMs can be limited (compute capability 7.0); unknown counts as yes.
  bool mps_limits = true;

  // "GPU 0", "MIG device 0:1 (1g.10gb)"
  std::string Describe() const;
};

// All of them, by GPU's index, a GPU before its MIG devices, these by instance id. GPUs that tell
// no UUID are left out.
std::vector<PhysicalDevice> PhysicalDevicesOf(
    const Inventory& inventory, const std::map<std::string, std::vector<std::string>>& mig_nodes);

// Those of `candidates` that the rule names. Fails with kNotFound, in NVIDIA's words: "no matching
// device at index: 7". `what` is whose rule it is.
Result<std::vector<const PhysicalDevice*>> SelectDevices(
    const DeviceSelection& selection, const std::vector<const PhysicalDevice*>& candidates,
    std::string_view what);

}  // namespace sublet
