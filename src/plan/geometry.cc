#include "plan/geometry.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "model/document.h"

namespace sublet {
namespace {

struct EngineKind {
  int EngineCounts::*count;
  const char* name;
};

constexpr EngineKind kEngineKinds[] = {
    {&EngineCounts::copy, "copy engines"},        {&EngineCounts::decoder, "video decoders"},
    {&EngineCounts::encoder, "video encoders"},   {&EngineCounts::jpeg, "JPEG engines"},
    {&EngineCounts::ofa, "optical-flow engines"},
};

bool Fits(const EngineCounts& used, const EngineCounts& more, const EngineCounts& total) {
  return std::all_of(std::begin(kEngineKinds), std::end(kEngineKinds), [&](const EngineKind& kind) {
    return used.*kind.count + more.*kind.count <= total.*kind.count;
  });
}

std::uint64_t LowBits(int count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

int Total(const ProfileCounts& counts) {
  return std::accumulate(counts.begin(), counts.end(), 0);
}

// Of two sets of equally many placements, whether the sequence of `a` comes first: at the lowest
// bit in which they differ, the earlier one has it.
bool ComesFirst(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t differing = a ^ b;
  return (a & differing & (~differing + 1)) != 0;
}

}  // namespace

std::string DescribeCounts(const Board& board, const ProfileCounts& counts) {
  std::string text;
  for (std::size_t p = 0; p < counts.size(); ++p) {
    if (counts[p] == 0) continue;
    if (!text.empty()) text += " + ";
    if (counts[p] > 1) text += fmt::format("{}x ", counts[p]);
    text += board.profiles[p].name;
  }
  return text.empty() ? "nothing" : text;
}

std::size_t GeometryTable::CountsHash::operator()(const ProfileCounts& counts) const {
  // FNV-1a over the counts; they are small, so a byte of each is all there is.
  std::uint64_t hash = 14695981039346656037u;
  for (const int count : counts) {
    hash = (hash ^ static_cast<std::uint64_t>(count)) * 1099511628211u;
  }
  return static_cast<std::size_t>(hash);
}

Result<GeometryTable> GeometryTable::Build(const Board& board) {
  if (!board.HasMig()) {
    return Fail(ErrorCode::kUnsupported, "this board has no MIG: " + board.name);
  }
  GeometryTable table;
  table.board_ = board;
  table.ListPlacements();
  if (table.placements_.size() > static_cast<std::size_t>(kGeometryPlacementsMax)) {
    return Fail(ErrorCode::kUnsupported,
                fmt::format("more than {} placements of MIG instances on {}: {}",
                            kGeometryPlacementsMax, board.name, table.placements_.size()));
  }
  if (!table.Enumerate()) {
    return Fail(ErrorCode::kUnsupported,
                fmt::format("more than {} MIG geometries on {}", kGeometriesMax, board.name));
  }
  table.FindMaximal();
  return table;
}

void GeometryTable::ListPlacements() {
  for (std::size_t p = 0; p < board_.profiles.size(); ++p) {
    const MigProfile& profile = board_.profiles[p];
    for (const int start : profile.starts) {
      CHECK(start >= 0 && start + profile.size <= 64);
      placements_.push_back({{static_cast<int>(p), start}, LowBits(profile.size) << start});
    }
  }
  std::sort(placements_.begin(), placements_.end(),
            [](const PossiblePlacement& a, const PossiblePlacement& b) {
              return std::pair(a.where.start, a.where.profile) <
                     std::pair(b.where.start, b.where.profile);
            });
}

bool GeometryTable::MayAdd(const Usage& usage, const ProfileCounts& counts, int profile) const {
  const auto p = static_cast<std::size_t>(profile);
  const MigProfile& row = board_.profiles[p];
  return counts[p] < row.max_instances &&
         usage.compute_slices + row.compute_slices <= board_.compute_slices &&
         Fits(usage.engines, row.engines, board_.engines);
}

void GeometryTable::Add(int profile, std::uint64_t units, Usage& usage) const {
  const MigProfile& row = board_.profiles[static_cast<std::size_t>(profile)];
  usage.units |= units;
  usage.compute_slices += row.compute_slices;
  for (const EngineKind& kind : kEngineKinds) usage.engines.*kind.count += row.engines.*kind.count;
}

// Walks all legal sets depth first: each set is reached once, by adding its placements in ascending
// order. An explicit stack keeps the state of each level.
bool GeometryTable::Enumerate() {
  struct Level {
    PlacementSet set = 0;
    Usage usage;
    std::size_t next = 0;  // The placement to try next.
  };
  ProfileCounts counts(board_.profiles.size(), 0);
  std::vector<ProfileCounts> counts_of_set = {counts};
  sets_ = {0};
  std::vector<Level> stack = {Level{}};
  while (!stack.empty()) {
    Level& level = stack.back();
    if (level.next == placements_.size()) {
      if (level.set != 0) {
        const int last = 63 - std::countl_zero(level.set);
        --counts[static_cast<std::size_t>(
            placements_[static_cast<std::size_t>(last)].where.profile)];
      }
      stack.pop_back();
      continue;
    }
    const std::size_t i = level.next++;
    const PossiblePlacement& placement = placements_[i];
    const int profile = placement.where.profile;
    if ((level.usage.units & placement.units) != 0) continue;
    if (!MayAdd(level.usage, counts, profile)) continue;
    if (sets_.size() == kGeometriesMax) return false;
    Level deeper{level.set | (PlacementSet{1} << i), level.usage, i + 1};
    Add(profile, placement.units, deeper.usage);
    ++counts[static_cast<std::size_t>(profile)];
    sets_.push_back(deeper.set);
    counts_of_set.push_back(counts);
    stack.push_back(deeper);
  }
  GroupByMultiset(std::move(counts_of_set));
  return true;
}

void GeometryTable::GroupByMultiset(std::vector<ProfileCounts> counts_of_set) {
  struct Found {
    PlacementSet set = 0;
    int room = 0;
  };
  std::map<ProfileCounts, std::vector<Found>> groups;
  for (std::size_t i = 0; i < sets_.size(); ++i) {
    groups[std::move(counts_of_set[i])].push_back({sets_[i], Total(RoomBeside(sets_[i]))});
  }
  sets_.clear();
  for (auto& [counts, found] : groups) {
    std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
      return a.room != b.room ? a.room > b.room : ComesFirst(a.set, b.set);
    });
    const std::size_t begin = sets_.size();
    for (const Found& one : found) sets_.push_back(one.set);
    ranges_.emplace(counts, Range{begin, sets_.size(), GeometryOf(sets_[begin])});
    multisets_.push_back(counts);
  }
}

