// guard/copy_traffic.h
//
// How many bytes a copy takes to the GPU and from it, told from its arguments.
//
// Functions that name no direction (cuMemcpy, the rectangles, batches) are asked for it: the driver
// says of each address whether it is the host's. A copy within the GPU is no traffic.
//
// Thread safety: any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "guard/counters.h"

namespace sublet::guard {

using DeviceAddress = unsigned long long;

// As the driver's header lays them out since CUDA 3.2; tests/cuda_header_test.cc compares.
struct CopySide2D {
  std::size_t x_bytes;
  std::size_t y;
  unsigned memory_type;
  const void* host;
  DeviceAddress device;
  void* array;
  std::size_t pitch;
};

struct Copy2D {
  CopySide2D source;
  CopySide2D destination;
  std::size_t width_bytes;
  std::size_t height;
};
static_assert(sizeof(Copy2D) == 128);

struct CopySide3D {
  std::size_t x_bytes;
  std::size_t y;
  std::size_t z;
  std::size_t level;
  unsigned memory_type;
  const void* host;
  DeviceAddress device;
  void* array;
  void* reserved;
  std::size_t pitch;
  std::size_t height;
};

struct Copy3D {
  CopySide3D source;
  CopySide3D destination;
  std::size_t width_bytes;
  std::size_t height;
  std::size_t depth;
};
static_assert(sizeof(Copy3D) == 200);

Traffic TrafficBetween(DeviceAddress destination, DeviceAddress source, std::size_t bytes);
Traffic TrafficOf(const Copy2D* copy);
Traffic TrafficOf(const Copy3D* copy);
// A batch is taken to go the way of its first copy.
Traffic TrafficOfBatch(const DeviceAddress* destinations, const DeviceAddress* sources,
                       const std::size_t* sizes, std::size_t count);

}  // namespace sublet::guard
