#include "kube/preferred_allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "kube/gpu_sets.h"
#include "kube/mig_room.h"

namespace sublet {
namespace {

// One device of the resource, as this request sees it. Replicas are indices into the resource's
// list, ascending.
struct Stock {
  std::vector<std::size_t> required;
  std::vector<std::size_t> free;  // Available and not required; taken from the front.
  int total = 0;                  // Of the resource, on this device.
  int picked = 0;                 // In this request.

  // Replicas that other containers have, and those of this request.
  int Allocated() const { return total - static_cast<int>(free.size()); }
  bool Untouched() const { return Allocated() == 0; }
};

class Preference {
 public:
  Preference(const Inventory& inventory, const ReplicaIndex& index,
             const PreferenceRequest& request)
      : inventory_(inventory),
        index_(index),
        resource_(index.resource()),
        request_(request),
        stocks_(resource_.devices.size()) {}

  Result<std::vector<std::string>> Run() {
    RETURN_IF_ERROR(TakeStock());
    if (needed_ > 0) {
      const auto is_whole = [](const AdvertisedDevice& device) {
        return device.mode == SharingMode::kExclusive;
      };
      const auto is_mig = [](const AdvertisedDevice& device) { return device.IsMig(); };
      if (!std::ranges::all_of(resource_.devices, is_whole)) {
        resource_.sized ? PickTogether() : PickByPolicy();
      } else if (std::ranges::all_of(resource_.devices, is_mig)) {
        PickMigDevices();
      } else if (std::ranges::none_of(resource_.devices, is_mig)) {
        PickGpus();
      } else {
        PickByPolicy();
      }
    }
    std::ranges::sort(chosen_);
    std::vector<std::string> ids;
    for (const std::size_t replica : chosen_) ids.push_back(resource_.replicas[replica].id);
    return ids;
  }

