// The simulated driver through its C functions, as any program would load it.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "inventory/nvml_api.h"

namespace sublet::sim {
namespace {

using namespace nvml;
using ::testing::StrEq;

constexpr const char* kLibrary = SUBLET_BINARY_DIR "/lib/sublet-sim/libnvidia-ml.so.1";
constexpr unsigned kNone = kNoInstance;

// Loads the library for one test, with a node and a state of its own.
class NvmlTest : public ::testing::Test {
 protected:
  void Start(const std::string& preset, std::map<std::string, std::string> variables = {}) {
    std::string path = std::filesystem::temp_directory_path() / "sublet-nvml-XXXXXX";
    folder_ = ::mkdtemp(path.data());
    variables_ = std::move(variables);
    variables_["SUBLET_SIM"] = preset;
    variables_["SUBLET_SIM_STATE"] = folder_;
    for (const auto& [name, value] : variables_) ::setenv(name.c_str(), value.c_str(), 1);
    library_ = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << ::dlerror();
    ASSERT_EQ(Call<Return()>("nvmlInit_v2"), kSuccess);
  }
  ~NvmlTest() override {
    if (library_ != nullptr) {
      Call<Return()>("nvmlShutdown");
      ::dlclose(library_);
    }
    for (const auto& [name, value] : variables_) ::unsetenv(name.c_str());
    std::filesystem::remove_all(folder_);
  }

  template <typename Signature, typename... Arguments>
  Return Call(const char* name, Arguments... arguments) {
    auto* const function = reinterpret_cast<Signature*>(::dlsym(library_, name));
    if (function == nullptr) {
      ADD_FAILURE() << "not exported: " << name;
      return kFunctionNotFound;
    }
    return static_cast<Return>(function(arguments...));
  }

  Device Gpu(unsigned index = 0) {
    Device device = nullptr;
    EXPECT_EQ((Call<Return(unsigned, Device*)>("nvmlDeviceGetHandleByIndex_v2", index, &device)),
              kSuccess);
    return device;
  }
  Return SetMig(Device device, unsigned mode, Return& activation) {
    return Call<Return(Device, unsigned, Return*)>("nvmlDeviceSetMigMode", device, mode,
                                                   &activation);
  }
  void EnableMig(Device device) {
    Return activation = kUnknown;
    ASSERT_EQ(SetMig(device, kMigEnable, activation), kSuccess);
    ASSERT_EQ(activation, kSuccess);
  }
  std::pair<unsigned, unsigned> MigMode(Device device) {
    unsigned current = 9;
    unsigned pending = 9;
    EXPECT_EQ((Call<Return(Device, unsigned*, unsigned*)>("nvmlDeviceGetMigMode", device, &current,
                                                          &pending)),
              kSuccess);
    return {current, pending};
  }
  Return Create(Device device, unsigned profile, GpuInstance& instance) {
    return Call<Return(Device, unsigned, GpuInstance*)>("nvmlDeviceCreateGpuInstance", device,
                                                        profile, &instance);
  }
  Return CreateAt(Device device, unsigned profile, InstancePlacement place, GpuInstance& instance) {
    return Call<Return(Device, unsigned, const InstancePlacement*, GpuInstance*)>(
        "nvmlDeviceCreateGpuInstanceWithPlacement", device, profile, &place, &instance);
  }
  Return CreateCompute(GpuInstance parent, unsigned profile, ComputeInstance& instance) {
    return Call<Return(GpuInstance, unsigned, ComputeInstance*)>(
        "nvmlGpuInstanceCreateComputeInstance", parent, profile, &instance);
  }
  Return Destroy(GpuInstance instance) {
    return Call<Return(GpuInstance)>("nvmlGpuInstanceDestroy", instance);
  }
  Return DestroyCompute(ComputeInstance instance) {
    return Call<Return(ComputeInstance)>("nvmlComputeInstanceDestroy", instance);
  }
  Return StartProcess(unsigned gpu, unsigned gi, unsigned ci, unsigned long long bytes,
                      unsigned pid = 0) {
    return Call<int(unsigned, unsigned, unsigned, unsigned, unsigned long long, unsigned)>(
        "subletSimProcessStart", pid, gpu, gi, ci, bytes, 0u);
  }
  Return StopProcess(unsigned pid = 0) { return Call<int(unsigned)>("subletSimProcessStop", pid); }
  Return Fault(const char* rule) { return Call<int(const char*)>("subletSimFault", rule); }
  GpuInstanceInfo InfoOf(GpuInstance instance) {
    GpuInstanceInfo info{};
    EXPECT_EQ(
        (Call<Return(GpuInstance, GpuInstanceInfo*)>("nvmlGpuInstanceGetInfo", instance, &info)),
        kSuccess);
    return info;
  }
  Return Name(Device device, std::string& out) {
    std::array<char, 96> name{};
    const Return code =
        Call<Return(Device, char*, unsigned)>("nvmlDeviceGetName", device, name.data(), 96u);
    out = name.data();
    return code;
  }