void GeometryTable::FindMaximal() {
  for (const ProfileCounts& counts : multisets_) {
    ProfileCounts larger = counts;
    bool maximal = true;
    for (std::size_t p = 0; p < larger.size() && maximal; ++p) {
      ++larger[p];
      maximal = Find(larger) == nullptr;
      --larger[p];
    }
    if (maximal) maximal_.push_back(counts);
  }
}

GeometryTable::Usage GeometryTable::UsageOf(PlacementSet set) const {
  Usage usage;
  for (; set != 0; set &= set - 1) {
    const PossiblePlacement& placement =
        placements_[static_cast<std::size_t>(std::countr_zero(set))];
    Add(placement.where.profile, placement.units, usage);
  }
  return usage;
}

ProfileCounts GeometryTable::CountsOfSet(PlacementSet set) const {
  ProfileCounts counts(board_.profiles.size(), 0);
  for (; set != 0; set &= set - 1) {
    const auto i = static_cast<std::size_t>(std::countr_zero(set));
    ++counts[static_cast<std::size_t>(placements_[i].where.profile)];
  }
  return counts;
}

Geometry GeometryTable::GeometryOf(PlacementSet set) const {
  Geometry geometry;
  geometry.reserve(static_cast<std::size_t>(std::popcount(set)));
  for (; set != 0; set &= set - 1) {
    geometry.push_back(placements_[static_cast<std::size_t>(std::countr_zero(set))].where);
  }
  return geometry;
}

// Instances of one profile have one length, so taking each start that is free, from the lowest on,
// places the most of them.
ProfileCounts GeometryTable::RoomBeside(PlacementSet set) const {
  const Usage fixed = UsageOf(set);
  const ProfileCounts fixed_counts = CountsOfSet(set);
  ProfileCounts room(board_.profiles.size(), 0);
  for (std::size_t p = 0; p < room.size(); ++p) {
    const MigProfile& profile = board_.profiles[p];
    Usage usage = fixed;
    ProfileCounts counts = fixed_counts;
    for (const int start : profile.starts) {
      const std::uint64_t units = LowBits(profile.size) << start;
      if ((usage.units & units) != 0) continue;
      if (!MayAdd(usage, counts, static_cast<int>(p))) break;
      Add(static_cast<int>(p), units, usage);
      ++counts[p];
      ++room[p];
    }
  }
  return room;
}

const GeometryTable::Range* GeometryTable::Find(const ProfileCounts& counts) const {
  const auto found = ranges_.find(counts);
  return found == ranges_.end() ? nullptr : &found->second;
}

