#include "render/needs.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"

namespace sublet {
namespace {

// Who can express what. Columns in the order of Target.
struct Ability {
  NeedKind kind;
  bool device_plugin, mig, kubernetes, dra, linux, compose;
};

constexpr bool kYes = true;
constexpr bool kNo = false;

// NVIDIA's plugin splits each GPU of a node into the same number of equal parts, hands MIG devices
// out without MPS, and gives a pod any free part: it takes one number a resource and node, and runs
// one MPS daemon a resource. The DRA driver runs one MPS daemon a claim. Nothing but MPS limits a
// process within a GPU or MIG instance.
constexpr Ability kAbilities[] = {
    // kind                            plugin  mig  k8s    dra   linux compose
    {NeedKind::kSeveralServers, kNo, kYes, kNo, kNo, kYes, kYes},
    {NeedKind::kMpsInMig, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kMpsBesideMig, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kModesDiffer, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kReplicaCountsDiffer, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kUnequalShares, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kMoreThanEqualPart, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kSingleMpsClient, kNo, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kWhoSharesWithWhom, kYes, kYes, kNo, kYes, kYes, kYes},
    {NeedKind::kLimitsWithoutMps, kNo, kYes, kNo, kNo, kNo, kNo},
    {NeedKind::kImage, kYes, kYes, kNo, kNo, kYes, kNo},
    {NeedKind::kCommand, kYes, kYes, kYes, kYes, kNo, kYes},
    {NeedKind::kGpuIndex, kYes, kNo, kYes, kYes, kYes, kYes},
};

// Collects needs, one of a kind for each place.
class Finder {
 public:
  void Add(NeedKind kind, const std::string& place, std::string what) {
    if (seen_.insert({kind, place}).second) needs_.push_back({kind, std::move(what)});
  }
  std::vector<Need> Take() { return std::move(needs_); }