  std::string folder_;
  std::map<std::string, std::string> variables_;
  void* library_ = nullptr;
};

TEST_F(NvmlTest, NeedsInitAndCountsIt) {
  Start("l4:1");
  unsigned count = 0;
  EXPECT_EQ(Call<Return()>("nvmlInit_v2"), kSuccess);
  EXPECT_EQ(Call<Return()>("nvmlShutdown"), kSuccess);
  EXPECT_EQ((Call<Return(unsigned*)>("nvmlDeviceGetCount_v2", &count)), kSuccess);
  EXPECT_EQ(Call<Return()>("nvmlShutdown"), kSuccess);
  EXPECT_EQ((Call<Return(unsigned*)>("nvmlDeviceGetCount_v2", &count)), kUninitialized);
  EXPECT_EQ(Call<Return()>("nvmlShutdown"), kUninitialized);
  EXPECT_EQ(Call<Return()>("nvmlInit_v2"), kSuccess);
}

TEST_F(NvmlTest, WithoutANodeNoDriverIsLoaded) {
  Start("l4:1");
  ASSERT_EQ(Call<Return()>("nvmlShutdown"), kSuccess);
  for (const char* preset : {"", "voodoo2:1", "/nowhere.json"}) {
    ::setenv("SUBLET_SIM", preset, 1);
    EXPECT_EQ(Call<Return()>("nvmlInit_v2"), kDriverNotLoaded) << preset;
  }
  ::setenv("SUBLET_SIM", "l4:1", 1);
  EXPECT_EQ(Call<Return()>("nvmlInit_v2"), kSuccess);
}

TEST_F(NvmlTest, RefusesBadArguments) {
  Start("l4:1");
  Device device = nullptr;
  std::string name;
  int stray = 0;
  EXPECT_EQ((Call<Return(unsigned, Device*)>("nvmlDeviceGetHandleByIndex_v2", 1u, &device)),
            kInvalidArgument);
  EXPECT_EQ(Name(nullptr, name), kInvalidArgument);
  EXPECT_EQ(Name(reinterpret_cast<Device>(&stray), name), kInvalidArgument);
  EXPECT_EQ((Call<Return(unsigned*)>("nvmlDeviceGetCount_v2", static_cast<unsigned*>(nullptr))),
            kInvalidArgument);
  std::array<char, 8> small{};
  EXPECT_EQ((Call<Return(Device, char*, unsigned)>("nvmlDeviceGetUUID", Gpu(), small.data(), 8u)),
            kInsufficientSize);
}

// Any 48 bits may come as a handle; none may bring the driver down.
TEST_F(NvmlTest, SurvivesHandlesThatNobodyGaveOut) {
  Start("h100-80gb:1");
  EnableMig(Gpu());
  GpuInstance real = nullptr;
  ASSERT_EQ(Create(Gpu(), 19, real), kSuccess);
  const auto base = reinterpret_cast<std::uintptr_t>(real);
  for (int bit = 0; bit < 48; ++bit) {
    for (int other = 0; other < 48; ++other) {
      const std::uintptr_t forged = (base ^ std::uintptr_t{1} << bit) ^ std::uintptr_t{1} << other;
      GpuInstanceInfo gi{};
      ComputeInstanceInfo ci{};
      DeviceAttributes attributes{};
      Call<Return(GpuInstance, GpuInstanceInfo*)>("nvmlGpuInstanceGetInfo",
                                                  reinterpret_cast<GpuInstance>(forged), &gi);
      Call<Return(ComputeInstance, ComputeInstanceInfo*)>(
          "nvmlComputeInstanceGetInfo_v2", reinterpret_cast<ComputeInstance>(forged), &ci);
      Call<Return(Device, DeviceAttributes*)>("nvmlDeviceGetAttributes_v2",
                                              reinterpret_cast<Device>(forged), &attributes);
    }
  }
  const auto whole_gpu = base & ~(std::uintptr_t{0xFFFFF});  // The handle without its instance.
  GpuInstanceInfo info{};
  EXPECT_EQ((Call<Return(GpuInstance, GpuInstanceInfo*)>(
                "nvmlGpuInstanceGetInfo", reinterpret_cast<GpuInstance>(whole_gpu), &info)),
            kInvalidArgument);
  ComputeInstance compute = nullptr;
  ASSERT_EQ(CreateCompute(real, 0, compute), kSuccess);
  const auto orphan = reinterpret_cast<std::uintptr_t>(compute) & ~(std::uintptr_t{0x3FF} << 10);
  ComputeInstanceInfo compute_info{};
  EXPECT_EQ((Call<Return(ComputeInstance, ComputeInstanceInfo*)>(
                "nvmlComputeInstanceGetInfo_v2", reinterpret_cast<ComputeInstance>(orphan),
                &compute_info)),
            kInvalidArgument);
}

TEST_F(NvmlTest, ChecksTheVersionsOfStructures) {
  Start("h100-80gb:1");
  MemoryV2 memory{};
  const auto ask = [&] {
    return Call<Return(Device, MemoryV2*)>("nvmlDeviceGetMemoryInfo_v2", Gpu(), &memory);
  };
  EXPECT_EQ(ask(), kArgumentVersionMismatch);
  memory.version = StructVersion<MemoryV2>(1);
  EXPECT_EQ(ask(), kArgumentVersionMismatch);
  memory.version = StructVersion<MemoryV2>(2);
  EXPECT_EQ(ask(), kSuccess);
  EXPECT_EQ(memory.total, memory.free + memory.used + memory.reserved);

  GpuInstanceProfileInfoV3 info{};
  const auto profile = [&] {
    return Call<Return(Device, unsigned, GpuInstanceProfileInfoV3*)>(
        "nvmlDeviceGetGpuInstanceProfileInfoV", Gpu(), kGpuInstanceProfile1Slice, &info);
  };
  EXPECT_EQ(profile(), kArgumentVersionMismatch);
  info.version = StructVersion<GpuInstanceProfileInfoV3>(3);
  ASSERT_EQ(profile(), kSuccess);
  EXPECT_EQ(info.version, StructVersion<GpuInstanceProfileInfoV3>(3));
  EXPECT_EQ(info.id, 19u);
  EXPECT_THAT(info.name, StrEq("MIG 1g.10gb"));
}

TEST_F(NvmlTest, FindsDevicesByUuidAndBusId) {
  Start("h100-80gb:3");
  std::array<char, 96> uuid{};
  ASSERT_EQ((Call<Return(Device, char*, unsigned)>("nvmlDeviceGetUUID", Gpu(2), uuid.data(), 96u)),
            kSuccess);
  Device found = nullptr;
  EXPECT_EQ((Call<Return(const char*, Device*)>("nvmlDeviceGetHandleByUUID", uuid.data(), &found)),
            kSuccess);
  EXPECT_EQ(found, Gpu(2));
  PciInfo pci{};
  ASSERT_EQ((Call<Return(Device, PciInfo*)>("nvmlDeviceGetPciInfo_v3", Gpu(1), &pci)), kSuccess);
  for (const char* text : {pci.bus_id, pci.bus_id_legacy}) {
    EXPECT_EQ(
        (Call<Return(const char*, Device*)>("nvmlDeviceGetHandleByPciBusId_v2", text, &found)),
        kSuccess);
    EXPECT_EQ(found, Gpu(1));
  }
  EXPECT_EQ((Call<Return(const char*, Device*)>("nvmlDeviceGetHandleByUUID", "GPU-0", &found)),
            kNotFound);
}

TEST_F(NvmlTest, ListsAskForRoomAndFillIt) {
  Start("h100-80gb:1");
  unsigned count = 0;
  const auto ask = [&](InstancePlacement* out) {
    return Call<Return(Device, unsigned, InstancePlacement*, unsigned*)>(
        "nvmlDeviceGetGpuInstancePossiblePlacements_v2", Gpu(), 19u, out, &count);
  };
  ASSERT_EQ(ask(nullptr), kSuccess);
  EXPECT_EQ(count, 7u);
  std::array<InstancePlacement, 7> places{};
  count = 6;
  EXPECT_EQ(ask(places.data()), kInsufficientSize);
  EXPECT_EQ(count, 7u);
  EXPECT_EQ(ask(places.data()), kSuccess);
  EXPECT_EQ(places[6].start, 6u);
  EXPECT_EQ(places[6].size, 1u);
}

TEST_F(NvmlTest, InstancesNeedMigMode) {
  Start("h100-80gb:1,l4:1");
  GpuInstance instance = nullptr;
  EXPECT_EQ(Create(Gpu(0), 19, instance), kNotSupported);
  EXPECT_EQ(Create(Gpu(1), 19, instance), kNotSupported);
  Return activation = kUnknown;
  EXPECT_EQ(SetMig(Gpu(1), kMigEnable, activation), kNotSupported);
  EnableMig(Gpu(0));
  EXPECT_EQ(Create(Gpu(0), 19, instance), kSuccess);
  EXPECT_EQ(Create(Gpu(0), 3, instance), kInvalidArgument) << "no profile has this id";
}

TEST_F(NvmlTest, ALifeOfAnInstance) {
  Start("h100-80gb:1");
  const Device gpu = Gpu();
  EnableMig(gpu);
  GpuInstance instance = nullptr;
  ASSERT_EQ(CreateAt(gpu, 9, {.start = 4, .size = 4}, instance), kSuccess);
  EXPECT_EQ(InfoOf(instance).id, 1u);
  EXPECT_EQ(InfoOf(instance).placement.start, 4u);
  EXPECT_EQ(CreateAt(gpu, 9, {.start = 4, .size = 4}, instance), kInsufficientResources);
  EXPECT_EQ(CreateAt(gpu, 9, {.start = 0, .size = 3}, instance), kInvalidArgument);
  ComputeInstance compute = nullptr;
  ASSERT_EQ(CreateCompute(instance, 2, compute), kSuccess);
  EXPECT_EQ(Destroy(instance), kInUse) << "a compute instance is in it";
  Return activation = kSuccess;
  EXPECT_EQ(SetMig(gpu, kMigDisable, activation), kSuccess);
  EXPECT_EQ(activation, kInUse) << "an instance is there";
  ASSERT_EQ(StartProcess(0, 1, 0, 1 << 20), kSuccess);
  EXPECT_EQ(DestroyCompute(compute), kInUse) << "a process is in it";
  ASSERT_EQ(StopProcess(), kSuccess);
  EXPECT_EQ(DestroyCompute(compute), kSuccess);
  EXPECT_EQ(DestroyCompute(compute), kNotFound);
  EXPECT_EQ(Destroy(instance), kSuccess);
  EXPECT_EQ(Destroy(instance), kNotFound);
  EXPECT_EQ(SetMig(gpu, kMigDisable, activation), kSuccess);
  EXPECT_EQ(activation, kSuccess);
}

TEST_F(NvmlTest, AmpereKeepsAChangeOfModePendingWhileInUse) {
  Start("a100-80gb:1");
  const Device gpu = Gpu();
  ASSERT_EQ(StartProcess(0, kNone, kNone, 1 << 20), kSuccess);
  Return activation = kSuccess;
  ASSERT_EQ(SetMig(gpu, kMigEnable, activation), kSuccess);
  EXPECT_EQ(activation, kInUse);
  EXPECT_EQ(MigMode(gpu), std::pair(kMigDisable, kMigEnable));
  EXPECT_EQ(Call<int(unsigned)>("subletSimResetGpu", 0u), kInUse);
  ASSERT_EQ(StopProcess(), kSuccess);
  EXPECT_EQ(Call<int(unsigned)>("subletSimResetGpu", 0u), kSuccess);
  EXPECT_EQ(MigMode(gpu), std::pair(kMigEnable, kMigEnable));
}

TEST_F(NvmlTest, HopperRefusesAChangeOfModeWhileInUse) {
  Start("h100-80gb:1");
  ASSERT_EQ(StartProcess(0, kNone, kNone, 1 << 20), kSuccess);
  Return activation = kSuccess;
  ASSERT_EQ(SetMig(Gpu(), kMigEnable, activation), kSuccess);
  EXPECT_EQ(activation, kInUse);
  EXPECT_EQ(MigMode(Gpu()), std::pair(kMigDisable, kMigDisable));
}

TEST_F(NvmlTest, AnUnprivilegedUserChangesNothing) {
  Start("h100-80gb:1", {{"SUBLET_SIM_UNPRIVILEGED", "1"}});
  Return activation = kSuccess;
  EXPECT_EQ(SetMig(Gpu(), kMigEnable, activation), kNoPermission);
  EXPECT_EQ((Call<Return(Device, unsigned)>("nvmlDeviceSetComputeMode", Gpu(), 3u)), kNoPermission);
}

TEST_F(NvmlTest, MigDevicesAreDevices) {
  Start("h100-80gb:1");
  const Device gpu = Gpu();
  EnableMig(gpu);
  GpuInstance instance = nullptr;
  ComputeInstance compute = nullptr;
  ASSERT_EQ(CreateAt(gpu, 19, {.start = 2, .size = 1}, instance), kSuccess);
  ASSERT_EQ(CreateCompute(instance, 0, compute), kSuccess);
  Device mig = nullptr;
  const auto by_index = [&](unsigned index) {
    return Call<Return(Device, unsigned, Device*)>("nvmlDeviceGetMigDeviceHandleByIndex", gpu,
                                                   index, &mig);
  };
  EXPECT_EQ(by_index(1), kNotFound);
  ASSERT_EQ(by_index(0), kSuccess);
  std::string name;
  EXPECT_EQ(Name(mig, name), kSuccess);
  EXPECT_EQ(name, "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
  DeviceAttributes attributes{};
  ASSERT_EQ(
      (Call<Return(Device, DeviceAttributes*)>("nvmlDeviceGetAttributes_v2", mig, &attributes)),
      kSuccess);
  EXPECT_EQ(attributes.multiprocessor_count, 16u);
  EXPECT_EQ(attributes.gpu_instance_slice_count, 1u);
  Memory memory{};
  ASSERT_EQ((Call<Return(Device, Memory*)>("nvmlDeviceGetMemoryInfo", mig, &memory)), kSuccess);
  EXPECT_EQ(memory.total, attributes.memory_size_mib << 20);
  Device parent = nullptr;
  EXPECT_EQ(
      (Call<Return(Device, Device*)>("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", mig, &parent)),
      kSuccess);
  EXPECT_EQ(parent, gpu);
  std::array<char, 96> uuid{};
  ASSERT_EQ((Call<Return(Device, char*, unsigned)>("nvmlDeviceGetUUID", mig, uuid.data(), 96u)),
            kSuccess);
  Device found = nullptr;
  EXPECT_EQ((Call<Return(const char*, Device*)>("nvmlDeviceGetHandleByUUID", uuid.data(), &found)),
            kSuccess);
  EXPECT_EQ(found, mig);
  ASSERT_EQ(DestroyCompute(compute), kSuccess);
  EXPECT_EQ(Name(mig, name), kNotFound) << "its handle stands for something that is gone";
}

TEST_F(NvmlTest, MemoryIsLimited) {
  Start("l4:1");
  EXPECT_EQ(StartProcess(0, kNone, kNone, 23ULL << 30), kMemory);
  EXPECT_EQ(StartProcess(0, kNone, kNone, 20ULL << 30), kSuccess);
  EXPECT_EQ(StartProcess(0, kNone, kNone, 4ULL << 30), kMemory);
  EXPECT_EQ(StartProcess(1, kNone, kNone, 1), kNotFound);
  EXPECT_EQ(StartProcess(0, 7, 0, 1), kNotFound) << "no MIG here";
}

TEST_F(NvmlTest, ExclusiveProcessModeAdmitsOne) {
  Start("l4:1");
  ASSERT_EQ((Call<Return(Device, unsigned)>("nvmlDeviceSetComputeMode", Gpu(), 3u)), kSuccess);
  EXPECT_EQ(StartProcess(0, kNone, kNone, 1), kSuccess);
  EXPECT_EQ(StartProcess(0, kNone, kNone, 1), kInUse);
}

TEST_F(NvmlTest, ProcessesOfOthersAreSeenUntilTheyDie) {
  Start("l4:1");
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    std::_Exit(0);
  }
  ASSERT_EQ(StartProcess(0, kNone, kNone, 1 << 20, static_cast<unsigned>(child)), kSuccess);
  const auto list = [&](unsigned& count) {
    std::array<ProcessInfo, 4> processes{};
    count = 4;
    EXPECT_EQ((Call<Return(Device, unsigned*, ProcessInfo*)>(
                  "nvmlDeviceGetComputeRunningProcesses_v3", Gpu(), &count, processes.data())),
              kSuccess);
    return processes[0];
  };
  unsigned count = 0;
  const ProcessInfo process = list(count);
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(process.pid, static_cast<unsigned>(child));
  EXPECT_EQ(process.used_gpu_memory, 1u << 20);
  EXPECT_EQ(process.gpu_instance_id, kNoInstance);
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  list(count);
  EXPECT_EQ(count, 0u);
}

TEST_F(NvmlTest, XidEventsReachThoseWhoRegistered) {
  Start("h100-80gb:2");
  EventSet set = nullptr;
  EventData data{};
  const auto wait = [&] {
    return Call<Return(EventSet, EventData*, unsigned)>("nvmlEventSetWait_v2", set, &data, 20u);
  };
  ASSERT_EQ(Fault("xid=0:13"), kSuccess);  // Before anybody listens.
  ASSERT_EQ((Call<Return(EventSet*)>("nvmlEventSetCreate", &set)), kSuccess);
  ASSERT_EQ((Call<Return(Device, unsigned long long, EventSet)>("nvmlDeviceRegisterEvents", Gpu(1),
                                                                kEventXidCritical, set)),
            kSuccess);
  EXPECT_EQ(wait(), kTimeout);
  ASSERT_EQ(Fault("xid=0:79"), kSuccess);
  EXPECT_EQ(wait(), kTimeout) << "of the other GPU";
  ASSERT_EQ(Fault("xid=1:31:7:0"), kSuccess);
  ASSERT_EQ(Fault("xid=1:94"), kSuccess);
  ASSERT_EQ(wait(), kSuccess);
  EXPECT_EQ(data.device, Gpu(1));
  EXPECT_EQ(data.event_type, kEventXidCritical);
  EXPECT_EQ(data.event_data, 31u);
  EXPECT_EQ(data.gpu_instance_id, 7u);
  EXPECT_EQ(data.compute_instance_id, 0u);
  ASSERT_EQ(wait(), kSuccess);
  EXPECT_EQ(data.event_data, 94u);
  EXPECT_EQ(data.gpu_instance_id, kNoInstance);
  EXPECT_EQ(wait(), kTimeout) << "each event comes once";
  EXPECT_EQ((Call<Return(EventSet)>("nvmlEventSetFree", set)), kSuccess);
  EXPECT_EQ((Call<Return(EventSet)>("nvmlEventSetFree", set)), kInvalidArgument);
}

TEST_F(NvmlTest, AXidFromTheEnvironmentComesOnceToEachSet) {
  Start("h100-80gb:1", {{"SUBLET_SIM_FAULTS", "xid=0:48"}});
  for (int i = 0; i < 2; ++i) {
    EventSet set = nullptr;
    EventData data{};
    ASSERT_EQ((Call<Return(EventSet*)>("nvmlEventSetCreate", &set)), kSuccess);
    ASSERT_EQ((Call<Return(Device, unsigned long long, EventSet)>("nvmlDeviceRegisterEvents", Gpu(),
                                                                  kEventXidCritical, set)),
              kSuccess);
    const auto wait = [&] {
      return Call<Return(EventSet, EventData*, unsigned)>("nvmlEventSetWait_v2", set, &data, 0u);
    };
    EXPECT_EQ(wait(), kSuccess);
    EXPECT_EQ(data.event_data, 48u);
    EXPECT_EQ(wait(), kTimeout);
  }
}

TEST_F(NvmlTest, ACallFailsTheNthTime) {
  Start("l4:1", {{"SUBLET_SIM_FAULTS", "fail=nvmlDeviceGetName:999:2"}});
  std::string name;
  EXPECT_EQ(Name(Gpu(), name), kSuccess);
  EXPECT_EQ(Name(Gpu(), name), kUnknown);
  EXPECT_EQ(Name(Gpu(), name), kSuccess);
}

TEST_F(NvmlTest, SharedFaultsComeAndGo) {
  Start("l4:2");
  const Device gpu = Gpu(1);
  std::string name;
  ASSERT_EQ(Fault("lost=1"), kSuccess);
  EXPECT_EQ(Name(gpu, name), kGpuIsLost);
  EXPECT_EQ(Name(Gpu(0), name), kSuccess);
  ASSERT_EQ(Fault("fail=nvmlDeviceGetName:4"), kSuccess);
  EXPECT_EQ(Name(Gpu(0), name), kNoPermission);
  ASSERT_EQ(Call<int()>("subletSimClearFaults"), kSuccess);
  EXPECT_EQ(Name(gpu, name), kSuccess);
  EXPECT_EQ(Fault("lost=2"), kNotFound);
  EXPECT_EQ(Fault("nonsense"), kInvalidArgument);
}

TEST_F(NvmlTest, ACallThatHangsHangsAlone) {
  Start("l4:1");
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const Return code = Fault("hang=nvmlDeviceGetIndex");
    static_cast<void>(::write(pipe[1], code == kSuccess ? "b" : "x", 1) + 1);
    unsigned index = 0;
    Call<Return(Device, unsigned*)>("nvmlDeviceGetIndex", Gpu(), &index);
    static_cast<void>(::write(pipe[1], "a", 1) + 1);
    std::_Exit(0);
  }
  char said = 0;
  ASSERT_EQ(::read(pipe[0], &said, 1), 1);
  EXPECT_EQ(said, 'b') << "before the call";
  pollfd readable{.fd = pipe[0], .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&readable, 1, 50), 0) << "it never came to after the call";
  std::string name;
  EXPECT_EQ(Name(Gpu(), name), kSuccess) << "other calls go on";
  ::kill(child, SIGKILL);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(NvmlTest, ResettingTheNodeForgetsAll) {
  Start("h100-80gb:1");
  EnableMig(Gpu());
  GpuInstance instance = nullptr;
  ASSERT_EQ(Create(Gpu(), 19, instance), kSuccess);
  ASSERT_EQ(Call<int()>("subletSimResetNode"), kSuccess);
  EXPECT_EQ(MigMode(Gpu()), std::pair(kMigDisable, kMigDisable));
}

TEST_F(NvmlTest, ThreadsMayCallAtOnce) {
  Start("h100-80gb:4");
  for (unsigned i = 0; i < 4; ++i) EnableMig(Gpu(i));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] {
      for (int round = 0; round < 20; ++round) {
        GpuInstance instance = nullptr;
        ComputeInstance compute = nullptr;
        EXPECT_EQ(Create(Gpu(i), 19, instance), kSuccess);
        EXPECT_EQ(CreateCompute(instance, 0, compute), kSuccess);
        EXPECT_EQ(DestroyCompute(compute), kSuccess);
        EXPECT_EQ(Destroy(instance), kSuccess);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(NvmlTest, ErrorsHaveWords) {
  Start("l4:1");
  auto* const text =
      reinterpret_cast<const char* (*)(Return)>(::dlsym(library_, "nvmlErrorString"));
  EXPECT_THAT(text(kSuccess), StrEq("Success"));
  EXPECT_THAT(text(kInUse), StrEq("In use by another client"));
  EXPECT_THAT(text(static_cast<Return>(12345)), StrEq("Unknown Error"));
}

}  // namespace
}  // namespace sublet::sim
