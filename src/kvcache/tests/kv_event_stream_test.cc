#include "kvcache/kv_event_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using Advice = KvEventStream::Advice;

constexpr std::int64_t kSecond = 1'000'000'000;

KvBatchMark Mark(std::uint64_t sequence, std::uint64_t life = 1) {
  return {.sequence = sequence, .fingerprint = life * 1'000'000 + sequence};
}

KvBatchMark Clearing(std::uint64_t sequence) {
  KvBatchMark mark = Mark(sequence);
  mark.cleared = true;
  return mark;
}

KvBatchMark Garbage(std::uint64_t sequence) {
  KvBatchMark mark = Mark(sequence);
  mark.readable = false;
  return mark;
}

// A stream with its clock.
class Rig {
 public:
  explicit Rig(bool replay) : stream_({.replay = replay}, 0) {}

  KvEventStream& stream() { return stream_; }
  void After(double seconds, bool busy = false) {
    now_ns_ += static_cast<std::int64_t>(seconds * kSecond);
    stream_.OnTick(busy, now_ns_);
  }
  void Connect() { stream_.OnConnected(now_ns_); }
  void Disconnect() { stream_.OnDisconnected(now_ns_); }
  Advice Live(const KvBatchMark& mark) { return stream_.OnBatch(mark, now_ns_); }
  Advice Live(std::uint64_t sequence) { return Live(Mark(sequence)); }
  Advice Replayed(const KvBatchMark& mark) { return stream_.OnReplayed(mark, now_ns_); }
  Advice Replayed(std::uint64_t sequence) { return Replayed(Mark(sequence)); }
  void End() { stream_.OnReplayEnd(now_ns_); }
  StreamVerdict Take() { return stream_.TakeVerdict(); }
  CacheKnowledge Knowledge() { return Take().knowledge; }

  // Connected, with batches 0 to `last` applied live.
  void Follow(std::uint64_t last) {
    Connect();
    for (std::uint64_t i = 0; i <= last; ++i) EXPECT_EQ(Live(i), Advice::kApply);
    EXPECT_EQ(Knowledge(), CacheKnowledge::kExact);
  }

 private:
  std::int64_t now_ns_ = 0;
  KvEventStream stream_;
};

TEST(KvEventStream, NothingIsKnownBeforeTheFirstEvent) {
  Rig rig(false);
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_EQ(verdict.why, "not connected yet");
  EXPECT_TRUE(verdict.changed);
  EXPECT_FALSE(rig.Take().changed);
  rig.Connect();
  EXPECT_EQ(rig.Take().why, "no event yet");
  rig.After(1000, true);  // Silence never means an empty cache.
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
}

TEST(KvEventStream, FollowsAnEngineFromItsFirstBatch) {
  Rig rig(false);
  rig.Follow(5);
  EXPECT_EQ(rig.stream().batches(), 6);
  EXPECT_EQ(rig.stream().gaps(), 0);
}

TEST(KvEventStream, JoiningLateAsksForWhatWasBefore) {
  Rig rig(true);
  rig.Connect();
  const StreamVerdict asked = rig.Take();
  EXPECT_EQ(asked.replay_from, 0u);
  EXPECT_EQ(asked.knowledge, CacheKnowledge::kApprox);
  EXPECT_TRUE(rig.stream().holds_live());
  EXPECT_EQ(rig.Replayed(0), Advice::kApply);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kStale);
  EXPECT_EQ(rig.Replayed(1), Advice::kApply);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  EXPECT_EQ(rig.Live(1), Advice::kDrop);  // The replay had it already.
  EXPECT_EQ(rig.Live(2), Advice::kApply);
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kExact);
  EXPECT_FALSE(verdict.restarted);
}

TEST(KvEventStream, WhatTheRingHasLostIsNotClaimed) {
  Rig rig(true);
  rig.Connect();
  EXPECT_EQ(rig.Replayed(40), Advice::kApply);
  EXPECT_EQ(rig.Replayed(41), Advice::kApply);
  rig.End();
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_THAT(verdict.why, HasSubstr("began at batch 40"));
  EXPECT_EQ(rig.Live(42), Advice::kApply);  // True nevertheless.
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  EXPECT_EQ(rig.Live(Clearing(43)), Advice::kApply);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, JoiningLateWithoutReplayIsIncomplete) {
  Rig rig(false);
  rig.Connect();
  EXPECT_EQ(rig.Live(7), Advice::kApply);
  EXPECT_EQ(rig.Live(8), Advice::kApply);
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_THAT(verdict.why, HasSubstr("joined at batch 7"));
}

