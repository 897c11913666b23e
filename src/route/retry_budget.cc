#include "route/retry_budget.h"

#include <algorithm>
#include <cmath>

namespace sublet {

void RetryBudget::Fill(std::int64_t now_ns) {
  if (filled_ns_ < 0) filled_ns_ = now_ns;
  if (now_ns <= filled_ns_) return;
  const double passed_s = static_cast<double>(now_ns - filled_ns_) / 1e9;
  filled_ns_ = now_ns;
  of_time_ = std::min(of_time_ + options_.a_second * passed_s, options_.a_second * options_.kept_s);
  of_requests_ *= std::exp(-passed_s / options_.kept_s);
}

void RetryBudget::OnRequest(std::int64_t now_ns) {
  Fill(now_ns);
  of_requests_ += options_.part;
}

bool RetryBudget::Take(std::int64_t now_ns) {
  Fill(now_ns);
  double& from = of_requests_ >= 1 ? of_requests_ : of_time_;
  if (from < 1) return false;
  from -= 1;
  return true;
}

}  // namespace sublet
