// kube/tests/sample_node.h
//
// Nodes as tests want them: GPUs of a board, cut by MIG, linked.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kube/plugin_resources.h"
#include "model/device_plugin_config.h"
#include "model/tests/board_gpu.h"

namespace sublet {

// "GPU-00000000-0000-0000-0000-000000000003"
inline std::string SampleUuid(int gpu) {
  return fmt::format("GPU-00000000-0000-0000-0000-{:012}", gpu);
}

// Of the MIG device with that number among those of the GPU, by place.
inline std::string SampleMigUuid(int gpu, int device) {
  return fmt::format("MIG-00000000-0000-0000-{:04}-{:012}", gpu, device);
}

inline Inventory SampleNode(const std::string& board, int gpus) {
  Inventory node;
  for (int i = 0; i < gpus; ++i) {
    Gpu gpu = GpuOfBoard(board);
    gpu.index = i;
    gpu.uuid = SampleUuid(i);
    gpu.minor_number = i;
    gpu.numa_node = i / 4;
    gpu.memory = (*BuiltInBoards().Find(board))->memory;
    gpu.compute_capability_major = 8;
    node.gpus.push_back(std::move(gpu));
  }
  return node;
}

// Cuts a GPU of the node into these profiles, each at a start.
inline void Cut(Inventory& node, int gpu, std::vector<MigSeat> seats) {
  Gpu& one = node.gpus[static_cast<std::size_t>(gpu)];
  const auto target =
      ResolveTarget(one, {.gpu_uuid = one.uuid, .mig = true, .instances = std::move(seats)});
  ASSERT_TRUE(target.has_value()) << target.error().message;
  SetInstances(target->instances, one);
  int device = 0;
  for (GpuInstance& instance : one.instances) {
    for (ComputeInstance& compute : instance.compute_instances) {
      compute.uuid = SampleMigUuid(gpu, device++);
    }
  }
}

inline std::vector<MigSeat> Smalls(const std::string& profile, std::vector<int> starts) {
  std::vector<MigSeat> seats;
  for (const int start : starts) seats.push_back({.profile = profile, .start = start});
  return seats;
}

inline DevicePluginConfig ConfigOf(const std::string& yaml) {
  Result<DevicePluginConfig> config = ParseDevicePluginConfig(yaml, "config.yaml");
  EXPECT_TRUE(config.has_value()) << config.error().message;
  return config.value_or(DevicePluginConfig());
}

inline AdvertisedNode Advertised(const Inventory& node, const DevicePluginConfig& config) {
  Result<AdvertisedNode> advertised = AdvertiseNode({.inventory = node, .config = config});
  EXPECT_TRUE(advertised.has_value()) << advertised.error().message;
  return advertised.value_or(AdvertisedNode());
}

}  // namespace sublet
