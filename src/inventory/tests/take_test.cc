// The whole way from the driver to an Inventory, on the simulated driver.
#include "inventory/take.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "inventory/nvml_api.h"
#include "inventory/tests/simulation.h"
#include "model/board.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

// The simulated driver's functions that change something, for a test to call.
class Hands {
 public:
  Hands() : handle_(::dlopen(Simulation::LibraryPath().c_str(), RTLD_NOW)) {
    EXPECT_NE(handle_, nullptr) << ::dlerror();
    EXPECT_EQ(Call<int()>("nvmlInit_v2"), 0);
  }
  ~Hands() {
    Call<int()>("nvmlShutdown");
    ::dlclose(handle_);
  }
  Hands(const Hands&) = delete;
  Hands& operator=(const Hands&) = delete;

  template <typename Signature, typename... Arguments>
  int Call(const char* name, Arguments... arguments) {
    return reinterpret_cast<Signature*>(::dlsym(handle_, name))(arguments...);
  }

  nvml::Device Device(unsigned index) {
    nvml::Device device = nullptr;
    EXPECT_EQ((Call<int(unsigned, nvml::Device*)>("nvmlDeviceGetHandleByIndex_v2", index, &device)),
              0);
    return device;
  }

  void EnableMig(unsigned gpu) {
    nvml::Return activation = nvml::kUnknown;
    ASSERT_EQ((Call<int(nvml::Device, unsigned, nvml::Return*)>("nvmlDeviceSetMigMode", Device(gpu),
                                                                1u, &activation)),
              0);
    ASSERT_EQ(activation, nvml::kSuccess);
  }

  // A GPU instance with one compute instance over all of it.
  void Cut(unsigned gpu, unsigned profile_id, unsigned start, unsigned size,
           unsigned compute_profile) {
    const nvml::InstancePlacement placement{.start = start, .size = size};
    nvml::GpuInstance instance = nullptr;
    ASSERT_EQ(
        (Call<int(nvml::Device, unsigned, const nvml::InstancePlacement*, nvml::GpuInstance*)>(
            "nvmlDeviceCreateGpuInstanceWithPlacement", Device(gpu), profile_id, &placement,
            &instance)),
        0);
    nvml::ComputeInstance compute = nullptr;
    ASSERT_EQ((Call<int(nvml::GpuInstance, unsigned, nvml::ComputeInstance*)>(
                  "nvmlGpuInstanceCreateComputeInstance", instance, compute_profile, &compute)),
              0);
  }

  int StartProcess(unsigned gpu, unsigned gi, unsigned ci, unsigned long long bytes,
                   unsigned type) {
    return Call<int(unsigned, unsigned, unsigned, unsigned, unsigned long long, unsigned)>(
        "subletSimProcessStart", 0u, gpu, gi, ci, bytes, type);
  }

 private:
  void* handle_;
};

constexpr unsigned kNone = 0xFFFFFFFF;

TEST(Take, ReportsWhatTheBoardIs) {
  const Simulation simulation("h200:1");
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_EQ(node->driver.version, "580.159.04");
  EXPECT_EQ(node->driver.nvml_version, "13.580.159.04");
  EXPECT_EQ(node->driver.cuda_version, 13000);
  EXPECT_TRUE(node->driver.simulated);
  const Board& board = **BuiltInBoards().Find("h200");
  const Gpu& gpu = node->gpus.at(0);
  EXPECT_EQ(gpu.board, "h200");
  EXPECT_EQ(gpu.product, board.product);
  EXPECT_EQ(gpu.memory, board.memory);
  EXPECT_EQ(gpu.sm_count, board.sm_count);
  EXPECT_EQ(gpu.compute_capability_major, 9);
  EXPECT_EQ(gpu.pci_device_id, board.pci_ids.at(0) << 16 | 0x10DE);
  EXPECT_THAT(gpu.uuid, StartsWith("GPU-"));
  EXPECT_EQ(gpu.numa_node, 0);
  EXPECT_EQ(gpu.compute_mode, ComputeMode::kDefault);
  EXPECT_EQ(gpu.health.ecc, true);
  EXPECT_EQ(gpu.health.xid_events, true);
  EXPECT_TRUE(gpu.mig_capable);
  EXPECT_FALSE(gpu.mig_enabled);
  EXPECT_THAT(node->links, IsEmpty());
}

