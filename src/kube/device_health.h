// kube/device_health.h
//
// Which devices of a node are well, out of what the driver tells: each GPU and each GPU instance is
// judged by itself, so that exactly the devices concerned are marked, and recover.
//
//   DeviceHealth health(ParseHealthPolicy(config.health_checks_disabled, ...enabled));
//   health.SetNode(inventory);
//   for (const DeviceHealthNote& note : health.On(sighting, now_ns)) Log(note);
//   health.Unhealthy()        // UUIDs: of GPUs, which stand for all on them, and of MIG devices
//
// An XID that names a GPU instance is that instance's: its MIG devices are marked, the rest of the
// GPU isn't. Everything else is the GPU's: the GPU and all MIG devices on it are marked. One for
// which the driver names no GPU is every GPU's.
//
// What an XID means is the catalogue's to say (node/xid_rules.h), and how a GPU recovers
// node/gpu_health.h's. DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS change it as they do for
// NVIDIA's plugin: "all" or "xids" disables everything, numbers are ignored; an enabled number
// counts whatever is disabled, and whatever the catalogue says.
//
// Thread safety: one thread at a time; a value.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "model/inventory.h"
#include "node/gpu_health.h"
#include "node/health_watch.h"

namespace sublet {

struct HealthPolicy {
  bool off = false;            // Only what is enabled counts.
  std::set<int> ignored = {};  // XIDs that are disabled.
  std::set<int> enabled = {};  // XIDs that count in any case.
  bool all_enabled = false;
};

// The values of the two variables; words that are none are named in `warnings`, one sentence each.
HealthPolicy ParseHealthPolicy(std::string_view disabled, std::string_view enabled,
                               std::vector<std::string>& warnings);

struct DeviceHealthNote {
  std::string device;  // UUID of a GPU, or "GPU-... instance 7".
  HealthChange change;
};

class DeviceHealth {
 public:
  explicit DeviceHealth(HealthPolicy policy, HealthLimits limits = {})
      : policy_(std::move(policy)), limits_(limits) {}

  // Another policy keeps what was judged so far.
  void SetPolicy(HealthPolicy policy) { policy_ = std::move(policy); }
  // The node's devices. What was known of those that are still there is kept.
  void SetNode(const Inventory& inventory);

  std::vector<DeviceHealthNote> On(const HealthSighting& sighting, std::int64_t now_ns);

  // Of GPUs, and of the MIG devices of instances that are unhealthy while their GPU isn't.
  std::set<std::string, std::less<>> Unhealthy() const;
  // Why a device with this UUID, or its GPU, is unhealthy; empty where it isn't.
  std::string Why(std::string_view uuid) const;

 private:
  using InstanceKey = std::pair<std::string, int>;  // GPU's UUID, instance id.

  XidJudgement Judge(int xid) const;
  void Note(const std::string& device, std::optional<HealthChange> change,
            std::vector<DeviceHealthNote>& notes);

  HealthPolicy policy_;
  HealthLimits limits_;
  std::map<std::string, HealthJudge, std::less<>> gpus_;  // By UUID.
  std::map<InstanceKey, HealthJudge> instances_;          // Those that ever had an event.
  std::map<InstanceKey, std::vector<std::string>> mig_;   // UUIDs of the MIG devices there are.
};

}  // namespace sublet
