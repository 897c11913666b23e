// sim/driver/driver.h
//
// The running simulated driver behind NVML's C functions: one for each process that called
// nvmlInit.
//
// An exported function is Call() with a body:
//
//   SIM_EXPORT Return nvmlDeviceGetUUID(Device device, char* uuid, unsigned length) {
//     return Call(__func__, [&](Driver& driver) {
//       Target target;
//       if (Return code = driver.Resolve(device, target); code != kSuccess) return code;
//       return PutText(driver.UuidOf(target), uuid, length);
//     });
//   }
//
// Call() answers kUninitialized before nvmlInit, applies the faults that were asked for, and lets
// no exception out.
//
// Handles are numbers in a pointer's clothes: what they stand for, not where it lies. So a handle
// to an instance that was destroyed is recognised, and handles never need to be freed.
//
// Thread safety: all from any thread.
#pragma once

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "fault_rules.h"
#include "inventory/nvml_api.h"
#include "sim_node.h"
#include "sim_state.h"

#define SIM_EXPORT extern "C" __attribute__((visibility("default")))

namespace sublet::sim {

// What a handle stands for, with a look at the state at the time of the call.
struct Target {
  std::shared_ptr<const SimState> state;
  int gpu = 0;
  int gpu_instance = -1;  // -1 where the handle is a whole GPU.
  int compute_instance = -1;

  bool IsMigDevice() const { return compute_instance >= 0; }
  const GpuState& gpu_state() const { return state->gpus[static_cast<std::size_t>(gpu)]; }
};

const GpuInstance* FindInstance(const GpuState& gpu, int id);
GpuInstance* FindInstance(GpuState& gpu, int id);
const ComputeInstance* FindComputeInstance(const GpuInstance& instance, int id);

nvml::Device DeviceHandle(int gpu, int gpu_instance = -1, int compute_instance = -1);
nvml::GpuInstance InstanceHandle(int gpu, int gpu_instance);
nvml::ComputeInstance ComputeHandle(int gpu, int gpu_instance, int compute_instance);

class Driver {
 public:
  // Reads SUBLET_SIM, SUBLET_SIM_STATE, SUBLET_SIM_DRIVER, SUBLET_SIM_FAULTS and
  // SUBLET_SIM_UNPRIVILEGED.
  static Result<std::unique_ptr<Driver>> Start();

  const SimNode& node() const { return node_; }
  // Where the node's state lies.
  const std::string& folder() const { return folder_; }
  const SimGpu& gpu(const Target& target) const {
    return node_.gpus[static_cast<std::size_t>(target.gpu)];
  }
  bool unprivileged() const { return unprivileged_; }
  // Those of this process's environment alone.
  const std::vector<FaultRule>& own_faults() const { return own_faults_; }

  // kInvalidArgument for what is no handle, kGpuIsLost, kNotFound for an instance that is gone.
  nvml::Return Resolve(nvml::Device handle, Target& target);
  nvml::Return Resolve(nvml::GpuInstance handle, Target& target);
  nvml::Return Resolve(nvml::ComputeInstance handle, Target& target);
  // Only a whole GPU will do.
  nvml::Return ResolveGpu(nvml::Device handle, Target& target);

  Result<std::shared_ptr<const SimState>> State() { return store_->Read(); }
  nvml::Return Update(const std::function<nvml::Return(SimState&)>& change) {
    return store_->Update(change);
  }

  std::string UuidOf(const Target& target) const;

  // Waits where the call is to hang; otherwise the code with which it is to fail, or kSuccess.
  nvml::Return Meet(const char* function);

 private:
  nvml::Return ResolveNumber(std::uintptr_t number, unsigned kind, Target& target);
  bool IsLost(const SimState& state, int gpu) const;

  SimNode node_;
  std::string folder_;
  std::unique_ptr<StateStore> store_;
  std::vector<FaultRule> own_faults_;  // Of this process's environment.
  bool unprivileged_ = false;

  std::mutex mutex_;  // Guards what is below.
  std::map<std::string, int, std::less<>> calls_;
};

// One reference to the process's driver, nullptr before nvmlInit.
std::shared_ptr<Driver> CurrentDriver();
// Counted, as nvmlInit and nvmlShutdown are.
nvml::Return Initialise();
nvml::Return ShutDown();

template <typename Body>
nvml::Return Call(const char* function, const Body& body) noexcept {
  try {
    const std::shared_ptr<Driver> driver = CurrentDriver();
    if (driver == nullptr) return nvml::kUninitialized;
    if (const nvml::Return code = driver->Meet(function); code != nvml::kSuccess) return code;
    return body(*driver);
  } catch (const std::bad_alloc&) {
    return nvml::kMemory;
  } catch (const std::exception&) {
    return nvml::kUnknown;
  }
}

// Calls `body` with what the handle stands for.
template <typename Handle, typename Body>
nvml::Return CallOn(const char* function, Handle handle, const Body& body) noexcept {
  return Call(function, [&](Driver& driver) {
    Target target;
    const nvml::Return code = driver.Resolve(handle, target);
    return code == nvml::kSuccess ? body(driver, target) : code;
  });
}

// As CallOn, and only for a whole GPU.
template <typename Body>
nvml::Return CallOnGpu(const char* function, nvml::Device handle, const Body& body) noexcept {
  return Call(function, [&](Driver& driver) {
    Target target;
    const nvml::Return code = driver.ResolveGpu(handle, target);
    return code == nvml::kSuccess ? body(driver, target) : code;
  });
}

// Copies text with its final zero; kInsufficientSize where it doesn't fit.
nvml::Return PutText(std::string_view text, char* out, unsigned length);

template <typename T, typename Value>
nvml::Return Put(Value value, T* out) {
  if (out == nullptr) return nvml::kInvalidArgument;
  *out = static_cast<T>(value);
  return nvml::kSuccess;
}

// Writes a list as NVML does: `count` is the room before and the number after. With too little room
// nothing is written and kInsufficientSize comes back with the number.
template <typename T>
nvml::Return PutList(const std::vector<T>& list, unsigned* count, T* out) {
  if (count == nullptr) return nvml::kInvalidArgument;
  const unsigned room = *count;
  *count = static_cast<unsigned>(list.size());
  if (list.size() > room) return nvml::kInsufficientSize;
  if (list.empty()) return nvml::kSuccess;
  if (out == nullptr) return nvml::kInvalidArgument;
  for (std::size_t i = 0; i < list.size(); ++i) out[i] = list[i];
  return nvml::kSuccess;
}

}  // namespace sublet::sim
