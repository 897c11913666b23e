// kvcache/block_index.h
//
// The flat index behind FleetCache: which lane holds which block, in which order it last used them,
// and nothing about prompts, engines or time but what it is told.
//
//   BlockIndex index(bytes_max);
//   const LaneId lane = index.Open();
//   index.BeginRun(lane, {});
//   index.Announce(lane, {.key = engine_hash, .hash = chain_hash}, moment);
//   index.Predict(lane, chain_hash, moment);          // Held because a request was sent there.
//   index.Release(lane, chain_hash, ReleaseAs::kSettled, moment);  // It was answered.
//   index.Retire(lane);                               // All of it, at once.
//
// A *record* is a block that somebody holds, found by its chain hash. A *holding* is a record and a
// lane: how often the lane announced it in each tier, for how many requests that were sent there it
// is expected, and when it was last used. Holdings are found by the engine's name for the block, by
// their record, and in the order of use.
//
// A *lane* is one life of one replica's cache. When the replica goes, or forgets all, its lane is
// retired: nothing is looked for in it any more, and its holdings are freed a few at a time by
// later calls. So the cost of a drop doesn't depend on what was held.
//
// Memory is a hard budget. Where it is spent, the lane with the most holdings forgets its least
// recently used. A million blocks that one lane each holds take 64 bytes each; where many hold the
// same blocks, a holding takes 40 (docs/decisions/0008-a-flat-prefix-index.md).
//
// Thread safety: its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kvcache/block_hash.h"
#include "kvcache/holder_sets.h"
#include "kvcache/memory_budget.h"
#include "kvcache/slab_arena.h"
#include "kvcache/split_table.h"

namespace sublet {

// Quarters of a second, which go round after half a year; ages beyond that are wrong.
using UseMoment = std::uint32_t;
inline constexpr int kUseMomentBits = 26;
inline constexpr std::int64_t kUseMomentNs = 250'000'000;
UseMoment UseMomentOf(std::int64_t now_ns);
double UseAgeSeconds(UseMoment used, UseMoment now);

struct AnnouncedBlock {
  std::uint64_t key = 0;  // The engine's own hash.
  BlockHash hash = 0;
  bool lower = false;  // In a slower tier than the GPU.
};

// What is known of a block by the engine's name for it.
struct PlacedBlock {
  BlockHash hash = 0;
  SlabHandle record = 0;  // Good until the next call that isn't const.
};

struct WithdrawnBlock {
  bool left_gpu = false;  // It was on the GPU, and isn't now.
  UseMoment used = 0;
};

// How an expectation ends.
enum class ReleaseAs {
  kUnused,   // It never came true; what nothing else holds goes.
  kLapsed,   // It was used, and what was announced meanwhile says what is held.
  kSettled,  // It was used, and counts as held until it is forgotten.
};

// Either list of a lane: what it announced, or what is only predicted.
struct LaneHoldings {
  SlabHandle newest = 0;
  SlabHandle oldest = 0;
  std::int64_t count = 0;
  std::int64_t texts = 0;     // Of these, blocks of text.
  UseMoment oldest_used = 0;  // Undefined where there are none.
};

// Its nodes (kvcache/block_nodes.h).
struct BlockRecord;
struct BlockHolding;

class BlockIndex {
 public:
  explicit BlockIndex(std::size_t bytes_max);
  ~BlockIndex();
  BlockIndex(const BlockIndex&) = delete;
  BlockIndex& operator=(const BlockIndex&) = delete;

  // REQUIRES: at most half of kLanesMax are open.
  LaneId Open();
  void Retire(LaneId lane);
  // Frees up to `holdings` of retired lanes.
  void Sweep(int holdings);
  bool swept() const { return retired_.empty(); }

  // Blocks announced after this, until the next, are one run, each the parent of the next and the
  // first the child of `parent`: they were used at one time, and the first is forgotten last.
  void BeginRun(LaneId lane, const PlacedBlock& parent);
  // False: no memory, even after others had forgotten what they could at once.
  bool Announce(LaneId lane, const AnnouncedBlock& block, UseMoment now);
  // Fetches what Announce() of these, or Withdraw() of these names, will read: at most kBatch. They
  // are found by chance all over the memory, and waiting for one at a time is most of the work.
  void PrepareAnnounce(LaneId lane, std::span<const AnnouncedBlock> blocks) const;
  void PrepareWithdraw(LaneId lane, std::span<const std::uint64_t> keys) const;
  // Likewise for Predict() and Release().
  void PrepareUse(LaneId lane, std::span<const BlockHash> hashes) const;
  // Another tier or group announced a block that is known. False: it isn't.
  bool AnnounceAgain(LaneId lane, std::uint64_t key, bool lower, UseMoment now);
  std::optional<PlacedBlock> Find(LaneId lane, std::uint64_t key) const;
  bool Announces(LaneId lane, BlockHash hash) const;
  // None: nothing of this name was announced in this tier.
  std::optional<WithdrawnBlock> Withdraw(LaneId lane, std::uint64_t key, bool lower, UseMoment now);