Result<ProfileCounts> GeometryTable::CountsOf(const std::vector<std::string>& names) const {
  ProfileCounts counts(board_.profiles.size(), 0);
  for (const std::string& name : names) {
    const MigProfile* profile = board_.FindProfile(name);
    if (profile == nullptr) {
      std::vector<std::string_view> known;
      for (const MigProfile& row : board_.profiles) known.push_back(row.name);
      return Fail(
          ErrorCode::kNotFound,
          fmt::format("mig profile not offered by {}: '{}'", board_.name, name.substr(0, 64)),
          SuggestFor(name, known));
    }
    ++counts[static_cast<std::size_t>(profile - board_.profiles.data())];
  }
  return counts;
}

const Geometry* GeometryTable::Place(const ProfileCounts& counts) const {
  CHECK(counts.size() == board_.profiles.size());
  const Range* range = Find(counts);
  return range == nullptr ? nullptr : &range->canonical;
}

// What a multiset needs too much of, whatever the placement; empty where sums and limits hold.
std::string GeometryTable::Shortage(const ProfileCounts& counts) const {
  Usage need;
  int units = 0;
  for (std::size_t p = 0; p < counts.size(); ++p) {
    const MigProfile& profile = board_.profiles[p];
    if (counts[p] > profile.max_instances) {
      return fmt::format("at most {} of {} can exist on {}, {} are asked for",
                         profile.max_instances, profile.name, board_.name, counts[p]);
    }
    units += counts[p] * profile.size;
    for (int i = 0; i < counts[p]; ++i) Add(static_cast<int>(p), 0, need);
  }
  const std::string what = Describe(counts);
  const char* verb = Total(counts) == 1 ? "needs" : "need";
  if (need.compute_slices > board_.compute_slices) {
    return fmt::format("{} {} {} compute slices, {} has {}", what, verb, need.compute_slices,
                       board_.name, board_.compute_slices);
  }
  if (units > board_.memory_units) {
    return fmt::format("{} {} {} memory units, {} has {}", what, verb, units, board_.name,
                       board_.memory_units);
  }
  for (const EngineKind& kind : kEngineKinds) {
    if (need.engines.*kind.count > board_.engines.*kind.count) {
      return fmt::format("{} {} {} {}, {} has {}", what, verb, need.engines.*kind.count, kind.name,
                         board_.name, board_.engines.*kind.count);
    }
  }
  return {};
}

std::string GeometryTable::WhyNot(const ProfileCounts& counts) const {
  if (Place(counts) != nullptr) return {};
  if (std::string shortage = Shortage(counts); !shortage.empty()) return shortage;
  // Every sum holds, so the starts are to blame: take away what isn't needed for the conflict.
  ProfileCounts culprit = counts;
  for (std::size_t p = 0; p < culprit.size(); ++p) {
    while (culprit[p] > 0) {
      --culprit[p];
      if (Find(culprit) == nullptr) continue;
      ++culprit[p];
      break;
    }
  }
  std::string text =
      fmt::format("{} overlap wherever they are put on {}:", Describe(culprit), board_.name);
  for (std::size_t p = 0; p < culprit.size(); ++p) {
    if (culprit[p] == 0) continue;
    const MigProfile& profile = board_.profiles[p];
    text += fmt::format(" {} covers {} unit{} from {};", profile.name, profile.size,
                        profile.size == 1 ? "" : "s", fmt::join(profile.starts, " or "));
  }
  text.pop_back();
  return text;
}

std::optional<GeometryTable::PlacementSet> GeometryTable::BitOf(const PlacedInstance& where) const {
  for (std::size_t i = 0; i < placements_.size(); ++i) {
    if (placements_[i].where == where) return PlacementSet{1} << i;
  }
  return std::nullopt;
}

std::optional<GeometryTable::PlacementSet> GeometryTable::SetOf(const Geometry& geometry) const {
  PlacementSet set = 0;
  for (const PlacedInstance& instance : geometry) {
    const auto bit = BitOf(instance);
    if (!bit || (set & *bit) != 0) return std::nullopt;
    set |= *bit;
  }
  const Range* range = Find(CountsOfSet(set));
  if (range == nullptr) return std::nullopt;
  const auto begin = sets_.begin() + static_cast<std::ptrdiff_t>(range->begin);
  const auto end = sets_.begin() + static_cast<std::ptrdiff_t>(range->end);
  if (std::find(begin, end, set) == end) return std::nullopt;
  return set;
}

bool GeometryTable::IsLegal(const Geometry& geometry) const {
  return SetOf(geometry).has_value();
}

