#include "guard/copy_traffic.h"

#include <atomic>

#include "guard/real_symbols.h"

namespace sublet::guard {
namespace {

// Of cuPointerGetAttribute, and CUmemorytype.
constexpr int kMemoryTypeAttribute = 2;
constexpr unsigned kHost = 1;
constexpr unsigned kUnified = 4;

std::atomic<AnyFunction> pointer_attribute{nullptr};

// The driver knows its own memory, and nothing of memory that was never shown to it.
bool IsHost(DeviceAddress address) {
  using PointerAttribute = int (*)(void*, int, DeviceAddress);
  const auto ask = reinterpret_cast<PointerAttribute>(
      DriverFunction(pointer_attribute, "cuPointerGetAttribute"));
  unsigned type = 0;
  if (ask == nullptr || ask(&type, kMemoryTypeAttribute, address) != 0) return true;
  return type == kHost;
}

template <typename Side>
bool SideIsHost(const Side& side) {
  return side.memory_type == kUnified ? IsHost(side.device) : side.memory_type == kHost;
}

Traffic Directed(bool to_host, bool from_host, std::size_t bytes) {
  if (to_host == from_host) return {};
  return to_host ? Traffic{0, bytes} : Traffic{bytes, 0};
}

}  // namespace

Traffic TrafficBetween(DeviceAddress destination, DeviceAddress source, std::size_t bytes) {
  return Directed(IsHost(destination), IsHost(source), bytes);
}

Traffic TrafficOf(const Copy2D* copy) {
  if (copy == nullptr) return {};
  return Directed(SideIsHost(copy->destination), SideIsHost(copy->source),
                  copy->width_bytes * copy->height);
}

Traffic TrafficOf(const Copy3D* copy) {
  if (copy == nullptr) return {};
  return Directed(SideIsHost(copy->destination), SideIsHost(copy->source),
                  copy->width_bytes * copy->height * copy->depth);
}

Traffic TrafficOfBatch(const DeviceAddress* destinations, const DeviceAddress* sources,
                       const std::size_t* sizes, std::size_t count) {
  if (destinations == nullptr || sources == nullptr || sizes == nullptr || count == 0) return {};
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < count; ++i) bytes += sizes[i];
  return TrafficBetween(destinations[0], sources[0], bytes);
}

}  // namespace sublet::guard
