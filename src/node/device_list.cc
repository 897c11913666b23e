#include "node/device_list.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

namespace sublet {
namespace {

Bytes WholeMib(Bytes bytes) {
  return Bytes::FromMib(std::max<std::int64_t>(bytes.mib(), 0));
}

// What all processes of the GPU are known to hold.
Bytes KnownMemory(const Gpu& gpu) {
  Bytes sum;
  for (const GpuProcess& process : gpu.processes) sum += process.memory.value_or(Bytes{});
  return sum;
}

Bytes ReserveOf(const Gpu& gpu) {
  if (gpu.memory_reserved) return *gpu.memory_reserved;
  // The used memory has the reserve in it, then.
  const bool all_known = std::ranges::all_of(
      gpu.processes, [](const GpuProcess& process) { return process.memory.has_value(); });
  return all_known ? std::max(Bytes{}, gpu.memory_used - KnownMemory(gpu)) : Bytes{};
}

// The first process of unknown memory is taken to hold all that nobody else is known to hold.
std::vector<ForeignProcess> WithMemory(std::vector<ForeignProcess> foreign, const Gpu& gpu) {
  const Bytes unknown =
      gpu.memory_used - KnownMemory(gpu) - (gpu.memory_reserved ? Bytes{} : ReserveOf(gpu));
  bool given = false;
  for (ForeignProcess& process : foreign) {
    if (process.memory) continue;
    process.memory = given ? Bytes{} : std::max(Bytes{}, unknown);
    given = true;
  }
  return foreign;
}

std::set<SharingMode> ModesOf(const Inventory& inventory, const Gpu& gpu) {
  std::set<SharingMode> modes;
  for (const ModeCheck& check : inventory.modes) {
    if (std::ranges::find(check.gpus, gpu.index) != check.gpus.end()) modes.insert(check.mode);
  }
  modes.erase(SharingMode::kStreams);  // Streams share one process, not a device among several.
  modes.erase(SharingMode::kMig);      // A whole GPU without MIG mode is no MIG device.
  return modes;
}

bool Overlap(const Placement& a, const Placement& b) {
  return a.start < b.start + b.size && b.start < a.start + a.size;
}

// Where instances of a GPU are, and could be.
class Layout {
 public:
  explicit Layout(const Gpu& gpu) : gpu_(gpu) {
    for (const ReportedProfile& profile : gpu.profiles) {
      slices_ = std::max(slices_, profile.compute_slices);
    }
    for (const GpuInstance& instance : gpu.instances) {
      taken_.push_back(instance.placement);
      // An instance whose place isn't told leaves no place that is known to be free.
      known_ = known_ && instance.placement.size > 0;
      const ReportedProfile* const profile = gpu.FindProfile(instance.profile_id);
      if (profile != nullptr) slices_ -= profile->compute_slices;
      if (profile == nullptr) known_ = false;
    }
  }

  std::vector<Placement> RoomFor(const ReportedProfile& profile) const {
    const auto there = std::ranges::count(gpu_.instances, profile.id, &GpuInstance::profile_id);
    if (!known_ || profile.compute_slices > slices_ || there >= profile.max_instances) return {};
    std::vector<Placement> room;
    for (const Placement& place : profile.placements) {
      if (IsFree(place)) room.push_back(place);
    }
    std::ranges::stable_sort(room, [&](const Placement& a, const Placement& b) {
      return LeftBeside(a) > LeftBeside(b);
    });
    return room;
  }

 private:
  bool IsFree(const Placement& place) const {
    return std::ranges::none_of(taken_, [&](const auto& other) { return Overlap(place, other); });
  }

  // Places that would still be free, of all profiles.
  int LeftBeside(const Placement& place) const {
    int left = 0;
    for (const ReportedProfile& profile : gpu_.profiles) {
      for (const Placement& other : profile.placements) {
        if (IsFree(other) && !Overlap(place, other)) ++left;
      }
    }
    return left;
  }

