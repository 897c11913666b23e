#include "cdi/gpu_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "cdi/elf_library.h"
#include "cdi/spec_check.h"

namespace sublet {
namespace {

// Names beside the soname by which programs ask for a library, and which ldconfig doesn't make.
struct FurtherName {
  std::string_view soname;
  std::string_view name;
};
constexpr std::array<FurtherName, 4> kFurtherNames = {{
    {"libcuda.so.1", "libcuda.so"},  // Many a dlopen().
    {"libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so"},
    {"libGLX_nvidia.so.0", "libGLX_indirect.so.0"},         // GLVND, for indirect rendering.
    {"libnvidia-allocator.so.1", "gbm/nvidia-drm_gbm.so"},  // The loader of GBM's backends.
}};

// Read-only; nothing in it is a device or gains rights; and no mount beneath goes either way.
const std::vector<std::string> kMountOptions = {"ro", "nosuid", "nodev", "rbind", "rprivate"};
// A socket is no program.
const std::vector<std::string> kSocketOptions = {"ro",     "nosuid", "nodev",
                                                 "noexec", "rbind",  "rprivate"};

// Where a dynamic linker looks without a cache.
std::vector<std::string> StandardFolders(int machine) {
  const std::string_view architecture = machine == kElfMachineAarch64 ? "aarch64" : "x86_64";
  return {fmt::format("/usr/lib/{}-linux-gnu", architecture), "/usr/lib64"};
}

CdiDeviceNode ToCdi(const FoundNode& node) {
  CdiDeviceNode out{.path = node.path};
  if (node.host_path != node.path) out.host_path = node.host_path;
  // A number that may be another's tomorrow would give the container another's device. The runtime
  // looks it up when the container starts.
  if (node.reserved) {
    out.type = "c";
    out.major = node.major;
    out.minor = node.minor;
  }
  out.permissions = "rw";  // Making nodes is nobody's business in a container.
  return out;
}

void AddNodes(const std::vector<FoundNode>& nodes, CdiEdits& edits) {
  for (const FoundNode& node : nodes) {
    CdiDeviceNode out = ToCdi(node);
    if (std::ranges::find(edits.device_nodes, out.path, &CdiDeviceNode::path) ==
        edits.device_nodes.end()) {
      edits.device_nodes.push_back(std::move(out));
    }
  }
}

class CommonEdits {
 public:
  CommonEdits(const DriverFiles& files, const DeviceNodes& nodes, const CdiConfig& config)
      : files_(files), nodes_(nodes), config_(config) {}

  CdiEdits Make() {
    // NVIDIA's own runtime, where it is installed too, does nothing for this container.
    edits_.env.emplace_back("NVIDIA_VISIBLE_DEVICES=void");
    edits_.env.insert(edits_.env.end(), config_.simulation_env.begin(),
                      config_.simulation_env.end());
    AddNodes(nodes_.control, edits_);
    if (HookEnabled(config_, kHookUpdateLdcache)) {
      AddLibrariesForHooks();
    } else {
      for (const DriverLibrary& library : files_.libraries) AddUnderSoname(library);
    }
    for (const auto* list : {&files_.programs, &files_.firmware, &files_.configs}) {
      for (const DriverFile& file : *list) Mount(file.path, file.container_path, kMountOptions);
    }
    for (const DriverFile& file : files_.sockets) {
      Mount(file.path, file.container_path, kSocketOptions);
    }
    for (const std::string& path : config_.simulation_files) {
      edits_.mounts.push_back(
          {.host_path = path, .container_path = path, .type = {}, .options = kMountOptions});
    }
    std::ranges::sort(edits_.mounts, {}, &CdiMount::container_path);
    std::ranges::sort(edits_.device_nodes, {}, &CdiDeviceNode::path);
    return std::move(edits_);
  }

 private:
  void Mount(const std::string& path, std::string container_path,
             const std::vector<std::string>& options) {
    if (!mounted_.insert(container_path).second) return;
    edits_.mounts.push_back({.host_path = PathBelow(config_.host_driver_root, path),
                             .container_path = std::move(container_path),
                             .type = {},
                             .options = options});
  }

  void AddUnderSoname(const DriverLibrary& library) {
    for (std::string folder : StandardFolders(library.machine)) {
      if (!library.subfolder.empty()) folder += "/" + library.subfolder;
      Mount(library.path, fmt::format("{}/{}", folder, library.soname), kMountOptions);
      for (const FurtherName& further : kFurtherNames) {
        if (further.soname != library.soname) continue;
        Mount(library.path, fmt::format("{}/{}", folder, further.name), kMountOptions);
      }
    }
  }

  void AddHook(std::string_view command, const std::string& flag,
               const std::vector<std::string>& values) {
    if (values.empty() || !HookEnabled(config_, command)) return;
    const std::string program = LastNameOf(config_.hook_path);
    CdiHook hook{.hook_name = "createContainer", .path = config_.hook_path, .args = {program}};
    // nvidia-ctk has the hooks below a command of its own, nvidia-cdi-hook is them.
    if (program == "nvidia-ctk") hook.args.emplace_back("hook");
    hook.args.emplace_back(command);
    for (const std::string& value : values) {
      hook.args.push_back(flag);
      hook.args.push_back(value);
    }
    edits_.hooks.push_back(std::move(hook));
  }

