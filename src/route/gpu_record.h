// route/gpu_record.h
//
// Inside the router: a GPU that several replicas share, and its clock.
//
// The clock counts the work that a replica on it would have done alone: it runs slower while the
// replicas together ask for more than there is (route/share_model.h). Rates are learnt by it.
//
// Thread safety: the router's lock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "route/share_model.h"

namespace sublet {

struct ReplicaRecord;

struct GpuRecord {
  std::string name;
  std::vector<ReplicaRecord*> tenants;  // By slot.
  double demand = 0;                    // Of those that prefill.
  std::int64_t moved_ns = 0;            // When the clock was last put forward.
  double work_ns = 0;
  // Its place in RouterCore::tenancies, which shows it as of then; old: its load has changed since.
  std::size_t index = 0;
  std::int64_t shown_ns = 0;
  bool shown_old = true;

  bool IsShared() const { return tenants.size() > 1; }
  double WorkAt(std::int64_t now_ns) const {
    const auto passed_ns = static_cast<double>(std::max<std::int64_t>(0, now_ns - moved_ns));
    return work_ns + (demand > 1 ? passed_ns / demand : passed_ns);
  }
  void MoveTo(std::int64_t now_ns) {
    work_ns = WorkAt(now_ns);
    moved_ns = std::max(moved_ns, now_ns);
  }
};

}  // namespace sublet