// Each board's table must come out as it went in, through NVML's enums, structures and names.
TEST(Take, ReportsEveryBoardsMigTableAsTheCatalogueHasIt) {
  for (const Board& board : BuiltInBoards().boards) {
    SCOPED_TRACE(board.name);
    const Simulation simulation(board.name + ":1", {{"SUBLET_SIM_DRIVER", "999"}});
    const Result<Inventory> node = simulation.Take();
    ASSERT_TRUE(node) << node.error().message;
    const Gpu& gpu = node->gpus.at(0);
    EXPECT_EQ(gpu.board, board.name);
    EXPECT_EQ(gpu.mig_capable, board.HasMig());
    ASSERT_THAT(gpu.profiles, SizeIs(board.profiles.size()));
    for (const MigProfile& profile : board.profiles) {
      const ReportedProfile* reported = gpu.FindProfile(profile.id);
      ASSERT_NE(reported, nullptr) << profile.name;
      EXPECT_EQ(reported->name, profile.name);
      EXPECT_EQ(reported->compute_slices, profile.compute_slices);
      EXPECT_EQ(reported->max_instances, profile.max_instances);
      EXPECT_EQ(reported->memory.mib(), profile.memory.mib());
      EXPECT_EQ(reported->sm_count, profile.sm_count);
      EXPECT_EQ(reported->engines, profile.engines);
      std::vector<Placement> placements;
      for (const int start : profile.starts) placements.push_back({start, profile.size});
      EXPECT_EQ(reported->placements, placements);
    }
  }
}

TEST(Take, ReportsInstancesWithTheirDevices) {
  const Simulation simulation("h100-80gb:2");
  Hands hands;
  hands.EnableMig(1);
  hands.Cut(1, 9, 4, 4, 2);   // 3g.40gb
  hands.Cut(1, 19, 2, 1, 0);  // 1g.10gb
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_FALSE(node->gpus.at(0).mig_enabled);
  const Gpu& gpu = node->gpus.at(1);
  EXPECT_TRUE(gpu.mig_enabled);
  ASSERT_THAT(gpu.instances, SizeIs(2));
  EXPECT_EQ(gpu.instances[0].profile, "1g.10gb");
  EXPECT_EQ(gpu.instances[0].id, 9);
  EXPECT_EQ(gpu.instances[0].placement, (Placement{2, 1}));
  EXPECT_EQ(gpu.instances[1].profile, "3g.40gb");
  EXPECT_EQ(gpu.instances[1].id, 1);
  EXPECT_EQ(gpu.instances[1].placement, (Placement{4, 4}));
  ASSERT_THAT(gpu.instances[1].compute_instances, SizeIs(1));
  const ComputeInstance& compute = gpu.instances[1].compute_instances[0];
  EXPECT_EQ(compute.placement, (Placement{0, 3}));
  EXPECT_THAT(compute.uuid, StartsWith("MIG-"));
  EXPECT_NE(compute.uuid, gpu.instances[0].compute_instances.at(0).uuid);
}

TEST(Take, ShowsAnUnprivilegedUserTheMigDevicesAlone) {
  const Simulation simulation("h100-80gb:1");
  {
    Hands hands;
    hands.EnableMig(0);
    hands.Cut(0, 19, 2, 1, 0);
  }
  ::setenv("SUBLET_SIM_UNPRIVILEGED", "1", 1);
  const Result<Inventory> node = simulation.Take();
  ::unsetenv("SUBLET_SIM_UNPRIVILEGED");
  ASSERT_TRUE(node) << node.error().message;
  const Gpu& gpu = node->gpus.at(0);
  ASSERT_THAT(gpu.instances, SizeIs(1));
  EXPECT_EQ(gpu.instances[0].id, 9);
  EXPECT_EQ(gpu.instances[0].placement, Placement{}) << "unknown, so size 0";
  EXPECT_THAT(gpu.instances[0].compute_instances.at(0).uuid, StartsWith("MIG-"));
}

