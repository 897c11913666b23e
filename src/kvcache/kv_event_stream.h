// kvcache/kv_event_stream.h
//
// Decides what a replica's stream of KV events is worth: pure bookkeeping over sequence numbers and
// time, which says what to do next and how well the cache is known.
//
//   KvEventStream stream({.replay = true, .silence_s = 10}, now_ns);
//   stream.OnConnected(now_ns);
//   if (stream.OnBatch(mark, now_ns) == KvEventStream::Advice::kApply) apply = true;
//   stream.OnTick(busy, now_ns);                            // Silence while it works?
//   const StreamVerdict verdict = stream.TakeVerdict();     // After each of these calls,
//   if (verdict.changed) caches.SetKnowledge(...);          // and before the batch is applied.
//   if (verdict.replay_from) AskForReplay(*verdict.replay_from);
//
// An engine numbers its batches from 0 and keeps the last of them (vLLM: 10,000) for replay. What
// was applied is complete where it is all batches since a clean start: batch 0, or one that cleared
// the cache. Only then the verdict is EXACT.
//
//   EXACT   complete, and nothing speaks against it.
//   STALE   complete up to a gap, a lost connection, or silence while it works; being recovered.
//           What is held stays as it is: back in EXACT it counts as before.
//   APPROX  not complete. Batches go on being applied, and what they say is true; but what was
//           announced before the first of them isn't known. Where that follows on something that
//           was known, this may have been removed since: it is to become a prediction at that
//           moment, whenever a verdict of APPROX is `changed`.
//
// What is seen, and what is made of it:
//
//   the number expected       it is applied.
//   a higher one              a gap. A replay is asked for from the last batch applied, so that the
//                             first answer shows whether it is the same engine: its bytes must be
//                             the same (KvBatchMark::fingerprint). Live batches wait meanwhile.
//   a lower one, live         the engine has started anew: `restarted`, and all is forgotten.
//                             One that a replay brought already is dropped.
//   other bytes in a replay   the same.
//   a replay that begins      the missing ones are gone: APPROX. So is it at the start, where the
//   later than asked          engine ran long before: what is known then is incomplete, not wrong.
//   a hole within a replay    lost on its way (a ROUTER drops beyond its high-water mark): what
//                             came before it is applied, and the rest asked for again.
//   a cleared cache           a clean start, whatever was missed: EXACT.
//   a lost connection         STALE until it is back; then a replay must show that the engine is
//                             the same. Without a replay it is APPROX, since nothing else can.
//   silence while it works    STALE, and a replay is asked for: if it brings nothing new, nothing
//                             was missed. Without a replay the next batch tells; without one for as
//                             long again, APPROX.
//   silence while idle        is fine.
//   an unreadable batch       a gap; unreadable in the replay too, APPROX.
//   no answer to a replay     asked again after a pause; APPROX after some times without progress.
//                             After a cool-down a replay from 0 is tried, which makes all good
//                             where the engine still has its first batch.
//
// A connection carries the batches of one life of an engine, in their order: who reads the sockets
// drops what an old connection still had queued when it ended.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvcache/fleet_cache.h"

namespace sublet {

struct KvEventStreamOptions {
  bool replay = false;  // There is an endpoint to ask.
  // Without an event while requests are being prefilled: no longer believed.
  double silence_s = 10;
  double replay_timeout_s = 2;  // Without an answer, or without more of one.
  double replay_pause_s = 5;
  int replay_attempts_max = 3;  // In a row, without anything new.
  double replay_cooldown_s = 30;
  // A subscription takes effect a moment after the connection stands. What was published in between
  // is asked for once more after this time, unless a live batch has shown that nothing was.
  double settle_s = 1;
};

// What counts of a batch here.
struct KvBatchMark {
  std::uint64_t sequence = 0;
  std::uint64_t fingerprint = 0;  // Of the payload's bytes.
  bool cleared = false;           // It has an event that all blocks were cleared.
  bool readable = true;
};

struct StreamVerdict {
  CacheKnowledge knowledge = CacheKnowledge::kApprox;
  std::string why;
  // Given once: tell the cache. Set where the knowledge is another one, where `restarted`, and
  // where something was lost while in APPROX.
  bool changed = false;
  bool restarted = false;  // Given once: forget all that was known.
  // Given once: ask for a replay from this sequence number, now, on a socket of its own: what an
  // older one still brings is not this replay's.
  std::optional<std::uint64_t> replay_from;

