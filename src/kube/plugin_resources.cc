#include "kube/plugin_resources.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "kube/physical_devices.h"
#include "kube/share_fill.h"

namespace sublet {
namespace {

constexpr std::string_view kGpuResource = "nvidia.com/gpu";

// A device under the name that the MIG strategy gives it.
struct NamedDevice {
  const PhysicalDevice* physical = nullptr;
  std::string resource;
  SharingMode mode = SharingMode::kExclusive;
  std::string rename;  // Empty: as `resource`.
  int replicas = 1;
  bool fail_requests_greater_than_one = false;
};

// Puts together what AdvertiseNode() answers, one part of the configuration after the other.
class Advertiser {
 public:
  explicit Advertiser(const PluginResourcesInput& input)
      : input_(input), devices_(PhysicalDevicesOf(input.inventory, input.mig_nodes)) {}

  Result<AdvertisedNode> Run() {
    WarnOfGpus();
    RETURN_IF_ERROR(ClaimShares());
    RETURN_IF_ERROR(FillShares());
    RETURN_IF_ERROR(NameTheRest());
    RETURN_IF_ERROR(Replicate(input_.config.mps, SharingMode::kMps, "sharing.mps"));
    RETURN_IF_ERROR(
        Replicate(input_.config.time_slicing, SharingMode::kTimeSlicing, "sharing.timeSlicing"));
    for (const NamedDevice& named : named_) RETURN_IF_ERROR(Add(named));
    Finish();
    return std::move(node_);
  }

 private:
  void WarnOfGpus() {
    for (const Gpu& gpu : input_.inventory.gpus) {
      if (!gpu.uuid.empty()) continue;
      node_.warnings.push_back(fmt::format("GPU {} isn't advertised: {}", gpu.index,
                                           gpu.problem.empty() ? "it tells no UUID" : gpu.problem));
    }
  }

  // sublet.shares: which rules are about which device.
  Status ClaimShares() {
    for (const ShareRule& rule : input_.config.sublet.shares) {
      std::vector<const PhysicalDevice*> candidates;
      for (const PhysicalDevice& physical : devices_) {
        if (!physical.mig_mode && physical.device.profile == rule.profile) {
          candidates.push_back(&physical);
        }
      }
      const std::string what = fmt::format("sublet.shares, {}", rule.resource);
      ASSIGN_OR_RETURN(const std::vector<const PhysicalDevice*> chosen,
                       SelectDevices(rule.devices, candidates, what));
      if (chosen.empty()) {
        node_.warnings.push_back(fmt::format(
            "{}: the node has no {}", what,
            rule.profile.empty() ? "GPU outside MIG mode" : "MIG device " + rule.profile));
      }
      for (const PhysicalDevice* physical : chosen) {
        RETURN_IF_ERROR(Claim(*physical, rule));
      }
    }
    return {};
  }

  Status Claim(const PhysicalDevice& physical, const ShareRule& rule) {
    std::vector<const ShareRule*>& rules = claims_[&physical];
    for (const ShareRule* other : rules) {
      if (other->mode != rule.mode || rule.mode != SharingMode::kMps) {
        return Fail(ErrorCode::kInvalid,
                    fmt::format("sublet.shares: contradictory modes for {}: {} ({}) and {} ({})",
                                physical.Describe(), other->resource, SharingModeName(other->mode),
                                rule.resource, SharingModeName(rule.mode)),
                    "only sizes of mode mps go together on a device");
      }
      if (other->resource == rule.resource) {
        return Fail(ErrorCode::kInvalid, fmt::format("sublet.shares: two rules for {} on {}",
                                                     rule.resource, physical.Describe()));
      }
    }
    rules.push_back(&rule);
    return {};
  }

  Status FillShares() {
    for (const PhysicalDevice& physical : devices_) {
      const auto claim = claims_.find(&physical);
      if (claim == claims_.end()) continue;
      const std::vector<const ShareRule*>& rules = claim->second;
      ASSIGN_OR_RETURN(const ShareFill fill, FillDevice(physical, rules, input_.plan));
      node_.warnings.insert(node_.warnings.end(), fill.warnings.begin(), fill.warnings.end());
      for (std::size_t i = 0; i < rules.size(); ++i) {
        if (fill.counts[i] == 0) continue;
        ASSIGN_OR_RETURN(AdvertisedResource* const resource,
                         ResourceFor(rules[i]->resource, rules[i]->mode, true));
        resource->fail_requests_greater_than_one |= rules[i]->fail_requests_greater_than_one;
        AdvertisedDevice device = physical.device;
        device.mode = rules[i]->mode;
        device.replicas = fill.counts[i];
        device.size = fill.sizes[i];
        resource->devices.push_back(std::move(device));
      }
    }
    return {};
  }

  bool IsClaimed(const PhysicalDevice& physical) const { return claims_.contains(&physical); }

  // A GPU of whose MIG devices a share has claimed one is itself nothing to hand out.
  bool IsCutAndClaimed(const PhysicalDevice& whole) const {
    return std::ranges::any_of(claims_, [&](const auto& claim) {
      return claim.first->device.gpu_uuid == whole.device.gpu_uuid;
    });
  }