  void AddLibrariesForHooks() {
    std::vector<std::string> links;
    std::set<std::string> folders;
    for (const DriverLibrary& library : files_.libraries) {
      const std::string folder =
          library.folder.empty() ? StandardFolders(library.machine).front() : library.folder;
      Mount(library.path, fmt::format("{}/{}", folder, library.name), kMountOptions);
      folders.insert(folder);
      for (const FurtherName& further : kFurtherNames) {
        if (further.soname != library.soname) continue;
        const bool below = further.name.find('/') != std::string_view::npos;
        links.push_back(
            fmt::format("{}{}::{}/{}", below ? "../" : "", library.soname, folder, further.name));
      }
    }
    AddHook(kHookCreateSymlinks, "--link", links);
    AddHook(kHookUpdateLdcache, "--folder", {folders.begin(), folders.end()});
  }

  const DriverFiles& files_;
  const DeviceNodes& nodes_;
  const CdiConfig& config_;
  CdiEdits edits_;
  std::set<std::string> mounted_;  // Container paths; the first that wants one has it.
};

CdiDevice Device(std::string name, CdiEdits edits) {
  return {.name = std::move(name), .annotations = {}, .edits = std::move(edits)};
}

// A GPU's devices, and everything of it for the device `all`.
void AddGpu(const Gpu& gpu, const GpuNodes& mine, std::vector<CdiDevice>& devices, CdiEdits& all) {
  if (!mine.node) return;
  CdiEdits whole;
  AddNodes({*mine.node}, whole);
  AddNodes(mine.drm, whole);
  devices.push_back(Device(std::to_string(gpu.index), whole));
  devices.push_back(Device(gpu.uuid, std::move(whole)));
  AddNodes({*mine.node}, all);
  AddNodes(mine.drm, all);
  for (const MigDeviceNodes& mig : mine.mig) {
    CdiEdits part;
    AddNodes({*mine.node}, part);
    AddNodes(mig.capabilities, part);
    devices.push_back(Device(fmt::format("{}:{}", gpu.index, mig.index), part));
    devices.push_back(Device(mig.uuid, std::move(part)));
    AddNodes(mig.capabilities, all);
  }
}

std::vector<CdiDevice> GpuDevices(const Inventory& inventory, const DeviceNodes& nodes) {
  std::vector<CdiDevice> devices;
  CdiEdits all;
  for (const Gpu& gpu : inventory.gpus) {
    const auto mine = nodes.gpus.find(gpu.uuid);
    if (mine != nodes.gpus.end()) AddGpu(gpu, mine->second, devices, all);
  }
  if (!devices.empty()) devices.push_back(Device("all", std::move(all)));
  return devices;
}

std::vector<CdiDevice> ImexDevices(const DeviceNodes& nodes) {
  std::vector<CdiDevice> devices;
  for (const auto& [channel, node] : nodes.imex_channels) {
    CdiEdits edits;
    AddNodes({node}, edits);
    devices.push_back(Device(std::to_string(channel), std::move(edits)));
  }
  return devices;
}

std::vector<CdiDevice> OneDevice(const std::vector<FoundNode>& nodes,
                                 std::vector<CdiMount> mounts) {
  if (nodes.empty()) return {};
  CdiEdits edits;
  AddNodes(nodes, edits);
  edits.mounts = std::move(mounts);
  return {Device("all", std::move(edits))};
}

}  // namespace

bool HookEnabled(const CdiConfig& config, std::string_view hook) {
  return !config.hook_path.empty() && !config.disabled_hooks.contains("all") &&
         !config.disabled_hooks.contains(std::string(hook));
}

std::vector<CdiSpec> GpuSpecs(const Inventory& inventory, const DriverFiles& files,
                              const DeviceNodes& nodes, const CdiConfig& config) {
  std::vector<CdiSpec> specs;
  const auto add = [&](std::string_view class_name, std::vector<CdiDevice> devices,
                       CdiEdits common) {
    if (devices.empty()) return;
    CdiSpec spec{.version = {},
                 .vendor = config.vendor,
                 .class_name = std::string(class_name),
                 .annotations = {},
                 .devices = std::move(devices),
                 .edits = std::move(common)};
    spec.version = CdiVersionNeeded(spec);
    specs.push_back(std::move(spec));
  };
  add(kCdiGpuClass, GpuDevices(inventory, nodes), CommonEdits(files, nodes, config).Make());
  add(kCdiImexClass, ImexDevices(nodes), {});
  if (config.gdrcopy) add(kCdiGdrcopyClass, OneDevice(nodes.gdrcopy, {}), {});
  if (config.gds) {
    // cuFile finds a disk's controller by udev's data base, and is told by its file what to use.
    std::vector<CdiMount> mounts;
    for (const DriverFile& file : files.storage) {
      mounts.push_back({.host_path = PathBelow(config.host_driver_root, file.path),
                        .container_path = file.container_path,
                        .type = {},
                        .options = kMountOptions});
    }
    add(kCdiGdsClass, OneDevice(nodes.gds, std::move(mounts)), {});
  }
  if (config.mofed) add(kCdiMofedClass, OneDevice(nodes.mofed, {}), {});
  return specs;
}

}  // namespace sublet
