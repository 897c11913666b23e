#include "route/hedging.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sublet {

void TtftWindow::Add(double ttft_ms) {
  ms_[next_] = static_cast<float>(ttft_ms);
  next_ = (next_ + 1) % ms_.size();
  count_ = std::min(count_ + 1, ms_.size());
}

double TtftWindow::Percentile(double percentile) const {
  CHECK(count_ > 0);
  std::array<float, std::tuple_size_v<decltype(ms_)>> sorted = ms_;
  const double rank = std::ceil(std::clamp(percentile, 0.0, 100.0) / 100 * double(count_));
  const std::size_t at = rank < 1 ? 0 : static_cast<std::size_t>(rank) - 1;
  std::nth_element(sorted.begin(), sorted.begin() + at, sorted.begin() + count_);
  return sorted[at];
}

std::optional<double> HedgeAfterMs(const HedgeOptions& options, const TtftWindow& recent) {
  if (!options.percentile || recent.count() < options.samples_min || recent.count() == 0) {
    return std::nullopt;
  }
  return std::max(options.after_ms_min, recent.Percentile(*options.percentile));
}

}  // namespace sublet