TEST(Take, ReportsProcessesOfEachKind) {
  const Simulation simulation("l4:3");
  Hands hands;
  ASSERT_EQ(hands.StartProcess(0, kNone, kNone, 3ULL << 30, 0), 0);
  ASSERT_EQ(hands.StartProcess(1, kNone, kNone, 1ULL << 30, 1), 0);
  ASSERT_EQ(hands.StartProcess(2, kNone, kNone, 2ULL << 30, 2), 0);
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  std::vector<ProcessType> types;
  for (const Gpu& gpu : node->gpus) {
    ASSERT_THAT(gpu.processes, SizeIs(1));
    EXPECT_EQ(gpu.processes[0].pid, ::getpid());
    EXPECT_THAT(gpu.processes[0].name, HasSubstr("inventory_tests"));
    EXPECT_EQ(gpu.processes[0].gpu_instance, std::nullopt);
    EXPECT_EQ(gpu.processes[0].memory, gpu.memory_used);
    types.push_back(gpu.processes[0].type);
  }
  EXPECT_THAT(types,
              ElementsAre(ProcessType::kCompute, ProcessType::kGraphics, ProcessType::kMpsClient));
}

TEST(Take, ReportsMoreProcessesThanItFirstMadeRoomFor) {
  const Simulation simulation("h200:1");
  // Twenty live processes stand for many: the buffer's first size is 32, so each starts twice in
  // the list of its own kind.
  Hands hands;
  constexpr int kEntries = 70;
  for (int i = 0; i < kEntries; ++i) {
    ASSERT_EQ(hands.StartProcess(0, kNone, kNone, 1ULL << 20, 0), 0);
  }
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  // One pid is one process, however many contexts it has.
  ASSERT_THAT(node->gpus.at(0).processes, SizeIs(1));
  EXPECT_EQ(node->gpus[0].memory_used, Bytes::FromMib(kEntries));
}

TEST(Take, ReportsHowGpusAreConnected) {
  const Simulation simulation("h100-80gb:2,l4:2");
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  ASSERT_THAT(node->links, SizeIs(6));
  EXPECT_EQ(node->links[0].nvlinks, 18);
  EXPECT_TRUE(node->links[0].nvswitch);
  EXPECT_EQ(node->links[0].p2p, true);
  EXPECT_EQ(node->links[0].pci_path, PciPath::kNumaNode);
  const GpuLink& across = node->links[1];
  EXPECT_EQ(across.pci_path, PciPath::kSystem);
  EXPECT_EQ(across.nvlinks, std::nullopt) << "an L4 has no NVLink to tell about";
  EXPECT_EQ(across.p2p, false);
}

TEST(Take, ALostGpuDoesNotHideTheOthers) {
  const Simulation simulation("h100-80gb:3", {{"SUBLET_SIM_FAULTS", "lost=1"}});
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  ASSERT_THAT(node->gpus, SizeIs(3));
  EXPECT_EQ(node->gpus[1].problem, "opening GPU 1: gpu is lost (nvml 15)");
  EXPECT_EQ(node->gpus[2].problem, "");
  ASSERT_THAT(node->links, SizeIs(1));
  EXPECT_EQ(node->links[0].b, 2);
  EXPECT_THAT(node->modes.at(0).gpus, ElementsAre(0, 2));
}

TEST(Take, WhatTheDriverRefusesIsAbsent) {
  const Simulation simulation(
      "h100-80gb:1", {{"SUBLET_SIM_FAULTS",
                       "fail=nvmlDeviceGetNumGpuCores:3;fail=nvmlDeviceGetMemoryInfo_v2:13;"
                       "fail=nvmlDeviceGetComputeMode:3;fail=nvmlDeviceGetEccMode:3;"
                       "fail=nvmlDeviceGetTotalEccErrors:3;fail=nvmlDeviceGetUtilizationRates:999;"
                       "fail=nvmlSystemGetNVMLVersion:999;fail=nvmlDeviceGetMinorNumber:4;"
                       "fail=nvmlDeviceGetMemoryAffinity:3"}});
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  const Gpu& gpu = node->gpus.at(0);
  EXPECT_EQ(gpu.problem, "");
  EXPECT_EQ(gpu.sm_count, std::nullopt);
  EXPECT_EQ(gpu.memory_reserved, std::nullopt);
  EXPECT_GT(gpu.memory_used, Bytes{}) << "with what the driver reserves";
  EXPECT_EQ(gpu.compute_mode, std::nullopt);
  EXPECT_EQ(gpu.health.ecc, std::nullopt);
  EXPECT_EQ(gpu.health.ecc_errors_corrected, std::nullopt);
  EXPECT_EQ(gpu.utilisation_percent, std::nullopt);
  EXPECT_EQ(gpu.minor_number, std::nullopt);
  EXPECT_EQ(gpu.numa_node, std::nullopt);
  EXPECT_EQ(node->driver.nvml_version, "");
}

