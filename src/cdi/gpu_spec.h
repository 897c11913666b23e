// cdi/gpu_spec.h
//
// A node's GPUs as CDI specifications: which device nodes, libraries and programs a container gets
// that asks for one of them. Pure: what was found goes in, values come out.
//
//   const std::vector<CdiSpec> specs = GpuSpecs(inventory, files, nodes, config);
//   specs[0].kind()              // "k8s.device-plugin.nvidia.com/gpu"
//   specs[0].devices[0].name     // "0"; then "GPU-...", MIG devices "0:0" and "MIG-...", "all"
//
// | class        | devices                                     |
// |--------------|---------------------------------------------|
// | gpu          | by index and by UUID, MIG devices too; all  |
// | imex-channel | by the channel's number                     |
// | gdrcopy      | all                                         |
// | gds, mofed   | all                                         |
//
// A class without any device node has no spec: one without devices is no valid one.
//
// **How libcuda.so.1 is found in the container.** With a hook program of NVIDIA's toolkit,
// libraries are mounted where the driver root has them, under their files' names, and the hook
// makes links and runs ldconfig in the container. Without, each library is mounted under its soname
// (and the further names that programs ask for) into the folders that a dynamic linker searches
// without any cache: /usr/lib/<architecture>-linux-gnu on Debian and its kin, /usr/lib64 on Red
// Hat's and SUSE's. See docs/operating/cdi.md for what that can't do.
//
// Thread safety: pure functions.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cdi/device_nodes.h"
#include "cdi/driver_files.h"
#include "cdi/root_path.h"
#include "cdi/spec.h"
#include "model/inventory.h"

namespace sublet {

// NVIDIA's device plugin writes and asks for this vendor's.
inline constexpr std::string_view kCdiVendor = "k8s.device-plugin.nvidia.com";
inline constexpr std::string_view kCdiGpuClass = "gpu";
inline constexpr std::string_view kCdiImexClass = "imex-channel";
inline constexpr std::string_view kCdiGdrcopyClass = "gdrcopy";
inline constexpr std::string_view kCdiGdsClass = "gds";
inline constexpr std::string_view kCdiMofedClass = "mofed";

// Hooks of NVIDIA's toolkit, by the names of its commands.
inline constexpr std::string_view kHookCreateSymlinks = "create-symlinks";
inline constexpr std::string_view kHookUpdateLdcache = "update-ldcache";

struct CdiConfig {
  std::string vendor = std::string(kCdiVendor);
  // nvidia-cdi-hook or nvidia-ctk, as the container runtime sees it; empty: no hooks.
  std::string hook_path = {};
  std::set<std::string> disabled_hooks = {};  // By command; "all" is every one.
  std::vector<int> imex_channels = {};
  bool graphics = true;
  bool gdrcopy = false;
  bool gds = false;
  bool mofed = false;
  std::string host_driver_root = "/";  // As the container runtime sees it.
  // What a simulated driver needs to be told in a container.
  std::vector<std::string> simulation_env = {};
  std::vector<std::string> simulation_files = {};
};

// In the order of the table, each with the version that it needs. Names and paths are the
// outside's, so whether a runtime will take them is still to be checked (cdi/spec_check.h).
std::vector<CdiSpec> GpuSpecs(const Inventory& inventory, const DriverFiles& files,
                              const DeviceNodes& nodes, const CdiConfig& config);

// Whether a hook is to be there: there is a program, and neither it nor all are disabled.
bool HookEnabled(const CdiConfig& config, std::string_view hook);

}  // namespace sublet
