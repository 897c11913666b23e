// kvcache/fleet_books.h
//
// The inside of FleetCache: its parts and its books, all under one lock. What it promises is in
// kvcache/fleet_cache.h; here is who does what.
//
//   fleet_cache.cc    replicas come and go, their state
//   fleet_apply.cc    events into the index
//   fleet_predict.cc  requests that were sent somewhere, and what their prompts teach
//   fleet_match.cc    who holds how much of a prompt
//
// Hashing of token ids is done without the lock, except for those of events, whose pieces are
// bounded. Anything that takes the lock again looks at the replica's epoch first: it may have gone.
//
// Thread safety: private members are the lock's; public ones take it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvcache/block_index.h"
#include "kvcache/cache_groups.h"
#include "kvcache/chain_walk.h"
#include "kvcache/fleet_cache.h"
#include "kvcache/memory_budget.h"
#include "kvcache/stored_runs.h"
#include "kvcache/text_map.h"
#include "kvcache/turn_mutex.h"

namespace sublet {

class FleetBooks {
 public:
  explicit FleetBooks(const FleetCacheOptions& options);

  void Add(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns);
  void Drop(ReplicaSlot slot);
  void Update(ReplicaSlot slot, const ReplicaCacheOptions& options, std::int64_t now_ns);
  void Apply(ReplicaSlot slot, const KvEventBatch& batch, std::int64_t now_ns);
  void SetKnowledge(ReplicaSlot slot, CacheKnowledge knowledge, std::string why, bool restarted,
                    std::int64_t now_ns);
  MatchSummary Match(const RequestPrefix& prefix, std::vector<CacheMatch>& matches);
  PredictionId Predict(ReplicaSlot slot, const RequestPrefix& prefix, std::int64_t now_ns);
  void Confirm(ReplicaSlot slot, PredictionId id, std::optional<std::uint32_t> prompt_tokens,
               std::int64_t now_ns);
  void Retract(ReplicaSlot slot, PredictionId id);
  void LearnTokens(const RequestPrefix& prefix, std::span<const TokenId> tokens);
  ReplicaCacheStatus StatusOf(ReplicaSlot slot, std::int64_t now_ns);
  CachePressure PressureOf(ReplicaSlot slot, std::int64_t now_ns);
  void Pressures(std::int64_t now_ns, std::vector<CachePressure>& by_slot);
  FleetCacheStatus Status();
  void Audit();

 private:
  // A chain that a request was taken to bring into a replica's cache.
  struct Prediction {
    ReplicaSlot slot = 0;
    std::uint64_t epoch = 0;
    std::int64_t sent_ns = 0;
    bool text = false;
    std::size_t text_bytes = 0;
    std::vector<BlockHash> chain;
  };
  // Answered, and waiting for the events to catch up.
  struct Settling {
    Prediction prediction;
    std::uint32_t prompt_tokens = 0;  // 0: nothing is left to learn.
    std::int64_t due_ns = 0;
  };
  struct Replica {
    explicit Replica(MemoryBudget& budget) : runs(budget) {}

    ReplicaCacheOptions options;
    LaneId lane = 0;
    GroupId group = 0;
    std::uint64_t epoch = 0;  // Another one for each life of its cache.
    CacheKnowledge knowledge = CacheKnowledge::kApprox;
    std::string why;
    std::int64_t since_ns = 0;
    StoredRuns runs;
    std::deque<Settling> settling;  // By due_ns.
    int texts_in_flight = 0;
    std::optional<double> evicted_age_s;  // Of what its engine evicts, averaged.
    bool overflowed = false;              // We had to forget for its capacity.
    std::int64_t events_applied = 0;
    std::int64_t blocks_stored = 0;
    std::int64_t blocks_removed = 0;
    std::int64_t blocks_unplaced = 0;
    std::int64_t gaps = 0;
    std::int64_t restarts = 0;
  };
  struct RunInHand;  // fleet_apply.cc
  enum class Lesson { kLearnt, kNotYet, kUnclear };

  Replica* Find(ReplicaSlot slot) const;  // Null: there is none.
  // The replica in this life of its cache; null: it has gone.
  Replica* InEpoch(ReplicaSlot slot, std::uint64_t epoch);
  void OpenLane(ReplicaSlot slot, Replica& replica);
  void CloseLane(Replica& replica);
  void Restart(ReplicaSlot slot, Replica& replica);
  CachePressure PressureIn(const Replica& replica, UseMoment now) const;

