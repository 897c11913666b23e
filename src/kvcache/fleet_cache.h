// kvcache/fleet_cache.h
//
// What each replica's KV cache holds, as far as is known, and how well it is known.
//
//   FleetCache caches({.bytes_max = 64 << 20});
//   caches.Add(slot, {.model = "llama", .blocks = 1600, .block_tokens = 512, .events = true});
//   caches.Apply(slot, batch, now_ns);                      // From the replica's event stream.
//   caches.Match(prefix, matches);                          // Tokens held, by replica.
//   const PredictionId id = caches.Predict(slot, prefix, now_ns);  // When a request is sent there.
//   caches.Confirm(slot, id, prompt_tokens, now_ns);        // When it has been answered.
//
// There are three ways in which a replica's cache is known, and each replica is in one of them:
//
//   EXACT   its events arrive without a gap; what they say is what it holds.
//   STALE   a gap, or silence while it works. What was known may be wrong either way, counts as a
//           prediction, and is being replayed.
//   APPROX  it tells nothing. What was sent there is taken to be there, the least recently used
//           forgotten as its real capacity has it.
//
// Silence is never taken for an empty cache: a replica that is set to send events and doesn't is
// APPROX, and says why. Apply() by itself doesn't change how well a cache is known: SetKnowledge()
// does, with what the stream of its events (kvcache/kv_event_stream.h) concluded.
//
// What was sent to a replica a moment ago counts as held there already, events or not, so that
// siblings which arrive in a burst find each other. In EXACT such a prediction lapses when the
// events have caught up with it, kSettleNs after the answer.
//
// Prompts arrive as text, events as tokens. Where a request was answered and its prompt's length
// in tokens is known, the chain of token blocks that its replica announced meanwhile is found by
// its length and remembered as that text's (kvcache/text_map.h); from then on that text is matched
// by what was announced, on every replica. Until then, and where it can't be told (two prompts of
// that length at once), predictions serve.
//
// A match is the longest prefix without a hole: exact up to 512 blocks, looked at in jumps beyond
// (kvcache/chain_walk.h says what that assumes). A text that was learnt is looked at once for each
// of its blocks.
//
// What separates prefixes: the model, the adapter, and the salt. vLLM announces a request's
// cache_salt as an extra key of its first block (KvEvent::extra), so a prompt of token ids meets
// its events where RequestPrefix::salt is the request's cache_salt alone. A salt of the router's
// own, which no engine knows of, is matched by predictions only, and so is all that is salted on
// SGLang, whose events don't tell. Other extra keys (images) make other blocks. A model's other
// names, and adapters: kvcache/cache_groups.h.
//
// An event that continues a block which isn't known can't be placed. It is counted, StatusOf()
// says so in `why`, and nothing else happens. Blocks of another size than was told are taken where
// nothing was announced before them, and are not placed otherwise.
//
// Memory: one budget for everything, kept hard: 13/16 for the index, 1/16 for texts, 1/8 for what
// is under way. Where the index is full, the replica with the most blocks forgets its least
// recently used. Match() takes some 20 ns a block; Add() and Drop() don't depend on how many blocks
// there are: a dropped replica's blocks are freed bit by bit by later calls.
//
// Calls for a slot that isn't there do nothing: a replica may go while its events arrive.
//
// Thread safety: all calls, from any thread (one lock; Apply(), Predict() and Confirm() of many
// blocks give way in between). Time is a parameter: the same calls give the same state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/kv_event.h"
#include "kvcache/request_prefix.h"

