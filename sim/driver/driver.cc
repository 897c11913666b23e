#include "driver.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace sublet::sim {
namespace {

using nvml::Return;

// A handle as a number: 0x5B1E tells ours from stray pointers; then kind, GPU, instance + 1,
// compute instance + 1. 48 bits in all, so that it could be an address.
constexpr std::uintptr_t kMark = 0x5B1E;
constexpr unsigned kDevice = 1;
constexpr unsigned kGpuInstance = 2;
constexpr unsigned kComputeInstance = 3;

std::uintptr_t Number(unsigned kind, int gpu, int gpu_instance, int compute_instance) {
  return kMark << 32 | std::uintptr_t{kind} << 28 | static_cast<std::uintptr_t>(gpu) << 20 |
         static_cast<std::uintptr_t>(gpu_instance + 1) << 10 |
         static_cast<std::uintptr_t>(compute_instance + 1);
}

template <typename Handle>
Handle ToHandle(std::uintptr_t number) {
  return reinterpret_cast<Handle>(number);  // Never dereferenced.
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string StateFolder() {
  if (std::string folder = Variable("SUBLET_SIM_STATE"); !folder.empty()) return folder;
  std::string parent = Variable("XDG_RUNTIME_DIR");
  if (parent.empty()) parent = "/tmp";
  return fmt::format("{}/sublet-sim-{}", parent, ::geteuid());
}

struct Current {
  std::mutex mutex;
  std::shared_ptr<Driver> driver;
  int references = 0;
};

Current& TheCurrent() {
  static Current current;  // Destroyed at dlclose; a thread in a call keeps the driver by its own.
  return current;
}

}  // namespace

const GpuInstance* FindInstance(const GpuState& gpu, int id) {
  const auto found = std::ranges::find(gpu.instances, id, &GpuInstance::id);
  return found == gpu.instances.end() ? nullptr : &*found;
}

GpuInstance* FindInstance(GpuState& gpu, int id) {
  const auto found = std::ranges::find(gpu.instances, id, &GpuInstance::id);
  return found == gpu.instances.end() ? nullptr : &*found;
}

const ComputeInstance* FindComputeInstance(const GpuInstance& instance, int id) {
  const auto found = std::ranges::find(instance.compute_instances, id, &ComputeInstance::id);
  return found == instance.compute_instances.end() ? nullptr : &*found;
}

nvml::Device DeviceHandle(int gpu, int gpu_instance, int compute_instance) {
  return ToHandle<nvml::Device>(Number(kDevice, gpu, gpu_instance, compute_instance));
}

nvml::GpuInstance InstanceHandle(int gpu, int gpu_instance) {
  return ToHandle<nvml::GpuInstance>(Number(kGpuInstance, gpu, gpu_instance, -1));
}

nvml::ComputeInstance ComputeHandle(int gpu, int gpu_instance, int compute_instance) {
  return ToHandle<nvml::ComputeInstance>(
      Number(kComputeInstance, gpu, gpu_instance, compute_instance));
}

Result<std::unique_ptr<Driver>> Driver::Start() {
  auto driver = std::make_unique<Driver>();
  const std::string preset = Variable("SUBLET_SIM");
  if (preset.empty()) {
    return Fail(
        ErrorCode::kUsage, "SUBLET_SIM is not set",
        "name a node: SUBLET_SIM=h100-80gb:8, or a file that sublet inspect --record wrote");
  }
  ASSIGN_OR_RETURN(driver->node_, LoadSimNode(preset, Variable("SUBLET_SIM_DRIVER")));
  ASSIGN_OR_RETURN(driver->own_faults_, ParseFaults(Variable("SUBLET_SIM_FAULTS")));
  driver->folder_ = StateFolder();
  ASSIGN_OR_RETURN(driver->store_, StateStore::Open(driver->folder_, driver->node_));
  driver->unprivileged_ = Variable("SUBLET_SIM_UNPRIVILEGED") == "1";
  return driver;
}

bool Driver::IsLost(const SimState& state, int gpu) const {
  if (state.gpus[static_cast<std::size_t>(gpu)].lost) return true;
  return std::ranges::any_of(own_faults_, [&](const FaultRule& rule) {
    return rule.kind == FaultRule::Kind::kLost && rule.gpu == gpu;
  });
}

Return Driver::ResolveNumber(std::uintptr_t number, unsigned kind, Target& target) {
  if (number >> 32 != kMark || (number >> 28 & 0xF) != kind) return nvml::kInvalidArgument;
  target.gpu = static_cast<int>(number >> 20 & 0xFF);
  target.gpu_instance = static_cast<int>(number >> 10 & 0x3FF) - 1;
  target.compute_instance = static_cast<int>(number & 0x3FF) - 1;
  if (target.gpu >= static_cast<int>(node_.gpus.size())) return nvml::kInvalidArgument;
  const bool has_instance = target.gpu_instance >= 0;
  const bool has_compute = target.compute_instance >= 0;
  if ((kind == kGpuInstance && !has_instance) ||
      (kind == kComputeInstance && !(has_instance && has_compute)) ||
      (kind == kDevice && has_instance != has_compute)) {
    return nvml::kInvalidArgument;
  }
  Result<std::shared_ptr<const SimState>> state = store_->Read();
  if (!state) return nvml::kUnknown;
  target.state = std::move(*state);
  if (IsLost(*target.state, target.gpu)) return nvml::kGpuIsLost;
  if (target.gpu_instance < 0) return nvml::kSuccess;
  const GpuInstance* instance = FindInstance(target.gpu_state(), target.gpu_instance);
  if (instance == nullptr) return nvml::kNotFound;
  if (target.compute_instance >= 0 &&
      FindComputeInstance(*instance, target.compute_instance) == nullptr) {
    return nvml::kNotFound;
  }
  return nvml::kSuccess;
}

Return Driver::Resolve(nvml::Device handle, Target& target) {
  return ResolveNumber(reinterpret_cast<std::uintptr_t>(handle), kDevice, target);
}

Return Driver::Resolve(nvml::GpuInstance handle, Target& target) {
  return ResolveNumber(reinterpret_cast<std::uintptr_t>(handle), kGpuInstance, target);
}

Return Driver::Resolve(nvml::ComputeInstance handle, Target& target) {
  return ResolveNumber(reinterpret_cast<std::uintptr_t>(handle), kComputeInstance, target);
}

Return Driver::ResolveGpu(nvml::Device handle, Target& target) {
  const Return code = Resolve(handle, target);
  if (code != nvml::kSuccess) return code;
  return target.IsMigDevice() ? nvml::kInvalidArgument : nvml::kSuccess;
}

std::string Driver::UuidOf(const Target& target) const {
  const std::string& uuid = gpu(target).facts.uuid;
  if (!target.IsMigDevice()) return uuid;
  const GpuInstance* instance = FindInstance(target.gpu_state(), target.gpu_instance);
  const ComputeInstance* compute =
      instance == nullptr ? nullptr : FindComputeInstance(*instance, target.compute_instance);
  if (compute != nullptr && !compute->uuid.empty()) return compute->uuid;
  // As with a driver, the same place gets the same UUID each time it is made.
  std::string mig = "MIG-" + uuid.substr(std::min<std::size_t>(uuid.size(), 4));
  const std::string tail =
      fmt::format("{:04x}{:04x}", target.gpu_instance, target.compute_instance);
  if (mig.size() > tail.size()) mig.replace(mig.size() - tail.size(), tail.size(), tail);
  return mig;
}

Return Driver::Meet(const char* function) {
  std::vector<FaultRule> rules = own_faults_;
  // Without a fault anywhere, which is the usual case, nothing is parsed or counted.
  if (const auto state = store_->Read(); state && !(*state)->faults.empty()) {
    for (const std::string& text : (*state)->faults) {
      const Result<std::vector<FaultRule>> parsed = ParseFaults(text);
      if (parsed) rules.insert(rules.end(), parsed->begin(), parsed->end());
    }
  }
  if (rules.empty()) return nvml::kSuccess;
  int call = 0;
  {
    const std::lock_guard lock(mutex_);
    call = ++calls_[function];
  }
  for (const FaultRule& rule : rules) {
    if (rule.function != function || (rule.nth != 0 && rule.nth != call)) continue;
    if (rule.kind == FaultRule::Kind::kFail) return static_cast<Return>(rule.code);
    while (rule.kind == FaultRule::Kind::kHang) ::pause();
  }
  return nvml::kSuccess;
}

std::shared_ptr<Driver> CurrentDriver() {
  Current& current = TheCurrent();
  const std::lock_guard lock(current.mutex);
  return current.driver;
}

Return Initialise() {
  Current& current = TheCurrent();
  const std::lock_guard lock(current.mutex);
  if (current.driver == nullptr) {
    Result<std::unique_ptr<Driver>> driver = Driver::Start();
    if (!driver) {
      const Error& error = driver.error();
      // NVML has no way to say more than a code, so what is wrong with the variables goes to the
      // terminal. Nothing can be done where even that fails.
      const std::string line = fmt::format("simulated driver: {}{}{}\n", error.message,
                                           error.hint.empty() ? "" : "; ", error.hint);
      static_cast<void>(::write(STDERR_FILENO, line.data(), line.size()) + 1);
      return error.code == ErrorCode::kPermission ? nvml::kNoPermission : nvml::kDriverNotLoaded;
    }
    current.driver = std::move(*driver);
  }
  ++current.references;
  return nvml::kSuccess;
}

Return ShutDown() {
  Current& current = TheCurrent();
  const std::lock_guard lock(current.mutex);
  if (current.references == 0) return nvml::kUninitialized;
  if (--current.references == 0) current.driver.reset();
  return nvml::kSuccess;
}

Return PutText(std::string_view text, char* out, unsigned length) {
  if (out == nullptr) return nvml::kInvalidArgument;
  if (text.size() + 1 > length) return nvml::kInsufficientSize;
  std::memcpy(out, text.data(), text.size());
  out[text.size()] = '\0';
  return nvml::kSuccess;
}

}  // namespace sublet::sim
