#include "kube/allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "model/enforcer.h"

namespace sublet {
namespace {

// What NVIDIA's container runtime looks for.
constexpr std::string_view kVisibleDevices = "NVIDIA_VISIBLE_DEVICES";
constexpr std::string_view kVolumeRoot = "/var/run/nvidia-container-devices";
constexpr std::string_view kImexRoot = "/dev/nvidia-caps-imex-channels";
constexpr std::string_view kOptionalNodes[] = {"/dev/nvidiactl", "/dev/nvidia-uvm",
                                               "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"};
constexpr int kAllSms = 100;  // Percent.

// One of the container's devices, and how many of its replicas the container has.
struct Held {
  const AdvertisedDevice* device = nullptr;
  int replicas = 0;
};

struct Extra {
  bool enabled = false;
  std::string_view variable;
  std::string_view cdi_class;
};

std::vector<Extra> ExtrasOf(const PluginFlags& flags) {
  return {{flags.gdrcopy_enabled, "NVIDIA_GDRCOPY", "gdrcopy"},
          {flags.gds_enabled, "NVIDIA_GDS", "gds"},
          {flags.mofed_enabled, "NVIDIA_MOFED", "mofed"}};
}

std::string JoinPath(std::string_view root, std::string_view path) {
  while (root.ends_with('/')) root.remove_suffix(1);
  return fmt::format("{}{}", root, path);
}

// The devices in the order of the request, each once.
Result<std::vector<Held>> FindHeld(const ReplicaIndex& index, const ContainerRequest& request,
                                   const AllocationContext& context) {
  if (request.ids.empty()) return Fail(ErrorCode::kInvalid, "invalid request: no device");
  std::vector<Held> held;
  std::set<std::string_view> seen;
  bool shared = false;
  for (const std::string& id : request.ids) {
    const AdvertisedReplica* const replica = index.Find(id);
    if (replica == nullptr) {
      return Fail(ErrorCode::kInvalid, fmt::format("invalid request: unknown device: {}", id));
    }
    if (!seen.insert(id).second) {
      return Fail(ErrorCode::kInvalid, fmt::format("invalid request: device twice: {}", id));
    }
    const AdvertisedDevice& device = index.resource().devices[replica->device];
    if (context.unhealthy.contains(device.uuid) || context.unhealthy.contains(device.gpu_uuid)) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("invalid request: unhealthy device: {}", id));
    }
    shared = shared || device.mode != SharingMode::kExclusive;
    const auto known = std::ranges::find(held, &device, &Held::device);
    if (known != held.end()) {
      ++known->replicas;
    } else {
      held.push_back({&device, 1});
    }
  }
  if (index.resource().fail_requests_greater_than_one && shared && request.ids.size() > 1) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("invalid request: maximum request size for shared resources is 1; "
                            "found {}",
                            request.ids.size()));
  }
  return held;
}

std::vector<std::string> NamesOf(const std::vector<Held>& held, DeviceIdStrategy strategy) {
  std::vector<std::string> names;
  for (const Held& one : held) {
    names.push_back(strategy == DeviceIdStrategy::kUuid ? one.device->uuid : one.device->index);
  }
  return names;
}

// Fills one container's grant; variables and annotations are kept in order of their names.
class Granter {
 public:
  Granter(const AdvertisedResource& resource, const std::vector<Held>& held,
          const AllocationContext& context)
      : resource_(resource),
        held_(held),
        context_(context),
        names_(NamesOf(held, context.flags.device_id_strategy)) {}

  void AddCdi(const std::string& response_id) {
    const bool annotated = context_.flags.Uses(DeviceListStrategy::kCdiAnnotations);
    const bool cri = context_.flags.Uses(DeviceListStrategy::kCdiCri);
    if (!annotated && !cri) return;
    std::vector<std::string> devices;
    const auto add = [&](std::string_view kind, std::string_view name) {
      devices.push_back(fmt::format("{}/{}={}", kDevicePluginCdiVendor, kind, name));
    };
    for (const std::string& name : names_) add("gpu", name);
    for (const int channel : context_.imex.channel_ids)
      add("imex-channel", std::to_string(channel));
    for (const Extra& extra : ExtrasOf(context_.flags)) {
      if (extra.enabled) add(extra.cdi_class, "all");
    }
    if (annotated) {
      annotations_[fmt::format("{}nvidia-device-plugin_{}", context_.flags.cdi_annotation_prefix,
                               response_id)] = fmt::format("{}", fmt::join(devices, ","));
    }
    if (cri) grant_.cdi_devices = std::move(devices);
  }

