#include "mig_rules.h"

#include <algorithm>
#include <array>

namespace sublet::sim {
namespace {

bool Overlap(const Placement& a, const Placement& b) {
  return a.start < b.start + b.size && b.start < a.start + a.size;
}

bool IsFree(const GpuState& state, const Placement& placement) {
  return std::ranges::none_of(state.instances, [&](const GpuInstance& instance) {
    return Overlap(instance.placement, placement);
  });
}

// Rule 2.
bool WithinCounts(const SimGpu& gpu, const GpuState& state, const ReportedProfile& wanted) {
  EngineCounts sum = wanted.engines;
  int of_profile = 1;
  for (const GpuInstance& instance : state.instances) {
    const ReportedProfile* profile = gpu.facts.FindProfile(instance.profile_id);
    if (profile == nullptr) continue;
    if (profile->id == wanted.id) ++of_profile;
    sum.decoder += profile->engines.decoder;
    sum.encoder += profile->engines.encoder;
    sum.jpeg += profile->engines.jpeg;
    sum.ofa += profile->engines.ofa;
  }
  return of_profile <= wanted.max_instances && sum.decoder <= gpu.engines.decoder &&
         sum.encoder <= gpu.engines.encoder && sum.jpeg <= gpu.engines.jpeg &&
         sum.ofa <= gpu.engines.ofa;
}

int SmallestSize(const SimGpu& gpu) {
  int smallest = gpu.memory_units;
  for (const ReportedProfile& profile : gpu.facts.profiles) {
    for (const Placement& placement : profile.placements) {
      smallest = std::min(smallest, placement.size);
    }
  }
  return smallest;
}

// Rule 4.
int NextId(const SimGpu& gpu, const GpuState& state, const Placement& placement) {
  const int parts = std::max(gpu.memory_units / placement.size, 1);
  if (placement.size == SmallestSize(gpu) && parts > 1) {
    return parts - 1 + placement.start / placement.size;
  }
  int id = parts - 1;
  while (std::ranges::find(state.instances, id, &GpuInstance::id) != state.instances.end()) ++id;
  return id;
}

}  // namespace

nvml::Return CreateInstance(const SimGpu& gpu, GpuState& state, const ReportedProfile& profile,
                            std::optional<int> start, int& id) {
  if (!WithinCounts(gpu, state, profile)) return nvml::kInsufficientResources;
  const Placement* chosen = nullptr;
  bool known_start = !start;
  for (const Placement& placement : profile.placements) {  // Ascending, so the last is the highest.
    if (start && placement.start != *start) continue;
    known_start = true;
    if (IsFree(state, placement)) chosen = &placement;
  }
  if (!known_start) return nvml::kInvalidArgument;
  if (chosen == nullptr) return nvml::kInsufficientResources;
  GpuInstance instance;
  instance.id = id = NextId(gpu, state, *chosen);
  instance.profile_id = profile.id;
  instance.profile = profile.name;
  instance.placement = *chosen;
  state.instances.push_back(std::move(instance));
  return nvml::kSuccess;
}

int RemainingInstances(const SimGpu& gpu, const GpuState& state, const ReportedProfile& profile) {
  GpuState trial = state;
  int id = 0;
  int count = 0;
  while (CreateInstance(gpu, trial, profile, std::nullopt, id) == nvml::kSuccess) ++count;
  return count;
}

std::optional<int> ComputeProfileOf(int slices) {
  constexpr std::array<int, 9> kProfiles{-1, 0, 1, 2, 3, -1, 6, 4, 5};
  if (slices < 1 || slices >= static_cast<int>(kProfiles.size())) return std::nullopt;
  const int profile = kProfiles[static_cast<std::size_t>(slices)];
  return profile < 0 ? std::nullopt : std::optional(profile);
}

std::optional<int> SlicesOfComputeProfile(int profile_id, int parent_slices) {
  for (int slices = 1; slices <= parent_slices; ++slices) {
    // Drivers offer 1, 2 and 4 of four slices, and 1, 2, 3, 4 and 7 of seven.
    if ((slices == 3 && parent_slices == 4) || (slices == 6 && parent_slices == 7)) continue;
    if (ComputeProfileOf(slices) == profile_id) return slices;
  }
  return std::nullopt;
}

nvml::Return CreateComputeInstance(GpuInstance& parent, int parent_slices, int profile_id,
                                   std::optional<Placement> placement, int& id) {
  const std::optional<int> slices = SlicesOfComputeProfile(profile_id, parent_slices);
  if (!slices) return nvml::kNotSupported;
  if (placement && (placement->size != *slices || placement->start < 0 ||
                    placement->start + *slices > parent_slices)) {
    return nvml::kInvalidArgument;
  }
  const auto is_free = [&](const Placement& wanted) {
    return std::ranges::none_of(parent.compute_instances, [&](const ComputeInstance& instance) {
      return Overlap(instance.placement, wanted);
    });
  };
  std::optional<Placement> chosen;
  for (int start = 0; start + *slices <= parent_slices && !chosen; ++start) {
    const Placement candidate{start, *slices};
    if ((!placement || *placement == candidate) && is_free(candidate)) chosen = candidate;
  }
  if (!chosen) return nvml::kInsufficientResources;
  ComputeInstance instance;
  while (std::ranges::find(parent.compute_instances, instance.id, &ComputeInstance::id) !=
         parent.compute_instances.end()) {
    ++instance.id;
  }
  id = instance.id;
  instance.profile_id = profile_id;
  instance.placement = *chosen;
  parent.compute_instances.push_back(std::move(instance));
  std::ranges::sort(parent.compute_instances, {}, &ComputeInstance::id);
  return nvml::kSuccess;
}

int RemainingComputeInstances(const GpuInstance& parent, int parent_slices, int profile_id) {
  GpuInstance trial = parent;
  int id = 0;
  int count = 0;
  while (CreateComputeInstance(trial, parent_slices, profile_id, std::nullopt, id) ==
         nvml::kSuccess) {
    ++count;
  }
  return count;
}

}  // namespace sublet::sim
