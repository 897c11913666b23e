// node/back_off.h
//
// How long a process that keeps ending waits before it is started again: longer each time, so that
// what can't work costs little, and not in step with its neighbours, so that forty replicas which
// died together don't come back together.
//
//   attempts = AttemptsAfterEnd(attempts, ran_s);          // It ended, after so many seconds.
//   const double delay_s = RestartDelay(attempts, share.id);
//   why = DescribePause(attempts, delay_s);                // For people: says so of a crash loop.
//
// Pure: the same share and attempt always wait equally long.
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <string_view>

namespace sublet {

struct BackOff {
  double first_s = 0.5;
  double most_s = 30;
  // Who ran so long is started anew without a past.
  double steady_s = 60;
  // From so many ends in a row on, it is called a crash loop.
  int loop_attempts = 5;
};

// The ends in a row that came soon after the start, this one included.
int AttemptsAfterEnd(int attempts, double ran_s, const BackOff& back_off = {});

// Seconds until the next start after `attempts` ends in a row (1 or more; 0 waits nothing):
// first_s, doubled with each further end up to most_s, less up to a quarter that depends on the
// share and the attempt.
double RestartDelay(int attempts, std::string_view share, const BackOff& back_off = {});

bool IsCrashLoop(int attempts, const BackOff& back_off = {});
// "starts again in 1.8 s"; "crash loop: ended 6 times in a row, each within 60 s of its start;
// starts again in 14 s"
std::string DescribePause(int attempts, double delay_s, const BackOff& back_off = {});

}  // namespace sublet
