// The simulated CUDA driver through its C functions, in one process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <fstream>

#include "cuda_crowd.h"
#include "inventory/nvml_api.h"

namespace sublet::sim {
namespace {

using namespace cuda;

constexpr const char* kNvmlLibrary = SUBLET_BINARY_DIR "/lib/sublet-sim/libnvidia-ml.so.1";
constexpr std::size_t kMib = 1 << 20;

// What one process finds; each test is a process of its own, because the driver starts only once.
// The body's checks come back as the child's exit status and on its standard error.
void InChild(const std::string& preset, const std::map<std::string, std::string>& variables,
             const std::function<void(SimCuda&)>& body) {
  CudaCrowd crowd(preset);
  const int pid = crowd.Start(variables, [&] {
    SimCuda cuda;
    body(cuda);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the child's status: " << status;
}

#define EXPECT_OK(call) EXPECT_EQ((call), kSuccess)

cuda::Context Enter(SimCuda& cuda) {
  cuda::Context context = nullptr;
  EXPECT_OK(cuda.init(0));
  EXPECT_OK(cuda.context_retain(&context, 0));
  EXPECT_OK(cuda.context_set_current(context));
  return context;
}

template <typename F>
F Find(const SimCuda& cuda, const char* name) {
  auto* const function = reinterpret_cast<F>(::dlsym(cuda.library, name));
  EXPECT_NE(function, nullptr) << name;
  return function;
}

TEST(CudaApi, NeedsInitAndAContext) {
  InChild("h200", {}, [](SimCuda& cuda) {
    int count = 0;
    EXPECT_EQ(cuda.device_count(&count), kNotInitialized);
    EXPECT_OK(cuda.init(0));
    EXPECT_OK(cuda.device_count(&count));
    EXPECT_EQ(count, 1) << "a preset without a number means one";
    DevicePointer pointer = 0;
    EXPECT_EQ(cuda.memory_alloc(&pointer, 1), kInvalidContext);
  });
}

TEST(CudaApi, WithoutANodeThereIsNoDevice) {
  InChild("", {}, [](SimCuda& cuda) { EXPECT_EQ(cuda.init(0), kNoDevice); });
  InChild("h200", {{"CUDA_VISIBLE_DEVICES", ""}},
          [](SimCuda& cuda) { EXPECT_EQ(cuda.init(0), kNoDevice); });
}

TEST(CudaApi, ShowsTheDevicesThatAreAskedFor) {
  InChild("l4:2,h200:1", {{"CUDA_VISIBLE_DEVICES", "2,0,7,1"}}, [](SimCuda& cuda) {
    EXPECT_OK(cuda.init(0));
    int count = 0;
    EXPECT_OK(cuda.device_count(&count));
    EXPECT_EQ(count, 2) << "the list ends where it names nothing";
    int sms = 0;
    EXPECT_OK(cuda.device_attribute(&sms, kMultiprocessorCount, 0));
    EXPECT_EQ(sms, 132);
    EXPECT_OK(cuda.device_attribute(&sms, kMultiprocessorCount, 1));
    EXPECT_EQ(sms, 58);
  });
}

TEST(CudaApi, CopiesWhatIsCopiedIn) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    DevicePointer device = 0;
    void* host = nullptr;
    EXPECT_OK(cuda.memory_alloc(&device, kMib));
    EXPECT_OK(cuda.host_alloc(&host, kMib, 0));
    std::memset(host, 7, kMib);
    EXPECT_OK(cuda.copy_to_device(device, host, kMib, nullptr));
    EXPECT_OK(cuda.fill(device + 4, 0x01020304, 1, nullptr));
    std::memset(host, 0, kMib);
    EXPECT_OK(cuda.copy_from_device(host, device, kMib, nullptr));
    EXPECT_OK(cuda.context_synchronize());
    const auto* const bytes = static_cast<const char*>(host);
    EXPECT_EQ(bytes[3], 7);
    EXPECT_EQ(bytes[4], 4);
    EXPECT_EQ(bytes[kMib - 1], 7);
    EXPECT_EQ(cuda.copy_to_device(device + 8, host, kMib, nullptr), kInvalidValue) << "too long";
    EXPECT_EQ(cuda.copy_to_device(1, host, 1, nullptr), kInvalidValue);
    EXPECT_OK(cuda.host_free(host));
    EXPECT_EQ(cuda.host_free(host), kInvalidValue);
    EXPECT_OK(cuda.memory_free(device));
    EXPECT_EQ(cuda.memory_free(device), kInvalidValue);
  });
}

TEST(CudaApi, CountsMemoryInPiecesAndRefusesTheRest) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    std::size_t free = 0;
    std::size_t total = 0;
    EXPECT_OK(cuda.memory_info(&free, &total));
    EXPECT_EQ(total, 143'771 * kMib);
    EXPECT_EQ(free, total - (615 + 526) * kMib) << "the driver's own and the context's";
    DevicePointer large = 0;
    DevicePointer small = 0;
    EXPECT_OK(cuda.memory_alloc(&large, 3 * kMib));
    EXPECT_OK(cuda.memory_alloc(&small, 100));
    EXPECT_OK(cuda.memory_alloc(&small, 100));
    std::size_t after = 0;
    EXPECT_OK(cuda.memory_info(&after, &total));
    EXPECT_EQ(free - after, 6 * kMib) << "two pieces of 2 MiB, and one for all small ones";
    EXPECT_EQ(cuda.memory_alloc(&large, after + 1), kOutOfMemory);
    EXPECT_OK(cuda.memory_alloc(&large, after / (2 * kMib) * (2 * kMib)));
    EXPECT_EQ(cuda.memory_alloc(&large, 2 * kMib), kOutOfMemory);
  });
}