  bool Predict(LaneId lane, BlockHash hash, bool text, UseMoment now);
  // Undoes one Predict().
  void Release(LaneId lane, BlockHash hash, ReleaseAs as, UseMoment now);
  // What was announced of a chain was used: at most `steps` blocks from this one towards the
  // beginning. The block to go on from; 0: there is none.
  BlockHash TouchUp(LaneId lane, BlockHash hash, std::size_t steps, UseMoment now);
  // The chain that ends in the block, from its beginning; empty where the lane doesn't hold all of
  // it, or it has more than `blocks_max`.
  std::vector<BlockHash> ChainTo(LaneId lane, BlockHash hash, std::size_t blocks_max) const;

  // The least recently used of what was announced or of what is predicted. False: nothing is left.
  bool ForgetOldest(LaneId lane, bool announced);
  // Fetches what the next kBatch of these will read.
  void PrepareForget(LaneId lane, bool announced) const;

  const LaneHoldings& Announced(LaneId lane) const { return lanes_[lane].announced; }
  const LaneHoldings& Predicted(LaneId lane) const { return lanes_[lane].predicted; }

  static constexpr std::size_t kBatch = 16;
  // For a walk along a chain (kvcache/chain_walk.h): the holders' words of blocks, 0 where nobody
  // holds one. `hashes` are `stride` apart; at most kBatch.
  void HoldersOf(const BlockHash* hashes, std::size_t stride, std::size_t count,
                 std::uint32_t* holders) const;
  const HolderSets& sets() const { return sets_; }
  // One more than the largest lane that is open or being swept, in words of 64.
  std::size_t lane_words() const { return lane_words_; }

  std::size_t bytes() const { return budget_.used(); }
  std::int64_t records() const { return static_cast<std::int64_t>(by_hash_.nodes()); }
  std::int64_t holdings() const { return static_cast<std::int64_t>(by_record_.nodes()); }
  std::int64_t forgotten() const { return forgotten_; }

  // For tests: CHECKs all that must hold between the parts, in time that grows with all of them.
  void Audit() const;

 private:
  struct Lane {
    LaneHoldings announced;
    LaneHoldings predicted;
    // The last block of the run that is being announced: as a holding, while it is one, and as a
    // record, or the run's parent.
    SlabHandle run = 0;
    SlabHandle run_record = 0;
    bool open = false;
    bool retired = false;
  };

  BlockRecord* RecordAt(SlabHandle handle) const { return arena_.At<BlockRecord>(handle); }
  BlockHolding* HoldingAt(SlabHandle handle) const { return arena_.At<BlockHolding>(handle); }
  SlabHandle FindRecord(BlockHash hash) const;
  SlabHandle FindKey(LaneId lane, std::uint64_t key) const;
  // Of the record, in this lane; `key`: with that name, 0: one that is only predicted.
  SlabHandle FindOwn(LaneId lane, SlabHandle record, bool keyed) const;
  // Both, in one walk; 0 where there is none.
  struct OwnHoldings {
    SlabHandle keyed = 0;
    SlabHandle predicted = 0;
  };
  OwnHoldings FindOwn(LaneId lane, SlabHandle record) const;

  // A new holding and, where there is none, its record; 0: no memory, and nothing has changed.
  SlabHandle Place(LaneId lane, BlockHash hash, bool text, Holds holds);
  SlabHandle PlaceMakingRoom(LaneId lane, BlockHash hash, bool text, Holds holds);
  void MakeRoom();
  void CountLanes();
  LaneId Largest() const;
  void Unkey(SlabHandle handle);
  void Remove(SlabHandle handle);
  void RemoveRecord(SlabHandle record);
  // What the lane's holdings of the record come to, written into the record.
  void Reckon(LaneId lane, SlabHandle record);

  LaneHoldings& ListOf(const BlockHolding& holding);
  // `behind`: that holding is newer; 0: none is.
  void Link(SlabHandle handle, SlabHandle behind, UseMoment now);
  void Unlink(SlabHandle handle);
  void Renew(SlabHandle handle, UseMoment now);

  void AuditList(const LaneHoldings& list, LaneId lane, bool announced) const;

  MemoryBudget budget_;
  SlabArena arena_;
  HolderSets sets_;
  SplitTable by_hash_;    // Records.
  SplitTable by_key_;     // Holdings that were announced.
  SplitTable by_record_;  // All holdings.
  std::vector<Lane> lanes_;
  std::deque<LaneId> retired_;
  std::size_t lane_words_ = 1;
  UseMoment now_ = 0;  // The latest that was told.
  std::int64_t forgotten_ = 0;
  LaneId victim_ = 0;
  int victim_for_ = 0;  // How many more it forgets before the largest lane is looked for again.
};

}  // namespace sublet
