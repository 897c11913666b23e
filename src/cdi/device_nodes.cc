#include "cdi/device_nodes.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <tuple>

#include "base/files.h"

namespace sublet {
namespace {

// Linux, Documentation/admin-guide/devices.txt
constexpr unsigned kNvidiaMajor = 195;
constexpr unsigned kDrmMajor = 226;
// Of /dev/null, likewise.
constexpr unsigned kNullMajor = 1;
constexpr unsigned kNullMinor = 3;

constexpr std::string_view kCapabilityFolder = "/dev/nvidia-caps";
constexpr std::size_t kCapabilityBytesMax = 4096;  // Its file has two lines.

// nvidiactl is asked for by every program that uses the driver, nvidia-uvm by every one that uses
// CUDA; the others are optional.
constexpr std::string_view kControl = "/dev/nvidiactl";
constexpr std::string_view kUnifiedMemory = "/dev/nvidia-uvm";
constexpr std::array<std::string_view, 4> kControlNodes = {"/dev/nvidia-modeset", kUnifiedMemory,
                                                           "/dev/nvidia-uvm-tools", kControl};

// How a driver numbers the capabilities of a node: gpu0/gi0/access is 3, each GPU has 15 GPU
// instances, each of these eight compute instances (/proc/driver/nvidia-caps/mig-minors).
constexpr int kFirstMigCapability = 3;
constexpr int kComputeInstancesMax = 8;
constexpr int kGpuInstancesMax = 15;

RootFolder WithoutDev(RootFolder root) {
  for (std::string* path : {&root.here, &root.host}) {
    while (path->ends_with('/')) path->pop_back();
    if (path->ends_with("/dev")) path->resize(path->size() - 4);
    // Not by assigning a literal: gcc 12 takes that for an overlapping copy.
    if (path->empty()) path->push_back('/');
  }
  return root;
}

class NodeSearch {
 public:
  NodeSearch(const Inventory& inventory, const NodePlaces& places, const NodeWishes& wishes)
      : inventory_(inventory), places_(places), wishes_(wishes) {
    if (places_.dev_root) places_.dev_root = WithoutDev(*places_.dev_root);
  }

  DeviceNodes Run() {
    for (const std::string_view path : kControlNodes) {
      if (auto node = Find(path)) {
        nodes_.control.push_back(std::move(*node));
      } else if (path == kControl || path == kUnifiedMemory) {
        Note("no {} in the dev root {}: nvidia-modprobe -c 0 -u makes it", path, DevRoot());
      }
    }
    for (const Gpu& gpu : inventory_.gpus) AddGpu(gpu);
    for (const int channel : wishes_.imex_channels) {
      const std::string path = fmt::format("/dev/nvidia-caps-imex-channels/channel{}", channel);
      if (auto node = Find(path)) {
        nodes_.imex_channels.emplace(channel, std::move(*node));
      } else {
        Note("no IMEX channel {}: {} isn't there", channel, path);
      }
    }
    if (auto node = FindThere("/dev/gdrdrv")) nodes_.gdrcopy.push_back(std::move(*node));
    nodes_.gds = FindAll("/dev", "nvidia-fs");
    nodes_.mofed = FindAll("/dev/infiniband", "uverbs");
    if (auto node = FindThere("/dev/infiniband/rdma_cm")) {
      nodes_.mofed.push_back(std::move(*node));
    }
    return std::move(nodes_);
  }