// A function of the other look-alike.
template <typename... Parameters>
int CallNvml(const char* name, Parameters... parameters) {
  static void* const library = ::dlopen(kNvmlLibrary, RTLD_NOW | RTLD_LOCAL);
  auto* const function = reinterpret_cast<int (*)(Parameters...)>(::dlsym(library, name));
  EXPECT_NE(function, nullptr) << name;
  return function == nullptr ? -1 : function(parameters...);
}

unsigned long long EnergyMj(nvml::Device device) {
  unsigned long long mj = 0;
  EXPECT_EQ(CallNvml("nvmlDeviceGetTotalEnergyConsumption", device, &mj), 0);
  return mj;
}

TEST(CudaApi, NvmlShowsTheProcessAndWhatItDraws) {
  InChild("h200", {}, [](SimCuda& cuda) {
    nvml::Device device = nullptr;
    EXPECT_EQ(CallNvml("nvmlInit_v2"), 0);
    EXPECT_EQ(CallNvml("nvmlDeviceGetHandleByIndex_v2", 0U, &device), 0);
    EXPECT_EQ(EnergyMj(device), 0U) << "before any process there is nothing";
    unsigned long long reasons = 0;
    EXPECT_EQ(CallNvml("nvmlDeviceGetCurrentClocksEventReasons", device, &reasons), 0);
    EXPECT_EQ(reasons, 1U) << "idle";
    Enter(cuda);
    cuda.hold();
    Figures figures{};
    const Member member{.work = "big"};
    CrowdMember work(member, figures);
    work.Prepare();
    work.Work(1000);
    EXPECT_NEAR(static_cast<double>(EnergyMj(device)), 535e3, 30e3)
        << "a second with three quarters of the work that would be possible";
    std::array<nvml::ProcessInfo, 4> processes{};
    unsigned count = 4;
    EXPECT_EQ(CallNvml("nvmlDeviceGetComputeRunningProcesses_v3", device, &count, processes.data()),
              0);
    EXPECT_EQ(count, 1U);
    EXPECT_EQ(processes[0].pid, static_cast<unsigned>(::getpid()));
    EXPECT_EQ(processes[0].used_gpu_memory, 526 * kMib);
    struct Sample {
      unsigned pid;
      unsigned long long time_us;
      unsigned sm, memory, encoder, decoder;
    };
    std::array<Sample, 4> samples{};
    count = 4;
    EXPECT_EQ(CallNvml("nvmlDeviceGetProcessUtilization", device, samples.data(), &count, 0ULL), 0);
    EXPECT_EQ(count, 1U);
    // 92 % since it began to work, and nothing while the driver was starting on this machine.
    EXPECT_GT(samples[0].sm, 10U);
    EXPECT_LE(samples[0].sm, 93U);
  });
}