  // The strategies that aren't CDI, with what goes along with them.
  void AddLists() {
    if (context_.flags.UsesCdiOnly()) return;
    if (context_.flags.Uses(DeviceListStrategy::kEnvvar)) {
      envs_[std::string(kVisibleDevices)] = fmt::format("{}", fmt::join(names_, ","));
      if (!context_.imex.channel_ids.empty()) {
        envs_["NVIDIA_IMEX_CHANNELS"] =
            fmt::format("{}", fmt::join(context_.imex.channel_ids, ","));
      }
    }
    if (context_.flags.Uses(DeviceListStrategy::kVolumeMounts)) AddVolumeMounts();
    if (context_.flags.pass_device_specs) AddDeviceNodes();
    for (const Extra& extra : ExtrasOf(context_.flags)) {
      if (extra.enabled) envs_[std::string(extra.variable)] = "enabled";
    }
  }

  Status AddMps() {
    if (resource_.mode != SharingMode::kMps || std::ranges::none_of(held_, [](const Held& held) {
          return held.device->mode == SharingMode::kMps;
        })) {
      DescribeWithoutMps();
      return {};
    }
    if (!context_.mps) {
      return Fail(ErrorCode::kUnavailable, fmt::format("no MPS server for {}", resource_.name),
                  "it is started with the first container, and again when it has died");
    }
    for (const Held& held : held_) {
      if (std::ranges::find(context_.mps->devices, held.device->uuid) !=
          context_.mps->devices.end()) {
        continue;
      }
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("the MPS server at {} doesn't serve device {}",
                              context_.mps->host_pipe_directory, held.device->uuid),
                  "a container can be the client of one MPS server only; ask for devices of one");
    }
    envs_["CUDA_MPS_PIPE_DIRECTORY"] = context_.mps->container_pipe_directory;
    grant_.mounts.push_back({.container_path = context_.mps->container_directory,
                             .host_path = context_.mps->host_directory});
    if (!context_.mps->host_shm_directory.empty()) {
      grant_.mounts.push_back(
          {.container_path = "/dev/shm", .host_path = context_.mps->host_shm_directory});
    }
    return AddLimits();
  }

  ContainerGrant Finish() {
    for (const Held& held : held_) grant_.devices.push_back(held.device->uuid);
    grant_.envs.assign(envs_.begin(), envs_.end());
    grant_.annotations.assign(annotations_.begin(), annotations_.end());
    return std::move(grant_);
  }

 private:
  void AddVolumeMounts() {
    // The runtime takes the list of what is mounted below this folder; this wins over the list in
    // the variable.
    envs_[std::string(kVisibleDevices)] = kVolumeRoot;
    const auto add = [&](std::string path) {
      grant_.mounts.push_back({.container_path = std::move(path), .host_path = "/dev/null"});
    };
    for (const std::string& name : names_) add(fmt::format("{}/{}", kVolumeRoot, name));
    for (const int channel : context_.imex.channel_ids) {
      add(fmt::format("{}/imex/{}", kVolumeRoot, channel));
    }
  }

  void AddDeviceNodes() {
    const auto add = [&](std::string path) {
      std::string host = JoinPath(context_.flags.dev_root, path);
      grant_.device_nodes.push_back({std::move(path), std::move(host), "rw"});
    };
    for (const std::string_view path : kOptionalNodes) {
      if (context_.present_nodes.contains(path)) add(std::string(path));
    }
    std::set<std::string_view> seen;  // MIG devices of one GPU share its node.
    for (const Held& held : held_) {
      for (const std::string& path : held.device->paths) {
        if (seen.insert(path).second) add(path);
      }
    }
    for (const int channel : context_.imex.channel_ids) {
      add(fmt::format("{}/channel{}", kImexRoot, channel));
    }
  }

  // The variables of an MPS client. What counts against the memory limit includes its context.
  Status AddLimits() {
    GrantedLimits& limits = grant_.limits;
    const ShareSize& wall = context_.mps->default_limit;
    std::vector<std::string> memory;
    std::vector<std::string> uuids;
    for (std::size_t i = 0; i < held_.size(); ++i) {
      const AdvertisedDevice& device = *held_[i].device;
      uuids.push_back(device.uuid);
      if (device.size.memory) {
        Bytes part = *device.size.memory * held_[i].replicas;
        if (device.memory.count > 0) part = std::min(part, device.memory);
        // A client's own limit can't be above its server's.
        if (wall.memory) part = std::min(part, *wall.memory);
        memory.push_back(fmt::format("{}={}M", i, part.mib()));
        limits.memory = std::min(part, limits.memory.value_or(part));
      }
      if (device.size.sm_percent) {
        int part = std::min(kAllSms, *device.size.sm_percent * held_[i].replicas);
        if (wall.sm_percent) part = std::min(part, *wall.sm_percent);
        // There is one cap for all of a process's devices.
        limits.sm_percent = std::min(part, limits.sm_percent.value_or(part));
      }
    }
    // By UUID, so that the numbers in the memory limits are these: an entry for a device that isn't
    // visible would make the server drop all limits (observed with driver 580).
    envs_["CUDA_VISIBLE_DEVICES"] = fmt::format("{}", fmt::join(uuids, ","));
    if (!memory.empty()) {
      envs_["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = fmt::format("{}", fmt::join(memory, ","));
    }
    if (limits.sm_percent) {
      envs_["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = std::to_string(*limits.sm_percent);
    }
    limits.memory_for_pod =
        limits.memory.has_value() && context_.limits_for_pod && context_.pod_memory_limits;
    if (limits.memory && !wall.memory && !limits.memory_for_pod && context_.fail_closed) {
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("{}: neither the MPS server nor the driver limits memory, only a "
                              "variable that the container may change",
                              resource_.name),
                  "give the server a default limit, or allow it: sublet.fail_closed: false");
    }
    DescribeMps();
    annotations_[std::string(kLimitsAnnotation)] = limits.text;
    return {};
  }

  void DescribeMps() {
    GrantedLimits& limits = grant_.limits;
    const ShareSize& wall = context_.mps->default_limit;
    std::string memory(kNoMemoryEnforcer);
    if (limits.memory) {
      memory = fmt::format("{} {}", FormatBytes(*limits.memory),
                           limits.memory_for_pod ? "for the pod" : "for each process");
      if (!limits.memory_for_pod && context_.limits_for_pod) {
        memory += " (nothing limits the pod)";
      }
      if (!limits.memory_for_pod && wall.memory.value_or(*limits.memory) > *limits.memory) {
        memory += fmt::format(" by its variables, {} by the server", FormatBytes(*wall.memory));
      }
    }
    const std::string sm = limits.sm_percent
                               ? fmt::format("{} % for each process", *limits.sm_percent)
                               : std::string(kNoSmCap);
    const bool memory_held =
        limits.memory && (limits.memory_for_pod || (wall.memory && *wall.memory <= *limits.memory));
    const bool sm_held =
        limits.sm_percent && wall.sm_percent && *wall.sm_percent <= *limits.sm_percent;
    limits.enforcement = {
        {"memory", std::string(limits.memory ? kByMpsMemoryLimit : kNoMemoryEnforcer), memory_held},
        {"sm", std::string(limits.sm_percent ? kByMpsThreadPercentage : kNoSmCap), sm_held}};
    if (!context_.mps->tenant.empty()) {
      limits.enforcement.push_back({"fault", std::string(kByTenantsServer), true});
    }
    limits.text = fmt::format("memory: {}; sm: {}", memory, sm);
  }

  void DescribeWithoutMps() {
    GrantedLimits& limits = grant_.limits;
    const AdvertisedDevice& device = *held_.front().device;
    const bool turns = device.mode == SharingMode::kTimeSlicing;
    const std::string_view whole = device.IsMig() ? kByMigInstance : kByWholeGpu;
    limits.enforcement = {
        {"memory", std::string(turns ? kNoMemoryEnforcer : whole), !turns},
        {"sm", std::string(turns ? kNoSmEnforcer : whole), !turns},
    };
    limits.text =
        fmt::format("memory: {}; sm: {}", limits.enforcement[0].by, limits.enforcement[1].by);
  }

  const AdvertisedResource& resource_;
  const std::vector<Held>& held_;
  const AllocationContext& context_;
  const std::vector<std::string> names_;
  std::map<std::string, std::string> envs_;
  std::map<std::string, std::string> annotations_;
  ContainerGrant grant_;
};

}  // namespace

MpsServerFolder ResourceMpsFolder(const PluginFlags& flags, const AdvertisedResource& resource) {
  MpsServerFolder folder;
  folder.host_pipe_directory = JoinPath(flags.mps_root, fmt::format("/{}/pipe", resource.name));
  folder.container_pipe_directory = fmt::format("/mps/{}/pipe", resource.name);
  folder.host_directory = folder.host_pipe_directory;
  folder.container_directory = folder.container_pipe_directory;
  folder.host_shm_directory = JoinPath(flags.mps_root, "/shm");
  for (const AdvertisedDevice& device : resource.devices) {
    if (device.mode == SharingMode::kMps) folder.devices.push_back(device.uuid);
  }
  return folder;
}

Result<ContainerGrant> AllocateContainer(const ReplicaIndex& resource,
                                         const ContainerRequest& request,
                                         const AllocationContext& context) {
  ASSIGN_OR_RETURN(const std::vector<Held> held, FindHeld(resource, request, context));
  Granter granter(resource.resource(), held, context);
  granter.AddCdi(request.response_id);
  RETURN_IF_ERROR(granter.AddMps());
  granter.AddLists();
  return granter.Finish();
}

}  // namespace sublet
