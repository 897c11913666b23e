// replay/outcome_books.h
//
// Within a replay: what became of each request, and the figures of all of them.
//
//   OutcomeBooks books(names_and_rates, options.objective_ttft_ms);
//   books.OnAdmitted(replica, prompt_blocks, hit_blocks, computed_tokens);
//   books.OnServed({.arrived_ns = ..., .first_ns = ..., .last_ns = ..., .output_tokens = 300});
//   const PolicyOutcome outcome = std::move(books).Close();
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "replay/replay.h"

namespace sublet {

struct ServedRequest {
  std::int64_t arrived_ns = 0;
  std::int64_t first_ns = 0;
  std::int64_t last_ns = 0;
  std::uint32_t output_tokens = 0;
};

class OutcomeBooks {
 public:
  OutcomeBooks(const std::vector<ReplayReplica>& fleet, int block_tokens, double objective_ttft_ms);

  void OnArrived(std::int64_t now_ns);
  void OnQueued() { ++outcome_.queued; }
  void OnRejected(std::int64_t count) { outcome_.rejected += count; }
  // Its prefill began at the replica of that index, which had so many of its tokens.
  void OnAdmitted(std::size_t replica, std::uint32_t prompt_tokens, std::uint32_t cached_tokens);
  void OnServed(const ServedRequest& request);

  // Requests that are through, one way or the other.
  std::int64_t through() const { return outcome_.served + outcome_.rejected; }

  PolicyOutcome Close() &&;

 private:
  PolicyOutcome outcome_;
  std::vector<double> rates_;
  std::int64_t block_tokens_;
  double objective_ttft_ms_;
  std::int64_t begin_ns_ = -1;
  std::int64_t end_ns_ = 0;
  std::int64_t in_time_ = 0;
  std::int64_t output_tokens_ = 0;
  std::vector<double> ttft_ms_;
  std::vector<double> tpot_ms_;
};

// The smallest value that at least `part` (0 to 1) of them don't exceed; 0 where there are none.
// Sorts them in part.
double NearestRank(std::vector<double>& values, double part);

}  // namespace sublet
