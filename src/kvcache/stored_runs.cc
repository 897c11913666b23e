#include "kvcache/stored_runs.h"

#include <algorithm>

namespace sublet {

void StoredRuns::Add(StoredRun run, std::int64_t now_ns) {
  run.stored_ns = now_ns;
  run.tip = run.last;
  run.tip_blocks = run.blocks;
  if (runs_.size() == kRunsMax) {
    runs_.pop_front();
  } else if (!budget_.Take(sizeof(StoredRun))) {
    if (runs_.empty()) return;
    runs_.pop_front();
  }
  runs_.push_back(run);
}

void StoredRuns::Clear() {
  budget_.Give(runs_.size() * sizeof(StoredRun));
  runs_.clear();
}

std::optional<std::uint32_t> StoredRuns::BlocksThrough(BlockHash tip) const {
  const auto run = std::find_if(runs_.rbegin(), runs_.rend(),
                                [&](const StoredRun& other) { return other.tip == tip; });
  if (run == runs_.rend()) return std::nullopt;
  return run->tip_blocks;
}

bool StoredRuns::Grow(BlockHash parent, BlockHash block) {
  const auto run = std::find_if(runs_.rbegin(), runs_.rend(),
                                [&](const StoredRun& other) { return other.tip == parent; });
  if (run == runs_.rend()) return false;
  run->tip = block;
  ++run->tip_blocks;
  return true;
}

StoredRuns::Found StoredRuns::Find(std::uint32_t blocks, std::int64_t since_ns) {
  Found found;
  for (StoredRun& run : runs_) {
    if (run.blocks != blocks || run.stored_ns < since_ns || run.claimed) continue;
    ++found.count;
    found.run = &run;
  }
  if (found.count != 1) found.run = nullptr;
  return found;
}

}  // namespace sublet
