// sim/driver/visible_devices.h
//
// The node's GPUs and MIG devices as CUDA numbers them for a process.
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "driver.h"

namespace sublet::sim {

struct SimDevice {
  Target target;
  std::string uuid;  // "GPU-..." or "MIG-..."
  std::string name;
  int sm_count = 0;
  Bytes memory;
};

// What CUDA_VISIBLE_DEVICES leaves, in its order: indices, UUIDs or beginnings of UUIDs. nullptr,
// the variable unset: all GPUs without MIG, or where all have it, the first MIG device.
std::vector<SimDevice> VisibleDevices(Driver& driver, const char* variable);

}  // namespace sublet::sim