  // What no share has claimed, as the MIG strategy names it.
  Status NameTheRest() {
    const MigStrategy strategy = input_.config.flags.mig_strategy;
    if (strategy != MigStrategy::kNone) RETURN_IF_ERROR(CheckStrategy(strategy));
    for (const PhysicalDevice& physical : devices_) {
      if (IsClaimed(physical)) continue;
      const bool mig = physical.device.IsMig();
      if (strategy == MigStrategy::kNone) {
        if (mig || IsCutAndClaimed(physical)) continue;
        if (physical.mig_mode) {
          node_.warnings.push_back(
              fmt::format("{} is in MIG mode and advertised as a whole GPU: migStrategy is none",
                          physical.Describe()));
        }
      } else if (physical.mig_mode) {
        continue;
      }
      std::string resource(kGpuResource);
      if (mig && strategy == MigStrategy::kMixed) {
        ASSIGN_OR_RETURN(resource, FullResourceName(MigResourceName(physical.device.profile)));
      }
      named_.push_back({.physical = &physical, .resource = std::move(resource), .rename = {}});
    }
    return {};
  }

  // NVIDIA's conditions for strategy single, and its warning under mixed.
  Status CheckStrategy(MigStrategy strategy) {
    const PhysicalDevice* first = nullptr;
    const PhysicalDevice* whole = nullptr;
    for (const PhysicalDevice& physical : devices_) {
      if (physical.mig_mode) {
        RETURN_IF_ERROR(CheckNotEmpty(physical, strategy));
      } else if (IsClaimed(physical)) {
        continue;
      } else if (!physical.device.IsMig()) {
        whole = &physical;
      } else if (first == nullptr) {
        first = &physical;
      } else if (strategy == MigStrategy::kSingle && !SameType(*first, physical)) {
        return Fail(ErrorCode::kConflict,
                    fmt::format("invalid MIG configuration: more than one MIG device type present "
                                "on node: {}, {}",
                                first->Describe(), physical.Describe()),
                    "use --mig-strategy=mixed");
      }
    }
    if (strategy == MigStrategy::kSingle && whole != nullptr && first != nullptr) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("all devices on the node must be configured with the same migEnabled "
                              "value: {}, {}",
                              whole->Describe(), first->Describe()),
                  "use --mig-strategy=mixed");
    }
    return {};
  }

