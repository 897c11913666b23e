#include "kvcache/kv_event_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sublet {
namespace {

std::int64_t Nanoseconds(double seconds) {
  return static_cast<std::int64_t>(seconds * 1e9);
}

}  // namespace

KvEventStream::KvEventStream(const KvEventStreamOptions& options, std::int64_t now_ns)
    : options_(options), why_not_complete_("not connected yet"), heard_ns_(now_ns) {}

CacheKnowledge KvEventStream::knowledge() const {
  if (!complete_) return CacheKnowledge::kApprox;
  return phase_ == Phase::kFollowing ? CacheKnowledge::kExact : CacheKnowledge::kStale;
}

StreamVerdict KvEventStream::TakeVerdict() {
  StreamVerdict verdict;
  verdict.knowledge = knowledge();
  verdict.why = complete_ ? why_ : why_not_complete_;
  verdict.changed = std::exchange(changed_, false) || verdict.knowledge != told_;
  verdict.restarted = std::exchange(restarted_, false);
  verdict.replay_from = std::exchange(ask_from_, std::nullopt);
  told_ = verdict.knowledge;
  return verdict;
}

// ---- what becomes of what is known -------------------------------------------------------------

KvEventStream::Advice KvEventStream::Accept(const KvBatchMark& batch) {
  const bool begins = !last_ && batch.sequence == 0;
  last_ = {batch.sequence, batch.fingerprint};
  if (!batch.readable) {
    Lose(fmt::format("batch {} can't be read", batch.sequence));
    return Advice::kDrop;
  }
  // An engine's first batch says that nothing was held before it.
  if (begins && holds_something_) restarted_ = changed_ = true;
  holds_something_ = true;
  ++batches_;
  if (batch.cleared || begins) {
    complete_ = true;
    resync_due_ns_.reset();
    why_ = begins ? "all events are known since the engine's first"
                  : fmt::format("all events are known since batch {} cleared the cache",
                                batch.sequence);
  }
  return Advice::kApply;
}

void KvEventStream::Forget(std::string why) {
  ++restarts_;
  last_.reset();
  live_last_.reset();
  replayed_to_.reset();
  complete_ = holds_something_ = false;
  restarted_ = changed_ = true;
  resync_due_ns_.reset();
  cooldown_ns_ = 0;
  attempts_ = 0;
  phase_ = Phase::kFollowing;
  ask_from_.reset();
  why_not_complete_ = std::move(why);
}

void KvEventStream::Lose(std::string why) {
  complete_ = false;
  changed_ = true;
  why_not_complete_ = std::move(why);
}

void KvEventStream::Doubt(std::string why) {
  phase_ = Phase::kDoubting;
  ask_from_.reset();
  why_ = std::move(why);
}

// ---- replay ------------------------------------------------------------------------------------

bool KvEventStream::MayReplay(std::int64_t now_ns) const {
  return options_.replay && connected_ && now_ns >= cooldown_ns_;
}

void KvEventStream::Recover(std::string why, std::int64_t now_ns) {
  why_ = std::move(why);
  attempts_ = 0;
  Ask(now_ns);
}

void KvEventStream::Ask(std::int64_t now_ns) {
  ++replays_;
  phase_ = Phase::kReplaying;
  phase_ns_ = now_ns;
  replay_first_ = true;
  replay_new_ = replay_broken_ = false;
  ask_from_ = last_ && !resync_ ? last_->sequence : 0;
}

// The replay under way ended without what it was for.
void KvEventStream::AskFailed(std::int64_t now_ns) {
  attempts_ = replay_new_ ? 0 : attempts_ + 1;
  if (replay_new_) return Ask(now_ns);
  if (attempts_ < options_.replay_attempts_max && !resync_) {
    phase_ = Phase::kPausing;
    phase_ns_ = now_ns;
    return;
  }
  // What is missing may still be there for who asks from the begin; now it is gone on without.
  cooldown_ns_ = now_ns + Nanoseconds(options_.replay_cooldown_s);
  resync_due_ns_ = cooldown_ns_;
  if (!std::exchange(resync_, false)) {
    Lose(fmt::format("asked {} times for a replay, without an answer", attempts_));
  }
  Settle(now_ns);
}

