// kvcache/stored_runs.h
//
// What one replica stored lately, so that a prompt whose length in tokens is known can be told from
// the others: an engine announces a prompt's full blocks when it has computed them, and so one of
// its announcements ends at just that many blocks.
//
//   runs.Add({.blocks = 40, .last = hash}, now_ns);
//   runs.Grow(parent, hash);                               // A block of an answer.
//   const StoredRuns::Found found = runs.Find(prompt_tokens / block_tokens, sent_ns);
//   if (found.count == 1) ...   // found.run->last ends the prompt's chain.
//
// A run is blocks announced in one batch, each the parent of the next. A run of one block that
// continues another is an answer that grows, and no prompt's end.
//
// Thread safety: their owner's.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "kvcache/block_hash.h"
#include "kvcache/memory_budget.h"

namespace sublet {

struct StoredRun {
  std::uint32_t blocks = 0;  // Of the chain, through its last.
  BlockHash last = 0;
  std::int64_t stored_ns = 0;
  bool claimed = false;  // A prompt was found to be this.
  // As they are with the answer that has been announced since.
  BlockHash tip = 0;
  std::uint32_t tip_blocks = 0;
};

class StoredRuns {
 public:
  // Twice as many prompts as an engine answers at once.
  static constexpr std::size_t kRunsMax = 512;

  // `budget` outlives the runs.
  explicit StoredRuns(MemoryBudget& budget) : budget_(budget) {}
  ~StoredRuns() { Clear(); }
  StoredRuns(const StoredRuns&) = delete;
  StoredRuns& operator=(const StoredRuns&) = delete;

  void Add(StoredRun run, std::int64_t now_ns);
  void Clear();

  // The blocks of the chain through that one, where it is the tip of a run.
  std::optional<std::uint32_t> BlocksThrough(BlockHash tip) const;
  // One block was announced after `parent`; false: that is no run's tip.
  bool Grow(BlockHash parent, BlockHash block);

  struct Found {
    int count = 0;
    StoredRun* run = nullptr;  // Where the count is 1.
  };
  // Those that end at so many blocks, were stored since then and aren't claimed.
  Found Find(std::uint32_t blocks, std::int64_t since_ns);

 private:
  MemoryBudget& budget_;
  std::deque<StoredRun> runs_;
};

}  // namespace sublet
