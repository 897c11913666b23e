// The thread that listens to the driver, on the simulated one.
#include "node/health_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>

#include "base/clock.h"
#include "node/tests/sim_hands.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using What = HealthSighting::What;

// Everything that a watch has told, for a test to wait for.
class Sightings {
 public:
  std::function<void(const HealthSighting&)> Recorder() {
    return [this](const HealthSighting& sighting) {
      const std::lock_guard lock(mutex_);
      list_.push_back(sighting);
      changed_.notify_all();
    };
  }

  // The next one that fits, and forgets those before it; absent where none comes in time.
  std::optional<HealthSighting> Next(const std::function<bool(const HealthSighting&)>& fits,
                                     double seconds = 10) {
    std::unique_lock lock(mutex_);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (true) {
      while (!list_.empty()) {
        HealthSighting first = std::move(list_.front());
        list_.pop_front();
        if (fits(first)) return first;
      }
      if (changed_.wait_until(lock, deadline) == std::cv_status::timeout) return std::nullopt;
    }
  }
  std::optional<HealthSighting> Next(What what, double seconds = 10) {
    return Next([what](const HealthSighting& one) { return one.what == what; }, seconds);
  }
  void Forget() {
    const std::lock_guard lock(mutex_);
    list_.clear();
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return list_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<HealthSighting> list_;
};

class HealthWatchTest : public ::testing::Test {
 protected:
  HealthWatchOptions Options(double poll_s = 3600) {
    HealthWatchOptions options;
    options.nvml_path = Simulation::LibraryPath();
    options.report = seen_.Recorder();
    options.poll_s = poll_s;
    options.wait_s = 0.1;
    options.reopen_s = 0.02;
    return options;
  }
  // The UUIDs of a watch's GPUs, once it has polled each of them.
  std::vector<std::string> FirstPolls(int count) {
    std::vector<std::string> uuids;
    while (static_cast<int>(uuids.size()) < count) {
      const auto polled = seen_.Next(What::kPolled);
      if (!polled) break;
      uuids.push_back(polled->gpu_uuid);
    }
    return uuids;
  }

  const Simulation simulation_{"h100-80gb:3"};
  SimHands hands_;
  Sightings seen_;
};

TEST_F(HealthWatchTest, FindsTheDriverAndPollsEachGpuAtOnce) {
  const HealthWatch watch(Options());
  ASSERT_TRUE(seen_.Next(What::kFound));
  const std::vector<std::string> uuids = FirstPolls(3);
  EXPECT_EQ(std::set<std::string>(uuids.begin(), uuids.end()).size(), 3u);
  EXPECT_LT(watch.SecondsSinceAnswer(), 5);
}

TEST_F(HealthWatchTest, TellsAnXidWithItsGpuAndInstance) {
  HealthWatch watch(Options());
  const std::vector<std::string> uuids = FirstPolls(3);
  // Events are listened to after the first polls; a second round is after that.
  watch.PollSoon();
  FirstPolls(3);
  hands_.Fault("xid=1:79");
  const auto seen = seen_.Next(What::kXid);
  ASSERT_TRUE(seen);
  EXPECT_EQ(seen->gpu_uuid, uuids[1]);
  EXPECT_EQ(seen->xid, 79);
  EXPECT_EQ(seen->count, 1);
  EXPECT_FALSE(seen->gpu_instance);
  hands_.Fault("xid=2:31:7:0");
  const auto contained = seen_.Next(What::kXid);
  ASSERT_TRUE(contained);
  EXPECT_EQ(contained->gpu_uuid, uuids[2]);
  EXPECT_EQ(contained->gpu_instance, 7);
}

TEST_F(HealthWatchTest, AStormOfOneXidIsToldInFewWords) {
  HealthWatch watch(Options());
  FirstPolls(3);
  watch.PollSoon();
  FirstPolls(3);
  constexpr int kStorm = 200;
  for (int i = 0; i < kStorm; ++i) hands_.Fault("xid=0:13");
  int told = 0;
  int counted = 0;
  while (counted < kStorm) {
    const auto seen = seen_.Next(What::kXid);
    ASSERT_TRUE(seen) << counted;
    EXPECT_EQ(seen->xid, 13);
    counted += seen->count;
    ++told;
  }
  EXPECT_EQ(counted, kStorm);
  EXPECT_LT(told, kStorm);
}

TEST_F(HealthWatchTest, PollsTellMemoryErrorsAndRowsToReplace) {
  hands_.Fault("ecc=0:3");
  hands_.Fault("remap=1");
  const HealthWatch watch(Options());
  const auto first = seen_.Next(What::kPolled);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->facts.ecc_uncorrected, 3);
  EXPECT_EQ(first->facts.remap_pending, false);
  EXPECT_FALSE(first->facts.lost);
  const auto second = seen_.Next(What::kPolled);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->facts.ecc_uncorrected, 0);
  EXPECT_EQ(second->facts.remap_pending, true);
}

