// BlockIndex: its nodes made, unmade and kept in the order of use.
#include <algorithm>

#include "base/check.h"
#include "kvcache/block_nodes.h"

namespace sublet {
namespace {

// One look for the largest lane costs as much as there are lanes; forgetting so many at once makes
// that less than the forgetting.
constexpr int kForgottenAtOnce = 64;
// How often room is made for one block before it is left out. Once is enough but where the freed
// memory is of other sizes than the wanted.
constexpr int kRoomTriesMax = 8;
// A 64th of the memory is kept for sets of holders, which would otherwise find every page taken by
// records and holdings when blocks come to be shared.
constexpr std::size_t kSetsPart = 64;

}  // namespace

// ---- making and unmaking -----------------------------------------------------------------------

SlabHandle BlockIndex::Place(LaneId lane, BlockHash hash, bool text, Holds holds) {
  const std::size_t for_sets = budget_.max() / kSetsPart / SlabArena::kPageBytes;
  const SlabHandle handle = arena_.Allocate(sizeof(BlockHolding), for_sets);
  if (handle == 0) return 0;
  SlabHandle record = FindRecord(hash);
  if (record == 0) {
    record = arena_.Allocate(sizeof(BlockRecord), for_sets);
    if (record == 0) {
      arena_.Free(handle, sizeof(BlockHolding));
      return 0;
    }
    *RecordAt(record) = {.hash_low = static_cast<std::uint32_t>(hash),
                         .hash_high = static_cast<std::uint32_t>(hash >> 32),
                         .next = 0,
                         .holders = 0,
                         .parent = 0,
                         .text = text};
    by_hash_.Insert(record, hash, LinksByHash{arena_});
  }
  if (sets_.Get(RecordAt(record)->holders, lane) == Holds::kNot &&
      !sets_.Set(RecordAt(record)->holders, lane, holds)) {
    if (RecordAt(record)->holders == 0) RemoveRecord(record);
    arena_.Free(handle, sizeof(BlockHolding));
    return 0;
  }
  *HoldingAt(handle) = {};
  HoldingAt(handle)->record = record;
  HoldingAt(handle)->lane = lane;
  by_record_.Insert(handle, OwnHash(hash, lane), LinksByOwner{arena_});
  return handle;
}

SlabHandle BlockIndex::PlaceMakingRoom(LaneId lane, BlockHash hash, bool text, Holds holds) {
  for (int tries = 0; tries < kRoomTriesMax; ++tries) {
    const SlabHandle handle = Place(lane, hash, text, holds);
    if (handle != 0) return handle;
    MakeRoom();
  }
  return 0;
}

void BlockIndex::MakeRoom() {
  if (!retired_.empty()) {
    Sweep(kForgottenAtOnce);
    return;
  }
  if (victim_for_ == 0) {
    victim_ = Largest();
    victim_for_ = kForgottenAtOnce;
  }
  --victim_for_;
  const Lane& lane = lanes_[victim_];
  const bool announced =
      lane.predicted.count == 0 ||
      (lane.announced.count > 0 && UseAgeSeconds(lane.announced.oldest_used, now_) >
                                       UseAgeSeconds(lane.predicted.oldest_used, now_));
  if (ForgetOldest(victim_, announced)) ++forgotten_;
}

LaneId BlockIndex::Largest() const {
  const auto size = [](const Lane& lane) {
    return lane.open ? lane.announced.count + lane.predicted.count : -1;
  };
  const auto largest =
      std::max_element(lanes_.begin(), lanes_.end(),
                       [&](const Lane& a, const Lane& b) { return size(a) < size(b); });
  return static_cast<LaneId>(largest - lanes_.begin());
}

void BlockIndex::Remove(SlabHandle handle) {
  const BlockHolding holding = *HoldingAt(handle);
  Unlink(handle);
  if (holding.announced()) {
    by_key_.Remove(handle, Mixed(holding.key(), holding.lane), LinksByKey{arena_});
  }
  by_record_.Remove(handle, OwnHash(RecordAt(holding.record)->hash(), holding.lane),
                    LinksByOwner{arena_});
  arena_.Free(handle, sizeof(BlockHolding));
  Reckon(holding.lane, holding.record);
}

void BlockIndex::RemoveRecord(SlabHandle record) {
  by_hash_.Remove(record, RecordAt(record)->hash(), LinksByHash{arena_});
  arena_.Free(record, sizeof(BlockRecord));
}

void BlockIndex::Reckon(LaneId lane, SlabHandle record) {
  Holds holds = Holds::kNot;
  for (SlabHandle at = by_record_.First(OwnHash(RecordAt(record)->hash(), lane)); at != 0;
       at = HoldingAt(at)->own_next) {
    const BlockHolding* const holding = HoldingAt(at);
    if (holding->record != record || holding->lane != lane) continue;
    const Holds this_one = holding->gpu > 0     ? Holds::kGpu
                           : holding->lower > 0 ? Holds::kLower
                                                : Holds::kPredicted;
    if (holds == Holds::kNot || this_one < holds) holds = this_one;
  }
  CHECK(sets_.Set(RecordAt(record)->holders, lane, holds));
  if (RecordAt(record)->holders == 0) RemoveRecord(record);
}

// ---- the order of use --------------------------------------------------------------------------

LaneHoldings& BlockIndex::ListOf(const BlockHolding& holding) {
  Lane& lane = lanes_[holding.lane];
  return holding.announced() ? lane.announced : lane.predicted;
}

void BlockIndex::Link(SlabHandle handle, SlabHandle behind, UseMoment now) {
  BlockHolding* const holding = HoldingAt(handle);
  LaneHoldings& list = ListOf(*holding);
  holding->used = now;
  holding->newer = behind;
  holding->older = behind == 0 ? list.newest : HoldingAt(behind)->older;
  (behind == 0 ? list.newest : HoldingAt(behind)->older) = handle;
  if (holding->older == 0) {
    list.oldest = handle;
    list.oldest_used = now;
  } else {
    HoldingAt(holding->older)->newer = handle;
  }
  ++list.count;
  list.texts += RecordAt(holding->record)->text;
}

void BlockIndex::Unlink(SlabHandle handle) {
  const BlockHolding* const holding = HoldingAt(handle);
  LaneHoldings& list = ListOf(*holding);
  if (lanes_[holding->lane].run == handle) lanes_[holding->lane].run = holding->newer;
  (holding->newer == 0 ? list.newest : HoldingAt(holding->newer)->older) = holding->older;
  if (holding->older == 0) {
    list.oldest = holding->newer;
    if (list.oldest != 0) list.oldest_used = HoldingAt(list.oldest)->used;
  } else {
    HoldingAt(holding->older)->newer = holding->newer;
  }
  --list.count;
  list.texts -= RecordAt(holding->record)->text;
}

void BlockIndex::Renew(SlabHandle handle, UseMoment now) {
  Unlink(handle);
  Link(handle, 0, now);
}

// ---- for tests ---------------------------------------------------------------------------------

void BlockIndex::AuditList(const LaneHoldings& list, LaneId lane, bool announced) const {
  std::int64_t count = 0;
  std::int64_t texts = 0;
  SlabHandle newer = 0;
  for (SlabHandle at = list.newest; at != 0; at = HoldingAt(at)->older) {
    const BlockHolding* const holding = HoldingAt(at);
    const BlockRecord* const record = RecordAt(holding->record);
    CHECK(holding->newer == newer && holding->lane == lane && holding->announced() == announced);
    CHECK(FindRecord(record->hash()) == holding->record);
    CHECK(sets_.Get(record->holders, lane) != Holds::kNot);
    CHECK(!announced || FindKey(lane, holding->key()) == at);
    CHECK(FindOwn(lane, holding->record, announced) != 0);
    if (!announced) CHECK(holding->in_flight > 0 || holding->settled == 1);
    ++count;
    texts += record->text;
    newer = at;
  }
  CHECK(list.oldest == newer && list.count == count && list.texts == texts);
  CHECK(newer == 0 || list.oldest_used == HoldingAt(newer)->used);
}

void BlockIndex::Audit() const {
  std::int64_t announced = 0;
  std::int64_t predicted = 0;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const auto lane = static_cast<LaneId>(i);
    CHECK(!lanes_[i].open || !lanes_[i].retired);
    AuditList(lanes_[i].announced, lane, true);
    AuditList(lanes_[i].predicted, lane, false);
    announced += lanes_[i].announced.count;
    predicted += lanes_[i].predicted.count;
  }
  CHECK(by_key_.nodes() == static_cast<std::size_t>(announced));
  CHECK(by_record_.nodes() == static_cast<std::size_t>(announced + predicted));
  CHECK(budget_.used() <= budget_.max());
}

}  // namespace sublet