TEST(KvEventStream, AGapIsFilledByReplay) {
  Rig rig(true);
  rig.Follow(3);
  EXPECT_EQ(rig.Live(6), Advice::kDrop);
  const StreamVerdict gap = rig.Take();
  EXPECT_EQ(gap.knowledge, CacheKnowledge::kStale);
  EXPECT_EQ(gap.replay_from, 3u);  // One that is known, to see that it is the same engine.
  EXPECT_THAT(gap.why, HasSubstr("batches 4 to 5 are missing"));
  EXPECT_FALSE(rig.Take().replay_from.has_value());  // Given once.
  EXPECT_EQ(rig.Replayed(3), Advice::kDrop);
  for (std::uint64_t i = 4; i <= 7; ++i) EXPECT_EQ(rig.Replayed(i), Advice::kApply);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  EXPECT_EQ(rig.Live(7), Advice::kDrop);
  EXPECT_EQ(rig.Live(8), Advice::kApply);
  EXPECT_EQ(rig.stream().gaps(), 1);
}

TEST(KvEventStream, AGapWithoutReplayIsLost) {
  Rig rig(false);
  rig.Follow(3);
  EXPECT_EQ(rig.Live(6), Advice::kApply);
  StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_TRUE(verdict.changed);
  EXPECT_FALSE(verdict.restarted);
  rig.Live(9);
  verdict = rig.Take();
  EXPECT_TRUE(verdict.changed);  // Once more: what was known since may be wrong too.
}

TEST(KvEventStream, AReplayThatBeginsAfterTheGapIsIncomplete) {
  Rig rig(true);
  rig.Follow(3);
  rig.Live(60);
  EXPECT_EQ(rig.Replayed(50), Advice::kApply);
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_THAT(verdict.why, HasSubstr("batches 4 to 49 are lost"));
  for (std::uint64_t i = 51; i <= 60; ++i) EXPECT_EQ(rig.Replayed(i), Advice::kApply);
  rig.End();
  EXPECT_EQ(rig.Live(61), Advice::kApply);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
}

TEST(KvEventStream, AHoleInAReplayIsAskedForAgain) {
  Rig rig(true);
  rig.Follow(0);
  rig.Live(5);
  rig.Take();
  rig.Replayed(0);
  EXPECT_EQ(rig.Replayed(1), Advice::kApply);
  EXPECT_EQ(rig.Replayed(3), Advice::kDrop);
  EXPECT_EQ(rig.Replayed(4), Advice::kDrop);  // Not in order any more.
  rig.End();
  EXPECT_EQ(rig.Take().replay_from, 1u);
  rig.Replayed(1);
  for (std::uint64_t i = 2; i <= 5; ++i) EXPECT_EQ(rig.Replayed(i), Advice::kApply);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, ALowerNumberIsAnEngineThatStartedAnew) {
  Rig rig(false);
  rig.Follow(9);
  EXPECT_EQ(rig.Live(Mark(0, 2)), Advice::kApply);
  const StreamVerdict verdict = rig.Take();
  EXPECT_TRUE(verdict.restarted);
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kExact);
  EXPECT_EQ(rig.stream().restarts(), 1);
}

