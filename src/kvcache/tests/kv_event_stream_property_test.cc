// The stream against a model of an engine whose batches get lost on their way, which starts anew,
// and which keeps a ring of them for replay.

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <deque>
#include <set>
#include <string>
#include <vector>

#include "kvcache/kv_event_stream.h"

namespace sublet {
namespace {

constexpr std::int64_t kMillisecond = 1'000'000;

struct Sent {
  int life = 0;
  KvBatchMark mark;
};

class World {
 public:
  World(bool replay, std::size_t ring) : stream_({.replay = replay}, 0), ring_size_(ring) {}

  void Publish(bool lost, bool cleared, bool readable) {
    const std::uint64_t sequence = published_.size();
    Sent sent{.life = life_,
              .mark = {.sequence = sequence,
                       .fingerprint = static_cast<std::uint64_t>(life_) << 32 | sequence,
                       .cleared = cleared && readable,
                       .readable = readable}};
    published_.push_back(sent);
    ring_.push_back(sent);
    if (ring_.size() > ring_size_) ring_.pop_front();
    if (connected_ && !lost) live_.push_back(sent);
  }

  // A new process: the kernel ends the connections of the old one before the new one listens.
  void Restart() {
    ++life_;
    published_.clear();
    ring_.clear();
    Disconnect();
  }
  void Disconnect() {
    if (!connected_) return;
    connected_ = false;
    live_.clear();
    answers_.clear();
    asked_.reset();
    stream_.OnDisconnected(now_ns_);
    Listen();
  }
  void Connect() {
    if (connected_) return;
    connected_ = true;
    stream_.OnConnected(now_ns_);
    Listen();
  }

  void DeliverLive() {
    if (live_.empty() || stream_.holds_live()) return;
    const Sent sent = live_.front();
    live_.pop_front();
    const auto advice = stream_.OnBatch(sent.mark, now_ns_);
    Apply(sent, advice);
  }

  // The engine answers the replay that was asked for; of its answers, those in `lost` get lost.
  void Answer(const std::set<std::size_t>& lost) {
    if (!asked_) return;
    std::size_t i = 0;
    for (const Sent& sent : ring_) {
      if (sent.mark.sequence < *asked_) continue;
      if (!lost.contains(i++)) answers_.push_back({sent, false});
    }
    answers_.push_back({{}, true});
    asked_.reset();
  }
  void DeliverAnswer() {
    if (answers_.empty()) return;
    const auto [sent, end] = answers_.front();
    answers_.pop_front();
    if (!end) return Apply(sent, stream_.OnReplayed(sent.mark, now_ns_));
    stream_.OnReplayEnd(now_ns_);
    Listen();
  }

  void Tick(std::int64_t milliseconds, bool busy) {
    now_ns_ += milliseconds * kMillisecond;
    stream_.OnTick(busy, now_ns_);
    Listen();
  }

  // Nothing is lost any more.
  void Quiet() {
    Connect();
    Publish(false, false, true);
    for (int i = 0; i < 2000; ++i) {
      if (!stream_.holds_live()) {
        // A tick only where nothing else moves, so that an answer is never too late.
        if (live_.empty()) Tick(1000, false);
        DeliverLive();
      } else if (!answers_.empty()) {
        DeliverAnswer();
      } else if (asked_) {
        Answer({});
      } else {
        Tick(2500, false);
      }
    }
  }

  // EXACT means: the log since it was last forgotten ends in all batches of the engine that is
  // connected, from a clean start on.
  void Check() const {
    if (told_ != CacheKnowledge::kExact) return;
    RC_ASSERT(!log_.empty());
    RC_ASSERT(connected_);
    std::size_t at = log_.size();
    while (true) {
      RC_ASSERT(at > 0);
      const Sent& sent = log_[--at];
      RC_ASSERT(sent.life == life_);
      RC_ASSERT(sent.mark.sequence == log_.back().mark.sequence - (log_.size() - 1 - at));
      if (sent.mark.sequence == 0 || sent.mark.cleared) return;
    }
  }

