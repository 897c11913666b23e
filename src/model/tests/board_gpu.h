// model/tests/board_gpu.h
//
// A GPU as a board of the catalogue would report itself, and what is on it as a test wants it.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "model/board.h"
#include "model/inventory.h"
#include "model/mig_target.h"

namespace sublet {

inline Gpu GpuOfBoard(const Board& board) {
  Gpu gpu;
  gpu.uuid = "GPU-of-" + board.name;
  gpu.product = board.product;
  gpu.board = board.name;
  gpu.mig_capable = board.HasMig();
  gpu.pci_device_id = board.pci_ids.empty() ? 0 : (board.pci_ids[0] << 16 | 0x10DE);
  for (const MigProfile& row : board.profiles) {
    ReportedProfile profile;
    profile.name = row.name;
    profile.id = row.id;
    profile.compute_slices = row.compute_slices;
    profile.max_instances = row.max_instances;
    profile.memory = row.memory;
    profile.engines = row.engines;
    for (const int start : row.starts) profile.placements.push_back({start, row.size});
    gpu.profiles.push_back(std::move(profile));
  }
  std::ranges::sort(gpu.profiles, {}, &ReportedProfile::id);
  return gpu;
}

inline Gpu GpuOfBoard(const std::string& name) {
  return GpuOfBoard(**BuiltInBoards().Find(name));
}

// Puts the seats, which must be resolved, on the GPU, with ids from 1 on in their order.
inline void SetInstances(const std::vector<MigSeat>& seats, Gpu& gpu) {
  gpu.mig_enabled = gpu.mig_pending = true;
  gpu.instances.clear();
  for (const MigSeat& seat : seats) {
    GpuInstance instance;
    instance.id = static_cast<int>(gpu.instances.size()) + 1;
    instance.profile_id = seat.profile_id;
    instance.profile = seat.profile;
    instance.placement = {seat.start, seat.size};
    const int whole = gpu.FindProfile(seat.profile_id)->compute_slices;
    for (const int slices : seat.compute_slices.value_or(std::vector<int>{whole})) {
      ComputeInstance compute;
      compute.id = static_cast<int>(instance.compute_instances.size());
      compute.placement.size = slices;
      instance.compute_instances.push_back(compute);
    }
    gpu.instances.push_back(std::move(instance));
  }
  std::ranges::sort(gpu.instances, {}, [](const GpuInstance& one) { return one.placement.start; });
}

}  // namespace sublet
