// node/device_list.h
//
// The devices of a node on which shares can be: whole GPUs and MIG devices.
//
//   std::vector<Device> devices = DevicesOf(inventory, foreign, obstacles);
//   for (const Device& device : devices) device.uuid()       // "GPU-...", "MIG-..."
//
// A GPU in MIG mode is in the list too, before its MIG devices: it takes no share by itself, and
// says which instances could be made on it without destroying one.
//
// Thread safety: pure.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "model/inventory.h"
#include "model/mig_target.h"
#include "model/node_status.h"
#include "model/plan.h"

namespace sublet {

// A MIG profile that a GPU in MIG mode offers, and where an instance of it would have room now.
struct MigOffer {
  std::string profile;  // "1g.10gb"
  Bytes memory;
  int sm_count = 0;
  // The seat to take first in front: the one that leaves room for most others.
  std::vector<MigSeat> seats;
};

struct Device {
  std::string gpu_uuid;
  std::string mig_uuid;  // Empty: the whole GPU.
  int gpu_index = 0;
  std::string profile;    // Of the MIG device's instance: "1g.10gb"; empty: the whole GPU.
  Bytes memory;           // That shares can use: the driver's reserve taken off.
  int sm_count = 0;       // 0: the driver doesn't tell.
  int gpu_sm_count = 0;   // Of the GPU that it is of.
  bool mig_mode = false;  // The whole GPU, in MIG mode: shares can be on its MIG devices alone.
  // That can run here. Of a GPU in MIG mode, kMig: instances can be made.
  std::set<SharingMode> modes;
  std::string obstacle;                 // Why it gets no new share ("XID 79 ..."); empty: it may.
  std::vector<ForeignProcess> foreign;  // Not Sublet's, on this device.
  std::vector<MigOffer> offers;         // Of a GPU in MIG mode; by memory, then SMs, then name.

  const std::string& uuid() const { return mig_uuid.empty() ? gpu_uuid : mig_uuid; }
};

// By GPU's index, then by place. `foreign` and `obstacles` by GPU's UUID; a GPU with a problem has
// it as its obstacle. Of a foreign process whose memory the driver doesn't tell, all is counted
// that nobody else is known to hold.
std::vector<Device> DevicesOf(const Inventory& inventory,
                              const std::map<std::string, std::vector<ForeignProcess>>& foreign,
                              const std::map<std::string, std::string>& obstacles);

}  // namespace sublet
