// A lease: what its request does, told to the books, to those who learn, and to the cache.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "route/lease_state.h"

namespace sublet {
namespace {

// A stream's tokens are looked at by so many or after so long, not each by itself: one lock for
// each token of each stream would be the busiest of the program.
constexpr int kTokensALook = 16;
constexpr std::int64_t kLookNs = 250'000'000;

// A replica that says it is full gets nothing for this long; vLLM's steps take a tenth of it.
constexpr std::int64_t kFullNs = 500'000'000;

}  // namespace

Lease::Lease(std::unique_ptr<LeaseState> state) : state_(std::move(state)) {}
Lease::Lease(Lease&&) noexcept = default;

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    if (state_) state_->Drop();
    state_ = std::move(other.state_);
  }
  return *this;
}

Lease::~Lease() {
  if (state_) state_->Drop();
}

const Decision& Lease::decision() const {
  return state_->decision;
}

const std::string& Lease::url() const {
  return state_->url;
}

void Lease::OnFirstToken(std::int64_t now_ns) {
  state_->OnFirstToken(now_ns);
}

void Lease::OnTokens(int count, std::int64_t now_ns) {
  state_->OnTokens(count, now_ns);
}

void Lease::Finish(const sublet::Finish& finish, std::int64_t now_ns) {
  state_->Finish(finish, now_ns);
}

void Lease::OnSent() {
  const std::lock_guard lock(state_->core->mutex);
  state_->Note();
}

void RouterCore::NoteAll() {
  while (!to_note.empty()) to_note.front()->Note();
}

void LeaseState::Note() {
  if (!to_note) return;
  if (!core->closed && !record->gone) {
    prediction = core->caches.Predict(record->slot, *to_note, sent_ns);
  }
  ForgetNote();
}

void LeaseState::ForgetNote() {
  if (to_note) std::erase(core->to_note, this);
  to_note.reset();
}

void LeaseState::OnFirstToken(std::int64_t now_ns) {
  if (finished || first_seen) return;
  first_seen = true;
  const std::lock_guard lock(core->mutex);
  now_ns = core->SeenNow(now_ns);
  core->BeforeLoadChanges(*record, now_ns);
  const double work_ns = record->WorkAt(now_ns);
  const std::optional<PrefillEnd> end = record->book.FirstToken(entry, work_ns);
  core->AfterLoadChanged(*record);
  looked_ns = now_ns;
  looked_sent = record->book.sent();
  looked_clean = record->book.prefills() == 0;
  if (record->gone) return;
  record->ttft.Add(static_cast<double>(now_ns - sent_ns) / 1e6);
  const ForeignLoad foreign = record->book.Foreign(now_ns);
  if (!end || !end->exact || foreign.waiting > 0) {
    record->rates.DropSample();
    return;
  }
  record->rates.OnFirstToken({.now_ns = now_ns,
                              .work_ns = work_ns,
                              .tokens = static_cast<double>(entry.size().uncached_tokens),
                              .head = end->head,
                              .begun_work_ns = end->begun_work_ns});
}

void LeaseState::OnTokens(int count, std::int64_t now_ns) {
  if (finished) return;
  if (!first_seen) return OnFirstToken(now_ns);
  tokens += count;
  if (tokens < kTokensALook && now_ns - looked_ns < kLookNs) return;
  const std::lock_guard lock(core->mutex);
  now_ns = core->SeenNow(now_ns);
  const LoadBook& book = record->book;
  // Steps that also prefilled take longer, and tell nothing of decoding alone.
  const bool clean = book.prefills() == 0;
  if (clean && looked_clean && looked_sent == book.sent() && now_ns > looked_ns) {
    const double step_ms = static_cast<double>(now_ns - looked_ns) / 1e6 / tokens;
    const ForeignLoad foreign = book.Foreign(now_ns);
    record->rates.OnDecode(book.decoding() + foreign.running,
                           step_ms / core->DecodeSlowdownOf(*record));
  }
  tokens = 0;
  looked_ns = now_ns;
  looked_sent = book.sent();
  looked_clean = clean;
}

void LeaseState::Finish(const sublet::Finish& finish, std::int64_t now_ns) {
  if (finished) return;
  finished = true;
  const std::lock_guard lock(core->mutex);
  now_ns = core->SeenNow(now_ns);
  core->BeforeLoadChanges(*record, now_ns);
  const bool was_head = record->book.End(entry, record->WorkAt(now_ns));
  core->AfterLoadChanged(*record);
  if (was_head) record->rates.DropSample();
  if (record->gone) return ForgetNote();
  TellCache(finish, now_ns);
  TellBreaker(finish.outcome, now_ns);
  if (finish.outcome == Outcome::kServed) {
    ++record->served;
    const std::uint32_t prompt = finish.prompt_tokens.value_or(decision.prompt_tokens);
    record->prompt_tokens += prompt;
    record->cached_tokens +=
        std::min(prompt, finish.cached_tokens.value_or(decision.cached_tokens));
  } else if (finish.outcome == Outcome::kFailed) {
    ++record->failed;
  }
}

void LeaseState::TellCache(const sublet::Finish& finish, std::int64_t now_ns) {
  // A prompt was prefilled where a token has come, whatever became of the rest; but a replica that
  // failed may have failed for good.
  const bool prefilled =
      finish.outcome == Outcome::kServed || (finish.outcome == Outcome::kCancelled && first_seen);
  if (prefilled) Note();
  ForgetNote();
  if (!prediction || core->closed) return;
  if (prefilled) {
    core->caches.Confirm(record->slot, *prediction, finish.prompt_tokens, now_ns);
  } else {
    core->caches.Retract(record->slot, *prediction);
  }
}

void LeaseState::TellBreaker(Outcome outcome, std::int64_t now_ns) {
  switch (outcome) {
    case Outcome::kServed:
      return record->breaker.OnSuccess(breaker_epoch);
    case Outcome::kFailed:
      return record->breaker.OnFailure(breaker_epoch, now_ns);
    case Outcome::kOverloaded:
      record->full_until_ns = now_ns + kFullNs;
      return record->breaker.OnSuccess(breaker_epoch);
    case Outcome::kClientError:
    case Outcome::kCancelled:
      return record->breaker.OnNothing(breaker_epoch);
  }
}

void LeaseState::Drop() {
  if (finished) return;
  std::int64_t now_ns = 0;
  {
    const std::lock_guard lock(core->mutex);
    now_ns = core->last_now_ns;
  }
  Finish({.outcome = Outcome::kCancelled}, now_ns);
}

}  // namespace sublet
