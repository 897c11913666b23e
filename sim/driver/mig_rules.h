// sim/driver/mig_rules.h
//
// What a driver allows to be made of a GPU in MIG mode, and how it numbers it. Pure.
//
// Rules, as observed on A100, A30 and H100 drivers:
//  1. Instances may not overlap in memory units; a profile begins only where its placements say.
//  2. No more instances of a profile than its max_instances; no more media engines (decoder,
//     encoder, JPEG, OFA) in all than the GPU has.
//  3. Without an asked placement, the driver takes the highest start that is free. So the order of
//     creation matters: 1g, 1g, 2g, 3g fails on an empty seven-slice GPU, 3g first works.
//  4. Ids: an instance of 1/n of the memory units gets one of the n ids from n-1 on: the whole GPU
//     0, halves 1..2, quarters 3..6, eighths 7..14. The smallest instances get n-1+start/size, all
//     others the lowest that is free.
//
// Thread safety: no shared state.
#pragma once

#include <optional>

#include "inventory/nvml_api.h"
#include "sim_node.h"
#include "sim_state.h"

namespace sublet::sim {

// Makes a GPU instance with `profile`, at `start` where given; kInvalidArgument for a start that
// the profile doesn't have, kInsufficientResources where rules 1 or 2 forbid it.
nvml::Return CreateInstance(const SimGpu& gpu, GpuState& state, const ReportedProfile& profile,
                            std::optional<int> start, int& id);

// How many more instances of `profile` fit.
int RemainingInstances(const SimGpu& gpu, const GpuState& state, const ReportedProfile& profile);

// NVML's enum of compute instance profiles for a number of slices; it is the profile's id, too.
std::optional<int> ComputeProfileOf(int slices);
// Slices of an id; absent where no such profile exists for an instance of `parent` slices.
std::optional<int> SlicesOfComputeProfile(int profile_id, int parent_slices);

nvml::Return CreateComputeInstance(GpuInstance& parent, int parent_slices, int profile_id,
                                   std::optional<Placement> placement, int& id);
int RemainingComputeInstances(const GpuInstance& parent, int parent_slices, int profile_id);

}  // namespace sublet::sim
