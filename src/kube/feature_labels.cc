#include "kube/feature_labels.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kube/physical_devices.h"

namespace sublet {
namespace {

constexpr std::string_view kPrefix = "nvidia.com/";
constexpr std::string_view kGpu = "nvidia.com/gpu";

bool IsAlphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// NVIDIA's names of what CUDA numbers.
std::string_view FamilyOf(int major, int minor) {
  switch (major) {
    case 1:
      return "tesla";
    case 2:
      return "fermi";
    case 3:
      return "kepler";
    case 5:
      return "maxwell";
    case 6:
      return "pascal";
    case 7:
      return minor < 5 ? "volta" : "turing";
    case 8:
      return minor < 9 ? "ampere" : "ada-lovelace";
    case 9:
      return "hopper";
    case 10:
    case 12:
      return "blackwell";
    case 13:
      return "rubin";
    default:
      return "undefined";
  }
}

std::vector<std::string_view> SplitAtDots(std::string_view text) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t dot = text.find('.');
    parts.push_back(text.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    text.remove_prefix(dot + 1);
  }
}

// '+' isn't allowed in a label, and NVIDIA writes a dot for it.
std::string ProfileLabel(std::string_view profile) {
  std::string label(profile);
  std::ranges::replace(label, '+', '.');
  return label;
}

class FeatureLabeler {
 public:
  FeatureLabeler(const Inventory& inventory, const DevicePluginConfig& config,
                 const FeatureFacts& facts)
      : inventory_(inventory),
        config_(config),
        facts_(facts),
        devices_(PhysicalDevicesOf(inventory, {})) {}

  FeatureLabels Run() {
    if (facts_.started_s) Set("gfd.timestamp", fmt::format("{}", *facts_.started_s));
    LabelVgpus();
    if (devices_.empty()) return std::move(found_);
    Set("gpu.machine", facts_.machine_type.empty() ? "unknown" : facts_.machine_type);
    LabelVersions();
    LabelCapabilities();
    LabelMode();
    LabelFabric();
    LabelWholeGpus();
    switch (config_.flags.mig_strategy) {
      case MigStrategy::kNone:
        break;
      case MigStrategy::kSingle:
        Set("mig.strategy", "single");
        LabelSingle();
        break;
      case MigStrategy::kMixed:
        Set("mig.strategy", "mixed");
        LabelMixed();
        break;
    }
    return std::move(found_);
  }

 private:
  void Set(std::string_view name, std::string_view value) {
    SetFull(fmt::format("{}{}", kPrefix, name), value);
  }
  void SetOf(std::string_view resource, std::string_view name, std::string_view value) {
    SetFull(fmt::format("{}.{}", resource, name), value);
  }
  void SetOf(std::string_view resource, std::string_view name, std::int64_t value) {
    SetOf(resource, name, fmt::format("{}", value));
  }
  void SetFull(std::string name, std::string_view value) {
    found_.labels.insert_or_assign(std::move(name), LabelValue(value));
  }
  template <typename... Args>
  void Warn(fmt::format_string<Args...> text, Args&&... args) {
    found_.warnings.push_back(fmt::format(text, std::forward<Args>(args)...));
  }

  const Gpu& GpuOf(const PhysicalDevice& physical) const {
    return *inventory_.FindGpu(physical.device.gpu_uuid);
  }

  void LabelVgpus() {
    if (!facts_.vgpus.empty()) Set("vgpu.present", "true");
    for (const VgpuHost& host : facts_.vgpus) {
      Set("vgpu.host-driver-version", host.driver_version);
      Set("vgpu.host-driver-branch", host.driver_branch);
    }
  }

  void LabelVersions() {
    const std::vector<std::string_view> parts = SplitAtDots(inventory_.driver.version);
    if (parts.size() < 2 || parts.size() > 3) {
      Warn("no labels of the driver's version: it isn't of the form X.Y[.Z]: {}",
           inventory_.driver.version);
    } else {
      const std::string_view revision = parts.size() > 2 ? parts[2] : std::string_view();
      Set("cuda.driver.major", parts[0]);
      Set("cuda.driver.minor", parts[1]);
      Set("cuda.driver.rev", revision);
      Set("cuda.driver-version.major", parts[0]);
      Set("cuda.driver-version.minor", parts[1]);
      Set("cuda.driver-version.revision", revision);
      Set("cuda.driver-version.full", inventory_.driver.version);
    }
    if (inventory_.driver.cuda_version <= 0) {
      Warn("no labels of CUDA's version: the driver doesn't tell it");
      return;
    }
    const std::string major = std::to_string(inventory_.driver.cuda_version / 1000);
    const std::string minor = std::to_string(inventory_.driver.cuda_version % 1000 / 10);
    Set("cuda.runtime.major", major);
    Set("cuda.runtime.minor", minor);
    Set("cuda.runtime-version.major", major);
    Set("cuda.runtime-version.minor", minor);
    Set("cuda.runtime-version.full", fmt::format("{}.{}", major, minor));
  }

