#include "model/mig_target.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "model/document.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

// A board has at most 12 memory units and 8 compute slices today, a node 16 GPUs.
constexpr int kUnitsMax = 64;
constexpr int kProfileIdMax = 1 << 20;

Result<int> ReadSlices(const Node& node) {
  ASSIGN_OR_RETURN(const std::int64_t slices, ReadInteger(node, {.min = 1, .max = kUnitsMax}));
  return static_cast<int>(slices);
}

Result<std::optional<std::vector<int>>> ReadComputeSlices(const Node& node) {
  if (node.kind != Node::Kind::kSequence) return FailAt(node, "a list is expected here");
  std::vector<int> all;
  for (const Node& item : node.items) {
    ASSIGN_OR_RETURN(const int slices, ReadSlices(item));
    all.push_back(slices);
  }
  std::ranges::sort(all, std::greater());
  return std::optional(std::move(all));
}

Result<MigTarget> ReadTarget(const Node& node) {
  MigTarget target;
  ObjectReader in(node, "mig target");
  in.Required("uuid", target.gpu_uuid);
  in.Required("mig", target.mig);
  in.OptionalList("instances", target.instances, ReadMigSeat);
  if (!target.mig && !target.instances.empty()) {
    in.Reject("instances", "instances are asked for although mig is false");
  }
  RETURN_IF_ERROR(in.Finish());
  return target;
}

Result<std::vector<MigTarget>> ReadTargets(const Node& node) {
  std::vector<MigTarget> targets;
  ObjectReader in(node, "mig targets");
  in.RequiredList("gpus", targets, ReadTarget);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const auto end = targets.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find_if(targets.begin(), end, [&](const MigTarget& other) {
          return other.gpu_uuid == targets[i].gpu_uuid;
        }) != end) {
      in.Reject("gpus", fmt::format("the same GPU twice: {}", targets[i].gpu_uuid.substr(0, 64)));
    }
  }
  RETURN_IF_ERROR(in.Finish());
  return targets;
}

const ReportedProfile* FindProfileOf(const Gpu& gpu, const MigSeat& seat) {
  if (seat.profile_id >= 0) return gpu.FindProfile(seat.profile_id);
  const auto found = std::ranges::find(gpu.profiles, seat.profile, &ReportedProfile::name);
  return found == gpu.profiles.end() || seat.profile.empty() ? nullptr : &*found;
}

Status CheckComputeSlices(const ReportedProfile& profile, MigSeat& seat) {
  if (!seat.compute_slices) return {};
  std::vector<int>& slices = *seat.compute_slices;
  std::ranges::sort(slices, std::greater());
  const int sum = std::accumulate(slices.begin(), slices.end(), 0);
  if (sum > profile.compute_slices || (!slices.empty() && slices.back() < 1)) {
    return Fail(ErrorCode::kInvalid, fmt::format("{} has {} compute slices", DescribeSeat(seat),
                                                 profile.compute_slices));
  }
  if (slices.size() == 1 && sum == profile.compute_slices) seat.compute_slices.reset();
  return {};
}

Status ResolveSeat(const Gpu& gpu, MigSeat& seat) {
  const ReportedProfile* const profile = FindProfileOf(gpu, seat);
  const bool other_name = profile != nullptr && !seat.profile.empty() && !profile->name.empty() &&
                          seat.profile != profile->name;
  if (profile == nullptr || other_name) {
    std::vector<std::string_view> known;
    for (const ReportedProfile& offered : gpu.profiles) known.push_back(offered.name);
    const std::string wanted =
        seat.profile.empty() ? fmt::format("id {}", seat.profile_id) : seat.profile.substr(0, 64);
    return Fail(ErrorCode::kNotFound,
                fmt::format("mig profile not offered by {}: '{}'", gpu.product, wanted),
                SuggestFor(wanted, known));
  }
  seat.profile_id = profile->id;
  if (!profile->name.empty()) seat.profile = profile->name;
  const auto place = std::ranges::find(profile->placements, seat.start, &Placement::start);
  if (place != profile->placements.end()) seat.size = place->size;
  if ((place == profile->placements.end() && !profile->placements.empty()) || seat.size < 1) {
    std::vector<int> starts;
    for (const Placement& placement : profile->placements) starts.push_back(placement.start);
    return Fail(ErrorCode::kInvalid,
                fmt::format("{} can't begin at memory unit {}", seat.profile, seat.start),
                fmt::format("it may begin at {}", fmt::join(starts, ", ")));
  }
  return CheckComputeSlices(*profile, seat);
}

