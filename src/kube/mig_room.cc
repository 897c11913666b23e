#include "kube/mig_room.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace sublet {
namespace {

constexpr int kUnitsMax = 64;  // Of a GPU's memory; the board with the most has 12.
// So many MIG devices of one GPU are tried in every combination. No board has more than 8.
constexpr std::size_t kTriedMax = 12;

std::uint64_t UnitsOf(const Placement& placement) {
  if (placement.start < 0 || placement.size <= 0 || placement.start + placement.size > kUnitsMax) {
    return 0;
  }
  const std::uint64_t ones =
      placement.size == kUnitsMax ? ~std::uint64_t{0} : (std::uint64_t{1} << placement.size) - 1;
  return ones << placement.start;
}

// What makes a profile the same on several GPUs, largest first.
using ProfileRank = std::tuple<std::int64_t, int, int>;

ProfileRank RankOf(const ReportedProfile& profile) {
  return {-profile.memory.count, -profile.compute_slices, profile.id};
}

// Room on several GPUs: added up by profile, compared largest profile first.
using Room = std::vector<int>;

Room Sum(const Room& a, const Room& b) {
  Room sum(a.size());
  std::ranges::transform(a, b, sum.begin(), std::plus<>());
  return sum;
}

// One GPU and what of it is on offer.
struct GpuOffers {
  const Gpu* gpu = nullptr;
  std::vector<std::size_t> offers;  // Places in MigChoiceInput::offers.
  std::size_t required = 0;         // Bits: of `offers`.
};

// The best way of taking so many of a GPU's devices.
struct Take {
  Room room;
  std::size_t chosen = 0;  // Bits: of GpuOffers::offers.
};

class MigChooser {
 public:
  explicit MigChooser(const MigChoiceInput& input) : input_(input) {
    for (const Gpu& gpu : input.inventory.gpus) AppendGpu(gpu);
    for (const GpuOffers& one : gpus_) {
      for (const ReportedProfile& profile : one.gpu->profiles) ranks_.push_back(RankOf(profile));
    }
    std::ranges::sort(ranks_);
    const auto repeated = std::ranges::unique(ranks_);
    ranks_.erase(repeated.begin(), repeated.end());
  }

  // Every offer is of a GPU of the node, and of none too many.
  bool Fits() const {
    std::size_t found = 0;
    for (const GpuOffers& one : gpus_) found += one.offers.size();
    return found == input_.offers.size() && std::ranges::all_of(gpus_, [](const GpuOffers& one) {
             return one.offers.size() <= kTriedMax;
           });
  }

  // REQUIRES: Fits().
  std::vector<std::size_t> Run(int size) {
    std::vector<std::vector<std::optional<Take>>> takes;
    for (const GpuOffers& one : gpus_) takes.push_back(TakesOf(one));
    // after[g][n]: the most room on the GPUs from g on when n of their devices are taken. Sums of
    // room are compared as their parts are, so the best of each part makes the best whole.
    const auto count = static_cast<std::size_t>(size);
    std::vector<std::vector<std::optional<Room>>> after(
        gpus_.size() + 1, std::vector<std::optional<Room>>(count + 1));
    std::vector<std::vector<std::size_t>> taken(gpus_.size(), std::vector<std::size_t>(count + 1));
    after[gpus_.size()][0] = Room(ranks_.size(), 0);
    for (std::size_t g = gpus_.size(); g-- > 0;) {
      for (std::size_t n = 0; n <= count; ++n) {
        // Many first: among equals the earlier GPU gives more.
        for (std::size_t k = std::min(n, takes[g].size() - 1) + 1; k-- > 0;) {
          if (!takes[g][k] || !after[g + 1][n - k]) continue;
          Room room = Sum(takes[g][k]->room, *after[g + 1][n - k]);
          if (after[g][n] && room <= *after[g][n]) continue;
          after[g][n] = std::move(room);
          taken[g][n] = k;
        }
      }
    }
    CHECK(after[0][count].has_value());
    std::vector<std::size_t> chosen;
    std::size_t left = count;
    for (std::size_t g = 0; g < gpus_.size(); ++g) {
      const std::size_t k = taken[g][left];
      for (std::size_t i = 0; i < gpus_[g].offers.size(); ++i) {
        if ((takes[g][k]->chosen >> i & 1) != 0) chosen.push_back(gpus_[g].offers[i]);
      }
      left -= k;
    }
    std::ranges::sort(chosen);
    return chosen;
  }