  void LabelCapabilities() {
    const bool mig_capable = std::ranges::any_of(inventory_.gpus, &Gpu::mig_capable);
    Set("mig.capable", mig_capable ? "true" : "false");
    bool mps = config_.SharingStrategy() == "mps";
    if (mps && std::ranges::any_of(inventory_.gpus, &Gpu::mig_enabled)) {
      Warn("mps.capable is false: sharing.mps doesn't share GPUs in MIG mode");
      mps = false;
    }
    mps |= std::ranges::any_of(config_.sublet.shares, [](const ShareRule& rule) {
      return rule.mode == SharingMode::kMps;
    });
    Set("mps.capable", mps ? "true" : "false");
  }

  // Of all GPUs, where they agree; else of the first.
  void LabelMode() {
    const auto known =
        std::ranges::find_if(facts_.pci_classes, [](const auto& one) { return !one.empty(); });
    const std::string_view first =
        known == facts_.pci_classes.end() ? std::string_view() : std::string_view(*known);
    Set("gpu.mode", first == "0x030000" ? "graphics" : first == "0x030200" ? "compute" : "unknown");
  }

  void LabelFabric() {
    std::optional<FabricPlace> place;
    for (const Gpu& gpu : inventory_.gpus) {
      if (!gpu.fabric) continue;
      if (place && *place != *gpu.fabric) {
        Warn("no label gpu.clique: the GPUs are of several cliques");
        return;
      }
      place = gpu.fabric;
    }
    if (place) Set("gpu.clique", fmt::format("{}.{}", place->cluster_uuid, place->clique_id));
  }

  // The first rule for the resource in the section that counts; nullptr: it isn't shared.
  const ReplicatedResource* RuleFor(std::string_view resource) const {
    const std::optional<ReplicatedResources>& section =
        config_.mps ? config_.mps : config_.time_slicing;
    if (!section) return nullptr;
    const auto rule = std::ranges::find(section->resources, resource, &ReplicatedResource::name);
    return rule == section->resources.end() ? nullptr : &*rule;
  }

  // What every resource has. `parts` make the product's name. `in_mig_mode`: it is a whole GPU that
  // nobody gets.
  void LabelResource(std::string_view resource, const std::vector<std::string_view>& parts,
                     std::int64_t count, bool in_mig_mode) {
    const ReplicatedResource* const rule = in_mig_mode ? nullptr : RuleFor(resource);
    const bool shared = rule != nullptr && rule->replicas > 1;
    std::string product;
    for (const std::string_view part : parts) {
      if (part.empty()) continue;
      if (!product.empty()) product += '-';
      product += part;
    }
    // The ending must survive where the name is cut.
    const std::string_view ending = shared && rule->rename.empty() ? "-SHARED" : "";
    std::string value = LabelValue(product);
    if (value.size() + ending.size() > kLabelValueMax) {
      value = LabelValue(value.substr(0, kLabelValueMax - ending.size()));
    }
    SetOf(resource, "product", value + std::string(ending));
    SetOf(resource, "count", count);
    SetOf(resource, "replicas", in_mig_mode ? 0 : shared ? rule->replicas : 1);
    SetOf(resource, "sharing-strategy", shared ? config_.SharingStrategy() : "none");
  }

  void LabelWholeGpus() {
    std::map<std::string_view, std::int64_t> counts;
    const PhysicalDevice* shown = nullptr;
    for (const PhysicalDevice& physical : devices_) {
      if (physical.device.IsMig()) continue;
      ++counts[GpuOf(physical).product];
      if (shown == nullptr || (shown->mig_mode && !physical.mig_mode)) shown = &physical;
    }
    const Gpu& gpu = GpuOf(*shown);
    if (counts.size() > 1) {
      Warn("GPUs of {} models; the labels are those of GPU {}: {}", counts.size(), gpu.index,
           gpu.product);
    }
    LabelResource(kGpu, {gpu.product}, counts[gpu.product], shown->mig_mode);
    if (gpu.memory.mib() > 0) SetOf(kGpu, "memory", gpu.memory.mib());
    if (gpu.compute_capability_major == 0) return;
    SetOf(kGpu, "family", FamilyOf(gpu.compute_capability_major, gpu.compute_capability_minor));
    SetOf(kGpu, "compute.major", gpu.compute_capability_major);
    SetOf(kGpu, "compute.minor", gpu.compute_capability_minor);
  }

