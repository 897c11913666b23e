#include "card_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "card_meters.h"

namespace sublet::sim {
namespace {

class CardHostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = std::filesystem::temp_directory_path() / "sublet-cards-XXXXXX";
    folder_ = ::mkdtemp(path.data());
    Result<SimNode> node = LoadSimNode("h200", "");
    ASSERT_TRUE(node.has_value());
    node_ = std::move(*node);
  }
  ~CardHostTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<CardHost> Open() {
    Result<std::unique_ptr<CardHost>> host = CardHost::Open(folder_, node_);
    EXPECT_TRUE(host.has_value());
    return std::move(*host);
  }

  // A process that keeps time, with one context and its default stream.
  static CardProcess* Enter(CardHost& host) {
    CardProcess* const process = host.Attach();
    process->contexts[0] = {.used = true, .group = 1, .sm_cap = 132};
    process->streams[0] = {.used = true, .is_default = true};
    process->keeps_time = true;
    process->holds = true;
    return process;
  }
  static CardItem Kernel(double full_ns) {
    CardItem item;
    item.work = {.full_ns = full_ns, .sm_ns = full_ns, .bytes = 0, .crowd = 0};
    return item;
  }

  std::string folder_;
  SimNode node_;
};

TEST_F(CardHostTest, TimeStandsStillWhileSomebodyHoldsIt) {
  const std::unique_ptr<CardHost> host = Open();
  const CardHost::Locked lock(*host);
  CardProcess* const me = Enter(*host);
  const std::int64_t begin = host->NowOf(*me);
  host->Submit(*me, Kernel(1000));
  host->Advance();
  EXPECT_EQ(host->table().now_ns, begin);
  host->Wait(*me, {.kind = WaitKind::kStream, .number = me->streams[0].last});
  EXPECT_EQ(host->NowOf(*me), begin + 1000 + kWakeNs);
  EXPECT_TRUE(me->holds) << "again after the wait";
}

TEST_F(CardHostTest, WhoeverComesLateDoesNotWaitToWakeUp) {
  const std::unique_ptr<CardHost> host = Open();
  const CardHost::Locked lock(*host);
  CardProcess* const me = Enter(*host);
  const std::int64_t begin = host->NowOf(*me);
  host->Submit(*me, Kernel(1000));
  host->Charge(*me, 50'000);
  host->Wait(*me, {.kind = WaitKind::kStream, .number = me->streams[0].last});
  EXPECT_EQ(host->NowOf(*me), begin + 50'000);
}

TEST_F(CardHostTest, MendsWhatAProcessLeftHalfDone) {
  const std::unique_ptr<CardHost> host = Open();
  CardProcess* me = nullptr;
  {
    const CardHost::Locked lock(*host);
    me = Enter(*host);
    for (int i = 0; i < 3; ++i) host->Submit(*me, Kernel(1000));
  }
  const int slot = static_cast<int>(me - host->table().processes);
  const int pid = ::fork();
  if (pid == 0) {
    const std::unique_ptr<CardHost> mine = Open();
    const CardHost::Locked lock(*mine);
    CardProcess& other = mine->table().processes[slot];
    other.streams[0].head = other.streams[0].tail = -1;
    other.busy_streams = 0;
    ::_exit(0);  // Within the lock.
  }
  ::waitpid(pid, nullptr, 0);
  const CardHost::Locked lock(*host);
  const std::int64_t begin = host->NowOf(*me);
  EXPECT_EQ(me->outstanding, 3);
  host->Wait(*me, {.kind = WaitKind::kStream, .number = me->streams[0].last});
  EXPECT_EQ(host->NowOf(*me), begin + 3000 + kWakeNs);
}

TEST_F(CardHostTest, TakesBackWhatADeadProcessHad) {
  const std::unique_ptr<CardHost> host = Open();
  const int pid = ::fork();
  if (pid == 0) {
    const std::unique_ptr<CardHost> mine = Open();
    const CardHost::Locked* const lock = new CardHost::Locked(*mine);
    Enter(*mine);
    delete lock;
    ::_exit(0);  // Holding the clock.
  }
  ::waitpid(pid, nullptr, 0);
  const CardHost::Locked lock(*host);
  EXPECT_EQ(host->FindProcess(pid), nullptr);
  CardProcess* const me = Enter(*host);
  host->Submit(*me, Kernel(1000));
  host->Wait(*me, {.kind = WaitKind::kStream, .number = me->streams[0].last});
  EXPECT_EQ(me->outstanding, 0);
}

TEST_F(CardHostTest, StartsAfreshWhenNobodyIsThereAndKeepsItsCounters) {
  {
    const std::unique_ptr<CardHost> host = Open();
    const CardHost::Locked lock(*host);
    CardProcess* const me = Enter(*host);
    host->Submit(*me, Kernel(1e9));
    host->Wait(*me, {.kind = WaitKind::kStream, .number = me->streams[0].last});
  }
  const double before = CardMeters(CardsPath(folder_, node_)).Read(node_.gpus[0]).energy_mj;
  EXPECT_GT(before, 75e3) << "a second at rest at least";
  const std::unique_ptr<CardHost> host = Open();
  EXPECT_EQ(host->table().used_processes[0], 0U);
  EXPECT_EQ(CardMeters(CardsPath(folder_, node_)).Read(node_.gpus[0]).energy_mj, before);
}

}  // namespace
}  // namespace sublet::sim