 private:
  void AppendGpu(const Gpu& gpu) {
    GpuOffers one{.gpu = &gpu, .offers = {}};
    for (std::size_t i = 0; i < input_.offers.size(); ++i) {
      if (!HasDevice(gpu, input_.offers[i].uuid)) continue;
      if (input_.offers[i].required && one.offers.size() < kTriedMax) {
        one.required |= std::size_t{1} << one.offers.size();
      }
      one.offers.push_back(i);
    }
    if (!one.offers.empty()) gpus_.push_back(std::move(one));
  }

  static bool HasDevice(const Gpu& gpu, std::string_view uuid) {
    return std::ranges::any_of(gpu.instances, [&](const GpuInstance& instance) {
      return std::ranges::any_of(instance.compute_instances, [&](const ComputeInstance& compute) {
        return compute.uuid == uuid;
      });
    });
  }

  // For each number of the GPU's devices the best way to take so many; absent where it can't be.
  std::vector<std::optional<Take>> TakesOf(const GpuOffers& one) const {
    const std::size_t offered = one.offers.size();
    std::vector<std::optional<Take>> takes(offered + 1);
    const auto consider = [&](std::size_t chosen) {
      if ((chosen & one.required) != one.required) return;
      Take take{RoomAfter(one, chosen), chosen};
      std::optional<Take>& best = takes[static_cast<std::size_t>(std::popcount(chosen))];
      const bool better = !best || take.room > best->room ||
                          (take.room == best->room && HasEarlier(chosen, best->chosen));
      if (better) best = std::move(take);
    };
    for (std::size_t chosen = 0; chosen < std::size_t{1} << offered; ++chosen) consider(chosen);
    return takes;
  }

  static bool HasEarlier(std::size_t a, std::size_t b) {
    const std::size_t differ = a ^ b;
    return (a & differ & (~differ + 1)) != 0;
  }

  Room RoomAfter(const GpuOffers& one, std::size_t chosen) const {
    const auto is_free = [&](const ComputeInstance& compute) {
      for (std::size_t i = 0; i < one.offers.size(); ++i) {
        if (input_.offers[one.offers[i]].uuid == compute.uuid) return (chosen >> i & 1) == 0;
      }
      return input_.idle.contains(compute.uuid);
    };
    std::uint64_t used = 0;
    for (const GpuInstance& instance : one.gpu->instances) {
      if (!std::ranges::all_of(instance.compute_instances, is_free)) {
        used |= UnitsOf(instance.placement);
      }
    }
    const std::vector<int> own = MigRoom(one.gpu->profiles, ~used);
    Room room(ranks_.size(), 0);
    for (std::size_t i = 0; i < own.size(); ++i) {
      const auto rank = std::ranges::lower_bound(ranks_, RankOf(one.gpu->profiles[i]));
      room[static_cast<std::size_t>(rank - ranks_.begin())] += own[i];
    }
    return room;
  }

  const MigChoiceInput& input_;
  std::vector<GpuOffers> gpus_;
  std::vector<ProfileRank> ranks_;
};

// Where the node isn't what the offers are of, or no board that exists: those that must be, then
// the first.
std::vector<std::size_t> FirstOffers(const MigChoiceInput& input, int size) {
  std::vector<std::size_t> chosen;
  for (const bool required : {true, false}) {
    for (std::size_t i = 0; i < input.offers.size(); ++i) {
      if (input.offers[i].required == required && chosen.size() < static_cast<std::size_t>(size)) {
        chosen.push_back(i);
      }
    }
  }
  std::ranges::sort(chosen);
  return chosen;
}

}  // namespace

std::vector<int> MigRoom(const std::vector<ReportedProfile>& profiles, std::uint64_t free_units) {
  std::vector<int> room;
  for (const ReportedProfile& profile : profiles) {
    // Disjoint intervals: the one that ends first leaves the most behind it.
    std::vector<Placement> placements = profile.placements;
    std::ranges::sort(placements, {},
                      [](const Placement& place) { return place.start + place.size; });
    std::uint64_t left = free_units;
    int fits = 0;
    for (const Placement& placement : placements) {
      const std::uint64_t units = UnitsOf(placement);
      if (units == 0 || (units & ~left) != 0) continue;
      left &= ~units;
      ++fits;
    }
    room.push_back(std::min(fits, profile.max_instances));
  }
  return room;
}

std::vector<std::size_t> ChooseMigDevices(const MigChoiceInput& input, int size) {
  if (size == 0) return {};
  MigChooser chooser(input);
  return chooser.Fits() ? chooser.Run(size) : FirstOffers(input, size);
}

}  // namespace sublet