void KvEventStream::Settle(std::int64_t now_ns) {
  phase_ = Phase::kFollowing;
  ask_from_.reset();
  attempts_ = 0;
  heard_ns_ = now_ns;
}

KvEventStream::Advice KvEventStream::FirstOfReplay(const KvBatchMark& batch) {
  if (resync_) {
    resync_due_ns_.reset();
    if (batch.sequence != 0) {
      replay_broken_ = true;  // It is of no use any more, and won't be later.
      replay_first_ = false;
      return Advice::kDrop;
    }
    // From the very begin: what was known in part makes place for all of it. The engine is the same
    // as before, or one whose beginning we see.
    resync_ = false;
    last_.reset();
  }
  if (last_ && batch.sequence < last_->sequence) return Advice::kDrop;  // Older than asked for.
  replay_first_ = false;
  if (!last_) {
    replay_new_ = changed_ = true;
    why_not_complete_ = fmt::format(
        "the engine's replay began at batch {}: what was before isn't known", batch.sequence);
    return Accept(batch);
  }
  if (batch.sequence == last_->sequence) {
    if (batch.fingerprint == last_->fingerprint) return Advice::kDrop;
    Forget(fmt::format("the engine started anew: its batch {} is another one", batch.sequence));
    return Advice::kDrop;
  }
  ++gaps_;
  replay_new_ = true;
  Lose(batch.sequence == last_->sequence + 1
           ? "the engine's replay doesn't reach back to what is known"
           : fmt::format("batches {} to {} are lost: the engine's replay began later",
                         last_->sequence + 1, batch.sequence - 1));
  return Accept(batch);
}

KvEventStream::Advice KvEventStream::OnReplayed(const KvBatchMark& batch, std::int64_t now_ns) {
  if (phase_ != Phase::kReplaying) return Advice::kDrop;
  phase_ns_ = heard_ns_ = now_ns;
  if (replay_broken_) return Advice::kDrop;
  Advice advice = Advice::kDrop;
  if (replay_first_) {
    advice = FirstOfReplay(batch);
    if (phase_ != Phase::kReplaying) {  // Forgotten: all of it, please.
      Recover("the engine started anew", now_ns);
      return advice;
    }
  } else if (last_ && batch.sequence <= last_->sequence) {
    return advice;
  } else if (last_ && batch.sequence != last_->sequence + 1 && !batch.cleared) {
    replay_broken_ = true;
    return advice;
  } else {
    replay_new_ = true;
    advice = Accept(batch);
  }
  if (last_ && !replay_first_ && !replay_broken_) replayed_to_ = last_->sequence;
  return advice;
}

void KvEventStream::OnReplayEnd(std::int64_t now_ns) {
  if (phase_ != Phase::kReplaying) return;
  heard_ns_ = now_ns;
  if (std::exchange(resync_, false)) return Settle(now_ns);  // It had nothing, or not the begin.
  if (replay_broken_) return AskFailed(now_ns);
  if (replay_first_) {
    // An engine that has published has its last batch at least: this one keeps none, or is new and
    // its numbers begin again.
    if (live_last_) {
      cooldown_ns_ = now_ns + Nanoseconds(options_.replay_cooldown_s);
      resync_due_ns_ = cooldown_ns_;
    }
    Lose(last_ ? "the engine's replay is empty" : "no event yet, and nothing to replay");
    last_.reset();
    return Settle(now_ns);
  }
  why_ = "all events are known, some by replay";
  Settle(now_ns);
}

// ---- live batches ------------------------------------------------------------------------------

bool KvEventStream::IsFromNewLife(const KvBatchMark& batch) const {
  if (live_last_ && batch.sequence <= *live_last_) return true;
  if (!last_ || batch.sequence > last_->sequence) return false;
  return !replayed_to_ || batch.sequence > *replayed_to_;
}

