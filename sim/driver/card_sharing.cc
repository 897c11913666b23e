#include "card_sharing.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace sublet::sim {
namespace {

// First kernel of each client, and one past the last.
std::vector<std::size_t> ClientStarts(const std::vector<RunningKernel>& kernels) {
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    if (i == 0 || kernels[i].client != kernels[i - 1].client) starts.push_back(i);
  }
  starts.push_back(kernels.size());
  return starts;
}

}  // namespace

void MaxMinFair(const std::vector<double>& demands, double total, std::vector<double>& out) {
  out = demands;
  if (std::accumulate(demands.begin(), demands.end(), 0.0) <= total) return;
  std::vector<double> sorted = demands;
  std::sort(sorted.begin(), sorted.end());
  double left = total;
  double level = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    level = left / static_cast<double>(sorted.size() - i);
    if (sorted[i] > level) break;
    left -= sorted[i];
  }
  for (double& share : out) share = std::min(share, level);
}

void ShareCard(const std::vector<RunningKernel>& kernels, const CardCapacity& card,
               SharedSpeeds& out) {
  const std::size_t count = kernels.size();
  out.speeds.assign(count, 0);
  out.sms_busy = out.bytes_per_ns = 0;
  if (count == 0) return;
  const std::vector<std::size_t> starts = ClientStarts(kernels);
  const std::size_t clients = starts.size() - 1;
  std::vector<double> sm_ns(count);
  std::vector<double> demands(clients, 0);
  for (std::size_t c = 0; c < clients; ++c) {
    for (std::size_t i = starts[c]; i < starts[c + 1]; ++i) {
      const RunningKernel& kernel = kernels[i];
      const double spread = std::min(1.0, kernel.sm_cap / card.sms);
      const double others = 1 - 1 / static_cast<double>(clients);
      sm_ns[i] = kernel.work.sm_ns * (1 + kernel.work.crowd * others * spread * spread);
      out.speeds[i] = 1 / kernel.work.full_ns;
      demands[c] += sm_ns[i] * out.speeds[i];
    }
    const double cap = std::min(card.sms, kernels[starts[c]].sm_cap);
    if (demands[c] <= cap) continue;
    for (std::size_t i = starts[c]; i < starts[c + 1]; ++i) out.speeds[i] *= cap / demands[c];
    demands[c] = cap;
  }
  std::vector<double> shares;
  MaxMinFair(demands, card.sms, shares);
  std::vector<double> traffic(clients, 0);
  for (std::size_t c = 0; c < clients; ++c) {
    for (std::size_t i = starts[c]; i < starts[c + 1]; ++i) {
      if (shares[c] < demands[c]) out.speeds[i] *= shares[c] / demands[c];
      traffic[c] += kernels[i].work.bytes * out.speeds[i];
    }
  }
  std::vector<double> moved;
  MaxMinFair(traffic, card.bytes_per_ns, moved);
  for (std::size_t c = 0; c < clients; ++c) {
    const double slowed = moved[c] < traffic[c] ? moved[c] / traffic[c] : 1;
    for (std::size_t i = starts[c]; i < starts[c + 1]; ++i) {
      // Only a kernel that moves bytes waits for them.
      if (kernels[i].work.bytes > 0) out.speeds[i] *= slowed;
      out.sms_busy += sm_ns[i] * out.speeds[i];
    }
    out.bytes_per_ns += moved[c];
  }
}

}  // namespace sublet::sim