TEST_F(HealthWatchTest, ALostGpuIsToldAndFoundAgainAndTheOthersGoOn) {
  HealthWatch watch(Options(0.02));
  const std::vector<std::string> uuids = FirstPolls(3);
  const auto lost_is = [&](bool lost) {
    return [&, lost](const HealthSighting& one) {
      return one.what == What::kPolled && one.gpu_uuid == uuids[1] && one.facts.lost == lost;
    };
  };
  hands_.Fault("lost=1");
  ASSERT_TRUE(seen_.Next(lost_is(true)));
  ASSERT_TRUE(seen_.Next([&](const HealthSighting& one) {
    return one.what == What::kPolled && one.gpu_uuid == uuids[2] && !one.facts.lost;
  }));
  hands_.Fault("xid=0:31");
  ASSERT_TRUE(seen_.Next(What::kXid)) << "the others are still listened to";
  hands_.ClearFaults();
  ASSERT_TRUE(seen_.Next(lost_is(false)));
  // Its events come again, too; it is registered in the round in which it was found.
  ASSERT_TRUE(seen_.Next(lost_is(false)));
  hands_.Fault("xid=1:31");
  const auto xid = seen_.Next(What::kXid);
  ASSERT_TRUE(xid);
  EXPECT_EQ(xid->gpu_uuid, uuids[1]);
}

TEST_F(HealthWatchTest, AGpuThatDoesNotAnswerIsToldByItself) {
  HealthWatch watch(Options(0.02));
  FirstPolls(3);
  hands_.Fault("fail=nvmlDeviceGetMemoryInfo:999");
  const auto seen = seen_.Next(What::kNoAnswer);
  ASSERT_TRUE(seen);
  EXPECT_NE(seen->gpu_uuid, "");
  EXPECT_THAT(seen->message, HasSubstr("999"));
}

TEST_F(HealthWatchTest, ADriverThatGoesIsOpenedAgain) {
  HealthWatch watch(Options(0.02));
  FirstPolls(3);
  hands_.Fault("fail=nvmlDeviceGetMemoryInfo:1");
  const auto gone = seen_.Next(What::kNoAnswer);
  ASSERT_TRUE(gone);
  EXPECT_EQ(gone->gpu_uuid, "");
  hands_.ClearFaults();
  ASSERT_TRUE(seen_.Next(What::kFound));
  EXPECT_EQ(FirstPolls(3).size(), 3u);
}

TEST_F(HealthWatchTest, ADriverThatIsNotThereIsWaitedFor) {
  HealthWatchOptions options = Options();
  options.nvml_path = "/nonexistent/libnvidia-ml.so.1";
  HealthWatch watch(options);
  for (int i = 0; i < 3; ++i) {
    const auto seen = seen_.Next(What::kNoAnswer);
    ASSERT_TRUE(seen);
    EXPECT_EQ(seen->gpu_uuid, "");
    EXPECT_NE(seen->message, "");
  }
}

TEST_F(HealthWatchTest, StopsPromptlyAndIsSilentAfterwards) {
  HealthWatchOptions options = Options(0.001);
  options.wait_s = 0.2;
  HealthWatch watch(options);
  FirstPolls(3);
  const Deadline deadline = Deadline::In(2);
  watch.Stop();
  EXPECT_FALSE(deadline.Passed());
  seen_.Forget();
  watch.Stop();
  EXPECT_EQ(seen_.count(), 0u);
}

TEST_F(HealthWatchTest, ACallThatNeverComesBackIsGivenUp) {
  HealthWatchOptions options = Options(0.02);
  options.give_up_s = 0.1;
  auto watch = std::make_unique<HealthWatch>(options);
  FirstPolls(3);
  hands_.Fault("hang=nvmlDeviceGetMemoryInfo");
  while (watch->SecondsSinceAnswer() < 0.3) seen_.Next(What::kXid, 0.05);
  watch.reset();
  seen_.Forget();
  EXPECT_EQ(seen_.count(), 0u);
}

// It sleeps in the driver until an event or the next poll, instead of looking again and again.
TEST_F(HealthWatchTest, SleepsWhileNothingHappens) {
  HealthWatchOptions options = Options();
  options.wait_s = 0.5;
  HealthWatch watch(options);
  FirstPolls(3);
  const auto sleeps = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
  };
  const long before = sleeps();
  EXPECT_FALSE(seen_.Next(What::kXid, 1.0));
  EXPECT_LT(sleeps() - before, 20) << "in a second with two waits";
}

}  // namespace
}  // namespace sublet
