// kvcache/tests/kv_subscriber_rig.h
//
// A subscriber on a loop of its own, and what it told.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "kvcache/kv_publisher.h"
#include "kvcache/kv_subscriber.h"

namespace sublet {

constexpr ReplicaSlot kTestSlot = 3;

// Quick enough that nobody waits for a deadline, and none is missed on a slow machine.
inline KvSubscriberOptions QuickOptions() {
  KvSubscriberOptions options;
  options.tick_s = 0.01;
  options.reconnect_s = 0.02;
  options.stream.silence_s = 0.3;
  options.stream.replay_timeout_s = 2;
  options.stream.replay_pause_s = 0.1;
  options.stream.replay_cooldown_s = 0.5;
  return options;
}

struct SubscriberRig {
  explicit SubscriberRig(const KvSubscriberOptions& options = QuickOptions())
      : subscriber(loop, options,
                   {.on_verdict = [this](const KvVerdict& verdict) { OnVerdict(verdict); },
                    .on_batch = [this](ReplicaSlot slot, const KvEventBatch& batch,
                                       std::int64_t) { OnBatch(slot, batch); },
                    .is_busy = [this](ReplicaSlot) { return busy; }}) {}

  void OnVerdict(const KvVerdict& verdict) {
    verdicts.push_back(verdict);
    if (verdict.restarted) {
      hashes.clear();
      ++restarts;
    }
    if (on_verdict) on_verdict();
  }
  void OnBatch(ReplicaSlot slot, const KvEventBatch& batch) {
    EXPECT_EQ(slot, kTestSlot);
    for (const KvEvent& event : batch.events) {
      if (event.what == KvEvent::What::kCleared) hashes.clear();
      hashes.insert(hashes.end(), event.blocks.begin(), event.blocks.end());
    }
    if (batch.dp_rank) ranks.push_back(*batch.dp_rank);
    ++batches;
    if (on_batch) on_batch();
  }

  // Runs the loop until it is so; false where that takes half a minute.
  bool Until(const std::function<bool()>& so) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!so()) {
      loop.restart();
      loop.run_one_until(end);
      if (std::chrono::steady_clock::now() >= end) return false;
    }
    return true;
  }
  bool Knows(CacheKnowledge knowledge, std::size_t blocks) {
    return Until([&] { return Knowledge() == knowledge && hashes.size() == blocks; });
  }
  bool IsExact(std::size_t blocks) { return Knows(CacheKnowledge::kExact, blocks); }
  CacheKnowledge Knowledge() const {
    return verdicts.empty() ? CacheKnowledge::kApprox : verdicts.back().knowledge;
  }
  KvSourceStatus Figures() const {
    return subscriber.StatusOf(kTestSlot).value_or(KvSourceStatus());
  }
  // What was published is what was applied: once, and in order.
  void ExpectHashes(EngineHash first, std::size_t count) const {
    ASSERT_EQ(hashes.size(), count);
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(hashes[i], first + i) << i;
  }

  asio::io_context loop;
  bool busy = false;
  std::vector<KvVerdict> verdicts;
  std::vector<EngineHash> hashes;
  std::vector<int> ranks;
  int restarts = 0;
  int batches = 0;
  std::function<void()> on_batch;
  std::function<void()> on_verdict;
  KvSubscriber subscriber;
};

inline KvEventBatch StoredBatch(EngineHash hash) {
  KvEvent event;
  event.blocks = {hash};
  event.tokens = {1, 2};
  event.block_tokens = 2;
  KvEventBatch batch;
  batch.events.push_back(event);
  return batch;
}

inline KvEventSource SourceOf(const KvPublisher& publisher) {
  return {.endpoint = publisher.endpoint(),
          .replay_endpoint = publisher.replay_endpoint(),
          .topic = {}};
}

}  // namespace sublet
