#include "plan/mig_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "model/document.h"
#include "plan/geometry.h"

namespace sublet {
namespace {

using ComputeSlices = std::optional<std::vector<int>>;  // As MigSeat has it.

// One GPU instance that is asked for.
struct Wish {
  int profile = 0;  // Index into Board::profiles.
  ComputeSlices compute_slices;
};

MigProfile ProfileFrom(const ReportedProfile& reported, const MigProfile* known) {
  MigProfile profile;
  if (known != nullptr) profile = *known;
  profile.id = reported.id;
  profile.compute_slices = reported.compute_slices;
  profile.max_instances = reported.max_instances;
  profile.engines = reported.engines;
  if (!reported.name.empty()) profile.name = reported.name;
  if (!reported.placements.empty()) {
    profile.size = reported.placements[0].size;
    profile.starts.clear();
    for (const Placement& place : reported.placements) profile.starts.push_back(place.start);
  }
  return profile;
}

// The MIG table of this very GPU: as its driver reports it, else as the catalogue has it.
Result<Board> BoardOf(const BoardCatalogue& boards, const Gpu& gpu) {
  const auto known = std::ranges::find(boards.boards, gpu.board, &Board::name);
  Board board;
  if (known != boards.boards.end()) board = *known;
  if (board.name.empty()) board.name = gpu.product;
  std::vector<MigProfile> profiles;
  for (const ReportedProfile& reported : gpu.profiles) {
    MigProfile profile = ProfileFrom(reported, board.FindProfile(reported.id));
    if (profile.name.empty() || profile.starts.empty()) continue;
    board.memory_units = std::max(board.memory_units, profile.starts.back() + profile.size);
    board.compute_slices = std::max(board.compute_slices, profile.compute_slices);
    // What one instance can have, the board has.
    for (int EngineCounts::*kind :
         {&EngineCounts::copy, &EngineCounts::decoder, &EngineCounts::encoder, &EngineCounts::jpeg,
          &EngineCounts::ofa}) {
      board.engines.*kind = std::max(board.engines.*kind, profile.engines.*kind);
    }
    profiles.push_back(std::move(profile));
  }
  if (profiles.empty()) {
    return Fail(ErrorCode::kUnsupported,
                fmt::format("the driver doesn't tell what MIG instances {} can have", gpu.uuid));
  }
  std::ranges::sort(profiles, {}, [](const MigProfile& profile) {
    return std::tuple(profile.compute_slices, profile.size, profile.id);
  });
  board.profiles = std::move(profiles);
  return board;
}

// Compute instances put into as few GPU instances of `slices` as taking the largest first finds.
std::vector<std::vector<int>> Packed(std::vector<int> parts, int slices) {
  std::ranges::sort(parts, std::greater());
  std::vector<std::vector<int>> packed;
  std::vector<int> room;
  for (const int part : parts) {
    const auto fits = std::ranges::find_if(room, [&](int left) { return left >= part; });
    const auto at = static_cast<std::size_t>(fits - room.begin());
    if (fits == room.end()) {
      packed.emplace_back();
      room.push_back(slices);
    }
    packed[at].push_back(part);
    room[at] -= part;
  }
  return packed;
}

Result<std::vector<Wish>> WishesOf(const Board& board, const MigConfigEntry& entry) {
  std::vector<Wish> wishes;
  std::map<int, std::vector<int>> parts;  // Slices of compute instances, by profile.
  for (const auto& [name, count] : entry.mig_devices) {
    if (count == 0) continue;
    ASSIGN_OR_RETURN(const MigProfileName parsed, ParseMigProfileName(name));
    const MigProfile* const profile = board.FindProfile(parsed.gpu_instance);
    if (profile == nullptr) {
      std::vector<std::string_view> known;
      for (const MigProfile& row : board.profiles) known.push_back(row.name);
      return Fail(ErrorCode::kNotFound,
                  fmt::format("mig profile not offered by {}: '{}'", board.name, name),
                  SuggestFor(name, known));
    }
    const int index = static_cast<int>(profile - board.profiles.data());
    if (parsed.compute_instance_slices == profile->compute_slices) {
      wishes.insert(wishes.end(), static_cast<std::size_t>(count), Wish{index, std::nullopt});
    } else {
      std::vector<int>& all = parts[index];
      all.insert(all.end(), static_cast<std::size_t>(count), parsed.compute_instance_slices);
    }
  }
  for (auto& [index, all] : parts) {
    const int slices = board.profiles[static_cast<std::size_t>(index)].compute_slices;
    for (std::vector<int>& packed : Packed(std::move(all), slices)) {
      wishes.push_back({index, std::move(packed)});
    }
  }
  return wishes;
}

// An instance that is there.
struct Present {
  PlacedInstance where;
  ComputeSlices compute_slices;
  std::string users;  // Empty: nobody.
};

Result<std::vector<Present>> PresentOn(const Board& board, const Gpu& now, const MigUse& use) {
  ASSIGN_OR_RETURN(const MigTarget current, CurrentTarget(now));
  std::vector<Present> present;
  for (const MigSeat& seat : current.instances) {
    const MigProfile* const profile = board.FindProfile(seat.profile_id);
    if (profile == nullptr) {
      return Fail(ErrorCode::kConflict, fmt::format("{} has an instance of a profile that it "
                                                    "doesn't offer: {}",
                                                    now.uuid, DescribeSeat(seat)));
    }
    Present one{
        {static_cast<int>(profile - board.profiles.data()), seat.start}, seat.compute_slices, {}};
    for (const GpuInstance& instance : now.instances) {
      const auto users = use.instances.find(instance.id);
      if (instance.placement.start != seat.start || users == use.instances.end()) continue;
      one.users = fmt::format("{}", fmt::join(users->second, ", "));
    }
    present.push_back(std::move(one));
  }
  return present;
}

// The layout of one GPU on its way.
class Layouter {
 public:
  Layouter(const GeometryTable& table, std::vector<Wish> wishes, std::vector<Present> present)
      : table_(table), wishes_(std::move(wishes)), present_(std::move(present)) {}

