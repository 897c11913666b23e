// The state's promise: processes share it, and no death of one harms the others.
#include "sim_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace sublet::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

namespace fs = std::filesystem;

class SimStateTest : public ::testing::Test {
 protected:
  SimStateTest() {
    std::string path = fs::temp_directory_path() / "sublet-state-XXXXXX";
    folder_ = ::mkdtemp(path.data());
    node_ = *LoadSimNode("h100-80gb:2", "");
  }
  ~SimStateTest() override { fs::remove_all(folder_); }

  std::unique_ptr<StateStore> Open() {
    auto store = StateStore::Open(folder_, node_);
    EXPECT_TRUE(store) << store.error().message;
    return std::move(*store);
  }
  std::string File() const { return folder_ + "/" + node_.key + ".json"; }

  static nvml::Return CountUp(StateStore& store) {
    return store.Update([](SimState& state) {
      ++state.events_seen;
      return nvml::kSuccess;
    });
  }

  std::string folder_;
  SimNode node_;
};

TEST_F(SimStateTest, StartsAsTheNodeHasIt) {
  const auto state = Open()->Read();
  ASSERT_TRUE(state);
  ASSERT_THAT((*state)->gpus, SizeIs(2));
  EXPECT_FALSE((*state)->gpus[0].mig);
}

TEST_F(SimStateTest, OneStoreSeesWhatAnotherDid) {
  const auto writer = Open();
  const auto reader = Open();
  for (long long i = 1; i <= 200; ++i) {  // Also within one tick of the file system's clock.
    ASSERT_EQ(CountUp(*writer), nvml::kSuccess);
    ASSERT_EQ((*reader->Read())->events_seen, i);
  }
}

TEST_F(SimStateTest, KeepsEverythingOverARestart) {
  ASSERT_EQ(Open()->Update([](SimState& state) {
    GpuInstance instance;
    instance.id = 9;
    instance.profile_id = 19;
    instance.placement = {2, 1};
    instance.compute_instances = {{.id = 3, .profile_id = 1, .placement = {1, 2}, .uuid = {}}};
    state.gpus[1].mig = true;
    state.gpus[1].mig_pending = true;
    state.gpus[1].compute_mode = 3;
    state.gpus[1].instances = {instance};
    state.gpus[0].lost = true;
    state.faults = {"fail=nvmlInit_v2:1"};
    state.events = {{.number = 4, .gpu = 1, .xid = 79, .gpu_instance = 7, .compute_instance = 0}};
    return nvml::kSuccess;
  }),
            nvml::kSuccess);
  const auto state = *Open()->Read();
  EXPECT_TRUE(state->gpus[0].lost);
  EXPECT_TRUE(state->gpus[1].mig);
  EXPECT_TRUE(state->gpus[1].mig_pending);
  EXPECT_EQ(state->gpus[1].compute_mode, 3);
  const GpuInstance& instance = state->gpus[1].instances.at(0);
  EXPECT_EQ(instance.id, 9);
  EXPECT_EQ(instance.placement, (Placement{2, 1}));
  EXPECT_EQ(instance.compute_instances.at(0).id, 3);
  EXPECT_EQ(instance.compute_instances.at(0).placement, (Placement{1, 2}));
  EXPECT_EQ(state->faults.at(0), "fail=nvmlInit_v2:1");
  EXPECT_EQ(state->events.at(0).xid, 79);
  EXPECT_EQ(state->events.at(0).gpu_instance, 7);
}

TEST_F(SimStateTest, ARefusedChangeLeavesNothing) {
  const auto store = Open();
  EXPECT_EQ(store->Update([](SimState& state) {
    state.gpus[0].mig = true;
    return nvml::kInUse;
  }),
            nvml::kInUse);
  EXPECT_FALSE((*store->Read())->gpus[0].mig);
}

TEST_F(SimStateTest, ThreadsAndProcessesTakeTurns) {
  constexpr int kWriters = 4;
  constexpr int kEach = 100;
  std::vector<pid_t> children;
  for (int i = 0; i < kWriters; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto store = Open();
      for (int j = 0; j < kEach; ++j) CountUp(*store);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  const auto store = Open();
  std::vector<std::thread> threads;
  for (int i = 0; i < kWriters; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < kEach; ++j) CountUp(*store);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const pid_t child : children) ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ((*store->Read())->events_seen, 2 * kWriters * kEach);
}

TEST_F(SimStateTest, AKilledWriterLeavesTheOldStateAndNoLock) {
  const auto store = Open();
  ASSERT_EQ(CountUp(*store), nvml::kSuccess);
  const pid_t child = ::fork();
  if (child == 0) {
    store->Update([](SimState& state) {
      state.events_seen = 77;
      ::kill(::getpid(), SIGKILL);  // With the lock held, before anything is written.
      return nvml::kSuccess;
    });
    std::_Exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  std::ofstream(File() + ".new") << "{\"half\":";  // And one that died while it wrote.
  EXPECT_EQ((*store->Read())->events_seen, 1);
  EXPECT_EQ(CountUp(*store), nvml::kSuccess);
  EXPECT_EQ((*store->Read())->events_seen, 2);
}

TEST_F(SimStateTest, ForgetsDeadProcessesAtTheNextChange) {
  const auto store = Open();
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    std::_Exit(0);
  }
  ProcessState process;
  process.pid = child;
  process.started = StartTimeOf(child);
  ASSERT_GT(process.started, 0);
  EXPECT_TRUE(IsAlive(process));
  ASSERT_EQ(store->Update([&](SimState& state) {
    state.processes = {process};
    return nvml::kSuccess;
  }),
            nvml::kSuccess);
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(IsAlive(process));
  ASSERT_EQ(CountUp(*store), nvml::kSuccess);
  EXPECT_THAT((*store->Read())->processes, SizeIs(0));
}

TEST_F(SimStateTest, AReusedPidIsNotTheOldProcess) {
  ProcessState process;
  process.pid = ::getpid();
  process.started = StartTimeOf(process.pid) - 1;
  EXPECT_FALSE(IsAlive(process));
}

TEST_F(SimStateTest, ABrokenStateIsAnErrorThatNamesTheFile) {
  for (const char* text : {"", "{", "[]", "{\"version\":\"sublet.sim/v2\"}",
                           "{\"version\":\"sublet.sim/v1\",\"gpus\":3}"}) {
    std::ofstream(File(), std::ios::trunc) << text;
    const auto store = StateStore::Open(folder_, node_);
    ASSERT_FALSE(store) << text;
    EXPECT_THAT(store.error().message, HasSubstr(File()));
  }
}

TEST_F(SimStateTest, StaysOutOfOtherPeoplesFolders) {
  const std::string link = folder_ + "/link";
  fs::create_directory_symlink("/tmp", link);
  const auto store = StateStore::Open(link, node_);
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kPermission);
}

}  // namespace
}  // namespace sublet::sim
