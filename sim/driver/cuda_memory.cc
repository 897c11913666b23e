// The memory of a simulated CUDA process: how much it has, and what is in it.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda_driver.h"
#include "process_rules.h"

namespace sublet::sim {

using cuda::Return;

namespace {

// From here on an allocation has pieces of its own.
constexpr std::size_t kSmallBytes = 1 << 20;
constexpr std::int64_t kAlignment = 256;

std::int64_t RoundUp(std::int64_t value, std::int64_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace

// All contexts of this process on a device, with what is allocated in them.
Bytes CudaDriver::MemoryOn(int device) const {
  Bytes sum;
  for (const auto& [handle, context] : contexts_) {
    if (context->device != device) continue;
    sum += context->context_memory;
    for (const auto& [pointer, allocation] : allocations_) {
      const bool own = allocation.context == context->index && allocation.bytes >= kSmallBytes;
      if (own) sum += {RoundUp(static_cast<std::int64_t>(allocation.bytes), kGranule)};
    }
    const auto small = small_bytes_.find(context->index);
    if (small != small_bytes_.end()) sum += {RoundUp(small->second, kGranule)};
  }
  return sum;
}

// Asks the node for `delta` more on the context's device (less, where it is negative), within the
// limit of its MPS server.
Return CudaDriver::ChangeMemory(const SimContext& context, Bytes delta, bool is_new) {
  const SimDevice& on = devices_[static_cast<std::size_t>(context.device)];
  const auto& limit = context.mps ? context.mps->memory_limit : std::nullopt;
  if (limit && delta.count > 0 && MemoryOn(context.device) + delta > *limit) {
    return cuda::kOutOfMemory;
  }
  ProcessState process;
  process.pid = pid_;
  process.started = process_->started;
  process.gpu = on.target.gpu;
  process.gpu_instance = on.target.gpu_instance;
  process.compute_instance = on.target.compute_instance;
  process.memory = delta;
  process.type = context.mps ? ProcessType::kMpsClient : ProcessType::kCompute;
  const nvml::Return code = driver_->Update([&](SimState& state) {
    for (ProcessState& other : state.processes) {
      const bool same = other.pid == process.pid && other.gpu == process.gpu &&
                        other.gpu_instance == process.gpu_instance &&
                        other.compute_instance == process.compute_instance;
      if (!same) continue;
      const bool fits = UsedOn(state, process) + delta <= RoomOn(driver_->node(), state, process);
      if (delta.count > 0 && !fits) return nvml::kMemory;
      other.memory += delta;
      return nvml::kSuccess;
    }
    if (!is_new) return nvml::kNotFound;
    const nvml::Return admitted = Admit(driver_->node(), state, process);
    if (admitted == nvml::kSuccess) state.processes.push_back(process);
    return admitted;
  });
  if (code == nvml::kSuccess) return cuda::kSuccess;
  if (code == nvml::kMemory) return cuda::kOutOfMemory;
  return code == nvml::kInUse ? kCudaDeviceUnavailable : cuda::kInvalidDevice;
}

Return CudaDriver::Allocate(SimContext& context, std::size_t bytes, cuda::DevicePointer* out) {
  constexpr std::size_t kMost = std::size_t{1} << 46;  // Sums stay within 64 bits.
  if (out == nullptr || bytes == 0) return cuda::kInvalidValue;
  if (bytes > kMost) return cuda::kOutOfMemory;
  const auto size = static_cast<std::int64_t>(bytes);
  const bool small = bytes < kSmallBytes;
  const std::int64_t before = small_bytes_[context.index];
  const std::int64_t after = before + (small ? RoundUp(size, kAlignment) : 0);
  const Bytes delta{small ? RoundUp(after, kGranule) - RoundUp(before, kGranule)
                          : RoundUp(size, kGranule)};
  if (delta.count > 0) {
    if (const Return code = ChangeMemory(context, delta, false); code != cuda::kSuccess) {
      return code;
    }
  }
  small_bytes_[context.index] = after;
  SimAllocation allocation;
  allocation.bytes = bytes;
  allocation.context = context.index;
  if (bytes <= kBackedBytesMax) {
    allocation.backing = {static_cast<char*>(std::calloc(bytes, 1)), &std::free};
  }
  *out = next_address_;
  // Addresses aren't used again, so that one of something freed is recognised.
  next_address_ += static_cast<cuda::DevicePointer>(RoundUp(size, small ? kAlignment : kGranule));
  allocations_[*out] = std::move(allocation);
  return cuda::kSuccess;
}

Return CudaDriver::Free(cuda::DevicePointer pointer) {
  if (pointer == 0) return cuda::kSuccess;
  const auto it = allocations_.find(pointer);
  if (it == allocations_.end()) return cuda::kInvalidValue;
  const auto context = std::ranges::find_if(
      contexts_, [&](const auto& entry) { return entry.second->index == it->second.context; });
  if (context == contexts_.end()) return cuda::kInvalidContext;
  const auto size = static_cast<std::int64_t>(it->second.bytes);
  std::int64_t freed = RoundUp(size, kGranule);
  if (it->second.bytes < kSmallBytes) {
    std::int64_t& sum = small_bytes_[it->second.context];
    const std::int64_t before = RoundUp(sum, kGranule);
    sum -= RoundUp(size, kAlignment);
    freed = before - RoundUp(sum, kGranule);
  }
  allocations_.erase(it);
  return freed == 0 ? cuda::kSuccess : ChangeMemory(*context->second, Bytes{-freed}, false);
}

Return CudaDriver::MemoryInfo(const SimContext& context, std::size_t* free, std::size_t* total) {
  if (free == nullptr || total == nullptr) return cuda::kInvalidValue;
  const SimDevice& on = devices_[static_cast<std::size_t>(context.device)];
  const Result<std::shared_ptr<const SimState>> state = driver_->State();
  if (!state) return cuda::kUnknown;
  ProcessState process;
  process.gpu = on.target.gpu;
  process.gpu_instance = on.target.gpu_instance;
  Bytes left = RoomOn(driver_->node(), **state, process) - UsedOn(**state, process);
  if (context.mps && context.mps->memory_limit) {
    left = std::min(left, *context.mps->memory_limit - MemoryOn(context.device));
  }
  *free = static_cast<std::size_t>(std::max<std::int64_t>(left.count, 0));
  *total = static_cast<std::size_t>(on.memory.count);
  return cuda::kSuccess;
}

bool CudaDriver::IsAllocated(cuda::DevicePointer pointer, std::size_t bytes) const {
  auto it = allocations_.upper_bound(pointer);
  if (it == allocations_.begin()) return false;
  --it;
  const cuda::DevicePointer offset = pointer - it->first;
  return offset <= it->second.bytes && bytes <= it->second.bytes - offset;
}

void CudaDriver::Apply(const MemoryChange& change) {
  auto it = allocations_.upper_bound(change.device);
  if (it == allocations_.begin()) return;
  --it;
  char* const backing = it->second.backing.get();
  char* const at = backing == nullptr ? nullptr : backing + (change.device - it->first);
  switch (change.way) {
    case MemoryChange::Way::kIn:
      if (at != nullptr) std::memcpy(at, change.host, change.bytes);
      break;
    case MemoryChange::Way::kOut:
      if (at != nullptr) std::memcpy(change.host, at, change.bytes);
      if (at == nullptr) std::memset(change.host, 0, change.bytes);
      break;
    case MemoryChange::Way::kFill:
      for (std::size_t i = 0; at != nullptr && i + 4 <= change.bytes; i += 4) {
        std::memcpy(at + i, &change.value, 4);
      }
      break;
  }
}

}  // namespace sublet::sim
