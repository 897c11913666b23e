// kvcache/kv_subscriber.h
//
// Hears what replicas announce about their KV caches: sockets, replay, reconnecting; what it is
// worth is KvEventStream's business (kvcache/kv_event_stream.h).
//
//   KvSubscriber subscriber(loop, {}, {
//       .on_verdict = [&](const KvVerdict& v) {
//         caches.SetKnowledge(v.slot, v.knowledge, v.why, v.restarted, v.now_ns);
//       },
//       .on_batch = [&](ReplicaSlot slot, const KvEventBatch& batch, std::int64_t now_ns) {
//         caches.Apply(slot, batch, now_ns);
//       },
//       .is_busy = [&](ReplicaSlot slot) { return router.HasPrefillUnderWay(slot); }});
//   RETURN_IF_ERROR(subscriber.Set(slot, *spec.kv_events, ranks));
//   ... and from now on the handlers are called, until Remove(slot).
//
// A source that is down, not there yet, or wrong costs nothing but a try now and then; it is APPROX
// meanwhile, with the reason. A connection serves for one life of an engine: when it ends, what its
// queue still had is dropped, and a new socket is opened. Batches that were missed are replayed.
//
// An engine of several data-parallel ranks has a cache and a socket for each. Their verdicts are
// told as one, the worst. Since a replica's cache is forgotten or demoted as a whole, ranks whose
// sibling started anew start anew too.
//
// What a flood of events may cost the loop is bounded: after kMessagesAWake messages or
// kBytesAWake bytes of one rank it is everybody else's turn. Beyond the high-water mark ZeroMQ
// drops at the engine, which is a gap like any other. A message of more than kKvBatchBytesMax ends
// its connection before it is in memory.
//
// Handlers may call Set() and Remove(), for the same slot too, but not end the subscriber. After
// Remove() and after the subscriber's end none is called.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "http/event_loop.h"
#include "kvcache/kv_event.h"
#include "kvcache/kv_event_stream.h"
#include "model/replica_spec.h"

namespace sublet {

struct KvVerdict {
  ReplicaSlot slot = 0;
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
  std::string why;
  bool restarted = false;  // Forget all that was known.
  std::int64_t now_ns = 0;
};

struct KvSubscriberOptions {
  KvEventStreamOptions stream;  // `replay` is as the source has it.
  double tick_s = 0.25;         // How late a deadline is noticed.
  double reconnect_s = 0.5;     // After a connection has ended or couldn't be made.
  double connect_timeout_s = 5;
  // Batches that may wait in each socket, outside of any budget: as many as vLLM replays, which are
  // then a few MiB. Those that it drops beyond that are asked for again.
  int high_water_mark = 10'000;
  std::function<std::int64_t()> now_ns;  // Empty: the machine's monotonic clock.
};

struct KvSubscriberHandlers {
  // Before the batch that made it so.
  std::function<void(const KvVerdict&)> on_verdict;
  // `batch.dp_rank` is set where there are several ranks.
  std::function<void(ReplicaSlot, const KvEventBatch&, std::int64_t now_ns)> on_batch;
  // Whether prompts are under way that must make events; empty: never known, and never silent.
  std::function<bool(ReplicaSlot)> is_busy;
};

// Of a source, over all of its ranks.
struct KvSourceStatus {
  int ranks = 0;
  int connected = 0;
  std::int64_t batches = 0;  // Applied.
  std::int64_t bytes = 0;    // Received.
  std::int64_t gaps = 0;
  std::int64_t restarts = 0;
  std::int64_t replays = 0;         // Asked for.
  std::int64_t bad_frames = 0;      // Messages that are none of ours.
  std::int64_t bad_batches = 0;     // Payloads that can't be read.
  std::int64_t unknown_events = 0;  // KvEventBatch::unknown_events.
  std::string last_error;           // Of a payload or an endpoint; empty: none.
};

class KvSubscriber {
 public:
  KvSubscriber(asio::io_context& loop, const KvSubscriberOptions& options,
               KvSubscriberHandlers handlers);
  ~KvSubscriber();
  KvSubscriber(const KvSubscriber&) = delete;
  KvSubscriber& operator=(const KvSubscriber&) = delete;

  // Adds the slot's source, or puts another in its place, which starts anew; the same one is left
  // alone. Fails with kInvalid where an endpoint isn't one to connect to.
  Status Set(ReplicaSlot slot, const KvEventSource& source, int ranks = 1);
  void Remove(ReplicaSlot slot);
  std::optional<KvSourceStatus> StatusOf(ReplicaSlot slot) const;

  static constexpr int kMessagesAWake = 64;
  static constexpr std::size_t kBytesAWake = 256u << 10;  // Some 50,000 tokens; half a millisecond.
  static constexpr int kRanksMax = 256;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace sublet