TEST(KvEventStream, ARestartSeenLateIsReplayedFromItsBegin) {
  Rig rig(true);
  rig.Connect();
  rig.Live(0);
  for (std::uint64_t i = 1; i < 10; ++i) rig.Live(i);
  rig.Take();
  EXPECT_EQ(rig.Live(Mark(4, 2)), Advice::kDrop);
  const StreamVerdict verdict = rig.Take();
  EXPECT_TRUE(verdict.restarted);
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_EQ(verdict.replay_from, 0u);
  for (std::uint64_t i = 0; i <= 4; ++i) EXPECT_EQ(rig.Replayed(Mark(i, 2)), Advice::kApply);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, AfterAConnectionIsLostTheEngineMustShowThatItIsTheSame) {
  Rig rig(true);
  rig.Follow(9);
  rig.Disconnect();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kStale);
  rig.After(1);
  rig.Connect();
  EXPECT_EQ(rig.Take().replay_from, 9u);
  rig.Replayed(9);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, AnotherEngineBehindTheSameNumbersIsNoticed) {
  Rig rig(true);
  rig.Follow(9);
  rig.Disconnect();
  rig.Connect();
  rig.Take();
  EXPECT_EQ(rig.Replayed(Mark(9, 2)), Advice::kDrop);  // The number is right, the bytes aren't.
  const StreamVerdict verdict = rig.Take();
  EXPECT_TRUE(verdict.restarted);
  EXPECT_EQ(verdict.replay_from, 0u);
  EXPECT_NE(verdict.knowledge, CacheKnowledge::kExact);
}

TEST(KvEventStream, AnEmptyReplayAfterAReconnectIsANewEngine) {
  Rig rig(true);
  rig.Connect();
  for (std::uint64_t i = 0; i < 9; ++i) rig.Replayed(i);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  rig.Disconnect();
  rig.Connect();
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  EXPECT_EQ(rig.Live(Mark(0, 2)), Advice::kApply);
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kExact);
  EXPECT_TRUE(verdict.restarted);
}

TEST(KvEventStream, LowNumbersAfterAReconnectAreOfANewEngine) {
  Rig rig(true);
  rig.Connect();
  for (std::uint64_t i = 0; i < 50; ++i) rig.Replayed(i);
  rig.End();
  rig.Disconnect();
  rig.Connect();
  for (int i = 0; i < 6; ++i) rig.After(5.1);  // Its replay doesn't answer.
  rig.Take();
  EXPECT_EQ(rig.Live(Mark(3, 2)), Advice::kDrop);  // No repetition of what a replay brought.
  const StreamVerdict verdict = rig.Take();
  EXPECT_TRUE(verdict.restarted);
  EXPECT_EQ(verdict.replay_from, 0u);
}

TEST(KvEventStream, WithoutReplayALostConnectionCantBeMadeGood) {
  Rig rig(false);
  rig.Follow(9);
  rig.Disconnect();
  rig.Connect();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  EXPECT_EQ(rig.Live(10), Advice::kApply);  // It looks right, but who knows.
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  EXPECT_EQ(rig.Live(Mark(0, 2)), Advice::kApply);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, ALongOutageIsNoRecovery) {
  Rig rig(true);
  rig.Follow(9);
  rig.Disconnect();
  rig.After(9);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kStale);
  rig.After(2);
  const StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_THAT(verdict.why, HasSubstr("the connection is lost, for 11 s"));
  rig.Connect();
  rig.Replayed(9);
  rig.End();
  rig.After(0.1);
  EXPECT_EQ(rig.Take().replay_from, 0u);  // All of it makes good what was demoted.
}

TEST(KvEventStream, SilenceWhileIdleIsFine) {
  Rig rig(true);
  rig.Follow(2);
  rig.After(3600);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  rig.After(1, true);  // The hour doesn't count against who begins to work now.
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, SilenceWhileItWorksIsAskedAbout) {
  Rig rig(true);
  rig.Follow(2);
  rig.After(1, true);
  rig.After(9, true);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  rig.After(2, true);
  StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kStale);
  EXPECT_EQ(verdict.replay_from, 2u);
  EXPECT_THAT(verdict.why, HasSubstr("no event for 11 s while it works"));
  rig.Replayed(2);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);  // There was nothing to say.
}

TEST(KvEventStream, SilenceWithoutReplayIsDoubtedThenDisbelieved) {
  Rig rig(false);
  rig.Follow(2);
  rig.After(1, true);
  rig.After(11, true);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kStale);
  EXPECT_EQ(rig.Live(3), Advice::kApply);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  rig.After(11, true);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kStale);
  rig.After(11, true);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
}

