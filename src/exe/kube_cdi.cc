// `sublet kube cdi`: the node's GPUs as CDI specifications for container runtimes.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/terminal.h"
#include "cdi/node_specs.h"
#include "cdi/spec_files.h"
#include "exe/kube_verbs.h"
#include "exe/this_node.h"

namespace sublet {
namespace {

struct Flags {
  bool print = false;
  bool remove = false;
  std::optional<std::string> output;
  std::string driver_root;  // As the container runtime sees it.
  std::string dev_root;
  std::string container_driver_root;  // As this process sees it.
  std::string hook_path;
  std::vector<std::string> disabled_hooks;
  std::vector<int> imex_channels;
  bool gdrcopy = false;
  bool gds = false;
  bool mofed = false;
  bool no_graphics = false;
  std::string nvml;
  double timeout_s = 60;
};

Status CheckAbsolute(const std::string& path, std::string_view flag) {
  if (path.empty() || path.starts_with('/')) return {};
  return Fail(ErrorCode::kUsage, fmt::format("{}: the path must be absolute: {}", flag, path),
              "it stands in files that other programs read");
}

Result<CdiRequest> RequestFrom(const Flags& flags) {
  RETURN_IF_ERROR(CheckAbsolute(flags.driver_root, "--driver-root"));
  RETURN_IF_ERROR(CheckAbsolute(flags.container_driver_root, "--container-driver-root"));
  RETURN_IF_ERROR(CheckAbsolute(flags.dev_root, "--dev-root"));
  RETURN_IF_ERROR(CheckAbsolute(flags.hook_path, "--nvidia-cdi-hook-path"));
  CdiRequest request;
  request.driver_root.host = flags.driver_root.empty() ? "/" : flags.driver_root;
  request.driver_root.here =
      flags.container_driver_root.empty() ? request.driver_root.host : flags.container_driver_root;
  request.driver_root_named = !flags.driver_root.empty() || !flags.container_driver_root.empty();
  request.dev_root = flags.dev_root;
  request.hook_path = flags.hook_path;
  request.config.disabled_hooks.insert(flags.disabled_hooks.begin(), flags.disabled_hooks.end());
  request.config.imex_channels = flags.imex_channels;
  request.config.graphics = !flags.no_graphics;
  request.config.gdrcopy = flags.gdrcopy;
  request.config.gds = flags.gds;
  request.config.mofed = flags.mofed;
  const char* const simulated = std::getenv("SUBLET_SIM");
  request.simulation.node = simulated == nullptr ? "" : simulated;
  request.simulation.folder =
      std::filesystem::path(NvmlPath(flags.nvml)).parent_path().lexically_normal().string();
  return request;
}

std::string_view KindName(CdiFileChange::Kind kind) {
  switch (kind) {
    case CdiFileChange::Kind::kUnchanged:
      return "unchanged";
    case CdiFileChange::Kind::kWritten:
      return "written";
    case CdiFileChange::Kind::kRemoved:
      return "removed";
  }
  return "";
}

void PrintChanges(const std::vector<CdiFileChange>& changes) {
  for (const CdiFileChange& change : changes) {
    fmt::print("{}  {}\n", PaddedRight(KindName(change.kind), 9), change.path);
  }
}

void PrintDevices(const CdiDescription& found) {
  for (const CdiSpec& spec : found.specs) {
    for (const CdiDevice& device : spec.devices) {
      fmt::print("  {}\n", QualifiedCdiName(spec.vendor, spec.class_name, device.name));
    }
  }
}

Result<int> Cdi(const Flags& flags) {
  const std::string folder = flags.output.value_or(std::string(kCdiFolder));
  if (flags.remove) {
    ASSIGN_OR_RETURN(const auto changes, WriteCdiSpecs(folder, kCdiVendor, {}));
    PrintChanges(changes);
    return 0;
  }
  ASSIGN_OR_RETURN(const CdiRequest request, RequestFrom(flags));
  ASSIGN_OR_RETURN(const Inventory node,
                   TakeThisNode({.nvml = flags.nvml, .timeout_s = flags.timeout_s}));
  ASSIGN_OR_RETURN(const CdiDescription found, DescribeNode(node, request));
  if (found.simulated) {
    fmt::print(stderr, "simulated: these GPUs aren't real, and their device nodes are /dev/null\n");
  }
  for (const std::string& note : found.notes) fmt::print(stderr, "note: {}\n", note);
  if (flags.print) {
    for (const CdiSpec& spec : found.specs) fmt::print("{}", CdiSpecText(spec));
    return 0;
  }
  if (found.simulated && !flags.output) {
    return Fail(ErrorCode::kUsage,
                fmt::format("simulated GPUs are not written into {} by themselves", folder),
                "--output FOLDER says where to, --print shows them");
  }
  ASSIGN_OR_RETURN(const auto changes, WriteCdiSpecs(folder, kCdiVendor, found.specs));
  PrintChanges(changes);
  PrintDevices(found);
  for (const std::string& conflict :
       CdiConflicts({folder, std::string(kCdiStaticFolder)}, found.specs)) {
    fmt::print(stderr, "conflict: {}; runtimes give out neither\n", conflict);
  }
  return 0;
}

// Under the names and variables of NVIDIA's device plugin, too.
void AddPlaceFlags(CLI::App& verb, Flags& flags) {
  verb.add_option("--driver-root,--nvidia-driver-root", flags.driver_root,
                  "The driver's root as the container runtime sees it (default /)")
      ->envname("NVIDIA_DRIVER_ROOT")
      ->type_name("FOLDER");
  verb.add_option("--container-driver-root,--driver-root-ctr-path", flags.container_driver_root,
                  "The same as this process sees it (default: the same path)")
      ->envname("CONTAINER_DRIVER_ROOT")
      ->type_name("FOLDER");
  verb.add_option("--dev-root,--nvidia-dev-root", flags.dev_root,
                  "The folder whose dev/ has the device nodes (default: the driver's root where it "
                  "has them, else /)")
      ->envname("NVIDIA_DEV_ROOT")
      ->type_name("FOLDER");
  verb.add_option("--nvidia-cdi-hook-path,--nvidia-ctk-path", flags.hook_path,
                  "NVIDIA's hook program on the host (default: /usr/bin/nvidia-cdi-hook or "
                  "nvidia-ctk, where one is there)")
      ->envname("NVIDIA_CDI_HOOK_PATH")
      ->type_name("PATH");
  verb.add_option("--cdi-disable-hooks", flags.disabled_hooks,
                  "Hooks to leave out: update-ldcache, create-symlinks, all")
      ->envname("CDI_DISABLE_HOOKS")
      ->delimiter(',')
      ->type_name("NAME");
}

void AddWhatFlags(CLI::App& verb, Flags& flags) {
  verb.add_option("--imex-channel-ids", flags.imex_channels, "Channels of IMEX to describe, too")
      ->envname("IMEX_CHANNEL_IDS")
      ->delimiter(',')
      ->check(CLI::Range(0, 65535))
      ->type_name("N");
  verb.add_flag("--gdrcopy-enabled", flags.gdrcopy, "Describe GDRCopy's device")
      ->envname("GDRCOPY_ENABLED");
  verb.add_flag("--gds-enabled", flags.gds, "Describe GPUDirect Storage's devices")
      ->envname("GDS_ENABLED");
  verb.add_flag("--mofed-enabled", flags.mofed, "Describe InfiniBand's devices")
      ->envname("MOFED_ENABLED");
  verb.add_flag("--no-graphics", flags.no_graphics,
                "Leave out DRM nodes and what Vulkan, EGL and OptiX need");
}

}  // namespace

void AddKubeCdi(Program& program, CLI::App& kube) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = kube.add_subcommand(
      "cdi", "Describe this node's GPUs to container runtimes, as CDI specifications");
  CLI::Option* print = verb->add_flag("--print,--json", flags->print,
                                      "Print what the files would say, and write nothing");
  CLI::Option* output =
      verb->add_option("--output", flags->output, "The folder to write to (default /var/run/cdi)");
  output->type_name("FOLDER")->excludes(print);
  verb->add_flag("--remove", flags->remove, "Remove the files that this verb has written")
      ->excludes(print);
  AddPlaceFlags(*verb, *flags);
  AddWhatFlags(*verb, *flags);
  verb->add_option("--nvml", flags->nvml,
                   "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb->add_option("--timeout", flags->timeout_s, "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  verb->footer("Several classes of devices are printed one JSON document after the other.");
  verb->callback([&program, flags] { program.chosen = [flags] { return Cdi(*flags); }; });
}

}  // namespace sublet