MigSeat SeatOf(const Gpu& gpu, const GpuInstance& instance) {
  MigSeat seat{.profile = instance.profile,
               .profile_id = instance.profile_id,
               .start = instance.placement.start,
               .size = instance.placement.size};
  std::vector<int> slices;
  for (const ComputeInstance& compute : instance.compute_instances) {
    slices.push_back(compute.placement.size);
  }
  const ReportedProfile* const profile = gpu.FindProfile(instance.profile_id);
  const bool whole =
      slices.size() == 1 && profile != nullptr && slices[0] >= profile->compute_slices;
  std::ranges::sort(slices, std::greater());
  if (!whole) seat.compute_slices = std::move(slices);
  return seat;
}

}  // namespace

std::string DescribeSeat(const MigSeat& seat) {
  std::string text = fmt::format(
      "{} at {}", seat.profile.empty() ? fmt::format("profile {}", seat.profile_id) : seat.profile,
      seat.start);
  if (!seat.compute_slices) return text;
  if (seat.compute_slices->empty()) return text + " (no compute instances)";
  return text + fmt::format(" (compute slices {})", fmt::join(*seat.compute_slices, "+"));
}

void MigUse::Add(const MigUse& other) {
  for (const auto& [id, users] : other.instances) {
    std::vector<std::string>& all = instances[id];
    all.insert(all.end(), users.begin(), users.end());
  }
  whole.insert(whole.end(), other.whole.begin(), other.whole.end());
}

MigUse UseByProcesses(const Gpu& gpu) {
  MigUse use;
  for (const GpuProcess& process : gpu.processes) {
    std::string who = process.name.empty()
                          ? fmt::format("process {}", process.pid)
                          : fmt::format("process {} ({})", process.pid, process.name);
    std::vector<std::string>& users =
        process.gpu_instance ? use.instances[*process.gpu_instance] : use.whole;
    users.push_back(std::move(who));
  }
  return use;
}

Result<MigTarget> CurrentTarget(const Gpu& gpu) {
  MigTarget target{.gpu_uuid = gpu.uuid, .mig = gpu.mig_enabled, .instances = {}};
  for (const GpuInstance& instance : gpu.instances) {
    if (instance.placement.size == 0) {
      return Fail(ErrorCode::kPermission,
                  fmt::format("the driver doesn't tell where the instances of {} lie", gpu.uuid),
                  "run it as root, or with CAP_SYS_ADMIN");
    }
    target.instances.push_back(SeatOf(gpu, instance));
  }
  std::ranges::sort(target.instances, {}, &MigSeat::start);
  return target;
}

Result<MigTarget> ResolveTarget(const Gpu& gpu, MigTarget target) {
  if (!target.mig) {
    if (target.instances.empty()) return target;
    return Fail(ErrorCode::kInvalid, "instances are asked for with MIG mode off");
  }
  if (!gpu.mig_capable) {
    return Fail(ErrorCode::kUnsupported, fmt::format("{} ({}) has no MIG", gpu.uuid, gpu.product));
  }
  for (MigSeat& seat : target.instances) RETURN_IF_ERROR(ResolveSeat(gpu, seat));
  std::ranges::sort(target.instances, {}, &MigSeat::start);
  for (std::size_t i = 1; i < target.instances.size(); ++i) {
    const MigSeat& before = target.instances[i - 1];
    const MigSeat& seat = target.instances[i];
    if (before.start + before.size > seat.start) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("{} and {} overlap", DescribeSeat(before), DescribeSeat(seat)));
    }
  }
  return target;
}

Json MigSeatToJson(const MigSeat& seat) {
  Json json{{"profile", seat.profile}};
  if (seat.profile_id >= 0) json["profile_id"] = seat.profile_id;
  json["start"] = seat.start;
  if (seat.size > 0) json["size"] = seat.size;
  if (seat.compute_slices) json["compute_slices"] = *seat.compute_slices;
  return json;
}

Result<MigSeat> ReadMigSeat(const Node& node) {
  MigSeat seat;
  ObjectReader in(node, "mig instance");
  in.Required("profile", seat.profile);
  in.Optional("profile_id", seat.profile_id, {.min = 0, .max = kProfileIdMax});
  in.Required("start", seat.start, {.min = 0, .max = kUnitsMax});
  in.Optional("size", seat.size, {.min = 1, .max = kUnitsMax});
  in.Optional("compute_slices", seat.compute_slices, ReadComputeSlices);
  RETURN_IF_ERROR(in.Finish());
  return seat;
}

Json MigTargetsToJson(const std::vector<MigTarget>& targets) {
  Json gpus = Json::array();
  for (const MigTarget& target : targets) {
    Json instances = Json::array();
    for (const MigSeat& seat : target.instances) instances.push_back(MigSeatToJson(seat));
    gpus.push_back(
        {{"uuid", target.gpu_uuid}, {"mig", target.mig}, {"instances", std::move(instances)}});
  }
  return {{"gpus", std::move(gpus)}};
}

Result<std::vector<MigTarget>> ParseMigTargets(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadTargets);
}

}  // namespace sublet