ProfileCounts GeometryTable::Room(const Geometry& fixed) const {
  const auto set = SetOf(fixed);
  CHECK(set.has_value());
  return RoomBeside(*set);
}

std::optional<Geometry> GeometryTable::PlaceBeside(const Geometry& fixed,
                                                   const ProfileCounts& more) const {
  CHECK(more.size() == board_.profiles.size());
  const auto fixed_set = SetOf(fixed);
  CHECK(fixed_set.has_value());
  ProfileCounts counts = CountsOfSet(*fixed_set);
  for (std::size_t p = 0; p < counts.size(); ++p) counts[p] += more[p];
  const Range* range = Find(counts);
  if (range == nullptr) return std::nullopt;
  for (std::size_t i = range->begin; i < range->end; ++i) {
    if ((sets_[i] & *fixed_set) == *fixed_set) return GeometryOf(sets_[i] & ~*fixed_set);
  }
  return std::nullopt;
}

// Names the fewest instances in use, by leaving out one after the other, without which some
// geometry of the target would do.
std::string GeometryTable::DescribeBlockers(PlacementSet in_use, const Range& target) const {
  const auto blocks = [&](PlacementSet kept) {
    return std::none_of(sets_.begin() + static_cast<std::ptrdiff_t>(target.begin),
                        sets_.begin() + static_cast<std::ptrdiff_t>(target.end),
                        [&](PlacementSet set) { return (set & kept) == kept; });
  };
  PlacementSet culprits = in_use;
  for (PlacementSet rest = in_use; rest != 0; rest &= rest - 1) {
    const PlacementSet without = culprits & ~(rest & (~rest + 1));
    if (blocks(without)) culprits = without;
  }
  std::vector<std::string> names;
  for (const PlacedInstance& where : GeometryOf(culprits)) {
    names.push_back(fmt::format(
        "{} at {}", board_.profiles[static_cast<std::size_t>(where.profile)].name, where.start));
  }
  return fmt::format("{}", fmt::join(names, " and "));
}

Result<GeometryTable::PlacementSet> GeometryTable::SetOfCurrent(
    const std::vector<CurrentInstance>& current) const {
  PlacementSet set = 0;
  std::uint64_t units = 0;
  for (const CurrentInstance& instance : current) {
    const auto bit = BitOf(instance.where);
    const std::uint64_t covered =
        bit ? placements_[static_cast<std::size_t>(std::countr_zero(*bit))].units : 0;
    if (!bit || (units & covered) != 0) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("the current instances can't exist together on {}", board_.name),
                  "read the GPU's state again");
    }
    units |= covered;
    set |= *bit;
  }
  return set;
}

Result<Transition> GeometryTable::Reach(const std::vector<CurrentInstance>& current,
                                        const ProfileCounts& target) const {
  CHECK(target.size() == board_.profiles.size());
  ASSIGN_OR_RETURN(const PlacementSet current_set, SetOfCurrent(current));
  PlacementSet in_use = 0;
  for (const CurrentInstance& instance : current) {
    if (instance.in_use) in_use |= *BitOf(instance.where);
  }
  const Range* range = Find(target);
  if (range == nullptr) return Fail(ErrorCode::kInfeasible, WhyNot(target));
  const ProfileCounts used = CountsOfSet(in_use);
  for (std::size_t p = 0; p < used.size(); ++p) {
    if (used[p] <= target[p]) continue;
    return Fail(ErrorCode::kInfeasible,
                fmt::format("{} of {} are in use, the target has {}", used[p],
                            board_.profiles[p].name, target[p]),
                "stop what runs in them, or keep them in the target");
  }
  // What must change is what the two geometries don't share.
  PlacementSet best = 0;
  int best_shared = -1;
  for (std::size_t i = range->begin; i < range->end; ++i) {
    if ((sets_[i] & in_use) != in_use) continue;
    const int shared = std::popcount(sets_[i] & current_set);
    if (shared > best_shared) best = sets_[i], best_shared = shared;
  }
  if (best_shared < 0) {
    return Fail(ErrorCode::kInfeasible,
                fmt::format("{} can't be reached while in use: {}", Describe(target),
                            DescribeBlockers(in_use, *range)),
                "stop what runs there, or move it");
  }
  Transition transition{{}, GeometryOf(best & ~current_set), GeometryOf(best)};
  for (std::size_t i = 0; i < current.size(); ++i) {
    if ((*BitOf(current[i].where) & best) == 0) transition.destroy.push_back(static_cast<int>(i));
  }
  return transition;
}

}  // namespace sublet