 private:
  template <typename... Args>
  void Note(fmt::format_string<Args...> format, Args&&... args) {
    nodes_.notes.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  std::string DevRoot() const { return places_.dev_root ? places_.dev_root->here : "(none)"; }

  std::optional<FoundNode> FindThere(std::string_view path) const {
    if (!places_.dev_root) return std::nullopt;
    const auto resolved = ResolveInRoot(places_.dev_root->here, path);
    if (!resolved) return std::nullopt;
    struct stat status {};
    if (::lstat(PathBelow(places_.dev_root->here, *resolved).c_str(), &status) != 0 ||
        !S_ISCHR(status.st_mode)) {
      return std::nullopt;
    }
    const unsigned major_number = major(status.st_rdev);
    return FoundNode{.path = std::string(path),
                     .host_path = PathBelow(places_.dev_root->host, *resolved),
                     .major = major_number,
                     .minor = minor(status.st_rdev),
                     .reserved = major_number == kNvidiaMajor || major_number == kDrmMajor};
  }

  std::optional<FoundNode> Find(std::string_view path) const {
    if (auto node = FindThere(path)) return node;
    if (!places_.simulated) return std::nullopt;
    return FoundNode{.path = std::string(path),
                     .host_path = "/dev/null",
                     .major = kNullMajor,
                     .minor = kNullMinor,
                     .reserved = true};
  }

  std::vector<FoundNode> FindAll(const std::string& folder, std::string_view prefix) const {
    std::vector<FoundNode> found;
    if (!places_.dev_root) return found;
    for (const std::string& name : NamesInRoot(places_.dev_root->here, folder)) {
      if (!name.starts_with(prefix)) continue;
      if (auto node = FindThere(fmt::format("{}/{}", folder, name))) {
        found.push_back(std::move(*node));
      }
    }
    return found;
  }

  void AddGpu(const Gpu& gpu) {
    if (!gpu.problem.empty()) {
      Note("GPU {} is left out: {}", gpu.index, gpu.problem);
      return;
    }
    GpuNodes& mine = nodes_.gpus[gpu.uuid];
    mine.index = gpu.index;
    if (!gpu.minor_number) {
      Note("GPU {} is left out: the driver doesn't tell the number of its device node", gpu.index);
      return;
    }
    const std::string path = fmt::format("/dev/nvidia{}", *gpu.minor_number);
    mine.node = Find(path);
    if (!mine.node) {
      Note("GPU {} is left out: no {} in the dev root {}", gpu.index, path, DevRoot());
      return;
    }
    if (wishes_.graphics) mine.drm = FindDrm(gpu);
    if (gpu.mig_enabled) AddMig(gpu, mine);
  }

  // Which of the nodes below /dev/dri are this GPU's, its PCI address tells.
  std::vector<FoundNode> FindDrm(const Gpu& gpu) const {
    // NVML's PCI domain has eight digits, the kernel's path has four.
    std::string address = gpu.pci_bus_id;
    if (address.size() == std::string_view("00000000:18:00.0").size()) address.erase(0, 4);
    std::ranges::transform(address, address.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    std::vector<FoundNode> found;
    if (address.empty() || address.find('/') != std::string::npos) return found;
    const std::string folder = fmt::format("/bus/pci/devices/{}/drm", address);
    for (const std::string& name : NamesInRoot(places_.sys, folder)) {
      if (!name.starts_with("card") && !name.starts_with("renderD")) continue;
      if (auto node = FindThere("/dev/dri/" + name)) found.push_back(std::move(*node));
    }
    return found;
  }

  // The number of a capability's node; absent where the driver doesn't show it.
  std::optional<int> CapabilityMinor(const std::string& capability) const {
    const auto text =
        ReadFile(fmt::format("{}/driver/nvidia/capabilities/{}", places_.proc, capability),
                 kCapabilityBytesMax);
    if (!text) return std::nullopt;
    constexpr std::string_view kKey = "DeviceFileMinor:";
    std::size_t at = text->find(kKey);
    if (at == std::string::npos) return std::nullopt;
    at = text->find_first_not_of(" \t", at + kKey.size());
    if (at == std::string::npos) return std::nullopt;
    int number = -1;
    std::from_chars(text->data() + at, text->data() + text->size(), number);
    return number >= 0 ? std::optional(number) : std::nullopt;
  }

  std::optional<FoundNode> FindCapability(const std::string& capability, int simulated) const {
    std::optional<int> number;
    if (places_.dev_root) number = CapabilityMinor(capability);
    if (!number && places_.simulated) number = simulated;
    if (!number) return std::nullopt;
    return Find(fmt::format("{}/nvidia-cap{}", kCapabilityFolder, *number));
  }

  void AddMig(const Gpu& gpu, GpuNodes& mine) {
    for (const MigDeviceName& device : MigDevicesOf(gpu)) {
      const std::string instance =
          fmt::format("gpu{}/mig/gi{}", *gpu.minor_number, device.gpu_instance);
      const int number =
          kFirstMigCapability +
          (*gpu.minor_number * kGpuInstancesMax + device.gpu_instance) * (1 + kComputeInstancesMax);
      auto outer = FindCapability(instance + "/access", number);
      auto inner = FindCapability(fmt::format("{}/ci{}/access", instance, device.compute_instance),
                                  number + 1 + device.compute_instance);
      if (!outer || !inner) {
        Note("MIG device {}:{} is left out: its capability nodes aren't there ({}/ci{})", gpu.index,
             device.index, instance, device.compute_instance);
        continue;
      }
      mine.mig.push_back({.index = device.index,
                          .uuid = device.uuid,
                          .capabilities = {std::move(*outer), std::move(*inner)}});
    }
  }

  const Inventory& inventory_;
  NodePlaces places_;
  const NodeWishes& wishes_;
  DeviceNodes nodes_;
};

}  // namespace

std::vector<MigDeviceName> MigDevicesOf(const Gpu& gpu) {
  std::vector<MigDeviceName> devices;
  for (const GpuInstance& instance : gpu.instances) {
    for (const ComputeInstance& compute : instance.compute_instances) {
      if (compute.uuid.empty()) continue;
      devices.push_back({.index = 0,
                         .gpu_instance = instance.id,
                         .compute_instance = compute.id,
                         .uuid = compute.uuid});
    }
  }
  std::ranges::sort(devices, {}, [](const MigDeviceName& device) {
    return std::pair(device.gpu_instance, device.compute_instance);
  });
  for (std::size_t i = 0; i < devices.size(); ++i) devices[i].index = static_cast<int>(i);
  return devices;
}

DeviceNodes FindDeviceNodes(const Inventory& inventory, const NodePlaces& places,
                            const NodeWishes& wishes) {
  return NodeSearch(inventory, places, wishes).Run();
}

}  // namespace sublet
