#include "proxy/source_state.h"

#include <algorithm>
#include <utility>

namespace sublet {

bool SourceState::Heard(std::int64_t now_ns) {
  const bool news = !ok();
  heard_ns_ = now_ns;
  why_.clear();
  return news;
}

bool SourceState::Away(std::string why) {
  const bool news = why_ != why;
  why_ = std::move(why);
  return news;
}

double RetryPause::Next(double chance) {
  const double pause_s = next_s_ * (0.75 + 0.5 * chance);
  next_s_ = std::min(next_s_ * 2, most_s_);
  return pause_s;
}

}  // namespace sublet
