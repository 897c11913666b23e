// route/load_book.h
//
// What one replica has to do, as its router knows: an entry for each request that was sent there,
// from the moment at which it was chosen until its end.
//
//   LoadBook book;
//   LoadEntry entry;                                // Lives in the request's lease.
//   book.Send(entry, {.uncached_tokens = 812}, work_ns);
//   book.FirstToken(entry, work_ns);                // Its prefill is done; now it decodes.
//   book.End(entry, work_ns);                       // In whatever state it is.
//   book.QueuedTokens(work_ns, tokens_per_second)   // Still to prefill.
//
// Counting at selection is what keeps a burst from going to one replica; what an engine tells of
// itself, once a second or so, comes too late for that. But only the engine knows of requests that
// didn't come through this router. So a scrape is compared with the book of the same moment, and
// what it has beyond is taken as others' load, until the next scrape: what is sent later is in the
// book and nowhere else, and isn't counted twice. A request that ends while the scrape is on its
// way looks like somebody else's; hence a load must be in two scrapes in a row to be believed. A
// scrape older than kScrapeFreshSeconds fades, and counts for nothing at three times that.
//
// The oldest request is being prefilled: what must have been done of it by now is taken off. Of a
// request that doesn't stream nobody sees the first token; Settle() takes it for prefilled when its
// turn has lasted for long enough.
//
// Thread safety: one thread at a time. An entry must not move while it is in a book.
#pragma once

#include <cstdint>
#include <optional>

#include "route/router.h"

namespace sublet {

// Scrapes are made every second or so; five missed ones are a replica that doesn't answer.
inline constexpr double kScrapeFreshSeconds = 5;

struct LoadSize {
  std::uint32_t uncached_tokens = 0;  // To prefill.
  int sequences = 1;                  // Choices, each of which decodes by itself.
  // Answered at once at its end: its first token won't be told.
  bool silent = false;
};

// One request's place in the book.
class LoadEntry {
 public:
  LoadEntry() = default;
  LoadEntry(const LoadEntry&) = delete;
  LoadEntry& operator=(const LoadEntry&) = delete;
  ~LoadEntry();  // REQUIRES: it is in no book.

  const LoadSize& size() const { return size_; }

 private:
  friend class LoadBook;
  enum class Phase { kNone, kPrefill, kDecode };
  LoadSize size_;
  Phase phase_ = Phase::kNone;
  // The list of those that wait for their first token, oldest first.
  LoadEntry* older_ = nullptr;
  LoadEntry* newer_ = nullptr;
};

// How a first token came, for those who learn from it.
struct PrefillEnd {
  bool head = false;         // It was the oldest that waited,
  double begun_work_ns = 0;  // since then;
  bool exact = true;         // which was seen, not reckoned.
};

// Load that isn't this router's.
struct ForeignLoad {
  double waiting = 0;
  double running = 0;
};

class LoadBook {
 public:
  LoadBook() = default;
  LoadBook(const LoadBook&) = delete;
  LoadBook& operator=(const LoadBook&) = delete;
  ~LoadBook();  // REQUIRES: it is empty.

  // REQUIRES: the entry is in no book.
  void Send(LoadEntry& entry, const LoadSize& size, double work_ns);
  // Absent where it had one before, or isn't in the book.
  std::optional<PrefillEnd> FirstToken(LoadEntry& entry, double work_ns);
  // Silent ones, oldest first, that must be done by now.
  void Settle(double work_ns, double tokens_per_second);
  // True where it was the oldest that waited. Does nothing where the entry isn't in the book.
  bool End(LoadEntry& entry, double work_ns);

  void OnScrape(const EngineLoad& load, std::int64_t now_ns);
  ForeignLoad Foreign(std::int64_t now_ns) const {
    return foreign_.waiting + foreign_.running > 0 ? Faded(now_ns) : ForeignLoad{};
  }
  // The part of its cache that requests hold, as a fresh scrape has it; 0 where there is none.
  double ScrapedUse(std::int64_t now_ns) const;
  std::optional<double> ScrapeAge(std::int64_t now_ns) const;
  const std::optional<EngineLoad>& scraped() const { return scraped_; }

  int in_flight() const { return in_flight_; }
  int prefills() const { return prefills_; }  // Requests that wait for their first token.
  int decoding() const { return decoding_; }  // Sequences.
  std::int64_t booked_tokens() const { return uncached_tokens_; }
  // Of all in flight, those which were computed for them: what they hold of the cache, where a
  // prefix that several share counts once.
  std::int64_t tokens_in_use() const { return tokens_in_use_; }
  bool MaySettle() const { return oldest_ != nullptr && oldest_size_.silent; }
  // Goes up with each request sent: unchanged, nothing was prefilled since.
  std::int64_t sent() const { return sent_; }

  // Tokens to prefill, less what is done of the oldest, plus others' waiting requests at the mean
  // size of ours.
  double QueuedTokens(std::int64_t now_ns, double work_ns, double tokens_per_second) const;

 private:
  ForeignLoad Faded(std::int64_t now_ns) const;
  void Unlink(LoadEntry& entry, double work_ns);
  void SetOldest(LoadEntry* entry, double work_ns);

  LoadEntry* oldest_ = nullptr;
  LoadEntry* newest_ = nullptr;
  // Of it, because every decision looks at every book, and an entry lies who knows where.
  LoadSize oldest_size_;
  double oldest_since_work_ns_ = 0;
  bool oldest_since_exact_ = true;
  int in_flight_ = 0;
  int sequences_ = 0;  // Of all in flight, prefilling or decoding.
  int prefills_ = 0;
  int decoding_ = 0;
  std::int64_t uncached_tokens_ = 0;
  std::int64_t tokens_in_use_ = 0;
  std::int64_t sent_ = 0;
  double mean_uncached_tokens_ = 1024;  // SGLang's assumption of a mean prefill.

  std::optional<EngineLoad> scraped_;
  std::int64_t scraped_ns_ = 0;
  double foreign_seen_ = 0;  // By the last scrape alone.
  ForeignLoad foreign_;      // By the last two.
};

}  // namespace sublet
