#include "route/rate_learner.h"

#include <algorithm>

namespace sublet {
namespace {

constexpr double kTokensASample = 1024;  // Where the assumed rate weighs as a sample would.
constexpr double kBatch = 16;            // The same of a step's sequences.

AffineAssumption PrefillAssumption(const RateAssumptions& told) {
  const double rate =
      told.prefill_tokens_per_second.value_or(kPrefillTokensPerSecondAssumed * told.sm_part);
  return {.intercept = told.prefill_tokens_per_second ? 0 : kPrefillOverheadMsAssumed,
          .slope = 1000 / rate,
          .x = kTokensASample};
}

AffineAssumption DecodeAssumption(const RateAssumptions& told) {
  return {.intercept = told.decode_step_ms.value_or(kDecodeStepMsAssumed),
          .slope = kDecodeMsASequenceAssumed,
          .x = kBatch};
}

}  // namespace

RateLearner::RateLearner(const RateAssumptions& assumptions)
    : prefill_tokens_per_second_(1000 / PrefillAssumption(assumptions).slope),
      assumptions_(assumptions),
      prefill_(PrefillAssumption(assumptions)),
      decode_(DecodeAssumption(assumptions)) {}

void RateLearner::OnFirstToken(const FirstToken& first) {
  const bool same_step =
      sample_tokens_ > 0 && static_cast<double>(first.now_ns - sample_end_ns_) < kSameStepMs * 1e6;
  if (same_step) {
    sample_tokens_ += first.tokens;
    return;
  }
  if (!first.head) {
    carried_tokens_ += first.tokens;
    return;
  }
  Commit();
  sample_tokens_ = first.tokens + carried_tokens_;
  sample_ms_ = (first.work_ns - first.begun_work_ns) / 1e6;
  sample_end_ns_ = first.now_ns;
  carried_tokens_ = 0;
}

void RateLearner::DropSample() {
  Commit();
  carried_tokens_ = 0;
}

void RateLearner::Commit() {
  if (!assumptions_.prefill_tokens_per_second) {
    prefill_.Add(sample_tokens_, sample_ms_);
    prefill_tokens_per_second_ = 1000 / prefill_.slope();
  }
  sample_tokens_ = sample_ms_ = 0;
}

void RateLearner::OnDecode(double sequences, double step_ms) {
  if (!assumptions_.decode_step_ms) decode_.Add(sequences, step_ms);
}

bool RateLearner::PrefillLearnt() const {
  return !assumptions_.prefill_tokens_per_second && prefill_.count() >= kSamplesMin;
}

}  // namespace sublet