TEST(KvEventStream, AnotherRanksEventsBreakTheSilence) {
  Rig rig(false);
  rig.Follow(2);
  rig.After(9, true);
  rig.stream().OnHeardElsewhere(9 * kSecond);
  rig.After(9, true);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, AReplayWithoutAnAnswerIsGivenUp) {
  Rig rig(true);
  rig.Follow(2);
  rig.Live(9);
  EXPECT_TRUE(rig.Take().replay_from.has_value());
  for (int attempt = 2; attempt <= 3; ++attempt) {
    rig.After(2.1);
    EXPECT_FALSE(rig.stream().holds_live());
    EXPECT_FALSE(rig.Take().replay_from.has_value()) << "it waits first";
    rig.After(5.1);
    EXPECT_EQ(rig.Take().replay_from, 2u);
  }
  rig.After(2.1);
  StreamVerdict verdict = rig.Take();
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
  EXPECT_THAT(verdict.why, HasSubstr("asked 3 times"));
  EXPECT_EQ(rig.Live(10), Advice::kApply);  // Without asking: it cools down.
  EXPECT_FALSE(rig.Take().replay_from.has_value());
  EXPECT_EQ(rig.stream().replays(), 4);  // With the one at the start.
}

TEST(KvEventStream, AfterTheCoolDownAllOfItIsAskedFor) {
  Rig rig(true);
  rig.Follow(2);
  rig.Live(9);
  for (int i = 0; i < 6; ++i) rig.After(5.1);
  rig.Live(10);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  rig.After(31);
  const StreamVerdict asked = rig.Take();
  EXPECT_EQ(asked.replay_from, 0u);
  EXPECT_EQ(rig.Replayed(0), Advice::kApply);
  EXPECT_TRUE(rig.Take().restarted);
  for (std::uint64_t i = 1; i <= 10; ++i) EXPECT_EQ(rig.Replayed(i), Advice::kApply);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
}

TEST(KvEventStream, WhereTheBeginIsGoneNothingIsAskedForTwice) {
  Rig rig(true);
  rig.Follow(2);
  rig.Live(9);
  for (int i = 0; i < 6; ++i) rig.After(5.1);
  rig.Live(10);
  rig.After(31);
  rig.Take();
  EXPECT_EQ(rig.Replayed(5), Advice::kDrop);
  EXPECT_EQ(rig.Replayed(6), Advice::kDrop);
  rig.End();
  EXPECT_EQ(rig.Live(11), Advice::kApply);  // What it had goes on.
  rig.After(3600);
  const StreamVerdict verdict = rig.Take();
  EXPECT_FALSE(verdict.restarted);
  EXPECT_FALSE(verdict.replay_from.has_value());
  EXPECT_EQ(verdict.knowledge, CacheKnowledge::kApprox);
}

TEST(KvEventStream, AnUnreadableBatchIsAGap) {
  Rig rig(true);
  rig.Follow(2);
  EXPECT_EQ(rig.Live(Garbage(3)), Advice::kDrop);
  EXPECT_EQ(rig.Take().replay_from, 2u);
  rig.Replayed(2);
  EXPECT_EQ(rig.Replayed(3), Advice::kApply);  // It was only its copy.
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  rig.Live(Garbage(4));
  rig.Take();
  rig.Replayed(3);
  EXPECT_EQ(rig.Replayed(Garbage(4)), Advice::kDrop);
  rig.End();
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kApprox);
  EXPECT_EQ(rig.Live(Garbage(5)), Advice::kDrop);
  EXPECT_FALSE(rig.Take().replay_from.has_value());  // Not for each of them.
  EXPECT_EQ(rig.Live(6), Advice::kApply);
}

TEST(KvEventStream, AClearedCacheIsACleanStartInTheMiddleOfAReplay) {
  Rig rig(true);
  rig.Follow(2);
  rig.Live(9);
  EXPECT_EQ(rig.Live(Clearing(10)), Advice::kApply);
  EXPECT_EQ(rig.Knowledge(), CacheKnowledge::kExact);
  EXPECT_EQ(rig.Replayed(3), Advice::kDrop);  // Of a replay that is over.
  EXPECT_EQ(rig.Live(11), Advice::kApply);
}

}  // namespace
}  // namespace sublet
