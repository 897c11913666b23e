// node/gpu_health.h
//
// Whether a GPU may get work: a state machine fed with what was seen of it.
//
//   HealthJudge health(HealthLimits{});
//   if (const auto change = health.OnXid(JudgeXid(79, {}), "XID 79 ...", now_ns)) Tell(*change);
//   if (const auto change = health.OnPoll(facts, now_ns)) Tell(*change);
//   health.healthy(), health.why()
//
// A GPU becomes unhealthy at once and recovers slowly: after `good_polls` polls in a row that found
// nothing, over at least `quiet_s` seconds without a new event. Each relapse within `memory_s`
// doubles the time that it must be quiet, up to `quiet_max_s`, so that a GPU that fails every few
// minutes doesn't come and go as often.
//
// What needs a reset recovers only once a reset was seen (the GPU was lost and is back, the
// driver's wish for a reset or a pending row remapping is gone, or a counter that begins anew with
// the driver went back) or an operator clears it. A GPU that is lost, or that doesn't answer, is
// never healthy, not even when cleared.
//
// The clock is a parameter: nanoseconds of a monotonic clock, not going back.
//
// Thread safety: one thread at a time; a value that can be copied.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "node/xid_rules.h"

namespace sublet {

struct HealthLimits {
  int good_polls = 6;          // At a poll every 5 s: half a minute.
  double quiet_s = 60;         // Longer than a driver takes to recover a GPU by itself.
  double quiet_max_s = 3600;   // A GPU that fails more often would come and go all day.
  double memory_s = 6 * 3600;  // After so long without trouble, relapses are forgotten.
  int failed_polls = 2;        // So many polls in a row without answer: one may be a hiccup.
  // Whether a pending row remapping keeps new work away. The driver doesn't hand out the bad row
  // meanwhile, so that false is safe too, for who can't reset the GPU soon.
  bool remap_pending_counts = true;
};

// What one poll found. What the driver doesn't tell is absent, and then nothing follows from it.
struct GpuFacts {
  bool lost = false;            // "GPU is lost": fallen off the bus.
  bool reset_required = false;  // The driver itself asks for one.
  // Since the driver was loaded, or the GPU was reset.
  std::optional<std::int64_t> ecc_uncorrected = {};
  std::optional<std::int64_t> energy_mj = {};
  std::optional<bool> remap_pending = {};  // A row of memory is replaced at the next reset.
  std::optional<bool> remap_failed = {};   // No spare row is left: the board is to be replaced.
};

struct HealthChange {
  enum class What { kUnhealthy, kWorse, kRecovered };
  What what = What::kUnhealthy;
  std::string why;  // One sentence: of the trouble, or how it was found to be over.
};

class HealthJudge {
 public:
  explicit HealthJudge(const HealthLimits& limits = {}) : limits_(limits) {}

  // kIgnore and kTenant change nothing, not even the time of quiet. `when` is for people:
  // "at 2026-11-21T10:00:00Z in GPU instance 7"; may be empty.
  std::optional<HealthChange> OnXid(const XidJudgement& xid, const std::string& when,
                                    std::int64_t now_ns);
  std::optional<HealthChange> OnPoll(const GpuFacts& facts, std::int64_t now_ns);
  // The driver or the GPU didn't answer; `what` is the driver's message.
  std::optional<HealthChange> OnNoAnswer(const std::string& what, std::int64_t now_ns);
  // An operator's word. It ends what an event has begun, not what the next poll finds again.
  std::optional<HealthChange> OnClear(const std::string& by, std::int64_t now_ns);

  bool healthy() const { return !unhealthy_; }
  // Why it isn't healthy; empty when it is.
  const std::string& why() const { return why_; }
  bool needs_reset() const { return needs_reset_; }
  // How long it must be quiet until it recovers, with the relapses counted.
  double quiet_needed_s() const;

 private:
  std::optional<HealthChange> Trouble(std::string why, bool needs_reset, std::int64_t now_ns);
  HealthChange Recover(std::string why, std::int64_t now_ns);
  bool SawReset(const GpuFacts& facts) const;

  HealthLimits limits_;
  bool unhealthy_ = false;
  bool needs_reset_ = false;
  std::string why_;
  bool unreachable_ = false;  // Lost, or without answer, when last looked at.
  std::string how_reset_;     // How the last reset was seen; empty: none was needed.
  GpuFacts last_;             // Of the last poll that was answered.
  int polls_good_ = 0;        // In a row.
  int polls_failed_ = 0;      // In a row.
  int relapses_ = 0;
  std::int64_t troubled_ns_ = 0;  // The last event or finding, or the reset that ended them.
  std::optional<std::int64_t> recovered_ns_;
};

}  // namespace sublet
