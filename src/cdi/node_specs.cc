#include "cdi/node_specs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

#include "cdi/device_nodes.h"
#include "cdi/driver_files.h"
#include "cdi/spec_check.h"

namespace sublet {
namespace {

// The toolkit's packages put them there; the first is the newer one.
constexpr std::array<std::string_view, 2> kHookPrograms = {"/usr/bin/nvidia-cdi-hook",
                                                           "/usr/bin/nvidia-ctk"};

// A path of the host, as this process would open it. Absent where the host isn't seen.
std::optional<std::string> HostPathHere(const RootFolder& driver_root, std::string_view path) {
  const bool on_host = driver_root.here == driver_root.host;
  if (!on_host && driver_root.host != "/") return std::nullopt;
  const std::string root = on_host ? "/" : driver_root.here;
  const auto resolved = ResolveInRoot(root, path);
  if (!resolved) return std::nullopt;
  return PathBelow(root, *resolved);
}

bool HookIsThere(const RootFolder& driver_root, std::string_view path) {
  const auto here = HostPathHere(driver_root, path);
  return here && ::access(here->c_str(), X_OK) == 0;
}

// Empty, with the reason in `notes`, where there is none.
std::string FindHook(const CdiRequest& request, std::vector<std::string>& notes) {
  std::vector<std::string> candidates;
  if (!request.hook_path.empty()) {
    candidates.push_back(request.hook_path);
  } else {
    candidates.assign(kHookPrograms.begin(), kHookPrograms.end());
  }
  for (const std::string& path : candidates) {
    if (path.starts_with('/') && HookIsThere(request.driver_root, path)) return path;
  }
  notes.push_back(fmt::format(
      "no hooks: {} isn't on the host, as far as it is seen from here; libraries are mounted under "
      "the names that programs ask for instead",
      fmt::join(candidates, " or ")));
  return {};
}

// Absent for a simulated driver whose user names no place: this machine may have real GPUs, and a
// simulated one must not be given out as one of them.
std::optional<RootFolder> ChooseDevRoot(const CdiRequest& request, bool simulated) {
  const bool on_host = request.driver_root.here == request.driver_root.host;
  if (!request.dev_root.empty() && on_host) return RootFolder{request.dev_root, request.dev_root};
  const bool has_nodes = ResolveInRoot(request.driver_root.here, "/dev/nvidiactl").has_value();
  if (!request.dev_root.empty()) {
    return RootFolder{has_nodes ? request.driver_root.here : "/", request.dev_root};
  }
  if (has_nodes && (request.driver_root_named || !simulated)) return request.driver_root;
  if (simulated) return std::nullopt;
  return RootFolder{"/", "/"};
}

void NoteMissingClasses(const CdiConfig& config, const DeviceNodes& nodes,
                        std::vector<std::string>& notes) {
  const auto note = [&notes](bool wanted, const std::vector<FoundNode>& found,
                             std::string_view name, std::string_view device) {
    if (wanted && found.empty()) {
      notes.push_back(fmt::format("no class {}: {} isn't there", name, device));
    }
  };
  note(config.gdrcopy, nodes.gdrcopy, kCdiGdrcopyClass, "/dev/gdrdrv");
  note(config.gds, nodes.gds, kCdiGdsClass, "/dev/nvidia-fs*");
  note(config.mofed, nodes.mofed, kCdiMofedClass, "/dev/infiniband/uverbs*");
}

// The simulated driver in a container: told which node to play, and shown the node's file.
void AddSimulation(const CdiSimulation& simulation, CdiConfig& config) {
  config.simulation_env.push_back("SUBLET_SIM=" + simulation.node);
  if (simulation.node.starts_with('/')) config.simulation_files.push_back(simulation.node);
}

}  // namespace

Result<CdiDescription> DescribeNode(const Inventory& inventory, const CdiRequest& request) {
  if (inventory.host.wsl2) {
    return Fail(ErrorCode::kUnsupported, "WSL2's driver can't be described for containers",
                "nvidia-ctk cdi generate --mode=wsl can");
  }
  CdiDescription found;
  found.simulated = inventory.driver.simulated;
  CdiConfig config = request.config;
  const bool from_simulation = found.simulated && !request.driver_root_named;
  if (from_simulation) {
    ASSIGN_OR_RETURN(found.files,
                     FindSimulatedFiles(request.simulation.folder, inventory.driver.version));
    config.host_driver_root = "/";
    config.hook_path.clear();
  } else {
    ASSIGN_OR_RETURN(found.files, FindDriverFiles({.root = request.driver_root.here,
                                                   .version = inventory.driver.version,
                                                   .kernel = inventory.host.kernel,
                                                   .graphics = config.graphics}));
    config.host_driver_root = request.driver_root.host;
    config.hook_path = FindHook(request, found.notes);
  }
  if (found.simulated) AddSimulation(request.simulation, config);
  const NodePlaces places{.dev_root = ChooseDevRoot(request, found.simulated),
                          .proc = request.proc,
                          .sys = request.sys,
                          .simulated = found.simulated};
  DeviceNodes nodes = FindDeviceNodes(
      inventory, places, {.graphics = config.graphics, .imex_channels = config.imex_channels});
  std::ranges::move(nodes.notes, std::back_inserter(found.notes));
  NoteMissingClasses(config, nodes, found.notes);
  found.hook_path = config.hook_path;
  found.specs = GpuSpecs(inventory, found.files, nodes, config);
  if (found.specs.empty() || found.specs.front().class_name != kCdiGpuClass) {
    return Fail(ErrorCode::kNotFound, "no GPU of this node can be given out",
                found.notes.empty() ? "" : found.notes.back());
  }
  for (const CdiSpec& spec : found.specs) RETURN_IF_ERROR(CheckCdiSpec(spec));
  return found;
}

}  // namespace sublet
