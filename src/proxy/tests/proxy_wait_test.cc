// Requests that wait because all replicas are full.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proxy/admission_gate.h"
#include "proxy/tests/running_proxy.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

// A replica that takes one request at a time, and answers when it is told to.
class HeldReplica {
 public:
  HeldReplica()
      : replica_([this](ReplicaPeer& peer) {
          while (!peer.ReadRequest().empty()) {
            asked_.Come();
            EXPECT_TRUE(go_.Wait());
            peer.Say(kOk);
          }
        }) {}
  FakeReplica& replica() { return replica_; }
  void WaitAsked() { EXPECT_TRUE(asked_.Wait()); }
  void Go() { go_.Come(); }

 private:
  Moment asked_;
  Moment go_;
  FakeReplica replica_;
};

bool OneWaits(RunningProxy& proxy) {
  return proxy.WaitCounters([](const ProxyCounters& c) { return c.requests_waiting == 1; });
}

TEST(ProxyWait, AFullReplicaIsWaitedFor) {
  HeldReplica held;
  RunningProxy proxy({&held.replica()}, TestOptions(), {}, 1);
  TestClient first(proxy.port());
  TestClient second(proxy.port());
  first.Say(ChatText());
  held.WaitAsked();
  second.Say(ChatText());
  EXPECT_TRUE(OneWaits(proxy));
  held.Go();
  EXPECT_THAT(first.Hear("ok"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(second.Hear("ok"), StartsWith("HTTP/1.1 200"));
  const KeptRecord waited = proxy.WaitRecords(2)[1];
  EXPECT_TRUE(waited.record.queued);
  EXPECT_GT(waited.record.waited_ns, 0);
  EXPECT_EQ(proxy.server().Counters().requests_waiting, 0);
}

TEST(ProxyWait, AReplicaThatComesServesThoseWhoWait) {
  HeldReplica held;
  FakeReplica other(Always(std::string(kOk)));
  RunningProxy proxy({&held.replica()}, TestOptions(), {}, 1);
  TestClient first(proxy.port());
  TestClient second(proxy.port());
  first.Say(ChatText());
  held.WaitAsked();
  second.Say(ChatText());
  EXPECT_TRUE(OneWaits(proxy));
  proxy.AddReplica(other.url());
  proxy.server().WakeWaiting();
  EXPECT_THAT(second.Hear("ok"), HasSubstr("x-sublet-replica: r1-"));
  held.Go();
  first.Hear("ok");
}

TEST(ProxyWait, BeyondTheBoundTheClientIsToldToComeAgain) {
  HeldReplica held;
  ProxyOptions options = TestOptions();
  options.admission.waiting_max = 1;
  RunningProxy proxy({&held.replica()}, options, {}, 1);
  TestClient first(proxy.port());
  TestClient second(proxy.port());
  TestClient third(proxy.port());
  first.Say(ChatText());
  held.WaitAsked();
  second.Say(ChatText());
  EXPECT_TRUE(OneWaits(proxy));
  third.Say(ChatText());
  EXPECT_THAT(third.Hear("}}"), AllOf(StartsWith("HTTP/1.1 429"), HasSubstr("retry-after: "),
                                      HasSubstr("rate_limit_error")));
  EXPECT_EQ(proxy.WaitRecords(1)[0].record.outcome, RequestOutcome::kRejected);
  held.Go();
  first.Hear("ok");
  second.Hear("ok");
}

TEST(ProxyWait, NobodyWaitsForEver) {
  HeldReplica held;
  ProxyOptions options = TestOptions();
  options.admission.wait_s_max = 0.05;
  RunningProxy proxy({&held.replica()}, options, {}, 1);
  TestClient first(proxy.port());
  TestClient second(proxy.port());
  first.Say(ChatText());
  held.WaitAsked();
  second.Say(ChatText());
  EXPECT_THAT(second.Hear("}}"), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("waited_too_long"),
                                       HasSubstr("retry-after")));
  held.Go();
  first.Hear("ok");
}

TEST(ProxyWait, AClientThatLeavesGivesItsPlaceUp) {
  HeldReplica held;
  RunningProxy proxy({&held.replica()}, TestOptions(), {}, 1);
  TestClient first(proxy.port());
  TestClient second(proxy.port());
  first.Say(ChatText());
  held.WaitAsked();
  second.Say(ChatText());
  EXPECT_TRUE(OneWaits(proxy));
  second.Leave();
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.requests_waiting == 0; }));
  EXPECT_EQ(proxy.WaitRecords(1)[0].record.outcome, RequestOutcome::kClientGone);
  held.Go();
  first.Hear("ok");
}

TEST(ProxyWait, ManyPassThroughAFewPlacesOnAllThreads) {
  FakeReplica one(Always(std::string(kOk)));
  FakeReplica two(Always(std::string(kOk)));
  ProxyOptions options = TestOptions();
  options.threads = 3;
  RunningProxy proxy({&one, &two}, options, {}, 1);
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    threads.emplace_back([&] {
      TestClient client(proxy.port());
      for (int i = 0; i < 25; ++i) {
        client.Say(ChatText());
        EXPECT_THAT(client.Hear("ok"), StartsWith("HTTP/1.1 200"));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(proxy.WaitRecords(300).size(), 300u);
}

TEST(AdmissionGate, CallsTheNextOfEachModel) {
  internal::AdmissionGate gate(AdmissionOptions{});
  int woken = 0;
  const auto make = [&] {
    return std::make_shared<internal::AdmissionWaiter>([&woken] { ++woken; });
  };
  const auto a1 = make();
  const auto a2 = make();
  const auto b1 = make();
  ASSERT_TRUE(gate.Enter("a", {}, a1, 0));
  ASSERT_TRUE(gate.Enter("a", {}, a2, 0));
  ASSERT_TRUE(gate.Enter("b", {}, b1, 0));
  EXPECT_EQ(gate.waiting(), 3u);
  EXPECT_TRUE(gate.Waits("a"));
  EXPECT_FALSE(gate.Waits("c"));
  EXPECT_TRUE(a1->TakeTurn());
  EXPECT_FALSE(a1->TakeTurn());
  EXPECT_FALSE(a2->TakeTurn());
  EXPECT_TRUE(b1->TakeTurn());
  gate.Freed(1);
  EXPECT_TRUE(a1->TakeTurn());
  EXPECT_TRUE(b1->TakeTurn());
  gate.Leave(*a1, 2);
  EXPECT_TRUE(a2->TakeTurn());
  gate.Leave(*a1, 2);
  gate.Sweep(std::int64_t{3600} * 1'000'000'000);
  EXPECT_TRUE(a2->late());
  EXPECT_TRUE(b1->late());
  EXPECT_EQ(gate.waiting(), 0u);
  gate.Leave(*a2, 3);
  EXPECT_FALSE(gate.Waits("a"));
}

}  // namespace
}  // namespace sublet
