#include "replay/outcome_books.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace sublet {

double NearestRank(std::vector<double>& values, double part) {
  if (values.empty()) return 0;
  const double count = static_cast<double>(values.size());
  const double rank = std::clamp(std::ceil(part * count) - 1, 0.0, count - 1);
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::ranges::nth_element(values, nth);
  return *nth;
}

OutcomeBooks::OutcomeBooks(const std::vector<ReplayReplica>& fleet, int block_tokens,
                           double objective_ttft_ms)
    : block_tokens_(block_tokens), objective_ttft_ms_(objective_ttft_ms) {
  for (const ReplayReplica& replica : fleet) {
    outcome_.replicas.push_back({.name = replica.name});
    rates_.push_back(replica.prefill_tokens_per_second);
  }
}

void OutcomeBooks::OnArrived(std::int64_t now_ns) {
  ++outcome_.requests;
  if (begin_ns_ < 0) begin_ns_ = now_ns;
}

void OutcomeBooks::OnAdmitted(std::size_t replica, std::uint32_t prompt_tokens,
                              std::uint32_t cached_tokens) {
  CHECK(cached_tokens <= prompt_tokens);
  ReplicaOutcome& row = outcome_.replicas[replica];
  ++row.requests;
  row.prompt_blocks += (prompt_tokens + block_tokens_ - 1) / block_tokens_;
  row.hit_blocks += cached_tokens / block_tokens_;
  row.computed_tokens += prompt_tokens - cached_tokens;
}

void OutcomeBooks::OnServed(const ServedRequest& request) {
  ++outcome_.served;
  const double ttft_ms = static_cast<double>(request.first_ns - request.arrived_ns) / 1e6;
  ttft_ms_.push_back(ttft_ms);
  if (ttft_ms <= objective_ttft_ms_) ++in_time_;
  if (request.output_tokens > 1) {
    tpot_ms_.push_back(static_cast<double>(request.last_ns - request.first_ns) / 1e6 /
                       (request.output_tokens - 1));
  }
  output_tokens_ += request.output_tokens;
  end_ns_ = std::max(end_ns_, request.last_ns);
}

PolicyOutcome OutcomeBooks::Close() && {
  PolicyOutcome& out = outcome_;
  std::int64_t prompt_blocks = 0;
  std::int64_t hit_blocks = 0;
  double work_s = 0;
  double most_s = 0;
  for (std::size_t i = 0; i < rates_.size(); ++i) {
    ReplicaOutcome& row = out.replicas[i];
    row.work_s = static_cast<double>(row.computed_tokens) / rates_[i];
    prompt_blocks += row.prompt_blocks;
    hit_blocks += row.hit_blocks;
    work_s += row.work_s;
    most_s = std::max(most_s, row.work_s);
  }
  const auto per = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
  out.hit_ratio = per(static_cast<double>(hit_blocks), static_cast<double>(prompt_blocks));
  out.imbalance = per(most_s * static_cast<double>(rates_.size()), work_s);
  const double sum_ms = std::accumulate(ttft_ms_.begin(), ttft_ms_.end(), 0.0);
  out.ttft_ms_mean = per(sum_ms, static_cast<double>(ttft_ms_.size()));
  out.ttft_ms_p50 = NearestRank(ttft_ms_, 0.5);
  out.ttft_ms_p90 = NearestRank(ttft_ms_, 0.9);
  out.ttft_ms_p99 = NearestRank(ttft_ms_, 0.99);
  out.tpot_ms_p50 = NearestRank(tpot_ms_, 0.5);
  out.tpot_ms_p90 = NearestRank(tpot_ms_, 0.9);
  out.duration_s = static_cast<double>(std::max<std::int64_t>(0, end_ns_ - begin_ns_)) / 1e9;
  out.in_time = per(static_cast<double>(in_time_), static_cast<double>(through()));
  out.goodput_per_second = per(static_cast<double>(in_time_), out.duration_s);
  out.output_tokens_per_second = per(static_cast<double>(output_tokens_), out.duration_s);
  return std::move(outcome_);
}

}  // namespace sublet
