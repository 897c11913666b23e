// node/tests/sim_hands.h
//
// The simulated driver's functions that change something, for a test to call.
//
//   const Simulation simulation("h100-80gb:2");
//   SimHands hands;
//   hands.Fault("xid=1:79");
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

#include "inventory/nvml_library.h"
#include "inventory/tests/simulation.h"

namespace sublet {

// As sim/driver/sublet_sim.h numbers them.
enum class SimProcess : unsigned { kCompute = 0, kGraphics = 1, kMpsClient = 2 };

class SimHands {
 public:
  SimHands() : handle_(::dlopen(Simulation::LibraryPath().c_str(), RTLD_NOW)) {
    EXPECT_NE(handle_, nullptr) << ::dlerror();
    EXPECT_EQ(Call<int()>("nvmlInit_v2"), 0);
  }
  ~SimHands() {
    Call<int()>("nvmlShutdown");
    ::dlclose(handle_);
  }
  SimHands(const SimHands&) = delete;
  SimHands& operator=(const SimHands&) = delete;

  template <typename Signature, typename... Arguments>
  int Call(const char* name, Arguments... arguments) {
    return reinterpret_cast<Signature*>(::dlsym(handle_, name))(arguments...);
  }

  void Fault(const char* rule) {
    EXPECT_EQ(Call<int(const char*)>("subletSimFault", rule), 0) << rule;
  }
  void ClearFaults() { EXPECT_EQ(Call<int()>("subletSimClearFaults"), 0); }
  void Reset(unsigned gpu) { EXPECT_EQ(Call<int(unsigned)>("subletSimResetGpu", gpu), 0); }
  int StartProcess(int pid, unsigned gpu, Bytes memory, SimProcess type) {
    return Call<int(unsigned, unsigned, unsigned, unsigned, unsigned long long, unsigned)>(
        "subletSimProcessStart", static_cast<unsigned>(pid), gpu, nvml::kNoInstance,
        nvml::kNoInstance, static_cast<unsigned long long>(memory.count),
        static_cast<unsigned>(type));
  }
  int StopProcess(int pid) {
    return Call<int(unsigned)>("subletSimProcessStop", static_cast<unsigned>(pid));
  }

 private:
  void* handle_;
};

}  // namespace sublet