  const Gpu& gpu_;
  std::vector<Placement> taken_;
  int slices_ = 0;  // Compute slices that no instance has.
  bool known_ = true;
};

std::vector<MigOffer> OffersOf(const Gpu& gpu) {
  const Layout layout(gpu);
  std::vector<MigOffer> offers;
  for (const ReportedProfile& profile : gpu.profiles) {
    MigOffer offer;
    offer.profile = profile.name;
    offer.memory = WholeMib(profile.memory);
    offer.sm_count = profile.sm_count;
    for (const Placement& place : layout.RoomFor(profile)) {
      MigSeat seat;
      seat.profile = profile.name;
      seat.profile_id = profile.id;
      seat.start = place.start;
      seat.size = place.size;
      offer.seats.push_back(std::move(seat));
    }
    offers.push_back(std::move(offer));
  }
  std::ranges::stable_sort(offers, {}, [](const MigOffer& offer) {
    return std::tuple(offer.memory, offer.sm_count, std::string_view(offer.profile));
  });
  return offers;
}

// The foreign processes of a compute instance; those whose instance isn't told count everywhere.
std::vector<ForeignProcess> ForeignIn(const std::vector<ForeignProcess>& foreign, const Gpu& gpu,
                                      int gpu_instance, int compute_instance) {
  std::vector<ForeignProcess> inside;
  for (const ForeignProcess& process : foreign) {
    bool elsewhere = false;
    for (const GpuProcess& seen : gpu.processes) {
      if (seen.pid != process.pid) continue;
      elsewhere = seen.gpu_instance.value_or(gpu_instance) != gpu_instance ||
                  seen.compute_instance.value_or(compute_instance) != compute_instance;
      if (!elsewhere) break;
    }
    if (!elsewhere) inside.push_back(process);
  }
  return inside;
}

void AddMigDevices(const Gpu& gpu, const Device& whole, std::set<SharingMode> modes,
                   std::vector<Device>& devices) {
  modes.insert(SharingMode::kMig);
  for (const GpuInstance& instance : gpu.instances) {
    const ReportedProfile* const profile = gpu.FindProfile(instance.profile_id);
    if (profile == nullptr) continue;
    // The compute instances of one GPU instance share its memory: each counts with its part.
    int slices = 0;
    for (const ComputeInstance& compute : instance.compute_instances) {
      slices += std::max(1, compute.placement.size);
    }
    for (const ComputeInstance& compute : instance.compute_instances) {
      if (compute.uuid.empty()) continue;
      const std::int64_t part = std::max(1, compute.placement.size);
      Device device;
      device.gpu_uuid = gpu.uuid;
      device.mig_uuid = compute.uuid;
      device.gpu_index = gpu.index;
      device.profile = instance.profile.empty() ? profile->name : instance.profile;
      device.memory = WholeMib(Bytes{profile->memory.count * part / slices});
      device.sm_count = static_cast<int>(profile->sm_count * part / slices);
      device.gpu_sm_count = whole.gpu_sm_count;
      device.modes = modes;
      device.obstacle = whole.obstacle;
      device.foreign = ForeignIn(whole.foreign, gpu, instance.id, compute.id);
      devices.push_back(std::move(device));
    }
  }
}

}  // namespace

std::vector<Device> DevicesOf(const Inventory& inventory,
                              const std::map<std::string, std::vector<ForeignProcess>>& foreign,
                              const std::map<std::string, std::string>& obstacles) {
  std::vector<Device> devices;
  for (const Gpu& gpu : inventory.gpus) {
    Device whole;
    whole.gpu_uuid = gpu.uuid;
    whole.gpu_index = gpu.index;
    whole.memory = WholeMib(gpu.memory - ReserveOf(gpu));
    whole.sm_count = gpu.sm_count.value_or(0);
    whole.gpu_sm_count = whole.sm_count;
    const auto obstacle = obstacles.find(gpu.uuid);
    if (obstacle != obstacles.end()) whole.obstacle = obstacle->second;
    if (!gpu.problem.empty()) whole.obstacle = gpu.problem;
    if (const auto found = foreign.find(gpu.uuid); found != foreign.end()) {
      whole.foreign = WithMemory(found->second, gpu);
    }
    std::set<SharingMode> modes = ModesOf(inventory, gpu);
    whole.mig_mode = gpu.mig_enabled;
    if (!gpu.mig_enabled) {
      whole.modes = std::move(modes);
      devices.push_back(std::move(whole));
      continue;
    }
    if (inventory.host.admin || inventory.driver.simulated) whole.modes = {SharingMode::kMig};
    whole.offers = OffersOf(gpu);
    devices.push_back(whole);
    AddMigDevices(gpu, whole, std::move(modes), devices);
  }
  return devices;
}

}  // namespace sublet