  // Fills instances and reasons.
  Status Place(MigLayout& layout);

 private:
  const MigProfile& ProfileAt(int index) const {
    return table_.board().profiles[static_cast<std::size_t>(index)];
  }
  Result<Geometry> Choose() const;
  // Takes a wish of that shape out of those that are left; false where there is none.
  bool Take(int profile, const ComputeSlices& slices);
  const Present* At(const PlacedInstance& where) const;
  std::string Users() const;

  const GeometryTable& table_;
  std::vector<Wish> wishes_;
  std::vector<Present> present_;
};

bool Layouter::Take(int profile, const ComputeSlices& slices) {
  const auto wish = std::ranges::find_if(wishes_, [&](const Wish& one) {
    return one.profile == profile && one.compute_slices == slices;
  });
  if (wish == wishes_.end()) return false;
  wishes_.erase(wish);
  return true;
}

const Present* Layouter::At(const PlacedInstance& where) const {
  const auto found = std::ranges::find(present_, where, &Present::where);
  return found == present_.end() ? nullptr : &*found;
}

// "3g.40gb at 4 by process 12 (python3)", for all in use.
std::string Layouter::Users() const {
  std::vector<std::string> texts;
  for (const Present& one : present_) {
    if (one.users.empty()) continue;
    texts.push_back(fmt::format("{} at {} by {}", ProfileAt(one.where.profile).name,
                                one.where.start, one.users));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

// The geometry that shares most with what is there.
Result<Geometry> Layouter::Choose() const {
  ProfileCounts counts(table_.board().profiles.size(), 0);
  for (const Wish& wish : wishes_) ++counts[static_cast<std::size_t>(wish.profile)];
  if (table_.Place(counts) == nullptr) {
    return Fail(ErrorCode::kInfeasible, table_.WhyNot(counts));
  }
  std::vector<CurrentInstance> current;
  for (const Present& one : present_) {
    // One that is cut otherwise inside must be made anew wherever it lies.
    const bool may_stay = std::ranges::any_of(wishes_, [&](const Wish& wish) {
      return wish.profile == one.where.profile && wish.compute_slices == one.compute_slices;
    });
    if (may_stay || !one.users.empty()) current.push_back({one.where, !one.users.empty()});
  }
  auto transition = table_.Reach(current, counts);
  if (transition) return std::move(transition->result);
  Error error = std::move(transition).error();
  error.code = ErrorCode::kConflict;
  if (const std::string users = Users(); !users.empty()) {
    error.message += fmt::format(" (in use: {})", users);
  }
  return tl::unexpected<Error>(std::move(error));
}

Status Layouter::Place(MigLayout& layout) {
  ASSIGN_OR_RETURN(const Geometry geometry, Choose());
  std::vector<std::optional<ComputeSlices>> slices(geometry.size());
  std::vector<std::string> reasons(geometry.size());
  // Those in use choose first, then those that are there, then the new ones.
  for (const bool in_use : {true, false}) {
    for (std::size_t i = 0; i < geometry.size(); ++i) {
      const Present* const there = At(geometry[i]);
      if (there == nullptr || there->users.empty() == in_use || slices[i]) continue;
      if (Take(geometry[i].profile, there->compute_slices)) {
        slices[i] = there->compute_slices;
        reasons[i] = in_use ? "stays: used by " + there->users : "stays: it is there already";
      } else if (in_use) {
        return Fail(
            ErrorCode::kConflict,
            fmt::format("{} at {} is used by {}, and is asked for with other compute "
                        "instances",
                        ProfileAt(geometry[i].profile).name, geometry[i].start, there->users),
            "stop what runs there, or move it");
      }
    }
  }
  const bool beside = std::ranges::any_of(slices, [](const auto& one) { return one.has_value(); });
  for (std::size_t i = 0; i < geometry.size(); ++i) {
    const MigProfile& profile = ProfileAt(geometry[i].profile);
    if (!slices[i]) {
      const auto wish = std::ranges::find(wishes_, geometry[i].profile, &Wish::profile);
      slices[i] = wish->compute_slices;
      wishes_.erase(wish);
      reasons[i] = beside ? "new: fits beside what stays" : "new: leaves the most room to others";
    }
    layout.target.instances.push_back({.profile = profile.name,
                                       .profile_id = profile.id,
                                       .start = geometry[i].start,
                                       .size = profile.size,
                                       .compute_slices = std::move(*slices[i])});
  }
  layout.reasons = std::move(reasons);
  return {};
}

// The last entry that is meant for the GPU; nullptr where none is.
const MigConfigEntry* EntryFor(const MigConfigLabel& label, const Gpu& gpu) {
  const auto entry =
      std::find_if(label.entries.rbegin(), label.entries.rend(), [&](const MigConfigEntry& one) {
        return one.Matches(gpu.index, gpu.pci_device_id, gpu.pci_subsystem_id);
      });
  return entry == label.entries.rend() ? nullptr : &*entry;
}

Result<MigLayout> LayOutMode(const Gpu& now, const MigConfigEntry& entry) {
  MigLayout layout;
  layout.target = {.gpu_uuid = now.uuid, .mig = entry.mig_enabled, .instances = {}};
  if (now.mig_enabled == entry.mig_enabled) {
    ASSIGN_OR_RETURN(layout.target, CurrentTarget(now));
    layout.reasons.assign(layout.target.instances.size(), "stays: only the mode is asked for");
  } else if (entry.mig_enabled && !now.mig_capable) {
    return Fail(ErrorCode::kUnsupported, fmt::format("{} has no MIG", now.product));
  }
  return layout;
}

std::string_view OnOff(bool on) {
  return on ? "on" : "off";
}

// How many there are of each MIG device, by the names that mig-parted gives them.
using DeviceCounts = std::map<std::string, int>;

Result<DeviceCounts> DevicesOn(const BoardCatalogue& boards, const Gpu& gpu) {
  DeviceCounts counts;
  if (gpu.instances.empty()) return counts;
  ASSIGN_OR_RETURN(const MigTarget current, CurrentTarget(gpu));
  ASSIGN_OR_RETURN(const Board board, BoardOf(boards, gpu));
  for (const MigSeat& seat : current.instances) {
    const MigProfile* const profile = board.FindProfile(seat.profile_id);
    const std::string name = profile == nullptr ? seat.profile : profile->name;
    if (!seat.compute_slices || seat.compute_slices->empty()) {
      ++counts[name];
      continue;
    }
    for (const int slices : *seat.compute_slices) ++counts[fmt::format("{}c.{}", slices, name)];
  }
  return counts;
}

Result<DeviceCounts> DevicesAskedFor(const MigConfigEntry& entry) {
  DeviceCounts counts;
  for (const auto& [name, count] : entry.mig_devices) {
    ASSIGN_OR_RETURN(const MigProfileName parsed, ParseMigProfileName(name));
    const bool whole = parsed.compute_instance_slices == parsed.gpu_instance_slices;
    if (count > 0) counts[whole ? parsed.gpu_instance : name] += count;
  }
  return counts;
}

Status AddDeviceDifferences(const BoardCatalogue& boards, const Gpu& gpu,
                            const MigConfigEntry& entry, std::vector<std::string>& differences) {
  ASSIGN_OR_RETURN(DeviceCounts there, DevicesOn(boards, gpu));
  ASSIGN_OR_RETURN(DeviceCounts wanted, DevicesAskedFor(entry));
  std::set<std::string> names;
  for (const auto& [name, count] : there) names.insert(name);
  for (const auto& [name, count] : wanted) names.insert(name);
  for (const std::string& name : names) {
    if (there[name] == wanted[name]) continue;
    differences.push_back(
        fmt::format("GPU {}: {} of {}, not {}", gpu.index, there[name], name, wanted[name]));
  }
  for (const GpuInstance& instance : gpu.instances) {
    if (!instance.compute_instances.empty()) continue;
    differences.push_back(
        fmt::format("GPU {}: GPU instance {} has no compute instance", gpu.index, instance.id));
  }
  return {};
}

}  // namespace

std::vector<MigTarget> NodeLayout::Targets() const {
  std::vector<MigTarget> targets;
  for (const MigLayout& gpu : gpus) targets.push_back(gpu.target);
  return targets;
}

Result<MigLayout> LayOut(const BoardCatalogue& boards, const Gpu& now, const MigConfigEntry& entry,
                         const MigUse& use) {
  MigLayout layout;
  layout.gpu = now.index;
  layout.target = {.gpu_uuid = now.uuid, .mig = entry.mig_enabled, .instances = {}};
  if (!entry.mig_enabled) return layout;
  if (!now.mig_capable) {
    return Fail(ErrorCode::kUnsupported, fmt::format("{} has no MIG", now.product));
  }
  ASSIGN_OR_RETURN(const Board board, BoardOf(boards, now));
  ASSIGN_OR_RETURN(const GeometryTable table, GeometryTable::Build(board));
  ASSIGN_OR_RETURN(std::vector<Wish> wishes, WishesOf(board, entry));
  ASSIGN_OR_RETURN(std::vector<Present> present, PresentOn(board, now, use));
  RETURN_IF_ERROR(Layouter(table, std::move(wishes), std::move(present)).Place(layout));
  return layout;
}

Result<NodeLayout> LayOutNode(const BoardCatalogue& boards, const Inventory& now,
                              const MigConfigLabel& label, const std::map<std::string, MigUse>& use,
                              const LayoutOptions& options) {
  NodeLayout node;
  for (const Gpu& gpu : now.gpus) {
    const MigConfigEntry* const entry = EntryFor(label, gpu);
    if (entry == nullptr) {
      node.not_matched.push_back(gpu.index);
      continue;
    }
    const auto users = use.find(gpu.uuid);
    Result<MigLayout> layout =
        !gpu.problem.empty() ? Fail(ErrorCode::kUnavailable, "it can't be used: " + gpu.problem)
        : options.mode_only
            ? LayOutMode(gpu, *entry)
            : LayOut(boards, gpu, *entry, users == use.end() ? MigUse{} : users->second);
    if (!layout) {
      return tl::unexpected<Error>(
          std::move(layout).error().Prefixed(fmt::format("{}: GPU {}", label.name, gpu.index)));
    }
    layout->gpu = gpu.index;
    layout->entry = static_cast<int>(entry - label.entries.data());
    node.gpus.push_back(std::move(*layout));
  }
  return node;
}

Result<std::vector<std::string>> LabelDifferences(const BoardCatalogue& boards,
                                                  const Inventory& now, const MigConfigLabel& label,
                                                  const LayoutOptions& options) {
  std::vector<std::string> differences;
  for (const Gpu& gpu : now.gpus) {
    const auto differs = [&](std::string_view how) {
      differences.push_back(fmt::format("GPU {}: {}", gpu.index, how));
    };
    const MigConfigEntry* const entry = EntryFor(label, gpu);
    if (entry == nullptr) {
      differs("no entry is meant for it");
    } else if (!gpu.problem.empty()) {
      differs("it can't be used: " + gpu.problem);
    } else if (entry->mig_enabled && !gpu.mig_capable) {
      differs("it has no MIG");
    } else if (entry->mig_enabled != gpu.mig_enabled) {
      const bool waits = gpu.mig_pending != gpu.mig_enabled;
      differs(fmt::format("MIG mode is {}, not {}{}", OnOff(gpu.mig_enabled),
                          OnOff(entry->mig_enabled), waits ? ", and waits for a reset" : ""));
    } else if (!options.mode_only) {
      RETURN_IF_ERROR(AddDeviceDifferences(boards, gpu, *entry, differences));
    }
  }
  return differences;
}

Result<MigConfigLabel> LabelOfNode(const BoardCatalogue& boards, const Inventory& now,
                                   std::string name) {
  MigConfigLabel label{std::move(name), {}};
  std::set<std::uint32_t> kinds;
  for (const Gpu& gpu : now.gpus) {
    if (!gpu.problem.empty()) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("GPU {} can't be used: {}", gpu.index, gpu.problem));
    }
    kinds.insert(gpu.pci_device_id);
    MigConfigEntry entry;
    entry.mig_enabled = gpu.mig_enabled;
    ASSIGN_OR_RETURN(entry.mig_devices, DevicesOn(boards, gpu));
    auto alike = std::ranges::find_if(label.entries, [&](const MigConfigEntry& one) {
      return one.mig_enabled == entry.mig_enabled && one.mig_devices == entry.mig_devices;
    });
    if (alike == label.entries.end()) {
      entry.devices.emplace();
      alike = label.entries.insert(label.entries.end(), std::move(entry));
    }
    alike->devices->push_back(gpu.index);
    const MigDeviceFilter filter{.pci_device_id = gpu.pci_device_id, .pci_subsystem_id = {}};
    if (std::ranges::find(alike->device_filter, filter) == alike->device_filter.end()) {
      alike->device_filter.push_back(filter);
    }
  }
  for (MigConfigEntry& entry : label.entries) {
    if (kinds.size() == 1) entry.device_filter.clear();
    if (label.entries.size() == 1) entry.devices.reset();
  }
  return label;
}

}  // namespace sublet