  friend bool operator==(const StreamVerdict&, const StreamVerdict&) = default;
};

class KvEventStream {
 public:
  explicit KvEventStream(const KvEventStreamOptions& options, std::int64_t now_ns);

  enum class Advice { kApply, kDrop };

  // The connection of the live batches.
  void OnConnected(std::int64_t now_ns);
  void OnDisconnected(std::int64_t now_ns);
  // A live batch, or one of a replay.
  Advice OnBatch(const KvBatchMark& batch, std::int64_t now_ns);
  Advice OnReplayed(const KvBatchMark& batch, std::int64_t now_ns);
  void OnReplayEnd(std::int64_t now_ns);
  // Now and then. `busy`: prompts have been sent to the replica that must have made events.
  void OnTick(bool busy, std::int64_t now_ns);
  // Another rank of the same engine was heard: it isn't silent, its work was only elsewhere.
  void OnHeardElsewhere(std::int64_t now_ns) { heard_ns_ = now_ns; }

  // A replay is under way: leave live batches in their queue. One that is given nevertheless is
  // dropped where it is none that can be applied; the replay or the next one brings it.
  bool holds_live() const { return phase_ == Phase::kReplaying; }

  // What holds now.
  StreamVerdict TakeVerdict();

  std::int64_t batches() const { return batches_; }  // Applied.
  std::int64_t gaps() const { return gaps_; }
  std::int64_t restarts() const { return restarts_; }
  std::int64_t replays() const { return replays_; }  // Asked for.

 private:
  enum class Phase {
    kFollowing,  // Live batches, in order.
    kDoubting,   // Waiting for a sign: a batch, a connection.
    kReplaying,
    kPausing,  // Between two replays.
  };
  struct Applied {
    std::uint64_t sequence = 0;
    std::uint64_t fingerprint = 0;
  };

  bool IsFromNewLife(const KvBatchMark& batch) const;
  bool MayReplay(std::int64_t now_ns) const;
  Advice FirstOfReplay(const KvBatchMark& batch);
  Advice Accept(const KvBatchMark& batch);
  void Forget(std::string why);
  void Lose(std::string why);
  void Doubt(std::string why);
  void Recover(std::string why, std::int64_t now_ns);
  void Ask(std::int64_t now_ns);
  void AskFailed(std::int64_t now_ns);
  void Settle(std::int64_t now_ns);
  CacheKnowledge knowledge() const;

  KvEventStreamOptions options_;
  Phase phase_ = Phase::kFollowing;
  bool connected_ = false;
  bool holds_something_ = false;  // Since it was last told to forget.
  bool complete_ = false;         // What was applied is all since a clean start.
  std::optional<Applied> last_;   // The batch that was applied last.
  // Up to here a replay on this connection brought all: live batches may repeat it.
  std::optional<std::uint64_t> replayed_to_;
  std::optional<std::uint64_t> live_last_;  // The highest number of this life seen live.
  // Why it is as it is: while something is being found out, and while it isn't complete.
  std::string why_;
  std::string why_not_complete_;

  // Of the replay under way.
  bool replay_first_ = false;     // Its first batch is still to come.
  bool replay_new_ = false;       // It brought something.
  bool replay_broken_ = false;    // It has a hole; the rest is passed over.
  bool resync_ = false;           // From 0, to make good what was lost.
  int attempts_ = 0;              // In a row that brought nothing.
  std::int64_t phase_ns_ = 0;     // Since when the phase lasts; in kReplaying, since it last moved.
  std::int64_t cooldown_ns_ = 0;  // No replay before.
  std::optional<std::int64_t> resync_due_ns_;  // When a replay from 0 is worth a try.

  std::optional<std::int64_t> unproven_since_ns_;  // Connected, and no live batch yet.
  std::int64_t heard_ns_ = 0;
  std::optional<std::int64_t> busy_since_ns_;

  // For TakeVerdict().
  CacheKnowledge told_ = CacheKnowledge::kApprox;
  bool changed_ = true;
  bool restarted_ = false;
  std::optional<std::uint64_t> ask_from_;

  std::int64_t batches_ = 0;
  std::int64_t gaps_ = 0;
  std::int64_t restarts_ = 0;
  std::int64_t replays_ = 0;
};

}  // namespace sublet