// Two instances of the smallest profile on the node's GPU; their UUIDs go into `path`, a line each.
int CutInTwo(const std::string& path) {
  nvml::Device device = nullptr;
  nvml::Return activation = nvml::kUnknown;
  int errors = CallNvml("nvmlInit_v2");
  errors += CallNvml("nvmlDeviceGetHandleByIndex_v2", 0U, &device);
  errors += CallNvml("nvmlDeviceSetMigMode", device, nvml::kMigEnable, &activation);
  std::ofstream out(path);
  for (unsigned i = 0; i < 2; ++i) {
    nvml::GpuInstance instance = nullptr;
    nvml::ComputeInstance compute = nullptr;
    errors += CallNvml("nvmlDeviceCreateGpuInstance", device, 19U, &instance);
    errors += CallNvml("nvmlGpuInstanceCreateComputeInstance", instance, 0U, &compute);
  }
  for (unsigned i = 0; i < 2; ++i) {
    nvml::Device mig = nullptr;
    std::array<char, 96> uuid{};
    errors += CallNvml("nvmlDeviceGetMigDeviceHandleByIndex", device, i, &mig);
    errors += CallNvml("nvmlDeviceGetUUID", mig, uuid.data(), 96U);
    out << uuid.data() << "\n";
  }
  return errors;
}

TEST(CudaApi, MigDevicesRunBesideEachOther) {
  CudaCrowd crowd("h200");
  const std::string path = crowd.folder() + "/uuids";
  int status = -1;
  ::waitpid(crowd.Start({}, [&] { return CutInTwo(path); }), &status, 0);
  ASSERT_EQ(status, 0);
  std::ifstream in(path);
  std::vector<Member> members(2, {.work = "big"});
  for (Member& member : members) std::getline(in, member.variables["CUDA_VISIBLE_DEVICES"]);
  ASSERT_THAT(members[0].variables["CUDA_VISIBLE_DEVICES"], ::testing::StartsWith("MIG-"));
  for (const Figures* one : crowd.Run(members)) {
    EXPECT_EQ(one->error, 0);
    EXPECT_EQ(one->sm_count, 16);
    EXPECT_NEAR(one->rate, 2391, 50) << "as alone: eight blocks for each of its own SMs";
  }
}

TEST(CudaApi, RefusesWhatIsNoKernel) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    Module module = nullptr;
    Function function = nullptr;
    EXPECT_EQ(cuda.module_load(&module, "no ptx"), kInvalidPtx);
    EXPECT_EQ(cuda.module_load(&module,
                               "\x7f"
                               "ELF"),
              kNoBinaryForGpu);
    EXPECT_OK(cuda.module_load(&module, kTestPtx.data()));
    EXPECT_EQ(cuda.module_function(&function, module, "absent"), kNotFound);
    EXPECT_OK(cuda.module_function(&function, module, "mystery"));
    EXPECT_EQ(cuda.launch(function, 0, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr),
              kInvalidValue);
    EXPECT_EQ(cuda.launch(function, 1, 1, 1, 2048, 1, 1, 0, nullptr, nullptr, nullptr),
              kInvalidValue);
    EXPECT_OK(cuda.launch(function, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr));
    EXPECT_OK(cuda.context_synchronize());
    EXPECT_OK(cuda.module_unload(module));
    EXPECT_EQ(cuda.launch(function, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr),
              kInvalidHandle);
  });
}

