// route/retry_budget.h
//
// How many requests may be sent a second time: a part of those that come in, so that a fleet in
// trouble isn't buried under its own retries.
//
//   RetryBudget budget;
//   budget.OnRequest(now_ns);
//   if (budget.Take(now_ns)) ... send it again, elsewhere ...
//
// Each request puts `part` of a retry into the budget, each second `a_second` of one, and what
// isn't used fades within some ten seconds. So a small router may always retry a little, and a
// large one adds at most a fifth to its load where everything fails.
//
// Source: Finagle's RetryBudget (20 % and 10 a second).
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstdint>

namespace sublet {

struct RetryBudgetOptions {
  double part = 0.2;
  double a_second = 10;
  double kept_s = 10;
};

class RetryBudget {
 public:
  explicit RetryBudget(const RetryBudgetOptions& options = {})
      : options_(options), of_time_(options.a_second) {}

  void OnRequest(std::int64_t now_ns);
  // Whether one may be sent again; takes it off the budget.
  bool Take(std::int64_t now_ns);

 private:
  void Fill(std::int64_t now_ns);

  RetryBudgetOptions options_;
  double of_time_;          // Retries that time has brought; a second's worth at the start.
  double of_requests_ = 0;  // Those that requests have brought.
  std::int64_t filled_ns_ = -1;
};

}  // namespace sublet