TEST(Take, AnOldDriverThatNamesNoProfilesStillNumbersThem) {
  const Simulation simulation(
      "a100-40gb:1", {{"SUBLET_SIM_FAULTS", "fail=nvmlDeviceGetGpuInstanceProfileInfoV:13"}});
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  const ReportedProfile* profile = node->gpus.at(0).FindProfile(19);
  ASSERT_NE(profile, nullptr);
  EXPECT_EQ(profile->name, "");
  EXPECT_EQ(profile->memory, Bytes::FromMib(4864));
}

TEST(Take, AnOlderDriverThanTheBoardHasNoMig) {
  const Simulation simulation("h100-80gb:1", {{"SUBLET_SIM_DRIVER", "470.82.01"}});
  const Result<Inventory> node = simulation.Take();
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_FALSE(node->gpus.at(0).mig_capable);
  EXPECT_THAT(node->modes.at(4).reasons, Contains(HasSubstr("too old")));
}

TEST(Take, FailsWhenGpusCannotBeCounted) {
  const Simulation simulation("h200:1", {{"SUBLET_SIM_FAULTS", "fail=nvmlDeviceGetCount_v2:17"}});
  const Result<Inventory> node = simulation.Take();
  ASSERT_FALSE(node);
  EXPECT_EQ(node.error().code, ErrorCode::kPermission);
  EXPECT_THAT(node.error().message, HasSubstr("counting GPUs"));
}

TEST(Take, FailsWhenNvmlDoesNotStart) {
  const Simulation simulation("h200:1", {{"SUBLET_SIM_FAULTS", "fail=nvmlInit_v2:18"}});
  const Result<Inventory> node = simulation.Take();
  ASSERT_FALSE(node);
  EXPECT_EQ(node.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(node.error().hint, HasSubstr("reboot"));
}

TEST(Take, GivesUpOnADriverThatHangs) {
  // In a process of its own, because the call that hangs never comes back.
  const Simulation simulation("h200:1", {{"SUBLET_SIM_FAULTS", "hang=nvmlDeviceGetName"}});
  const auto take = [&] {
    const Result<Inventory> node = simulation.Take(std::chrono::milliseconds(50));
    if (!node) std::fprintf(stderr, "%s", node.error().message.c_str());
    std::_Exit(node ? 0 : ExitStatus(node.error().code));
  };
  EXPECT_EXIT(take(), ::testing::ExitedWithCode(ExitStatus(ErrorCode::kUnavailable)),
              "the driver did not answer within 0.05 s");
}

TEST(Take, ARecordingPlaysAsTheNodeItWasTakenFrom) {
  std::string text;
  {
    const Simulation simulation("a100-80gb:2,l4:1");
    Hands hands;
    hands.EnableMig(0);
    hands.Cut(0, 14, 2, 2, 1);
    Result<Inventory> node = simulation.Take();
    ASSERT_TRUE(node) << node.error().message;
    EXPECT_EQ(node->gpus[1].fabric, std::nullopt);
    node->mps_daemons.clear();  // Those of other tests come and go.
    node->gpus[1].fabric = FabricPlace{"1f0b8a5e-0000-4000-8000-0000000000fa", 32766};
    text = InventoryToJson(*node).dump();
  }
  std::string path = std::filesystem::temp_directory_path() / "sublet-node-XXXXXX";
  ::close(::mkstemp(path.data()));
  std::ofstream(path) << text;
  const Simulation simulation(path);
  Result<Inventory> again = simulation.Take();
  std::filesystem::remove(path);
  ASSERT_TRUE(again) << again.error().message;
  again->mps_daemons.clear();
  EXPECT_EQ(InventoryToJson(*again).dump(), text);
}

}  // namespace
}  // namespace sublet