 private:
  Status TakeStock() {
    std::vector<bool> seen(resource_.replicas.size(), false);
    std::vector<std::size_t> available;
    RETURN_IF_ERROR(Find(request_.must_include, "must be included", seen, chosen_));
    std::vector<bool> listed(resource_.replicas.size(), false);
    RETURN_IF_ERROR(Find(request_.available, "available", listed, available));
    std::ranges::sort(available);
    for (const AdvertisedReplica& replica : resource_.replicas) ++stocks_[replica.device].total;
    for (const std::size_t replica : chosen_) {
      stocks_[resource_.replicas[replica].device].required.push_back(replica);
    }
    int free = 0;
    for (const std::size_t replica : available) {
      if (seen[replica]) continue;
      stocks_[resource_.replicas[replica].device].free.push_back(replica);
      ++free;
    }
    needed_ = request_.size - static_cast<int>(chosen_.size());
    if (request_.size < 0 || needed_ < 0) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("invalid request: {} devices must be included in {}", chosen_.size(),
                              request_.size));
    }
    if (needed_ > free) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("not enough available devices to satisfy allocation: {} of {}",
                              free + static_cast<int>(chosen_.size()), request_.size));
    }
    return {};
  }

  // The places of `ids`, marked in `seen`.
  Status Find(const std::vector<std::string>& ids, std::string_view what, std::vector<bool>& seen,
              std::vector<std::size_t>& places) const {
    for (const std::string& id : ids) {
      const AdvertisedReplica* const replica = index_.Find(id);
      if (replica == nullptr) {
        return Fail(ErrorCode::kInvalid, fmt::format("invalid request: unknown device: {}", id));
      }
      const auto place = static_cast<std::size_t>(replica - resource_.replicas.data());
      if (seen[place]) {
        return Fail(ErrorCode::kInvalid, fmt::format("invalid request: {} twice: {}", what, id));
      }
      seen[place] = true;
      places.push_back(place);
    }
    return {};
  }

  void Pick(std::size_t device) {
    Stock& stock = stocks_[device];
    CHECK(!stock.free.empty() && needed_ > 0);
    chosen_.push_back(stock.free.front());
    stock.free.erase(stock.free.begin());
    ++stock.picked;
    --needed_;
  }

  void PickGpus() {
    std::vector<int> gpus;
    std::vector<std::size_t> devices;
    std::vector<int> required;
    for (std::size_t i = 0; i < stocks_.size(); ++i) {
      if (stocks_[i].free.empty() && stocks_[i].required.empty()) continue;
      if (!stocks_[i].required.empty()) required.push_back(static_cast<int>(gpus.size()));
      gpus.push_back(resource_.devices[i].gpu_index);
      devices.push_back(i);
    }
    for (const int place : BestLinkedSet(ScoresOf(inventory_, gpus), required, request_.size)) {
      const std::size_t device = devices[static_cast<std::size_t>(place)];
      if (stocks_[device].required.empty()) Pick(device);
    }
  }

  void PickMigDevices() {
    MigChoiceInput input{.inventory = inventory_, .offers = {}, .idle = request_.idle_mig};
    std::vector<std::size_t> devices;
    for (std::size_t i = 0; i < stocks_.size(); ++i) {
      if (stocks_[i].free.empty() && stocks_[i].required.empty()) continue;
      input.offers.push_back({resource_.devices[i].uuid, !stocks_[i].required.empty()});
      devices.push_back(i);
    }
    for (const std::size_t place : ChooseMigDevices(input, request_.size)) {
      if (stocks_[devices[place]].required.empty()) Pick(devices[place]);
    }
  }

  // One after the other, as NVIDIA's plugin does: from the device of which the fewest replicas are
  // out (packed: the most), among those the one least picked in this request.
  void PickByPolicy() {
    while (needed_ > 0) {
      std::optional<std::pair<int, int>> best;
      std::vector<std::size_t> equals;
      for (std::size_t i = 0; i < stocks_.size(); ++i) {
        if (stocks_[i].free.empty()) continue;
        const int allocated = stocks_[i].Allocated();
        const bool packed = request_.policy == AllocationPolicy::kPacked;
        const std::pair key(packed ? -allocated : allocated, stocks_[i].picked);
        if (best && key > *best) continue;
        if (!best || key < *best) equals.clear();
        best = key;
        equals.push_back(i);
      }
      Pick(OfEquals(equals));
    }
  }

  // Of MIG devices that nobody uses yet the one that leaves most room; otherwise the first.
  std::size_t OfEquals(const std::vector<std::size_t>& devices) const {
    const bool to_begin = std::ranges::all_of(devices, [&](std::size_t device) {
      return resource_.devices[device].IsMig() && stocks_[device].Untouched();
    });
    if (devices.size() < 2 || !to_begin) return devices.front();
    MigChoiceInput input{.inventory = inventory_, .offers = {}, .idle = request_.idle_mig};
    for (const std::size_t device : devices) {
      input.offers.push_back({resource_.devices[device].uuid, false});
    }
    return devices[ChooseMigDevices(input, 1).front()];
  }

  // Shares of sublet.shares: on devices that the container has anyway, then on one that has all
  // that is missing, then on those that have most.
  void PickTogether() {
    for (std::size_t i = 0; i < stocks_.size(); ++i) {
      while (!stocks_[i].required.empty() && !stocks_[i].free.empty() && needed_ > 0) Pick(i);
    }
    while (needed_ > 0) {
      const std::size_t device = NextTogether();
      while (!stocks_[device].free.empty() && needed_ > 0) Pick(device);
    }
  }

  std::size_t NextTogether() const {
    std::vector<std::size_t> equals;
    std::optional<std::pair<bool, int>> best;
    for (std::size_t i = 0; i < stocks_.size(); ++i) {
      const int free = static_cast<int>(stocks_[i].free.size());
      if (free == 0) continue;
      const bool enough = free >= needed_;
      const bool packed = request_.policy == AllocationPolicy::kPacked;
      const int load = packed ? -stocks_[i].Allocated() : stocks_[i].Allocated();
      const std::pair key(!enough, enough ? load : -free);
      if (best && key > *best) continue;
      if (!best || key < *best) equals.clear();
      best = key;
      equals.push_back(i);
    }
    return OfEquals(equals);
  }

  const Inventory& inventory_;
  const ReplicaIndex& index_;
  const AdvertisedResource& resource_;
  const PreferenceRequest& request_;
  std::vector<Stock> stocks_;  // By device.
  std::vector<std::size_t> chosen_;
  int needed_ = 0;
};

}  // namespace

Result<std::vector<std::string>> PreferDevices(const Inventory& inventory,
                                               const ReplicaIndex& resource,
                                               const PreferenceRequest& request) {
  return Preference(inventory, resource, request).Run();
}

}  // namespace sublet
