#include "route/share_model.h"

#include <algorithm>

#include "base/check.h"

namespace sublet {

void CoTenancy::Build(std::span<const TenantLoad> tenants) {
  order_.clear();  // Those that have something to do, the least first.
  places_.resize(tenants.size());
  decoding_ = 0;
  Stretch at;
  for (std::uint32_t t = 0; t < tenants.size(); ++t) {
    const TenantLoad& tenant = tenants[t];
    places_[t] = {.demand = tenant.sm_part * kComputeAlone, .decoding = tenant.decoding > 0};
    decoding_ += tenant.decoding > 0 ? 1 : 0;
    if (tenant.prefill_ms <= 0) continue;
    order_.push_back(t);
    at.demand += places_[t].demand;
    ++at.working;
  }
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    if (tenants[a].prefill_ms != tenants[b].prefill_ms) {
      return tenants[a].prefill_ms < tenants[b].prefill_ms;
    }
    return a < b;
  });
  stretches_.assign(1, at);
  for (const std::uint32_t t : order_) {
    at.time_ms += (tenants[t].prefill_ms - at.from_ms) * SlowdownAt(at.demand);
    at.from_ms = tenants[t].prefill_ms;
    at.demand = std::max(0.0, at.demand - places_[t].demand);
    --at.working;
    places_[t].ends = stretches_.size();
    stretches_.push_back(at);
  }
}

CoTenantDelay CoTenancy::DelayOf(std::size_t tenant, double added_ms) const {
  CHECK(tenant < places_.size());
  const Place& place = places_[tenant];
  const double end_ms = stretches_[place.ends].from_ms + added_ms;
  CoTenantDelay delay;
  // By rounding, the difference can be a little below 0.
  delay.own_ms = std::max(0.0, stretches_[place.ends].time_ms - stretches_[place.ends].from_ms);
  for (std::size_t s = place.ends; s < stretches_.size(); ++s) {
    const Stretch& stretch = stretches_[s];
    const bool last = s + 1 == stretches_.size() || stretches_[s + 1].from_ms >= end_ms;
    const double span_ms = (last ? end_ms : stretches_[s + 1].from_ms) - stretch.from_ms;
    const double slowdown = SlowdownAt(stretch.demand + place.demand);
    delay.own_ms += span_ms * (slowdown - 1);
    delay.others_ms += span_ms * (slowdown - SlowdownAt(stretch.demand)) * stretch.working;
    if (last) break;
  }
  return delay;
}

double CoTenancy::PrefillSlowdown(std::size_t tenant) const {
  const Place& place = places_[tenant];
  const bool busy = place.ends > 0;  // Then it is counted already.
  return SlowdownAt(stretches_.front().demand + (busy ? 0 : place.demand));
}

double CoTenancy::DecodeSlowdown(std::size_t tenant) const {
  const int others = decoding_ - (places_[tenant].decoding ? 1 : 0);
  return SlowdownAt((others + 1) * kBandwidthAlone);
}

}  // namespace sublet