namespace sublet {

// Names a replica within a router; small and dense, and used again after a while.
using ReplicaSlot = std::uint32_t;

enum class CacheKnowledge { kExact, kStale, kApprox };
std::string_view CacheKnowledgeName(CacheKnowledge knowledge);  // "EXACT", "STALE", "APPROX"

struct ReplicaCacheOptions {
  std::string model;  // Of the chains; adapters and salts come with requests and events.
  // Capacity; absent: not known (yet), and taken as kBlocksAssumed.
  std::optional<std::int64_t> blocks;
  int block_tokens = 16;
  bool events = false;  // It is set to send events.
};

// One replica's part of the answer to Match().
struct CacheMatch {
  ReplicaSlot slot = 0;
  // Of the prompt, that the replica holds: on the GPU, and besides that in slower tiers.
  std::uint32_t tokens = 0;
  std::uint32_t tokens_offloaded = 0;
  bool predicted = false;  // By what was sent there, not by what it announced.
};

struct MatchSummary {
  std::uint32_t prompt_tokens = 0;  // As the blocks have it, or as the text's length suggests.
  // Held by every replica: says nothing about where to go.
  std::uint32_t tokens_everywhere = 0;
};

struct ReplicaCacheStatus {
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
  std::string why;  // "no event for 12 s while 3 requests ran"
  std::int64_t since_ns = 0;
  std::int64_t blocks_held = 0;  // Announced.
  std::int64_t blocks_predicted = 0;
  std::optional<std::int64_t> blocks_capacity = {};
  int block_tokens = 0;
  std::int64_t events_applied = 0;
  std::int64_t blocks_stored = 0;  // By events, as are those below.
  std::int64_t blocks_removed = 0;
  std::int64_t blocks_unplaced = 0;       // What they continue isn't known.
  std::int64_t gaps = 0;                  // Times it became STALE.
  std::int64_t restarts = 0;              // Times all was forgotten: its sequence went back.
  std::optional<double> tail_age_s = {};  // As in CachePressure.
};

// What a replica would lose by taking more blocks; cheap to ask for.
struct CachePressure {
  bool there = false;  // There is a replica in this slot.
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
  int block_tokens = 0;
  std::int64_t tokens_capacity = 0;
  std::int64_t tokens_held = 0;  // Announced and predicted; may exceed the capacity for a while.
  // How long what is evicted next has lain unused. EXACT: the average of what its engine evicted
  // lately; otherwise of what we would forget for its capacity. Absent: nothing was evicted yet.
  std::optional<double> tail_age_s = {};
};

struct FleetCacheStatus {
  std::size_t bytes = 0;          // Of the budget.
  std::int64_t blocks = 0;        // Distinct ones.
  std::int64_t holdings = 0;      // Pairs of a block and a replica.
  std::int64_t forgotten = 0;     // For want of memory, since the start.
  std::int64_t texts_learnt = 0;  // Prompts, since the start.
  std::int64_t text_blocks = 0;   // Whose tokens are known now.
  std::int64_t predictions = 0;   // Under way.
};

using PredictionId = std::uint64_t;

struct FleetCacheOptions {
  // Some 3 million blocks that one replica each holds, or 5 million pairs where they are shared. At
  // least 4 MiB, at most 8 GiB.
  std::size_t bytes_max = 256u << 20;
};

// The inside (kvcache/fleet_books.h).
class FleetBooks;

class FleetCache {
 public:
  explicit FleetCache(const FleetCacheOptions& options = {});
  ~FleetCache();
  FleetCache(const FleetCache&) = delete;
  FleetCache& operator=(const FleetCache&) = delete;

  // REQUIRES: `slot` is free and less than kSlotsMax.
  void Add(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns);
  void Drop(ReplicaSlot slot);
  // What was learnt later of capacity and block size. Another block size starts the replica anew.
  void Update(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns);

  // A batch of the replica's events, in their order.
  void Apply(ReplicaSlot slot, const KvEventBatch& batch, std::int64_t now_ns);
  // What the stream (kvcache/kv_event_stream.h) concluded. kStale and kApprox keep what is known as
  // a prediction; `restarted` forgets it.
  void SetKnowledge(ReplicaSlot slot, CacheKnowledge knowledge, std::string why, bool restarted,
                    std::int64_t now_ns);

  // Every replica that holds anything of the prompt, by ascending slot. `matches` is emptied first.
  MatchSummary Match(const RequestPrefix& prefix, std::vector<CacheMatch>& matches) const;

  // The request goes to `slot`. Confirm() once it has been answered, with the prompt's tokens where
  // the answer named them; or Retract() where it never ran there.
  PredictionId Predict(ReplicaSlot slot, const RequestPrefix& prefix, std::int64_t now_ns);
  void Confirm(ReplicaSlot slot, PredictionId id, std::optional<std::uint32_t> prompt_tokens,
               std::int64_t now_ns);
  void Retract(ReplicaSlot slot, PredictionId id);
  // An engine's own tokenizer said what the text's tokens are.
  void LearnTokens(const RequestPrefix& prefix, std::span<const TokenId> tokens);

  ReplicaCacheStatus StatusOf(ReplicaSlot slot, std::int64_t now_ns) const;
  CachePressure PressureOf(ReplicaSlot slot, std::int64_t now_ns) const;
  // Of all slots at once, `by_slot` as long as the largest of them needs.
  void Pressures(std::int64_t now_ns, std::vector<CachePressure>& by_slot) const;
  FleetCacheStatus Status() const;

  static constexpr ReplicaSlot kSlotsMax = 4096;
  static constexpr std::int64_t kBlocksAssumed = 8192;
  // An engine's events are here a few milliseconds after the fact; a router under load takes longer
  // to apply them.
  static constexpr std::int64_t kSettleNs = 2'000'000'000;

  // For tests: CHECKs that the index agrees with itself.
  void Audit() const;

 private:
  std::unique_ptr<FleetBooks> books_;
};

}  // namespace sublet
