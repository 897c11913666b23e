#include "engine/shared_gpu.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sublet {
namespace {

// What rounding leaves of work that is done: without this, a step that ends together with another
// would end a nanosecond later.
constexpr double kDoneNs = 1e-3;

}  // namespace

SharedGpu::Tenant SharedGpu::Enter(const EngineShare& share) {
  const auto vacant =
      std::find_if(seats_.begin(), seats_.end(), [](const Seat& seat) { return !seat.taken; });
  const auto tenant = static_cast<Tenant>(vacant - seats_.begin());
  if (vacant == seats_.end()) seats_.emplace_back();
  seats_[tenant] = Seat{.taken = true,
                        .sm = share.sm_percent.value_or(100) / 100,
                        .bandwidth = share.bandwidth_percent / 100};
  return tenant;
}

void SharedGpu::Leave(Tenant tenant) {
  seats_[tenant] = Seat{};
  Restretch();
}

void SharedGpu::Begin(Tenant tenant, double compute_ns, double memory_ns, std::int64_t now_ns) {
  Seat& seat = seats_[tenant];
  CHECK(seat.taken && !seat.busy);
  MoveTo(now_ns);
  seat.busy = true;
  seat.left_ns = compute_ns + memory_ns;
  seat.compute_part = seat.left_ns > 0 ? compute_ns / seat.left_ns : 0;
  Restretch();
}

std::optional<std::int64_t> SharedGpu::EndOf(Tenant tenant) const {
  const Seat& seat = seats_[tenant];
  if (!seat.busy) return std::nullopt;
  return clock_ns_ + static_cast<std::int64_t>(std::ceil(seat.left_ns * seat.stretch));
}

void SharedGpu::End(Tenant tenant, std::int64_t now_ns) {
  CHECK(seats_[tenant].busy);
  MoveTo(now_ns);
  seats_[tenant].busy = false;
  Restretch();
}

void SharedGpu::MoveTo(std::int64_t now_ns) {
  if (now_ns <= clock_ns_) return;
  const auto passed_ns = static_cast<double>(now_ns - clock_ns_);
  for (Seat& seat : seats_) {
    if (!seat.busy) continue;
    seat.left_ns -= passed_ns / seat.stretch;
    if (seat.left_ns < kDoneNs) seat.left_ns = 0;
  }
  clock_ns_ = now_ns;
}

void SharedGpu::Restretch() {
  double compute = 0;
  double bandwidth = 0;
  for (const Seat& seat : seats_) {
    if (!seat.busy) continue;
    compute += kComputeAlone * seat.sm * seat.compute_part;
    bandwidth += kBandwidthAlone * seat.bandwidth * (1 - seat.compute_part);
  }
  for (Seat& seat : seats_) {
    seat.stretch = seat.compute_part * std::max(1.0, compute) +
                   (1 - seat.compute_part) * std::max(1.0, bandwidth);
  }
}

}  // namespace sublet
