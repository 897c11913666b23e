#include "route/load_book.h"

#include <algorithm>

#include "base/check.h"

namespace sublet {
namespace {

constexpr double kNsInSecond = 1e9;
// The estimate of a rate is some 10 % off; a prefill that should be done and isn't is nearly done.
constexpr double kDoneMax = 0.9;
constexpr double kMeanFading = 1.0 / 32;

}  // namespace

LoadEntry::~LoadEntry() {
  CHECK(phase_ == Phase::kNone);
}

LoadBook::~LoadBook() {
  CHECK(in_flight_ == 0);
}

void LoadBook::Send(LoadEntry& entry, const LoadSize& size, double work_ns) {
  CHECK(entry.phase_ == LoadEntry::Phase::kNone && size.sequences >= 0);
  entry.size_ = size;
  entry.phase_ = LoadEntry::Phase::kPrefill;
  entry.older_ = newest_;
  entry.newer_ = nullptr;
  if (newest_ != nullptr) {
    newest_->newer_ = &entry;
  } else {
    SetOldest(&entry, work_ns);
  }
  newest_ = &entry;
  ++in_flight_;
  ++prefills_;
  ++sent_;
  sequences_ += size.sequences;
  uncached_tokens_ += size.uncached_tokens;
  tokens_in_use_ += size.uncached_tokens;
  mean_uncached_tokens_ += kMeanFading * (size.uncached_tokens - mean_uncached_tokens_);
}

// It is its turn.
void LoadBook::SetOldest(LoadEntry* entry, double work_ns) {
  oldest_ = entry;
  oldest_size_ = entry != nullptr ? entry->size_ : LoadSize{};
  oldest_since_work_ns_ = work_ns;
  oldest_since_exact_ = true;
}

void LoadBook::Unlink(LoadEntry& entry, double work_ns) {
  (entry.newer_ != nullptr ? entry.newer_->older_ : newest_) = entry.older_;
  if (entry.older_ != nullptr) {
    entry.older_->newer_ = entry.newer_;
  } else {
    SetOldest(entry.newer_, work_ns);
  }
  entry.older_ = entry.newer_ = nullptr;
  --prefills_;
  uncached_tokens_ -= entry.size_.uncached_tokens;
}

std::optional<PrefillEnd> LoadBook::FirstToken(LoadEntry& entry, double work_ns) {
  if (entry.phase_ != LoadEntry::Phase::kPrefill) return std::nullopt;
  const PrefillEnd end{.head = oldest_ == &entry,
                       .begun_work_ns = oldest_since_work_ns_,
                       .exact = oldest_since_exact_};
  Unlink(entry, work_ns);
  entry.phase_ = LoadEntry::Phase::kDecode;
  decoding_ += entry.size_.sequences;
  return end;
}

void LoadBook::Settle(double work_ns, double tokens_per_second) {
  while (MaySettle()) {
    const double takes_ns = oldest_size_.uncached_tokens / tokens_per_second * kNsInSecond;
    const double done_work_ns = oldest_since_work_ns_ + takes_ns;
    if (done_work_ns > work_ns) return;
    FirstToken(*oldest_, done_work_ns);
    oldest_since_exact_ = false;
  }
}

bool LoadBook::End(LoadEntry& entry, double work_ns) {
  if (entry.phase_ == LoadEntry::Phase::kNone) return false;
  const bool head = oldest_ == &entry;
  if (entry.phase_ == LoadEntry::Phase::kPrefill) {
    Unlink(entry, work_ns);
  } else {
    decoding_ -= entry.size_.sequences;
  }
  entry.phase_ = LoadEntry::Phase::kNone;
  --in_flight_;
  sequences_ -= entry.size_.sequences;
  tokens_in_use_ -= entry.size_.uncached_tokens;
  CHECK(in_flight_ >= 0 && prefills_ >= 0 && decoding_ >= 0 && uncached_tokens_ >= 0);
  return head;
}

void LoadBook::OnScrape(const EngineLoad& load, std::int64_t now_ns) {
  const double waiting = load.waiting.value_or(0);
  const double total = waiting + load.running.value_or(0);
  const double beyond = std::max(0.0, total - sequences_);
  const double believed = std::min(beyond, foreign_seen_);
  foreign_seen_ = beyond;
  foreign_ = {};
  if (total > 0) {
    foreign_.waiting = believed * waiting / total;
    foreign_.running = believed - foreign_.waiting;
  }
  scraped_ = load;
  scraped_ns_ = now_ns;
}

std::optional<double> LoadBook::ScrapeAge(std::int64_t now_ns) const {
  if (!scraped_) return std::nullopt;
  return static_cast<double>(std::max<std::int64_t>(0, now_ns - scraped_ns_)) / kNsInSecond;
}

double LoadBook::ScrapedUse(std::int64_t now_ns) const {
  if (!scraped_ || !scraped_->kv_used || *ScrapeAge(now_ns) > kScrapeFreshSeconds) return 0;
  return *scraped_->kv_used;
}

ForeignLoad LoadBook::Faded(std::int64_t now_ns) const {
  const double age_s = *ScrapeAge(now_ns);
  const double worth =
      std::clamp((3 * kScrapeFreshSeconds - age_s) / (2 * kScrapeFreshSeconds), 0.0, 1.0);
  return {.waiting = foreign_.waiting * worth, .running = foreign_.running * worth};
}

double LoadBook::QueuedTokens(std::int64_t now_ns, double work_ns, double tokens_per_second) const {
  double tokens = Foreign(now_ns).waiting * mean_uncached_tokens_;
  if (oldest_ == nullptr) return tokens;
  const double worked_s = std::max(0.0, work_ns - oldest_since_work_ns_) / kNsInSecond;
  const double done =
      std::min(worked_s * tokens_per_second, kDoneMax * oldest_size_.uncached_tokens);
  return tokens + static_cast<double>(uncached_tokens_) - done;
}

}  // namespace sublet
