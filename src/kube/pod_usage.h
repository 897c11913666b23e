// kube/pod_usage.h
//
// What each container uses of each GPU or MIG device: kubelet's list of who has which device, the
// driver's list of processes, and whose a process is, joined.
//
//   PodUsageInput input{.inventory = inventory, .resources = advertised.resources, ...};
//   const PodUsage usage = JoinPodUsage(input);
//   usage.rows[0].pod, usage.rows[0].memory_used
//   usage.unattributed[0].reason           // Why those processes are in no row.
//
// A process is a container's where its cgroup is that container's pod's, and kubelet says that the
// pod has the device that the process is on. Nothing else counts, neither a variable, which the
// container may set, nor that nobody else has the device. What isn't joined so is counted under its
// reason, so that the memory of all rows and of all that is unattributed is the memory of all
// processes, each once.
//
// A pod's cgroup says which pod, and not which container: where two containers of one pod have the
// same device, what the pod uses of it stands in a row without a container, and their own rows tell
// limits only. Likewise the device is left open where a pod has several compute instances of one
// GPU instance, which the driver doesn't tell apart.
//
// Thread safety: pure functions of values.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "kube/kubelet_client.h"
#include "kube/plugin_resources.h"
#include "kube/pod_cgroup.h"
#include "model/inventory.h"
#include "node/usage.h"

namespace sublet {

// What /proc tells of a process.
struct ProcessPlace {
  std::string pod_uid;      // Empty: it is in no pod.
  bool mps_server = false;  // By its name; only the reason depends on it.
};

struct PodUsageInput {
  const Inventory& inventory;
  const std::vector<AdvertisedResource>& resources;  // For limits.
  const std::vector<PodDevices>* pods = nullptr;     // Of kubelet; null: it doesn't answer.
  const UsageSample& usage;
  const std::map<int, ProcessPlace>& places;  // By pid; one that isn't there is in no pod.
  const PodNames& names;
};

// One container and one of its devices.
struct PodDeviceUse {
  std::string pod_namespace;
  std::string pod;
  std::string container;  // Empty: one of several.
  std::string device;     // UUID of the GPU or MIG device; empty: one of several.
  int gpu_index = 0;
  std::string gpu_uuid;
  std::optional<Bytes> memory_used;  // Absent where the driver doesn't tell.
  std::optional<double> sm_percent;  // Of the whole GPU's time; at most 100.
  int processes = 0;
  bool holds = false;  // It has the device by kubelet's list: the limits are its own.
  // Of each process under MPS, else the device's own size; absent where nothing limits it.
  ShareSize limit;
};

struct UnattributedUse {
  int gpu_index = 0;
  std::string gpu_uuid;
  // "outside": in no pod. "mps-server": likewise, and an MPS server or control daemon by its name.
  // "unknown-pod": in a pod that kubelet's folders don't name. "no-device": in a pod that hasn't
  // got the device it uses. "kubelet": in a pod, while kubelet doesn't say who has what.
  std::string_view reason;
  Bytes memory;
  int processes = 0;
};

struct PodUsage {
  std::vector<PodDeviceUse> rows;             // Ascending namespace, pod, container, GPU, device.
  std::vector<UnattributedUse> unattributed;  // Ascending GPU, reason.
  // Of the GPUs, MIG devices included: who has one, by UUID of the GPU; absent where nobody or
  // several do.
  std::map<std::string, PodDevices> sole_holders;
};

PodUsage JoinPodUsage(const PodUsageInput& input);

}  // namespace sublet