  Status CheckNotEmpty(const PhysicalDevice& gpu, MigStrategy strategy) {
    const bool empty = std::ranges::none_of(devices_, [&](const PhysicalDevice& other) {
      return other.device.IsMig() && other.device.gpu_uuid == gpu.device.gpu_uuid;
    });
    if (!empty) return {};
    if (strategy == MigStrategy::kSingle) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("invalid MIG configuration: at least one device with "
                              "migEnabled=true was not configured correctly: {} has no MIG device",
                              gpu.Describe()),
                  "create MIG devices on it: sublet mig apply");
    }
    node_.warnings.push_back(fmt::format(
        "{} isn't advertised: it is in MIG mode and has no MIG device", gpu.Describe()));
    return {};
  }

  static bool SameType(const PhysicalDevice& a, const PhysicalDevice& b) {
    const auto type = [](const PhysicalDevice& mig) {
      return std::tuple(mig.instance_profile_id, mig.compute_slices, mig.device.memory,
                        std::string_view(mig.device.profile));
    };
    return type(a) == type(b);
  }

  // sharing.mps and sharing.timeSlicing.
  Status Replicate(const std::optional<ReplicatedResources>& shared, SharingMode mode,
                   std::string_view section) {
    if (!shared) return {};
    for (const ReplicatedResource& rule : shared->resources) {
      std::vector<const PhysicalDevice*> candidates;
      for (const NamedDevice& named : named_) {
        if (named.resource == rule.name) candidates.push_back(named.physical);
      }
      // As NVIDIA's plugin has it: one file may serve nodes of several kinds.
      if (candidates.empty()) {
        node_.warnings.push_back(fmt::format("{}: the node has no {}", section, rule.name));
        continue;
      }
      const std::string what = fmt::format("{}, {}", section, rule.name);
      ASSIGN_OR_RETURN(const std::vector<const PhysicalDevice*> chosen,
                       SelectDevices(rule.devices, candidates, what));
      for (NamedDevice& named : named_) {
        if (std::ranges::find(chosen, named.physical) == chosen.end()) continue;
        RETURN_IF_ERROR(Share(named, rule, *shared, mode, what));
      }
    }
    return {};
  }

  static Status Share(NamedDevice& named, const ReplicatedResource& rule,
                      const ReplicatedResources& shared, SharingMode mode, std::string_view what) {
    const PhysicalDevice& physical = *named.physical;
    if (named.mode != SharingMode::kExclusive) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("{}: {} is shared by another rule already, in mode {}", what,
                              physical.Describe(), SharingModeName(named.mode)),
                  "give each rule devices of its own");
    }
    if (mode == SharingMode::kMps && physical.device.IsMig()) {
      return Fail(
          ErrorCode::kUnsupported,
          fmt::format("{}: sharing.mps doesn't share MIG devices: {}", what, physical.Describe()),
          "sublet.shares does: {mode: mps, profile: ...}");
    }
    if (mode == SharingMode::kMps && physical.mig_mode) {
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("{}: {} is in MIG mode", what, physical.Describe()));
    }
    if (mode == SharingMode::kMps && rule.replicas > physical.mps_clients_max) {
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("{}: {}: {} replicas, but an MPS server takes {} clients", what,
                              physical.Describe(), rule.replicas, physical.mps_clients_max));
    }
    if (mode == SharingMode::kMps &&
        EqualPart(physical.device.memory, rule.replicas).memory < 1_MiB) {
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("{}: {} tells no memory to divide", what, physical.Describe()));
    }
    named.mode = mode;
    named.rename = rule.rename;
    named.replicas = rule.replicas;
    named.fail_requests_greater_than_one = shared.fail_requests_greater_than_one;
    return {};
  }

  Status Add(const NamedDevice& named) {
    const std::string& name = named.rename.empty() ? named.resource : named.rename;
    ASSIGN_OR_RETURN(AdvertisedResource* const resource, ResourceFor(name, named.mode, false));
    resource->fail_requests_greater_than_one |= named.fail_requests_greater_than_one;
    AdvertisedDevice device = named.physical->device;
    device.mode = named.mode;
    device.replicas = named.replicas;
    if (named.mode == SharingMode::kMps) device.size = EqualPart(device.memory, device.replicas);
    resource->devices.push_back(std::move(device));
    return {};
  }

  // The resource of that name. Whole devices may stand beside shared ones, as NVIDIA's plugin has
  // it where a rule names some of a resource's devices; two ways of sharing may not.
  Result<AdvertisedResource*> ResourceFor(const std::string& name, SharingMode mode, bool sized) {
    const auto [found, is_new] = by_name_.try_emplace(name);
    AdvertisedResource& resource = found->second;
    if (is_new) {
      resource.name = name;
      resource.mode = mode;
      resource.sized = sized && mode == SharingMode::kMps;
      return &resource;
    }
    const bool sizes_apart = resource.sized == (sized && mode == SharingMode::kMps);
    const bool one_is_whole =
        mode == SharingMode::kExclusive || resource.mode == SharingMode::kExclusive;
    if (!sizes_apart || (mode != resource.mode && !one_is_whole)) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("contradictory modes: {} would have devices of mode {} and of {}",
                              name, SharingModeName(resource.mode), SharingModeName(mode)),
                  "give one of the two another name");
    }
    if (mode != SharingMode::kExclusive) resource.mode = mode;
    return &resource;
  }

  void Finish() {
    for (auto& [name, resource] : by_name_) {
      std::ranges::stable_sort(resource.devices, {},
                               [this](const AdvertisedDevice& device) { return PlaceOf(device); });
      AppendReplicas(resource);
      node_.resources.push_back(std::move(resource));
    }
  }

  std::size_t PlaceOf(const AdvertisedDevice& device) const {
    const auto place = std::ranges::find_if(devices_, [&](const PhysicalDevice& physical) {
      return physical.device.uuid == device.uuid;
    });
    return static_cast<std::size_t>(place - devices_.begin());
  }

  static void AppendReplicas(AdvertisedResource& resource) {
    for (std::size_t i = 0; i < resource.devices.size(); ++i) {
      const AdvertisedDevice& device = resource.devices[i];
      if (device.mode == SharingMode::kExclusive) {
        resource.replicas.push_back({device.uuid, i});
        continue;
      }
      for (int n = 0; n < device.replicas; ++n) {
        resource.replicas.push_back({fmt::format("{}::{}", device.uuid, n), i});
      }
    }
  }

  const PluginResourcesInput& input_;
  const std::vector<PhysicalDevice> devices_;
  // Only looked up, and ordered where its order shows: FillShares() goes by devices_.
  std::map<const PhysicalDevice*, std::vector<const ShareRule*>> claims_;
  std::vector<NamedDevice> named_;
  std::map<std::string, AdvertisedResource> by_name_;
  AdvertisedNode node_;
};

}  // namespace

const AdvertisedResource* AdvertisedNode::Find(std::string_view name) const {
  const auto found = std::ranges::find(resources, name, &AdvertisedResource::name);
  return found == resources.end() ? nullptr : &*found;
}

Result<AdvertisedNode> AdvertiseNode(const PluginResourcesInput& input) {
  return Advertiser(input).Run();
}

std::string_view PhysicalId(std::string_view replica_id) {
  return replica_id.substr(0, replica_id.find("::"));
}

ReplicaIndex::ReplicaIndex(const AdvertisedResource& resource) : resource_(&resource) {
  by_id_.reserve(resource.replicas.size());
  for (const AdvertisedReplica& replica : resource.replicas) {
    CHECK(by_id_.emplace(replica.id, &replica).second);
  }
}

const AdvertisedReplica* ReplicaIndex::Find(std::string_view id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

}  // namespace sublet