  void ApplyPiece(ReplicaSlot slot, Replica& replica, const KvEvent& event, std::size_t from,
                  std::size_t to, RunInHand& run, std::int64_t now_ns);
  void BeginStored(ReplicaSlot slot, Replica& replica, const KvEvent& event, RunInHand& run,
                   std::int64_t now_ns);
  bool TakesBlocksOf(ReplicaSlot slot, Replica& replica, int block_tokens);
  void StoreBlocks(Replica& replica, const KvEvent& event, std::size_t from, std::size_t to,
                   RunInHand& run, UseMoment now);
  std::optional<std::uint32_t> BlocksThrough(const Replica& replica, BlockHash block) const;
  void StoreWithoutTokens(Replica& replica, const KvEvent& event, std::size_t from, std::size_t to,
                          UseMoment now);
  void RemoveBlocks(Replica& replica, const KvEvent& event, std::size_t from, std::size_t to,
                    UseMoment now);
  void EndRun(Replica& replica, RunInHand& run, std::int64_t now_ns);

  std::optional<ServedBy> ServedAt(const Replica& replica, const RequestPrefix& prefix) const;
  std::vector<BlockHash> ChainOf(const RequestPrefix& prefix, const ServedBy& by) const;
  // Takes the lock, in between. False: the replica has gone, or there is no memory.
  bool PlaceChain(const Prediction& prediction, UseMoment now);
  // Likewise.
  void ReleaseChain(const Prediction& prediction, ReleaseAs as, std::int64_t now_ns);
  void ReleasePiece(const Replica& replica, std::span<const BlockHash> piece, ReleaseAs as,
                    UseMoment now);
  void SettleDue(ReplicaSlot slot, std::int64_t now_ns);

  // Likewise: what the replica announced of this text was used.
  void TouchLearnt(const Prediction& prediction, UseMoment now);
  BlockHash DeepestLearnt(const Replica& replica, std::span<const BlockHash> text);
  PredictionId Keep(Prediction prediction, UseMoment now);
  void SettleOldest(UseMoment now);
  std::optional<Prediction> Take(PredictionId id);
  void Forget(const Prediction& prediction);
  // Whether it waits; otherwise it is to be settled now.
  bool Await(Replica& replica, Prediction& prediction, std::optional<std::uint32_t> prompt_tokens,
             std::int64_t now_ns);
  Lesson Learn(Replica& replica, const Prediction& prediction, std::uint32_t prompt_tokens);
  void Trim(Replica& replica, UseMoment now);

  // A prompt's chains, hashed before the lock is taken.
  struct HashedChain {
    ServedBy by;
    std::vector<BlockHash> hashes;
  };
  std::vector<HashedChain> HashChains(const RequestPrefix& prefix);
  void MatchTokens(const RequestPrefix& prefix, std::span<const HashedChain> chains);
  void MatchTexts(const RequestPrefix& prefix, std::uint32_t tokens_a_block);
  void Translate(std::span<const BlockHash> text, const ServedBy& by);
  std::span<const std::uint64_t> LanesOf(GroupId group);
  double BytesAToken() const;
  void Collect();
  void Report(MatchSummary& summary, std::vector<CacheMatch>& matches);

  mutable TurnMutex mutex_;
  BlockIndex index_;
  TextMap texts_;
  MemoryBudget transient_;  // Predictions and stored runs.
  CacheGroups groups_;
  std::vector<std::unique_ptr<Replica>> replicas_;  // By slot.
  std::map<PredictionId, Prediction> predictions_;  // In flight; the oldest first.
  PredictionId next_prediction_ = 1;
  std::uint64_t next_epoch_ = 1;
  std::int64_t texts_learnt_ = 0;

  // Of the match that is being made.
  ChainWalk walk_;
  std::vector<ServedBy> served_;
  std::vector<std::uint64_t> eligible_;
  std::vector<BlockHash> translated_;
  std::vector<std::uint32_t> translated_tokens_;
  std::vector<LaneMatch> best_;                   // By slot; those whose bit is in found_.
  std::vector<std::uint64_t> found_;              // One bit a slot.
  std::array<ReplicaSlot, kLanesMax> slot_of_{};  // By lane.
};

// Beyond it a chain is cut off: two million tokens in blocks of 16.
inline constexpr std::size_t kChainBlocksMax = std::size_t{1} << 17;
// Of blocks of 16, a prompt of a quarter of a million tokens; longer ones are not learnt by length,
// since following a chain is done under the lock.
inline constexpr std::size_t kChainFollowedMax = std::size_t{1} << 14;
// What a token estimate of four bytes each makes of a block of text.
inline constexpr std::int64_t kTextBlockTokens = kTextBlockBytes / 4;

}  // namespace sublet
