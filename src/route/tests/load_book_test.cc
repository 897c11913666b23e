#include "route/load_book.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <memory>
#include <vector>

namespace sublet {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr double kRate = 1000;  // Tokens a second.

TEST(LoadBook, CountsTokensUntilTheFirstTokenAndSequencesUntilTheEnd) {
  LoadBook book;
  LoadEntry entry;
  book.Send(entry, {.uncached_tokens = 800, .sequences = 3}, 0);
  EXPECT_EQ(book.QueuedTokens(0, 0, kRate), 800);
  EXPECT_EQ(book.prefills(), 1);
  EXPECT_EQ(book.decoding(), 0);
  book.FirstToken(entry, 0);
  EXPECT_EQ(book.QueuedTokens(0, 0, kRate), 0);
  EXPECT_EQ(book.decoding(), 3);
  EXPECT_EQ(book.tokens_in_use(), 800);
  book.End(entry, 0);
  EXPECT_EQ(book.in_flight(), 0);
  EXPECT_EQ(book.tokens_in_use(), 0);
}

TEST(LoadBook, TakesOffWhatMustBeDoneOfTheOldest) {
  LoadBook book;
  LoadEntry first;
  LoadEntry second;
  book.Send(first, {.uncached_tokens = 1000}, 0);
  book.Send(second, {.uncached_tokens = 500}, 0);
  EXPECT_EQ(book.QueuedTokens(0, 0.4 * kSecond, kRate), 1100);
  // What should be done and isn't, is nearly done; the second has not begun.
  EXPECT_EQ(book.QueuedTokens(0, 9.0 * kSecond, kRate), 600);
  book.FirstToken(first, 9.0 * kSecond);
  EXPECT_EQ(book.QueuedTokens(0, 9.1 * kSecond, kRate), 400);
  book.End(first, 0);
  book.End(second, 0);
}

TEST(LoadBook, TellsTheOldestFromTheOthers) {
  LoadBook book;
  LoadEntry first;
  LoadEntry second;
  book.Send(first, {.uncached_tokens = 10}, 100);
  book.Send(second, {.uncached_tokens = 10}, 200);
  const PrefillEnd early = book.FirstToken(second, 300).value();
  EXPECT_FALSE(early.head);
  const PrefillEnd end = book.FirstToken(first, 400).value();
  EXPECT_TRUE(end.head);
  EXPECT_EQ(end.begun_work_ns, 100);
  EXPECT_FALSE(book.FirstToken(first, 500));  // It had one.
  book.End(first, 0);
  book.End(second, 0);
}

TEST(LoadBook, ReckonsThePrefillOfWhoDoesNotStream) {
  LoadBook book;
  LoadEntry silent;
  LoadEntry streaming;
  book.Send(silent, {.uncached_tokens = 1000, .silent = true}, 0);
  book.Send(streaming, {.uncached_tokens = 500}, 0);
  book.Settle(0.9 * kSecond, kRate);
  EXPECT_EQ(book.decoding(), 0);
  book.Settle(1.2 * kSecond, kRate);
  EXPECT_EQ(book.decoding(), 1);
  EXPECT_NEAR(book.QueuedTokens(0, 1.2 * kSecond, kRate), 300, 1e-6);
  EXPECT_FALSE(book.FirstToken(streaming, 2.0 * kSecond).value().exact);
  book.End(silent, 0);
  book.End(streaming, 0);
}

TEST(LoadBook, WhatAScrapeHasBeyondTheBookIsOthersLoad) {
  LoadBook book;
  LoadEntry ours;
  book.Send(ours, {.uncached_tokens = 100}, 0);
  const EngineLoad load{.waiting = 4, .running = 7};
  book.OnScrape(load, 0);
  EXPECT_EQ(book.Foreign(0).waiting, 0);  // Once may be chance.
  book.OnScrape(load, kSecond);
  EXPECT_NEAR(book.Foreign(kSecond).waiting + book.Foreign(kSecond).running, 10, 1e-9);
  EXPECT_NEAR(book.Foreign(kSecond).waiting, 10.0 * 4 / 11, 1e-9);
  EXPECT_GT(book.QueuedTokens(kSecond, 0, kRate), 100);
  book.End(ours, 0);
}

TEST(LoadBook, WhatIsSentAfterTheScrapeIsNotCountedTwice) {
  LoadBook book;
  std::vector<std::unique_ptr<LoadEntry>> entries;
  const auto send = [&] {
    entries.push_back(std::make_unique<LoadEntry>());
    book.Send(*entries.back(), {.uncached_tokens = 100}, 0);
  };
  for (int i = 0; i < 5; ++i) send();
  book.OnScrape({.waiting = 2, .running = 3}, 0);
  for (int i = 0; i < 5; ++i) send();
  book.OnScrape({.waiting = 5, .running = 5}, kSecond);
  for (int i = 0; i < 5; ++i) send();
  EXPECT_EQ(book.Foreign(kSecond).waiting, 0);
  EXPECT_EQ(book.Foreign(kSecond).running, 0);
  EXPECT_EQ(book.QueuedTokens(kSecond, 0, kRate), 1500);
  for (const auto& entry : entries) book.End(*entry, 0);
}

TEST(LoadBook, AnOldScrapeFades) {
  LoadBook book;
  book.OnScrape({.waiting = 4, .running = 4, .kv_used = 0.5}, 0);
  book.OnScrape({.waiting = 4, .running = 4, .kv_used = 0.5}, 0);
  EXPECT_EQ(book.Foreign(5 * kSecond).running, 4);
  EXPECT_EQ(book.Foreign(10 * kSecond).running, 2);
  EXPECT_EQ(book.Foreign(15 * kSecond).running, 0);
  EXPECT_EQ(book.ScrapedUse(5 * kSecond), 0.5);
  EXPECT_EQ(book.ScrapedUse(6 * kSecond), 0);
}

// Whatever is called in whatever order: nothing is ever negative, and once all have ended, nothing
// is left.
RC_GTEST_PROP(LoadBookProperty, IsNeverNegativeAndEndsAtZero, ()) {
  LoadBook book;
  std::vector<std::unique_ptr<LoadEntry>> entries;
  std::vector<LoadEntry*> inside;
  double work_ns = 0;
  for (int i = 0; i < 60; ++i) {
    work_ns += *rc::gen::inRange(0, 500'000'000);
    const int what = *rc::gen::inRange(0, 5);
    LoadEntry* any = inside.empty() ? nullptr : *rc::gen::elementOf(inside);
    if (what <= 1) {
      entries.push_back(std::make_unique<LoadEntry>());
      inside.push_back(entries.back().get());
      book.Send(*inside.back(),
                {.uncached_tokens = *rc::gen::inRange(0u, 5000u),
                 .sequences = *rc::gen::inRange(1, 4),
                 .silent = *rc::gen::arbitrary<bool>()},
                work_ns);
    } else if (what == 2 && any != nullptr) {
      book.FirstToken(*any, work_ns);
    } else if (what == 3 && any != nullptr) {
      book.End(*any, work_ns);
      book.End(*any, work_ns);  // A second time is nothing.
      std::erase(inside, any);
    } else {
      book.Settle(work_ns, kRate);
    }
    RC_ASSERT(book.in_flight() == static_cast<int>(inside.size()));
    RC_ASSERT(book.prefills() >= 0 && book.prefills() <= book.in_flight());
    RC_ASSERT(book.decoding() >= 0);
    RC_ASSERT(book.QueuedTokens(0, work_ns, kRate) >= 0);
    RC_ASSERT(book.tokens_in_use() >= 0);
  }
  for (LoadEntry* entry : inside) book.End(*entry, work_ns);
  RC_ASSERT(book.in_flight() == 0 && book.prefills() == 0 && book.decoding() == 0);
  RC_ASSERT(book.booked_tokens() == 0 && book.tokens_in_use() == 0);
  RC_ASSERT(book.QueuedTokens(0, work_ns, kRate) == 0);
}

}  // namespace
}  // namespace sublet
