// cdi/device_nodes.h
//
// The device nodes of a node's GPUs, MIG devices and what belongs to them, found in a dev root.
//
//   const DeviceNodes nodes = FindDeviceNodes(inventory, {.dev_root = RootFolder{"/", "/"}}, {});
//   nodes.gpus.at(gpu.uuid).node->path              // "/dev/nvidia0"
//   nodes.gpus.at(gpu.uuid).mig[0].capabilities     // Of instance 7: /dev/nvidia-caps/nvidia-cap66
//
// A MIG device is used through its GPU's node and two capability nodes, one for the GPU instance
// and one for the compute instance. Their numbers stand in /proc/driver/nvidia/capabilities.
//
// **Numbers.** Linux reserves the major numbers of NVIDIA's GPUs (195) and of DRM (226). Those of
// nvidia-uvm, of the capabilities and of the others are given out when a module is loaded, and may
// be another's after the next load.
//
// **A simulated driver** has no device nodes. Its nodes are all /dev/null under other names: they
// can be opened, and never reach a real GPU of the machine.
//
// Thread safety: no shared state.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cdi/root_path.h"
#include "model/inventory.h"

namespace sublet {

struct FoundNode {
  std::string path;       // In the container: "/dev/nvidia0".
  std::string host_path;  // As the container runtime sees it.
  unsigned major = 0;
  unsigned minor = 0;
  // The major number is reserved for this driver, and holds over a reload.
  bool reserved = false;

  friend bool operator==(const FoundNode&, const FoundNode&) = default;
};

struct MigDeviceNodes {
  int index = 0;     // j of "i:j": the MIG device's number on its GPU, as NVML counts.
  std::string uuid;  // "MIG-..."
  std::vector<FoundNode> capabilities;
};

struct GpuNodes {
  int index = 0;
  std::optional<FoundNode> node;    // Absent where there is none; then the GPU can't be given out.
  std::vector<FoundNode> drm = {};  // /dev/dri/card*, renderD*
  std::vector<MigDeviceNodes> mig = {};
};

struct DeviceNodes {
  std::vector<FoundNode> control;        // nvidiactl, nvidia-uvm, ...: for every container.
  std::map<std::string, GpuNodes> gpus;  // By UUID.
  std::map<int, FoundNode> imex_channels;
  std::vector<FoundNode> gdrcopy;
  std::vector<FoundNode> gds;
  std::vector<FoundNode> mofed;
  // What is missing and would be missed; sentences.
  std::vector<std::string> notes;
};

struct NodePlaces {
  // Holds dev/; "/dev" at its end is taken off. Absent: a simulated driver without any nodes.
  std::optional<RootFolder> dev_root = RootFolder{};
  std::string proc = "/proc";
  std::string sys = "/sys";
  // What isn't in the dev root is /dev/null, and MIG's capabilities are numbered as a real driver
  // would.
  bool simulated = false;
};

struct NodeWishes {
  bool graphics = true;
  std::vector<int> imex_channels = {};
};

// GPUs with a problem are left out.
DeviceNodes FindDeviceNodes(const Inventory& inventory, const NodePlaces& places,
                            const NodeWishes& wishes);

// A compute instance as a device of its own.
struct MigDeviceName {
  int index = 0;
  int gpu_instance = 0;
  int compute_instance = 0;
  std::string uuid;
};
// Those of a GPU as NVML numbers them: by GPU instance, then by compute instance. An instance for
// which the driver gives no device is none.
std::vector<MigDeviceName> MigDevicesOf(const Gpu& gpu);

}  // namespace sublet
