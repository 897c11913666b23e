#include "kvcache/kv_subscriber.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <memory>
#include <string>

#include "kv_subscriber_rig.h"
#include "kvcache/kv_frames.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;

std::unique_ptr<KvPublisher> Open(asio::io_context& loop, const KvPublisherOptions& options = {}) {
  Result<std::unique_ptr<KvPublisher>> publisher = KvPublisher::Open(loop, options);
  EXPECT_TRUE(publisher.has_value()) << publisher.error().message;
  return std::move(*publisher);
}

// Blocks are numbered as their batches, from `first`.
void Publish(KvPublisher& publisher, int batches, EngineHash first = 0) {
  for (int i = 0; i < batches; ++i) {
    publisher.Publish(StoredBatch(first + publisher.next_sequence()));
  }
}

// Until a live batch arrives: only that tells that the subscription is in place.
void PublishUntilHeard(SubscriberRig& rig, KvPublisher& publisher) {
  const int before = rig.batches;
  ASSERT_TRUE(rig.Until([&] {
    if (rig.batches == before) Publish(publisher, 1);
    return rig.batches > before;
  }));
}

TEST(KvSubscriber, FollowsAnEngineFromItsFirstBatch) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.Until([&] { return rig.Figures().connected == 1; }));
  Publish(*publisher, 50);
  ASSERT_TRUE(rig.IsExact(50));
  rig.ExpectHashes(0, 50);
  EXPECT_EQ(rig.restarts, 0);
}

TEST(KvSubscriber, JoiningLateItReplaysWhatWasBefore) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  Publish(*publisher, 3000);  // More than a wake's worth, and than ZeroMQ's default mark.
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.IsExact(3000));
  Publish(*publisher, 10);
  ASSERT_TRUE(rig.IsExact(3010));
  rig.ExpectHashes(0, 3010);
}

TEST(KvSubscriber, WhatTheRingHasLostMakesItIncomplete) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop, {.buffer_batches = 20});
  Publish(*publisher, 50);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.Knows(CacheKnowledge::kApprox, 20));
  rig.ExpectHashes(30, 20);
  EXPECT_THAT(rig.verdicts.back().why, HasSubstr("began at batch 30"));
}

TEST(KvSubscriber, AGapIsFilled) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  PublishUntilHeard(rig, *publisher);
  publisher->LoseNext(7);
  Publish(*publisher, 20);
  const std::size_t published = publisher->next_sequence();
  ASSERT_TRUE(rig.IsExact(published));
  rig.ExpectHashes(0, published);
  EXPECT_GE(rig.Figures().gaps, 1);
  EXPECT_EQ(rig.restarts, 0);
}

// What is published between connection and subscription shows in no gap until there is more.
TEST(KvSubscriber, WhatWasMissedWhileItConnectedIsFoundByItself) {
  KvSubscriberOptions options = QuickOptions();
  options.stream.settle_s = 0.05;
  SubscriberRig rig(options);
  const auto publisher = Open(rig.loop);
  Publish(*publisher, 1);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.IsExact(1));
  publisher->LoseNext(1);
  Publish(*publisher, 1);
  ASSERT_TRUE(rig.IsExact(2));
}

TEST(KvSubscriber, WithoutReplayAGapIsSaid) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop, {.replay_endpoint = ""});
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.Until([&] { return rig.Figures().connected == 1; }));
  PublishUntilHeard(rig, *publisher);
  publisher->LoseNext(2);
  Publish(*publisher, 3);
  ASSERT_TRUE(rig.Until([&] { return rig.hashes.back() + 1 == publisher->next_sequence(); }));
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  EXPECT_THAT(rig.verdicts.back().why, HasSubstr("are missing"));
}

TEST(KvSubscriber, AnEngineThatStartsAnewIsFollowedAnew) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  Publish(*publisher, 30);
  ASSERT_TRUE(rig.IsExact(30));
  ASSERT_TRUE(publisher->Restart().has_value());
  Publish(*publisher, 40, 1000);  // Further than before: the numbers alone don't tell.
  ASSERT_TRUE(rig.IsExact(40));
  rig.ExpectHashes(1000, 40);
  EXPECT_EQ(rig.restarts, 1);
}

TEST(KvSubscriber, AnEngineMayComeLater) {
  SubscriberRig rig;
  auto publisher = Open(rig.loop);
  const KvEventSource source = SourceOf(*publisher);
  publisher.reset();
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, source).has_value());
  ASSERT_TRUE(rig.Until([&] { return !rig.verdicts.empty(); }));
  EXPECT_EQ(rig.verdicts.back().why, "not connected yet");
  publisher =
      Open(rig.loop, {.endpoint = source.endpoint, .replay_endpoint = source.replay_endpoint});
  Publish(*publisher, 5);
  ASSERT_TRUE(rig.IsExact(5));
}