KvEventStream::Advice KvEventStream::OnBatch(const KvBatchMark& batch, std::int64_t now_ns) {
  if (!connected_) return Advice::kDrop;
  heard_ns_ = now_ns;
  if (IsFromNewLife(batch)) {
    Forget(fmt::format("the engine started anew: its batches begin again at {}", batch.sequence));
  }
  live_last_ = batch.sequence;
  if (last_ && batch.sequence <= last_->sequence) return Advice::kDrop;
  const bool begins = !last_ && batch.sequence == 0;
  const bool next = last_ && batch.sequence == last_->sequence + 1;
  if (batch.readable && (batch.cleared || begins)) {
    resync_ = false;
    Settle(now_ns);
    return Accept(batch);
  }
  if (phase_ == Phase::kReplaying || phase_ == Phase::kPausing) return Advice::kDrop;
  if (next && batch.readable) {
    if (phase_ == Phase::kDoubting) why_ = "all events are known; the silence is over";
    Settle(now_ns);
    unproven_since_ns_.reset();
    return Accept(batch);
  }
  if (last_ && !next) ++gaps_;
  const std::string why =
      !batch.readable ? fmt::format("batch {} can't be read", batch.sequence)
      : last_ ? fmt::format("batches {} to {} are missing", last_->sequence + 1, batch.sequence - 1)
              : fmt::format("joined at batch {}: what was before isn't known", batch.sequence);
  // Where nothing is complete, an unreadable batch is none to ask twice for.
  if (MayReplay(now_ns) && (batch.readable || complete_)) {
    Recover(why, now_ns);
    return Advice::kDrop;
  }
  Settle(now_ns);
  Lose(why);
  return Accept(batch);
}

// ---- the connection, and time ------------------------------------------------------------------

void KvEventStream::OnConnected(std::int64_t now_ns) {
  connected_ = true;
  heard_ns_ = now_ns;
  cooldown_ns_ = 0;
  resync_ = false;
  replayed_to_.reset();
  if (!last_) {
    why_not_complete_ = options_.replay ? "connected: asking for what was before" : "no event yet";
    changed_ = true;
  }
  unproven_since_ns_ = now_ns;
  if (options_.replay) return Recover("connected again: is it the same engine?", now_ns);
  Settle(now_ns);
  if (last_) Lose("connected again, and without a replay endpoint nothing tells what was missed");
}

void KvEventStream::OnDisconnected(std::int64_t now_ns) {
  connected_ = false;
  resync_ = false;
  phase_ns_ = now_ns;
  Doubt("the connection is lost");
}

void KvEventStream::OnTick(bool busy, std::int64_t now_ns) {
  if (!busy) {
    busy_since_ns_.reset();
  } else if (!busy_since_ns_) {
    busy_since_ns_ = now_ns;
  }
  const std::int64_t lasts = now_ns - phase_ns_;
  switch (phase_) {
    case Phase::kReplaying:
      if (lasts > Nanoseconds(options_.replay_timeout_s)) AskFailed(now_ns);
      return;
    case Phase::kPausing:
      if (lasts > Nanoseconds(options_.replay_pause_s)) Ask(now_ns);
      return;
    case Phase::kDoubting:
      if (!complete_ || lasts <= Nanoseconds(options_.silence_s)) return;
      Lose(fmt::format("{}, for {:.0f} s more", why_, static_cast<double>(lasts) / 1e9));
      if (options_.replay) resync_due_ns_ = now_ns;
      if (connected_) Settle(now_ns);
      return;
    case Phase::kFollowing:
      break;
  }
  if (!complete_) {
    if (resync_due_ns_ && now_ns >= *resync_due_ns_ && MayReplay(now_ns)) {
      resync_due_ns_.reset();
      resync_ = true;
      Ask(now_ns);
    }
    return;
  }
  if (unproven_since_ns_ && now_ns - *unproven_since_ns_ > Nanoseconds(options_.settle_s)) {
    unproven_since_ns_.reset();
    if (MayReplay(now_ns)) return Recover("was anything missed while it was connected?", now_ns);
  }
  if (!busy_since_ns_) return;
  const std::int64_t silent = now_ns - std::max(heard_ns_, *busy_since_ns_);
  if (silent <= Nanoseconds(options_.silence_s)) return;
  const std::string why =
      fmt::format("no event for {:.0f} s while it works", static_cast<double>(silent) / 1e9);
  if (MayReplay(now_ns)) return Recover(why, now_ns);
  phase_ns_ = now_ns;
  Doubt(why);
}

}  // namespace sublet