TEST(CudaApi, AnIllegalAccessStays) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    Module module = nullptr;
    Function poke = nullptr;
    DevicePointer pointer = 0;
    EXPECT_OK(cuda.module_load(&module, kTestPtx.data()));
    EXPECT_OK(cuda.module_function(&poke, module, "sublet_poke"));
    EXPECT_OK(cuda.memory_alloc(&pointer, 64));
    const auto write = [&](DevicePointer address) {
      std::array<void*, 1> parameters{&address};
      EXPECT_OK(cuda.launch(poke, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters.data(), nullptr));
      return cuda.context_synchronize();
    };
    EXPECT_OK(write(pointer));
    EXPECT_EQ(write(16), kIllegalAddress);
    EXPECT_EQ(cuda.memory_alloc(&pointer, 64), kIllegalAddress) << "for ever";
  });
}

TEST(CudaApi, EventsTellTheTimeOfWhatLiesBetween) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    cuda.hold();
    using Event = cuda::Event;
    std::array<Event, 2> events{};
    for (Event& event : events) {
      EXPECT_OK((Find<Return (*)(Event*, unsigned)>(cuda, "cuEventCreate")(&event, 0)));
    }
    const auto record = Find<Return (*)(Event, Stream)>(cuda, "cuEventRecord");
    const auto query = Find<Return (*)(Event)>(cuda, "cuEventQuery");
    const auto elapsed = Find<Return (*)(float*, Event, Event)>(cuda, "cuEventElapsedTime");
    DevicePointer device = 0;
    EXPECT_OK(cuda.memory_alloc(&device, 1 << 30));
    void* host = nullptr;
    EXPECT_OK(cuda.host_alloc(&host, 1 << 30, 0));
    EXPECT_OK(record(events[0], nullptr));
    EXPECT_OK(cuda.copy_to_device(device, host, 1 << 30, nullptr));
    EXPECT_OK(record(events[1], nullptr));
    EXPECT_EQ(query(events[1]), kNotReady);
    EXPECT_EQ(cuda.stream_query(nullptr), kNotReady);
    float ms = 0;
    EXPECT_EQ(elapsed(&ms, events[0], events[1]), kNotReady);
    EXPECT_OK(Find<Return (*)(Event)>(cuda, "cuEventSynchronize")(events[1]));
    EXPECT_OK(query(events[1]));
    EXPECT_OK(elapsed(&ms, events[0], events[1]));
    EXPECT_NEAR(ms, 1000 / 51.5, 0.1) << "a GiB at 51.5 GiB/s";
  });
}

TEST(CudaApi, BothDirectionsCopyAtOnceAndOneDirectionTakesTurns) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    cuda.hold();
    std::array<Stream, 2> streams{};
    for (Stream& stream : streams) EXPECT_OK(cuda.stream_create(&stream, kStreamNonBlocking));
    DevicePointer device = 0;
    void* host = nullptr;
    constexpr std::size_t kBytes = 103 * kMib;  // 1.953 ms alone.
    EXPECT_OK(cuda.memory_alloc(&device, kBytes));
    EXPECT_OK(cuda.host_alloc(&host, kBytes, 0));
    const auto both = [&](bool same_way) {
      const unsigned long long begin = cuda.now();
      EXPECT_OK(cuda.copy_to_device(device, host, kBytes, streams[0]));
      EXPECT_OK(same_way ? cuda.copy_to_device(device, host, kBytes, streams[1])
                         : cuda.copy_from_device(host, device, kBytes, streams[1]));
      EXPECT_OK(cuda.context_synchronize());
      return static_cast<double>(cuda.now() - begin) * 1e-6;
    };
    EXPECT_NEAR(both(false), 1.96, 0.02);
    EXPECT_NEAR(both(true), 3.91, 0.03);
  });
}

