// route/rate_learner.h
//
// How fast a replica prefills and decodes, learnt from the requests that it serves.
//
//   RateLearner rates({.sm_part = 0.25});
//   rates.OnFirstToken({.now_ns = now, .work_ns = work, .tokens = 812, .begun_work_ns = begun});
//   rates.OnDecode(24, 11.5);                // 24 sequences, 11.5 ms a step, alone on the GPU.
//   rates.PrefillTokensPerSecond()
//
// Time to the first token is waiting and prefill in one, and a busy replica must not look slow. So
// what is timed isn't a request but the replica: engines prefill in the order of arrival, hence
// from the moment at which a request has become the oldest one that waits until its first token,
// the replica prefilled just that, and whichever later ones got their first token meanwhile. A
// first token of one that isn't the oldest is counted into the sample that ends with the oldest
// one's. First tokens within kSameStepMs come from one step of the engine and are one sample.
//
// A sample in which something else may have taken time is dropped: the oldest was cancelled, or
// there is work that isn't ours (the engine's metrics say so).
//
// On a GPU that is shared, time is counted as `work_ns`: the clock of what a replica would have
// done alone, which runs slower while others take part of the GPU (route/share_model.h). What is
// learnt is the speed of the share alone, and a busy neighbour isn't mistaken for a slow replica.
//
// Both are lines (route/affine_fit.h): a prefill takes overhead + tokens / rate, a step of decoding
// a part for itself and a part for each sequence.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstdint>
#include <optional>

#include "route/affine_fit.h"

namespace sublet {

// Of an 8 B model in bf16 on an H100-class board, some 8,000 to 20,000; the lower end, since what
// is assumed too slow is used, and so learnt, earlier than what is assumed too fast is corrected.
inline constexpr double kPrefillTokensPerSecondAssumed = 8000;
inline constexpr double kPrefillOverheadMsAssumed = 20;  // A step, the network and a tokenizer.
inline constexpr double kDecodeStepMsAssumed = 20;
inline constexpr double kDecodeMsASequenceAssumed = 0.25;
inline constexpr double kSameStepMs = 2;

struct RateAssumptions {
  double sm_part = 1;  // Of the GPU: prefill is bound by computing, and so by the cap.
  // Told, and then not learnt.
  std::optional<double> prefill_tokens_per_second = {};
  std::optional<double> decode_step_ms = {};
};

struct FirstToken {
  std::int64_t now_ns = 0;
  double work_ns = 0;        // The clock of the share's own work.
  double tokens = 0;         // Of the prompt, that had to be computed.
  bool head = true;          // It was the oldest that waited.
  double begun_work_ns = 0;  // When it became that.
};

class RateLearner {
 public:
  explicit RateLearner(const RateAssumptions& assumptions = {});

  void OnFirstToken(const FirstToken& first);
  // Something happened that makes the time since the last first token say nothing.
  void DropSample();
  void OnDecode(double sequences, double step_ms);

  double PrefillTokensPerSecond() const { return prefill_tokens_per_second_; }
  double PrefillOverheadMs() const { return prefill_.intercept(); }
  double DecodeStepMs(double sequences) const { return decode_.At(sequences); }
  // At least kSamplesMin samples stand behind the rate, and it wasn't told.
  bool PrefillLearnt() const;

  static constexpr std::int64_t kSamplesMin = 8;

 private:
  void Commit();

  double prefill_tokens_per_second_;  // Of the line.
  RateAssumptions assumptions_;
  AffineFit prefill_;  // ms over tokens.
  AffineFit decode_;   // ms over sequences.
  // The sample that the next first token may still belong to.
  double sample_tokens_ = 0;
  double sample_ms_ = 0;
  std::int64_t sample_end_ns_ = 0;
  double carried_tokens_ = 0;  // Of those that weren't the oldest.
};

}  // namespace sublet
