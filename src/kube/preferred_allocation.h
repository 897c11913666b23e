// kube/preferred_allocation.h
//
// Which of the available devices kubelet should give to a container.
//
//   PreferenceRequest request{.available = ids, .must_include = {}, .size = 2};
//   ASSIGN_OR_RETURN(const std::vector<std::string> ids, PreferDevices(node, index, request));
//
// - Whole GPUs, one container each: those that are linked best (kube/gpu_sets.h).
// - Replicas of shared devices: spread over the devices or packed onto few, as
//   sharedDevicesAllocationPolicy says, counted as NVIDIA's plugin does. Those of `sublet.shares`
//   lie on as few devices as can be, because two of them are one of twice the size.
// - MIG devices: those that leave the largest profiles possible on what is free (kube/mig_room.h);
//   so, too, where a shared MIG device must be begun and the policy doesn't say which.
//
// The order in which kubelet names the available devices is random; the answer doesn't depend on
// it, and is in the order of the resource's list.
//
// Thread safety: pure functions of values.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "kube/plugin_resources.h"
#include "model/device_plugin_config.h"
#include "model/inventory.h"

namespace sublet {

struct PreferenceRequest {
  std::vector<std::string> available;
  std::vector<std::string> must_include = {};  // Count as available.
  int size = 0;
  AllocationPolicy policy = AllocationPolicy::kDistributed;
  // UUIDs of MIG devices of other resources that nobody uses: their room counts as free. Those
  // that aren't named are taken to be in use.
  std::set<std::string> idle_mig = {};
};

// Fails with kInvalid for an unknown or repeated id, and a size that is negative, smaller than
// must_include or larger than what is available.
Result<std::vector<std::string>> PreferDevices(const Inventory& inventory,
                                               const ReplicaIndex& resource,
                                               const PreferenceRequest& request);

}  // namespace sublet