TEST(CudaApi, OneStreamWaitsForAnothersEvent) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    cuda.hold();
    std::array<Stream, 2> streams{};
    for (Stream& stream : streams) EXPECT_OK(cuda.stream_create(&stream, kStreamNonBlocking));
    cuda::Event event = nullptr;
    EXPECT_OK((Find<Return (*)(cuda::Event*, unsigned)>(cuda, "cuEventCreate")(&event, 0)));
    DevicePointer device = 0;
    EXPECT_OK(cuda.memory_alloc(&device, 1 << 30));
    EXPECT_OK(cuda.fill(device, 0, 1 << 28, streams[0]));
    EXPECT_OK((Find<Return (*)(cuda::Event, Stream)>(cuda, "cuEventRecord")(event, streams[0])));
    EXPECT_OK((Find<Return (*)(Stream, cuda::Event, unsigned)>(cuda, "cuStreamWaitEvent")(
        streams[1], event, 0)));
    EXPECT_OK(cuda.fill(device, 0, 1, streams[1]));
    EXPECT_OK(cuda.stream_synchronize(streams[1]));
    EXPECT_OK(cuda.stream_query(streams[0])) << "the first had to be done";
  });
}

TEST(CudaApi, WithoutTheClockTheMachinesTimeHolds) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    DevicePointer device = 0;
    EXPECT_OK(cuda.memory_alloc(&device, std::size_t{8} << 30));
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 10; ++i) {
      EXPECT_OK(cuda.fill(device, 0, std::size_t{2} << 30, nullptr));  // 2.12 ms each.
    }
    EXPECT_OK(cuda.context_synchronize());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_GT(took.count(), 0.0211);
  });
}

TEST(CudaApi, FaultsOnDemand) {
  InChild("h200", {{"SUBLET_SIM_FAULTS", "fail=cuMemAlloc_v2:2:2;fail=cuLaunchKernel:719"}},
          [](SimCuda& cuda) {
            Enter(cuda);
            DevicePointer device = 0;
            EXPECT_OK(cuda.memory_alloc(&device, 1));
            EXPECT_EQ(cuda.memory_alloc(&device, 1), kOutOfMemory);
            EXPECT_OK(cuda.memory_alloc(&device, 1));
            EXPECT_EQ(cuda.launch(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
                      kLaunchFailed);
          });
}

TEST(CudaApi, FindsFunctionsByNameAndVersion) {
  InChild("h200", {}, [](SimCuda& cuda) {
    const auto find = Find<Return (*)(const char*, void**, int, unsigned long long, int*)>(
        cuda, "cuGetProcAddress_v2");
    void* function = nullptr;
    int status = -1;
    EXPECT_OK(find("cuMemAlloc", &function, 12000, 0, &status));
    EXPECT_EQ(function, ::dlsym(cuda.library, "cuMemAlloc_v2"));
    EXPECT_OK(find("cuCtxCreate", &function, 13000, 0, &status));
    EXPECT_EQ(function, ::dlsym(cuda.library, "cuCtxCreate_v4"));
    EXPECT_OK(find("cuCtxCreate", &function, 11000, 0, &status));
    EXPECT_EQ(function, ::dlsym(cuda.library, "cuCtxCreate_v2"));
    EXPECT_EQ(find("cuNothing", &function, 12000, 0, &status), kNotFound);
    EXPECT_EQ(status, 1);
  });
}

TEST(CudaApi, AChildAfterForkHasNoDriver) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    const int pid = ::fork();
    if (pid == 0) ::_exit(cuda.context_synchronize() == kNotInitialized ? 0 : 1);
    int status = -1;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_OK(cuda.context_synchronize());
  });
}

TEST(CudaApi, MoreThanAStreamHoldsBlocksAndThenGoesOn) {
  InChild("h200", {}, [](SimCuda& cuda) {
    Enter(cuda);
    cuda.hold();
    DevicePointer device = 0;
    EXPECT_OK(cuda.memory_alloc(&device, kMib));
    for (int i = 0; i < 3000; ++i) EXPECT_OK(cuda.fill(device, 0, 1 << 18, nullptr));
    EXPECT_OK(cuda.context_synchronize());
  });
}

}  // namespace
}  // namespace sublet::sim