 private:
  std::set<std::pair<NeedKind, std::string>> seen_;
  std::vector<Need> needs_;
};

std::string NodeText(const NodeGroup& group) {
  return group.node.empty() ? std::string("one node") : "node " + group.node;
}

std::string LimitText(const PlannedReplica& replica) {
  std::vector<std::string> parts;
  if (replica.memory_limit) parts.push_back(FormatBytes(*replica.memory_limit));
  if (replica.sm_percent) parts.push_back(fmt::format("{} % of the SMs", *replica.sm_percent));
  return parts.empty() ? "none" : fmt::format("{}", fmt::join(parts, " and "));
}

void FindUnequalShares(const PlannedPartition& partition, Finder& find) {
  const PlannedReplica& first = partition.replicas.front();
  for (const PlannedReplica& replica : partition.replicas) {
    if (MpsMemoryLimit(replica) == MpsMemoryLimit(first) && replica.sm_percent == first.sm_percent)
      continue;
    find.Add(NeedKind::kUnequalShares, partition.name,
             fmt::format("unequal shares on {}: {} has limits of {}, {} of {}", partition.name,
                         first.id, LimitText(first), replica.id, LimitText(replica)));
  }
}

// The plugin's limits for each of n clients: the total in MiB / n, and 100 / n of the SMs, both
// rounded down; a client can lower its own, not raise it.
void FindMoreThanEqualPart(const PlannedGpu& gpu, const PlannedPartition& partition, Finder& find) {
  const auto count = static_cast<int>(partition.replicas.size());
  const std::int64_t memory_mib = gpu.memory.mib() / count;
  for (const PlannedReplica& replica : partition.replicas) {
    const int sm_percent = replica.sm_percent.value_or(100);
    const Bytes needed = MpsMemoryLimit(replica).value_or(replica.memory);
    if (sm_percent > 100 / count) {
      find.Add(
          NeedKind::kMoreThanEqualPart, partition.name,
          fmt::format("{} may use {} % of the SMs of {}, more than an equal part for {} clients "
                      "({} %)",
                      replica.id, sm_percent, partition.name, count, 100 / count));
    } else if (needed.mib_rounded_up() > memory_mib) {
      find.Add(NeedKind::kMoreThanEqualPart, partition.name,
               fmt::format("{} needs {} of {}, more than an equal part for {} clients ({} MiB)",
                           replica.id, FormatBytes(needed), partition.name, count, memory_mib));
    }
  }
}

void FindInMpsPartition(const PlannedGpu& gpu, const PlannedPartition& partition, Finder& find) {
  if (partition.servers.size() > 1) {
    std::vector<std::string> names;
    for (const PlannedServer& server : partition.servers) names.push_back(server.name);
    find.Add(NeedKind::kSeveralServers, partition.name,
             fmt::format("{} has {} MPS servers ({})", partition.name, names.size(),
                         fmt::join(names, ", ")));
  }
  if (gpu.mig) {
    find.Add(NeedKind::kMpsInMig, partition.name,
             fmt::format("MPS within the MIG instance {}", partition.name));
  }
  if (partition.replicas.size() == 1) {
    find.Add(
        NeedKind::kSingleMpsClient, partition.name,
        fmt::format("{} alone under MPS on {}", partition.replicas.front().id, partition.name));
  }
  FindUnequalShares(partition, find);
  if (!gpu.mig && partition.replicas.size() > 1) FindMoreThanEqualPart(gpu, partition, find);
}

// A limit that the partition's own size keeps needs nobody else.
void FindLimitsWithoutMps(const PlannedPartition& partition, Finder& find) {
  for (const PlannedReplica& replica : partition.replicas) {
    const std::optional<Bytes> limit = MpsMemoryLimit(replica);
    const bool alone = partition.replicas.size() == 1;
    if (limit && !(alone && *limit >= partition.memory)) {
      find.Add(NeedKind::kLimitsWithoutMps, partition.name,
               fmt::format("a memory limit for {} under {} on {}, which nothing enforces",
                           replica.id, SharingModeName(partition.mode), partition.name));
    } else if (replica.sm_percent.value_or(100) < 100) {
      find.Add(NeedKind::kLimitsWithoutMps, partition.name,
               fmt::format("a limit of SMs for {} under {} on {}, which nothing enforces",
                           replica.id, SharingModeName(partition.mode), partition.name));
    }
  }
}

// What the device plugin counts: one resource, the same number of clients on each device of a node.
struct ResourceUse {
  std::map<std::size_t, std::string> place_by_count;  // Clients on a device, and one such device.
  std::map<SharingMode, std::string> place_by_mode;
  std::set<std::string> workloads;
  int devices = 0;
  bool shared = false;
};

std::map<std::string, ResourceUse> UseOf(const NodeGroup& group) {
  std::map<std::string, ResourceUse> uses;
  for (const PlannedGpu* gpu : group.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      if (partition.replicas.empty()) continue;
      ResourceUse& use = uses[PluginResource(partition)];
      use.place_by_count.emplace(partition.replicas.size(), partition.name);
      use.place_by_mode.emplace(partition.mode, partition.name);
      ++use.devices;
      use.shared = use.shared || partition.replicas.size() > 1;
      for (const PlannedReplica& replica : partition.replicas) {
        use.workloads.insert(replica.workload);
      }
    }
  }
  return uses;
}

void FindInNode(const NodeGroup& group, std::size_t number, Finder& find) {
  const std::string place = fmt::format("node {}", number);
  for (const auto& [resource, use] : UseOf(group)) {
    const std::string key = place + resource;
    if (use.place_by_mode.size() > 1 && use.place_by_mode.contains(SharingMode::kMps)) {
      const auto other = std::find_if(use.place_by_mode.begin(), use.place_by_mode.end(),
                                      [](const auto& m) { return m.first != SharingMode::kMps; });
      find.Add(NeedKind::kModesDiffer, key,
               fmt::format("MPS on {} and {} on {} in {}", use.place_by_mode.at(SharingMode::kMps),
                           SharingModeName(other->first), other->second, NodeText(group)));
    }
    if (use.place_by_count.size() > 1) {
      const auto& [few, few_place] = *use.place_by_count.begin();
      const auto& [many, many_place] = *use.place_by_count.rbegin();
      find.Add(NeedKind::kReplicaCountsDiffer, key,
               fmt::format("different numbers of replicas for {} in {}: {} on {}, {} on {}",
                           resource, NodeText(group), few, few_place, many, many_place));
    }
    if (use.devices > 1 && use.shared && use.workloads.size() > 1) {
      find.Add(NeedKind::kWhoSharesWithWhom, key,
               fmt::format("which of {} share a device among {} of {}: the scheduler and the "
                           "device plugin may mix them otherwise",
                           fmt::join(use.workloads, ", "), use.devices, resource));
    }
  }
  const auto has = [&](bool mig, std::optional<SharingMode> mode) {
    return std::any_of(group.gpus.begin(), group.gpus.end(), [&](const PlannedGpu* gpu) {
      return gpu->mig == mig &&
             (!mode || std::any_of(gpu->partitions.begin(), gpu->partitions.end(),
                                   [&](const PlannedPartition& p) { return p.mode == *mode; }));
    });
  };
  if (has(true, std::nullopt) && has(false, SharingMode::kMps)) {
    find.Add(NeedKind::kMpsBesideMig, place,
             fmt::format("GPUs with MPS and GPUs with MIG in {}", NodeText(group)));
  }
}

std::string LayoutOf(const PlannedGpu& gpu) {
  std::vector<std::string> profiles;
  for (const PlannedPartition& partition : gpu.partitions) profiles.push_back(partition.profile);
  std::sort(profiles.begin(), profiles.end());
  return fmt::format("{}: {}", gpu.mig, fmt::join(profiles, " "));
}

void FindMissingIndex(const NodeGroup& group, Finder& find) {
  const auto missing = std::find_if(group.gpus.begin(), group.gpus.end(),
                                    [](const PlannedGpu* gpu) { return gpu->index < 0; });
  if (group.node.empty() || missing == group.gpus.end()) return;
  for (const PlannedGpu* gpu : group.gpus) {
    if (LayoutOf(*gpu) == LayoutOf(*group.gpus.front())) continue;
    find.Add(NeedKind::kGpuIndex, group.node,
             fmt::format("{} has GPUs with different MIG layouts, and {} has no index in the plan",
                         NodeText(group), (*missing)->name));
  }
}

// "an image for chat, code, search and 37 more workloads".
std::string MissingText(std::string_view thing, const std::set<std::string>& workloads) {
  constexpr std::size_t kNamedMax = 3;
  std::vector<std::string> named;
  for (const std::string& workload : workloads) {
    if (named.size() < kNamedMax) named.push_back(workload);
  }
  const std::size_t more = workloads.size() - named.size();
  return fmt::format("{} that the fleet file doesn't give for {}{}", thing, fmt::join(named, ", "),
                     more == 0 ? "" : fmt::format(" and {} more workloads", more));
}

void FindMissingPrograms(const Deployment& deployment, Finder& find) {
  std::set<std::string> without_image;
  std::set<std::string> without_command;
  for (const NodeGroup& group : deployment.groups) {
    for (const Seat& seat : group.seats) {
      if (seat.workload->image.empty()) without_image.insert(seat.workload->name);
      if (seat.workload->command.empty()) without_command.insert(seat.workload->name);
    }
  }
  if (!without_image.empty()) {
    find.Add(NeedKind::kImage, "", MissingText("an image", without_image));
  }
  if (!without_command.empty()) {
    find.Add(NeedKind::kCommand, "", MissingText("a command", without_command));
  }
}

}  // namespace

