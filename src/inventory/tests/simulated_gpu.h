// inventory/tests/simulated_gpu.h
//
// A node with a simulated driver, hands that do to its first GPU what others would do, and a driver
// of which any call can be made to fail.
//
//   const SimulatedGpu node("h200:1");
//   node.SetMig(true);
//   const nvml::Api api = TroubledApi(node.api());
//   Trouble::turn = 7;                        // The seventh call from now on goes wrong...
//   Trouble::failure = Failure::kAfterwards;  // ...in its answer only.
//
// Thread safety: one thread; one SimulatedGpu at a time.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "inventory/nvml_library.h"
#include "inventory/tests/simulation.h"

namespace sublet {

// How one call goes wrong.
enum class Failure {
  kBefore,      // It does nothing and says so.
  kAfterwards,  // It does its work, and says that it didn't.
  kForGood,     // It and all that follow do nothing.
};

// The driver with one call that goes wrong. NVML's functions are C and take no context, so what
// they share is static.
struct Trouble {
  static inline const nvml::Api* real = nullptr;
  static inline int calls = 0;
  static inline int turn = 0;  // The call that fails, from 1 on; 0: none.
  static inline Failure failure = Failure::kBefore;

  static bool Met() { return failure == Failure::kForGood ? calls >= turn : calls == turn; }
};

template <auto kMember>
struct Troubled;
template <typename... Parameters, nvml::Return (*nvml::Api::*kMember)(Parameters...)>
struct Troubled<kMember> {
  static nvml::Return Call(Parameters... arguments) {
    ++Trouble::calls;
    const bool met = Trouble::turn > 0 && Trouble::Met();
    if (met && Trouble::failure != Failure::kAfterwards) return nvml::kUnknown;
    const nvml::Return code = (Trouble::real->*kMember)(arguments...);
    return met ? nvml::kTimeout : code;
  }
};

// REQUIRES: `real` lives as long as the result is used.
inline nvml::Api TroubledApi(const nvml::Api& real) {
  Trouble::real = &real;
  Trouble::calls = 0;
  nvml::Api api;
#define SUBLET_TEST_WRAP(member, name, parameters) \
  if (real.member != nullptr) api.member = &Troubled<&nvml::Api::member>::Call;
  SUBLET_NVML_REQUIRED(SUBLET_TEST_WRAP)
  SUBLET_NVML_OPTIONAL(SUBLET_TEST_WRAP)
#undef SUBLET_TEST_WRAP
  return api;
}

class SimulatedGpu {
 public:
  explicit SimulatedGpu(const std::string& preset, std::map<std::string, std::string> more = {})
      : simulation_(preset, std::move(more)), nvml_(*NvmlLibrary::Open(Simulation::LibraryPath())) {
    Trouble::turn = 0;
  }

  const nvml::Api& api() const { return nvml_.api(); }
  Inventory LookAtAll() const { return *simulation_.Take(); }
  Gpu Look() const { return LookAtAll().gpus.at(0); }
  std::string Uuid() const { return Look().uuid; }

  nvml::Device Device() const {
    nvml::Device device = nullptr;
    EXPECT_EQ(api().device_by_index(0, &device), nvml::kSuccess);
    return device;
  }

  void SetMig(bool on) const {
    nvml::Return activation = nvml::kUnknown;
    ASSERT_EQ(api().set_mig_mode(Device(), on ? nvml::kMigEnable : nvml::kMigDisable, &activation),
              nvml::kSuccess);
    ASSERT_EQ(activation, nvml::kSuccess);
  }

  // Without compute instances, where the driver puts it.
  nvml::GpuInstance AddInstance(int profile) const {
    nvml::GpuInstance instance = nullptr;
    EXPECT_EQ(api().create_gpu_instance(Device(), static_cast<unsigned>(profile), &instance),
              nvml::kSuccess);
    return instance;
  }

  void Reset() const { Sim<int()>("subletSimResetNode"); }

  // This process becomes one that uses the GPU; kNoInstance for the whole of it.
  void StartProcess(unsigned gpu_instance, unsigned type, unsigned compute_instance = 0) const {
    const unsigned compute =
        gpu_instance == nvml::kNoInstance ? nvml::kNoInstance : compute_instance;
    const int code = Sim<int(unsigned, unsigned, unsigned, unsigned, unsigned long long, unsigned)>(
        "subletSimProcessStart", 0U, 0U, gpu_instance, compute, 1ULL << 30, type);
    ASSERT_EQ(code, 0);
  }
  void StopProcess() const { Sim<int(unsigned)>("subletSimProcessStop", 0U); }

 private:
  template <typename Signature, typename... Arguments>
  int Sim(const char* name, Arguments... arguments) const {
    void* const library = ::dlopen(Simulation::LibraryPath().c_str(), RTLD_NOW);
    EXPECT_NE(library, nullptr) << ::dlerror();
    const int code = reinterpret_cast<Signature*>(::dlsym(library, name))(arguments...);
    ::dlclose(library);
    return code;
  }

  Simulation simulation_;
  NvmlLibrary nvml_;
};

// Types of processes, as subletSimProcessStart() numbers them.
inline constexpr unsigned kComputeProcess = 0;
inline constexpr unsigned kGraphicsProcess = 1;

}  // namespace sublet