TEST(KvSubscriber, SilenceWhileItWorksIsAskedAbout) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  Publish(*publisher, 5);
  ASSERT_TRUE(rig.IsExact(5));
  const std::int64_t before = publisher->replays();
  publisher->LoseNext(3);
  Publish(*publisher, 3);  // And nothing after them that would show the gap.
  rig.busy = true;
  ASSERT_TRUE(rig.IsExact(8));
  EXPECT_GT(publisher->replays(), before);
  rig.ExpectHashes(0, 8);
}

TEST(KvSubscriber, TakesOnlyItsTopic) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop, {.topic = "kv@10.0.0.7:8000@llama"});
  KvEventSource source = SourceOf(*publisher);
  source.topic = "kv@10.0.0.8";
  source.replay_endpoint.clear();
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, source).has_value());
  ASSERT_TRUE(rig.Until([&] { return rig.Figures().connected == 1; }));
  Publish(*publisher, 5);
  source.topic = "kv@";
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, source).has_value());
  PublishUntilHeard(rig, *publisher);
  EXPECT_GE(rig.hashes.front(), 5u);
}

TEST(KvSubscriber, MessagesThatAreNoneAreCounted) {
  SubscriberRig rig;
  ZmqContext context;
  Result<ZmqSocket> socket = ZmqSocket::Open(context, ZMQ_PUB);
  ASSERT_TRUE(socket.has_value());
  ASSERT_TRUE(socket->Bind("tcp://127.0.0.1:*").has_value());
  ASSERT_TRUE(
      rig.subscriber
          .Set(kTestSlot, {.endpoint = socket->BoundEndpoint(), .replay_endpoint = {}, .topic = {}})
          .has_value());
  std::uint64_t sequence = 0;
  ASSERT_TRUE(rig.Until([&] {
    socket->Send({"", "1234567", "x"});
    socket->Send({"alone"});
    socket->Send({"", SequenceFrame(kReplayEndSequence).view(), ""});
    socket->Send({"1", "2", "3", "4", "5", "6", "7", "8"});
    socket->Send({"", SequenceFrame(sequence++).view(), "no msgpack"});
    return rig.Figures().bad_frames >= 8 && rig.Figures().bad_batches >= 2;
  }));
  EXPECT_THAT(rig.Figures().last_error, HasSubstr("no MessagePack"));
  EXPECT_EQ(rig.batches, 0);
  const std::string good = EncodeKvEventBatch(StoredBatch(7), KvEncoding::kMaps);
  ASSERT_TRUE(rig.Until([&] {
    socket->Send({"", SequenceFrame(sequence++).view(), good});
    return rig.batches > 0;
  }));
  EXPECT_THAT(rig.hashes, Each(7u));
}

TEST(KvSubscriber, AMessageBeyondAllBoundsEndsItsConnection) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  Publish(*publisher, 1);
  ASSERT_TRUE(rig.IsExact(1));
  publisher->PublishBytes(std::string(kKvBatchBytesMax + 1, 'x'));
  ASSERT_TRUE(rig.Until([&] { return rig.Knowledge() != CacheKnowledge::kExact; }));
  EXPECT_LT(rig.Figures().bytes, 1000);
}

TEST(KvSubscriber, AFloodLeavesTheLoopToOthers) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  Publish(*publisher, 1);
  ASSERT_TRUE(rig.IsExact(1));
  constexpr int kFlood = 9000;
  Publish(*publisher, kFlood);
  // Others' work is done at least once between two wakes.
  int longest = 0;
  int since = 0;
  bool stop = false;
  std::function<void()> other = [&] {
    longest = std::max(longest, std::exchange(since, 0));
    if (!stop) asio::post(rig.loop, other);
  };
  asio::post(rig.loop, other);
  rig.on_batch = [&] { ++since; };
  ASSERT_TRUE(rig.Until([&] { return rig.hashes.size() == kFlood + 1; }));
  stop = true;
  rig.loop.poll();
  EXPECT_LE(longest, 2 * KvSubscriber::kMessagesAWake);
  rig.ExpectHashes(0, kFlood + 1);
}

TEST(KvSubscriber, ASourceMayBeRemovedInItsOwnHandler) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  Publish(*publisher, 100);
  rig.on_batch = [&] {
    if (rig.batches == 3) rig.subscriber.Remove(kTestSlot);
  };
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.Until([&] { return rig.batches == 3; }));
  Publish(*publisher, 100);
  for (int i = 0; i < 100; ++i) rig.loop.poll();
  EXPECT_EQ(rig.batches, 3);
  EXPECT_EQ(rig.subscriber.StatusOf(kTestSlot), std::nullopt);
}

