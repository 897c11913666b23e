#include "node/gpu_health.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace sublet {
namespace {

double SecondsBetween(std::int64_t from_ns, std::int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) / 1e9;
}

template <typename T>
bool WentBack(const std::optional<T>& before, const std::optional<T>& now) {
  return before && now && *now < *before;
}

bool Cleared(const std::optional<bool>& before, const std::optional<bool>& now) {
  return before.value_or(false) && now && !*now;
}

// What is wrong by a poll's own figures; empty: nothing.
struct Finding {
  std::string why;
  bool needs_reset = false;
};

Finding Find(const GpuFacts& facts, const GpuFacts& last, const HealthLimits& limits) {
  if (facts.lost) return {"the GPU is lost: it can't be reached over PCIe", true};
  if (facts.reset_required) return {"the driver asks for a reset of the GPU", true};
  if (facts.remap_failed.value_or(false)) {
    return {"a bad row of memory could not be replaced: no spare is left", true};
  }
  if (limits.remap_pending_counts && facts.remap_pending.value_or(false)) {
    return {"a bad row of memory is replaced at the next reset", true};
  }
  if (facts.ecc_uncorrected && last.ecc_uncorrected &&
      *facts.ecc_uncorrected > *last.ecc_uncorrected) {
    return {fmt::format("{} more uncorrectable memory errors",
                        *facts.ecc_uncorrected - *last.ecc_uncorrected),
            false};
  }
  return {};
}

}  // namespace

double HealthJudge::quiet_needed_s() const {
  // 2^20 times any sensible time is past the greatest.
  return std::min(limits_.quiet_s * std::exp2(std::min(relapses_, 20)),
                  std::max(limits_.quiet_s, limits_.quiet_max_s));
}

std::optional<HealthChange> HealthJudge::Trouble(std::string why, bool needs_reset,
                                                 std::int64_t now_ns) {
  troubled_ns_ = now_ns;
  polls_good_ = 0;
  if (!unhealthy_) {
    const bool relapse = recovered_ns_ && SecondsBetween(*recovered_ns_, now_ns) < limits_.memory_s;
    relapses_ = relapse ? relapses_ + 1 : 0;
    unhealthy_ = true;
    needs_reset_ = needs_reset;
    how_reset_.clear();
    why_ = std::move(why);
    return HealthChange{HealthChange::What::kUnhealthy, why_};
  }
  // What is known to be worse is told; more of the same isn't.
  if (!needs_reset || needs_reset_) return std::nullopt;
  needs_reset_ = true;
  how_reset_.clear();
  if (why == why_) return std::nullopt;
  why_ = std::move(why);
  return HealthChange{HealthChange::What::kWorse, why_};
}

HealthChange HealthJudge::Recover(std::string why, std::int64_t now_ns) {
  unhealthy_ = false;
  needs_reset_ = false;
  how_reset_.clear();
  why_.clear();
  recovered_ns_ = now_ns;
  return {HealthChange::What::kRecovered, std::move(why)};
}

bool HealthJudge::SawReset(const GpuFacts& facts) const {
  if (last_.lost && !facts.lost) return true;
  if (last_.reset_required && !facts.reset_required) return true;
  if (Cleared(last_.remap_pending, facts.remap_pending)) return true;
  return WentBack(last_.ecc_uncorrected, facts.ecc_uncorrected) ||
         WentBack(last_.energy_mj, facts.energy_mj);
}

std::optional<HealthChange> HealthJudge::OnXid(const XidJudgement& xid, const std::string& when,
                                               std::int64_t now_ns) {
  if (xid.verdict == XidVerdict::kIgnore || xid.verdict == XidVerdict::kTenant) {
    return std::nullopt;
  }
  const std::string what = when.empty() ? xid.Text() : fmt::format("{} {}", xid.Text(), when);
  return Trouble(fmt::format("{}: {}", what, xid.why), xid.verdict == XidVerdict::kGpuReset,
                 now_ns);
}

std::optional<HealthChange> HealthJudge::OnPoll(const GpuFacts& facts, std::int64_t now_ns) {
  polls_failed_ = 0;
  unreachable_ = facts.lost;
  const Finding finding = Find(facts, last_, limits_);
  const bool saw_reset = needs_reset_ && !facts.lost && SawReset(facts);
  // A figure that is missing this once says nothing: the one before is compared next time.
  GpuFacts known = facts;
  if (!known.ecc_uncorrected) known.ecc_uncorrected = last_.ecc_uncorrected;
  if (!known.energy_mj) known.energy_mj = last_.energy_mj;
  if (!known.remap_pending) known.remap_pending = last_.remap_pending;
  last_ = known;
  if (saw_reset) {
    needs_reset_ = false;
    how_reset_ = "the GPU was reset and ";
    troubled_ns_ = now_ns;
    polls_good_ = 0;
  }
  if (!finding.why.empty()) return Trouble(finding.why, finding.needs_reset, now_ns);
  if (!unhealthy_) return std::nullopt;
  ++polls_good_;
  const double quiet_s = SecondsBetween(troubled_ns_, now_ns);
  if (needs_reset_ || polls_good_ < limits_.good_polls || quiet_s < quiet_needed_s()) {
    return std::nullopt;
  }
  return Recover(
      fmt::format("{}nothing was wrong for {:.0f} s (it was: {})", how_reset_, quiet_s, why_),
      now_ns);
}

std::optional<HealthChange> HealthJudge::OnNoAnswer(const std::string& what, std::int64_t now_ns) {
  polls_good_ = 0;
  ++polls_failed_;
  if (polls_failed_ < limits_.failed_polls) return std::nullopt;
  unreachable_ = true;
  return Trouble(fmt::format("the driver doesn't answer: {}", what), false, now_ns);
}

std::optional<HealthChange> HealthJudge::OnClear(const std::string& by, std::int64_t now_ns) {
  if (!unhealthy_ || unreachable_) return std::nullopt;
  HealthChange change = Recover(fmt::format("cleared by {} (it was: {})", by, why_), now_ns);
  relapses_ = 0;
  recovered_ns_.reset();
  return change;
}

}  // namespace sublet
