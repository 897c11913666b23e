#include "node/plan_binding.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace sublet {
namespace {

// Where replicas run now: UUIDs by id.
using Places = std::map<std::string, std::string>;

int StayingOn(const PlannedGpu& planned, const Gpu& gpu, const Places& places) {
  int staying = 0;
  for (const PlannedPartition& partition : planned.partitions) {
    for (const PlannedReplica& replica : partition.replicas) {
      const auto place = places.find(replica.id);
      if (place != places.end() && place->second == gpu.uuid) ++staying;
    }
  }
  return staying;
}

class Binding {
 public:
  Binding(Plan& plan, const Inventory& inventory, const PlanTarget& current)
      : plan_(plan), inventory_(inventory) {
    for (const ReplicaTarget& replica : current.replicas) {
      places_[replica.id] = replica.share.gpu_uuid;
    }
  }

  Status Run() {
    for (PlannedGpu& planned : plan_.gpus) {
      if (planned.uuid.empty()) {
        open_.push_back(&planned);
      } else {
        RETURN_IF_ERROR(TakeNamed(planned));
      }
    }
    while (TakeNearest()) {
    }
    for (PlannedGpu* planned : open_) RETURN_IF_ERROR(TakeFirst(*planned));
    return {};
  }

 private:
  Status TakeNamed(PlannedGpu& planned) {
    const Gpu* const gpu = inventory_.FindGpu(planned.uuid);
    if (gpu == nullptr) {
      return Fail(ErrorCode::kInfeasible,
                  fmt::format("the plan's {} is not in this node: {}", planned.name, planned.uuid),
                  "make the plan anew: sublet up with the fleet's file");
    }
    if (taken_.contains(gpu->uuid)) {
      return Fail(ErrorCode::kInfeasible,
                  fmt::format("two GPUs of the plan are the same one: {}", gpu->uuid));
    }
    Take(planned, *gpu);
    return {};
  }

  // The pair of an open GPU and a free one on which most replicas stay; false where none would.
  bool TakeNearest() {
    int most = 0;
    auto nearest = open_.end();
    const Gpu* where = nullptr;
    for (auto planned = open_.begin(); planned != open_.end(); ++planned) {
      for (const Gpu& gpu : inventory_.gpus) {
        if (!IsFree(gpu, **planned)) continue;
        const int staying = StayingOn(**planned, gpu, places_);
        if (staying <= most) continue;
        most = staying;
        nearest = planned;
        where = &gpu;
      }
    }
    if (most == 0) return false;
    Take(**nearest, *where);
    open_.erase(nearest);
    return true;
  }

  Status TakeFirst(PlannedGpu& planned) {
    const auto free =
        std::ranges::find_if(inventory_.gpus, [&](const Gpu& gpu) { return IsFree(gpu, planned); });
    if (free == inventory_.gpus.end()) {
      return Fail(ErrorCode::kInfeasible,
                  fmt::format("the plan's {} needs a GPU of board {} more than this node has",
                              planned.name, planned.board),
                  "sublet inspect shows the node's GPUs");
    }
    Take(planned, *free);
    return {};
  }

  bool IsFree(const Gpu& gpu, const PlannedGpu& planned) const {
    return gpu.board == planned.board && gpu.problem.empty() && !taken_.contains(gpu.uuid);
  }

  void Take(PlannedGpu& planned, const Gpu& gpu) {
    planned.uuid = gpu.uuid;
    planned.index = gpu.index;
    taken_.insert(gpu.uuid);
  }

  Plan& plan_;
  const Inventory& inventory_;
  Places places_;
  std::vector<PlannedGpu*> open_;  // In the plan's order.
  std::set<std::string> taken_;
};

}  // namespace

Result<Plan> BindPlan(Plan plan, const Inventory& inventory, const PlanTarget& current) {
  RETURN_IF_ERROR(Binding(plan, inventory, current).Run());
  return plan;
}

}  // namespace sublet