TEST(KvSubscriber, ASourceMayBeRemovedByItsVerdict) {
  SubscriberRig rig;
  const auto publisher = Open(rig.loop);
  Publish(*publisher, 5);
  rig.on_verdict = [&] {
    if (rig.Knowledge() == CacheKnowledge::kStale) rig.subscriber.Remove(kTestSlot);
  };
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*publisher)).has_value());
  ASSERT_TRUE(rig.Until([&] { return !rig.subscriber.StatusOf(kTestSlot).has_value(); }));
  EXPECT_EQ(rig.batches, 0);
}

TEST(KvSubscriber, AnotherEndpointStartsAnewAndTheSameOneDoesNot) {
  SubscriberRig rig;
  const auto first = Open(rig.loop);
  const auto second = Open(rig.loop);
  Publish(*first, 5);
  Publish(*second, 6, 100);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*first)).has_value());
  ASSERT_TRUE(rig.IsExact(5));
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*first)).has_value());
  EXPECT_EQ(rig.Figures().connected, 1);
  rig.hashes.clear();
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*second)).has_value());
  ASSERT_TRUE(rig.Until([&] { return rig.hashes.size() == 6; }));
  rig.ExpectHashes(100, 6);
}

// Two publishers on neighbouring ports, as an engine of two ranks has them.
struct TwoRanks {
  explicit TwoRanks(asio::io_context& loop) {
    for (int attempt = 0; attempt < 50 && !second; ++attempt) {
      first = Open(loop);
      KvPublisherOptions options{
          .endpoint = first->endpoint(), .replay_endpoint = first->replay_endpoint(), .rank = 1};
      if (auto opened = KvPublisher::Open(loop, options)) second = std::move(*opened);
    }
  }
  std::unique_ptr<KvPublisher> first, second;
};

TEST(KvSubscriber, RanksAreHeardOnPortsThatCountUp) {
  SubscriberRig rig;
  const TwoRanks engine(rig.loop);
  ASSERT_NE(engine.second, nullptr);
  Publish(*engine.first, 3);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*engine.first), 2).has_value());
  ASSERT_TRUE(rig.Until([&] { return rig.batches == 3 && rig.Figures().connected == 2; }));
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);  // The other has said nothing.
  Publish(*engine.second, 2, 100);
  ASSERT_TRUE(rig.IsExact(5));
  EXPECT_THAT(rig.ranks, Contains(0));
  EXPECT_THAT(rig.ranks, Contains(1));
  EXPECT_EQ(rig.Figures().ranks, 2);
}

TEST(KvSubscriber, WhereOneRankStartsAnewAllDo) {
  SubscriberRig rig;
  const TwoRanks engine(rig.loop);
  ASSERT_NE(engine.second, nullptr);
  Publish(*engine.first, 3);
  Publish(*engine.second, 2, 100);
  ASSERT_TRUE(rig.subscriber.Set(kTestSlot, SourceOf(*engine.first), 2).has_value());
  ASSERT_TRUE(rig.IsExact(5));
  ASSERT_TRUE(engine.second->Restart().has_value());
  Publish(*engine.second, 4, 200);
  // The first rank's three blocks were forgotten with the rest, and are there again.
  ASSERT_TRUE(rig.IsExact(7));
}

TEST(KvSubscriber, WrongEndpointsAreRefused) {
  SubscriberRig rig;
  for (const KvEventSource& source :
       {KvEventSource{.endpoint = "", .replay_endpoint = "", .topic = ""},
        KvEventSource{.endpoint = "localhost", .replay_endpoint = "", .topic = ""},
        KvEventSource{.endpoint = "tcp://*:5557", .replay_endpoint = "", .topic = ""},
        KvEventSource{.endpoint = "tcp://127.0.0.1:1", .replay_endpoint = "x://y", .topic = ""}}) {
    const Status status = rig.subscriber.Set(kTestSlot, source);
    ASSERT_FALSE(status.has_value()) << source.endpoint;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalid) << source.endpoint;
    EXPECT_EQ(rig.subscriber.StatusOf(kTestSlot), std::nullopt);
  }
  const KvEventSource last = {
      .endpoint = "tcp://127.0.0.1:65535", .replay_endpoint = "", .topic = ""};
  EXPECT_FALSE(rig.subscriber.Set(kTestSlot, last, 2).has_value());
  EXPECT_FALSE(rig.subscriber.Set(kTestSlot, last, 0).has_value());
}

}  // namespace
}  // namespace sublet