const std::vector<NeedKind>& AllNeedKinds() {
  static const std::vector<NeedKind> all = [] {
    std::vector<NeedKind> kinds;
    for (const Ability& ability : kAbilities) kinds.push_back(ability.kind);
    return kinds;
  }();
  return all;
}

std::vector<Need> FindNeeds(const Deployment& deployment) {
  Finder find;
  for (std::size_t i = 0; i < deployment.groups.size(); ++i) {
    const NodeGroup& group = deployment.groups[i];
    for (const PlannedGpu* gpu : group.gpus) {
      for (const PlannedPartition& partition : gpu->partitions) {
        if (partition.replicas.empty()) continue;
        if (partition.mode == SharingMode::kMps) {
          FindInMpsPartition(*gpu, partition, find);
        } else {
          FindLimitsWithoutMps(partition, find);
        }
      }
    }
    FindInNode(group, i, find);
    FindMissingIndex(group, find);
  }
  FindMissingPrograms(deployment, find);
  return find.Take();
}

bool CanExpress(Target target, NeedKind kind) {
  for (const Ability& ability : kAbilities) {
    if (ability.kind != kind) continue;
    switch (target) {
      case Target::kNvidiaDevicePlugin:
        return ability.device_plugin;
      case Target::kMig:
        return ability.mig;
      case Target::kKubernetes:
        return ability.kubernetes;
      case Target::kDra:
        return ability.dra;
      case Target::kLinux:
        return ability.linux;
      case Target::kCompose:
        return ability.compose;
    }
  }
  CHECK(false);
}

std::vector<Target> TargetsFor(const std::vector<Need>& needs) {
  std::vector<Target> able;
  for (const Target target : AllTargets()) {
    // The device plugin's files run nothing by themselves.
    const bool runs = target != Target::kMig && target != Target::kNvidiaDevicePlugin;
    if (runs && std::all_of(needs.begin(), needs.end(),
                            [&](const Need& need) { return CanExpress(target, need.kind); })) {
      able.push_back(target);
    }
  }
  return able;
}

}  // namespace sublet
