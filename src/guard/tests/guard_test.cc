// The library as it is used: preloaded into programs, watched through shared memory.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "guard/observation.h"

namespace sublet::guard {
namespace {

using ::testing::Each;
using ::testing::UnorderedElementsAre;

struct Totals {
  std::uint64_t launches = 0;
  std::uint64_t waits = 0;
  std::uint64_t bursts = 0;
  std::uint64_t to_device = 0;
  std::uint64_t from_device = 0;
};

class GuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fd_ = ::memfd_create("observation", MFD_CLOEXEC);
    ASSERT_GE(fd_, 0);
    ASSERT_EQ(::ftruncate(fd_, static_cast<off_t>(kObservationBytes)), 0);
    void* const memory =
        ::mmap(nullptr, kObservationBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    ASSERT_NE(memory, MAP_FAILED);
    seen_ = new (memory) Observation{};
    seen_->magic = kObservationMagic;
  }

  void TearDown() override {
    ::munmap(seen_, kObservationBytes);
    ::close(fd_);
  }

  std::string Path() const {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd_);
  }

  // Runs a program with the guard in it and returns its exit status.
  int Run(std::vector<std::string> arguments) { return Run(std::move(arguments), Path()); }

  int Run(std::vector<std::string> arguments, const std::string& observation) {
    std::vector<std::string> variables = {"LD_PRELOAD=" GUARD_LIBRARY,
                                          "LD_LIBRARY_PATH=" FAKE_FOLDER,
                                          std::string(kObservationVariable) + "=" + observation};
    const auto pointers = [](std::vector<std::string>& texts) {
      std::vector<char*> all;
      for (std::string& text : texts) all.push_back(text.data());
      all.push_back(nullptr);
      return all;
    };
    pid_t child = -1;
    if (::posix_spawn(&child, arguments[0].c_str(), nullptr, nullptr, pointers(arguments).data(),
                      pointers(variables).data()) != 0) {
      return -1;
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  int Program(const std::string& how) { return Run({GUARD_PROGRAM, how}); }

  Totals Sum() const {
    Totals totals;
    for (const ObservedProcess& process : seen_->processes) {
      totals.launches += process.launches;
      totals.waits += process.waits;
      totals.bursts += process.bursts;
      totals.to_device += process.bytes_to_device;
      totals.from_device += process.bytes_from_device;
    }
    return totals;
  }

  std::vector<std::uint64_t> BurstsOfEach() const {
    std::vector<std::uint64_t> all;
    for (const ObservedProcess& process : seen_->processes) {
      if (process.pid != 0) all.push_back(process.bursts);
    }
    return all;
  }

  int fd_ = -1;
  Observation* seen_ = nullptr;
};

TEST_F(GuardTest, CountsWhatIsFoundByDlsym) {
  ASSERT_EQ(Program("dlsym"), 0);
  EXPECT_EQ(Sum().launches, 5u);
  EXPECT_EQ(Sum().waits, 4u);
  EXPECT_EQ(Sum().bursts, 4u);
}

TEST_F(GuardTest, CountsWhatIsFoundByProcAddressInTheVariantAskedFor) {
  ASSERT_EQ(Program("proc-address"), 0);
  EXPECT_EQ(Sum().launches, 3u);
  EXPECT_EQ(Sum().waits, 2u);
  EXPECT_EQ(Sum().bursts, 2u);
}

TEST_F(GuardTest, CountsAProgramThatIsLinkedToTheDriver) {
  ASSERT_EQ(Run({LINKED_PROGRAM}), 0);
  EXPECT_EQ(Sum().launches, 1u);
  EXPECT_EQ(Sum().bursts, 1u);
}

TEST_F(GuardTest, CountsAPluginThatAloneIsLinkedToTheDriver) {
  ASSERT_EQ(Run({GUARD_PROGRAM, "plugin", PLUGIN}), 0);
  EXPECT_EQ(Sum().launches, 1u);
  EXPECT_EQ(Sum().bursts, 1u);
}

TEST_F(GuardTest, LosesNothingBetweenThreads) {
  ASSERT_EQ(Program("threads"), 0);
  EXPECT_EQ(Sum().launches, 8000u);
  EXPECT_EQ(Sum().bursts, 8000u);
  EXPECT_EQ(BurstsOfEach().size(), 1u);
}

TEST_F(GuardTest, EndsABurstInTheThreadThatWaits) {
  ASSERT_EQ(Program("handover"), 0);
  EXPECT_EQ(Sum().waits, 6u);
  EXPECT_EQ(Sum().bursts, 5u);
}

TEST_F(GuardTest, BeginsABurstAnewAfterAnotherThreadHasWaited) {
  ASSERT_EQ(Program("handover"), 0);
  std::uint64_t with_a_pause = 0;
  for (int i = DurationBucket(200'000'000); i < kDurationBuckets; ++i) {
    with_a_pause += seen_->processes[0].durations[i];
  }
  EXPECT_EQ(with_a_pause, 0u);
}

TEST_F(GuardTest, CountsAForkedChildForItself) {
  ASSERT_EQ(Program("fork"), 0);
  EXPECT_THAT(BurstsOfEach(), UnorderedElementsAre(2u, 10u));
}

TEST_F(GuardTest, GoesOnWhereAProgramReplacesItself) {
  ASSERT_EQ(Program("exec"), 0);
  EXPECT_THAT(BurstsOfEach(), UnorderedElementsAre(8u));
}

TEST_F(GuardTest, TellsTheDirectionOfCopiesAndEndsBurstsWithThem) {
  ASSERT_EQ(Program("copies"), 0);
  EXPECT_EQ(Sum().to_device, 31230u);
  EXPECT_EQ(Sum().from_device, 311u);
  EXPECT_EQ(Sum().launches, 1u);
  EXPECT_EQ(Sum().bursts, 1u);
}

TEST_F(GuardTest, CountsNothingThatFailed) {
  ASSERT_EQ(Program("failing"), 0);
  EXPECT_EQ(Sum().launches, 0u);
  EXPECT_EQ(Sum().waits, 0u);
}

TEST_F(GuardTest, MeasuresABurstFromLaunchToTheEndOfTheWait) {
  ASSERT_EQ(Program("dlsym"), 0);
  // Three waits in it sleep for 2 ms, the fourth returns at once.
  std::uint64_t slow = 0;
  for (int i = DurationBucket(2'000'000); i < DurationBucket(1'000'000'000); ++i) {
    slow += seen_->processes[0].durations[i];
  }
  EXPECT_EQ(slow, 3u);
}

TEST_F(GuardTest, HoldsAProcessAfterItsFirstContextUntilItWasLookedAt) {
  seen_->hold_ms = 60'000;
  ObservedProcess& process = seen_->processes[0];
  std::thread watcher([&] {
    while (process.context_state != kContextHeld) std::this_thread::yield();
    EXPECT_EQ(process.contexts, 1u);
    process.context_state = kContextGo;
  });
  EXPECT_EQ(Program("contexts"), 0);
  watcher.join();
  EXPECT_EQ(process.contexts, 2u);
}

TEST_F(GuardTest, HoldsNobodyForLongerThanItWasTold) {
  seen_->hold_ms = 20;
  ASSERT_EQ(Program("contexts"), 0);
  EXPECT_EQ(seen_->processes[0].context_state, kContextGo);
}

TEST_F(GuardTest, LeavesTheLoaderAlone) {
  ASSERT_EQ(Program("loader"), 0);
}

TEST_F(GuardTest, LetsAProgramRunThatNobodyWatches) {
  for (const std::string& path : {std::string(), std::string("/nonexistent"),
                                  std::string("/dev/null"), std::string("/proc/self/exe")}) {
    EXPECT_EQ(Run({GUARD_PROGRAM, "dlsym"}, path), 0) << path;
  }
  EXPECT_EQ(Sum().launches, 0u);
}

TEST_F(GuardTest, SaysWhenThereWasNoPlaceForAProcess) {
  for (ObservedProcess& process : seen_->processes) process.pid = 1;
  ASSERT_EQ(Program("dlsym"), 0);
  EXPECT_EQ(seen_->processes_lost, 1u);
  EXPECT_EQ(Sum().launches, 0u);
}

TEST(Duration, FallsIntoABucketNoWiderThanThreePercent) {
  for (std::uint64_t ns : {0ull, 1ull, 63ull, 64ull, 65ull, 127ull, 128ull, 235'000ull,
                           13'900'000ull, 7'000'000'000ull}) {
    const int bucket = DurationBucket(ns);
    const std::uint64_t start = DurationBucketStart(bucket);
    const std::uint64_t end = DurationBucketStart(bucket + 1);
    EXPECT_LE(start, ns);
    EXPECT_LT(ns, end);
    EXPECT_LE(static_cast<double>(end - start), 1 + 0.032 * static_cast<double>(start)) << ns;
  }
}

TEST(Duration, BucketsFollowOneAnotherToTheEnd) {
  for (int i = 0; i < kDurationBuckets; ++i) {
    EXPECT_EQ(DurationBucket(DurationBucketStart(i)), i);
  }
  EXPECT_EQ(DurationBucket(~std::uint64_t{0}), kDurationBuckets - 1);
  EXPECT_EQ(DurationBucketStart(kDurationBuckets), std::uint64_t{1} << kDurationBitsMax);
}

}  // namespace
}  // namespace sublet::guard