  bool IsUpToDate() const {
    return !log_.empty() && log_.back().life == life_ &&
           log_.back().mark.sequence + 1 == published_.size();
  }
  // Whether the ring has all that a clean start needs, readable.
  bool RingIsWhole() const {
    if (ring_.empty() || ring_.front().mark.sequence != 0) return false;
    for (const Sent& sent : ring_) {
      if (!sent.mark.readable) return false;
    }
    return true;
  }
  CacheKnowledge told() const { return told_; }
  std::string why() { return stream_.TakeVerdict().why; }

 private:
  void Apply(const Sent& sent, KvEventStream::Advice advice) {
    Listen();
    if (advice != KvEventStream::Advice::kApply) return;
    RC_ASSERT(sent.mark.readable);
    // Exactly once and in order, within one life.
    if (!log_.empty() && log_.back().life == sent.life) {
      RC_ASSERT(sent.mark.sequence > log_.back().mark.sequence);
    }
    log_.push_back(sent);
    Check();
  }

  void Listen() {
    const StreamVerdict verdict = stream_.TakeVerdict();
    if (verdict.restarted) log_.clear();
    told_ = verdict.knowledge;
    if (verdict.replay_from) {
      answers_.clear();  // A socket of its own for each.
      asked_ = verdict.replay_from;
    }
  }

  KvEventStream stream_;
  std::int64_t now_ns_ = 0;
  std::size_t ring_size_;
  int life_ = 1;
  bool connected_ = false;
  std::vector<Sent> published_;  // Of this life.
  std::deque<Sent> ring_;
  std::deque<Sent> live_;  // On its way.
  std::optional<std::uint64_t> asked_;
  std::deque<std::pair<Sent, bool>> answers_;
  std::vector<Sent> log_;  // Applied since it was last forgotten.
  CacheKnowledge told_ = CacheKnowledge::kApprox;
};

void Step(World& world) {
  switch (*rc::gen::weightedElement<int>(
      {{8, 0}, {8, 1}, {4, 2}, {8, 3}, {2, 4}, {1, 5}, {1, 6}, {2, 7}})) {
    case 0:
      return world.Publish(*rc::gen::inRange(0, 6) == 0, *rc::gen::inRange(0, 30) == 0,
                           *rc::gen::inRange(0, 30) != 0);
    case 1:
      return world.DeliverLive();
    case 2: {
      std::set<std::size_t> lost;
      if (*rc::gen::inRange(0, 3) == 0) lost = *rc::gen::arbitrary<std::set<std::size_t>>();
      return world.Answer(lost);
    }
    case 3:
      return world.DeliverAnswer();
    case 4:
      return world.Tick(*rc::gen::inRange(1, 8000), *rc::gen::arbitrary<bool>());
    case 5:
      return world.Restart();
    case 6:
      return world.Disconnect();
    default:
      return world.Connect();
  }
}

void Run(World& world) {
  const int steps = *rc::gen::inRange(0, 200);
  for (int i = 0; i < steps; ++i) Step(world);
}

RC_GTEST_PROP(KvEventStreamProperty, ExactIsClaimedOnlyWhereAllIsKnown, ()) {
  World world(*rc::gen::arbitrary<bool>(), *rc::gen::element<std::size_t>(1, 3, 10, 1000));
  Run(world);
}

RC_GTEST_PROP(KvEventStreamProperty, WhatTheRingHasIsRecovered, ()) {
  World world(true, *rc::gen::element<std::size_t>(3, 20, 1000));
  Run(world);
  world.Quiet();
  RC_ASSERT(world.IsUpToDate());
  if (!world.RingIsWhole()) return;
  if (world.told() != CacheKnowledge::kExact) RC_FAIL(world.why());
}

RC_GTEST_PROP(KvEventStreamProperty, WithoutReplayItStillFollows, ()) {
  World world(false, 1);
  Run(world);
  world.Quiet();
  RC_ASSERT(world.IsUpToDate());
}

}  // namespace
}  // namespace sublet