  // The MIG devices of each profile, by its name.
  std::map<std::string, std::vector<const PhysicalDevice*>> MigDevices() const {
    std::map<std::string, std::vector<const PhysicalDevice*>> by_profile;
    for (const PhysicalDevice& physical : devices_) {
      if (physical.device.IsMig()) {
        by_profile[ProfileLabel(physical.device.profile)].push_back(&physical);
      }
    }
    return by_profile;
  }

  void LabelSingle() {
    std::vector<const PhysicalDevice*> in_mode;
    bool outside = false;
    bool hollow = false;
    for (const PhysicalDevice& physical : devices_) {
      if (physical.device.IsMig()) continue;
      if (!physical.mig_mode) {
        outside = true;
        continue;
      }
      in_mode.push_back(&physical);
      hollow |= std::ranges::none_of(devices_, [&](const PhysicalDevice& other) {
        return other.device.IsMig() && other.device.gpu_uuid == physical.device.uuid;
      });
    }
    if (in_mode.empty()) return;
    const auto by_profile = MigDevices();
    if (hollow) return Invalid(*in_mode[0], "a GPU in MIG mode has no MIG device");
    if (outside) return Invalid(*in_mode[0], "some GPUs are in MIG mode and some aren't");
    if (by_profile.size() != 1) return Invalid(*in_mode[0], "MIG devices of several profiles");
    LabelMig(kGpu, by_profile.begin()->first, by_profile.begin()->second);
  }

  void Invalid(const PhysicalDevice& gpu, std::string_view reason) {
    Warn("the node doesn't fit MIG strategy single: {}", reason);
    SetOf(kGpu, "product", LabelValue(GpuOf(gpu).product).substr(0, 51) + "-MIG-INVALID");
    SetOf(kGpu, "count", 0);
    SetOf(kGpu, "replicas", 0);
    SetOf(kGpu, "memory", 0);
    SetOf(kGpu, "sharing-strategy", "");
  }

  void LabelMixed() {
    for (const auto& [profile, devices] : MigDevices()) {
      LabelMig(fmt::format("{}mig-{}", kPrefix, profile), profile, devices);
    }
  }

  // Attributes are those of the first, as all of a profile have the same.
  void LabelMig(std::string_view resource, std::string_view profile,
                const std::vector<const PhysicalDevice*>& devices) {
    const PhysicalDevice& first = *devices[0];
    const Gpu& gpu = GpuOf(first);
    LabelResource(resource, {LabelValue(gpu.product), "MIG", profile},
                  static_cast<std::int64_t>(devices.size()), false);
    SetOf(resource, "memory", first.device.memory.mib());
    const ReportedProfile* const reported = gpu.FindProfile(first.instance_profile_id);
    if (reported == nullptr) return;
    const int slices = std::max(reported->compute_slices, 1);
    const int own = first.compute_slices > 0 ? first.compute_slices : slices;
    SetOf(resource, "multiprocessors", std::int64_t{reported->sm_count} * own / slices);
    SetOf(resource, "slices.gi", reported->compute_slices);
    SetOf(resource, "slices.ci", own);
    SetOf(resource, "engines.copy", reported->engines.copy);
    SetOf(resource, "engines.decoder", reported->engines.decoder);
    SetOf(resource, "engines.encoder", reported->engines.encoder);
    SetOf(resource, "engines.jpeg", reported->engines.jpeg);
    SetOf(resource, "engines.ofa", reported->engines.ofa);
  }

  const Inventory& inventory_;
  const DevicePluginConfig& config_;
  const FeatureFacts& facts_;
  const std::vector<PhysicalDevice> devices_;
  FeatureLabels found_;
};

}  // namespace

FeatureLabels MakeFeatureLabels(const Inventory& inventory, const DevicePluginConfig& config,
                                const FeatureFacts& facts) {
  return FeatureLabeler(inventory, config, facts).Run();
}

std::string LabelValue(std::string_view text) {
  std::string value;
  bool blank = false;
  for (const char c : text) {
    if (c == ' ') {
      blank = !value.empty();
      continue;
    }
    if (!IsAlphanumeric(c) && c != '-' && c != '_' && c != '.') continue;
    if (std::exchange(blank, false)) value += '-';
    value += c;
  }
  value.resize(std::min(value.size(), kLabelValueMax));
  while (!value.empty() && !IsAlphanumeric(value.back())) value.pop_back();
  const auto first = std::ranges::find_if(value, IsAlphanumeric);
  value.erase(value.begin(), first);
  return value;
}

bool IsLabelValue(std::string_view text) {
  if (text.empty()) return true;
  if (text.size() > kLabelValueMax) return false;
  if (!IsAlphanumeric(text.front()) || !IsAlphanumeric(text.back())) return false;
  return std::ranges::all_of(
      text, [](char c) { return IsAlphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

}  // namespace sublet
