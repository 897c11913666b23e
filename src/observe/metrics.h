// observe/metrics.h
//
// A node's state and counters as Prometheus reads them.
//
//   response.body = MetricsText(status, counters);   // text/plain; version=0.0.4
//
// docs/operating/metrics.md lists the names with their labels. Where NVIDIA's dcgm-exporter has a
// name for the same figure, it is given under that name too, with that program's labels, so that
// dashboards made for it work.
//
// The number of series is bounded: a handful for each GPU, domain and tenant, and ten for each
// share up to kMetricsSharesMax; shares past that are counted in sublet_shares_omitted and in their
// tenant's sums. Label values are cut at kMetricsLabelMax bytes.
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <string>

#include "model/node_counters.h"
#include "model/node_status.h"
#include "observe/metric_families.h"

namespace sublet {

inline constexpr std::size_t kMetricsSharesMax = 2000;  // About 3 MB of text.

std::string MetricsText(const NodeStatus& status, const NodeCounters& counters);

}  // namespace sublet
