#include "kube/share_fill.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <tuple>

namespace sublet {
namespace {

constexpr int kAllSms = 100;  // Percent.

// Names a rule and what one of its shares takes.
std::string DescribeRule(const ShareRule& rule, const ShareSize& size, int count) {
  std::string text = fmt::format("{}x {}", count, rule.resource);
  if (size.memory) text += fmt::format(" of {}", FormatBytes(*size.memory));
  return text;
}

// Where the plan has this device; nullptr where it uses it for nothing.
const PlannedPartition* FindPartition(const PhysicalDevice& physical, const Plan& plan) {
  for (const PlannedGpu& gpu : plan.gpus) {
    if (gpu.uuid != physical.device.gpu_uuid) continue;
    for (const PlannedPartition& partition : gpu.partitions) {
      if (!physical.device.IsMig() && partition.profile.empty()) return &partition;
      if (physical.device.IsMig() && partition.profile == physical.device.profile &&
          partition.start == physical.start) {
        return &partition;
      }
    }
  }
  return nullptr;
}

bool HoldsReplica(const ShareRule& rule, const PlannedReplica& replica) {
  const bool memory = !rule.size.memory || *rule.size.memory >= replica.memory;
  return memory && rule.size.sm_percent.value_or(kAllSms) >= replica.sm_percent.value_or(kAllSms);
}

// Smaller sizes first, so that a replica takes no more than it must.
bool IsSmaller(const ShareRule& a, const ShareRule& b) {
  const auto key = [](const ShareRule& rule) {
    return std::tuple(!rule.size.memory, rule.size.memory.value_or(Bytes{}),
                      rule.size.sm_percent.value_or(kAllSms));
  };
  return key(a) < key(b);
}

bool IsByPlan(const ShareRule* rule) {
  return rule->count_how == ShareRule::Count::kPlan;
}

// Gives each of the plan's replicas the smallest of the rules that holds it.
Status CountByPlan(const PhysicalDevice& device, const std::vector<const ShareRule*>& rules,
                   const Plan* plan, ShareFill& fill) {
  if (std::ranges::none_of(rules, IsByPlan)) return {};
  if (plan == nullptr) {
    return Fail(ErrorCode::kInvalid, "count: plan without a plan", "name it: sublet.plan");
  }
  if (std::ranges::all_of(plan->gpus, [](const PlannedGpu& gpu) { return gpu.uuid.empty(); })) {
    return Fail(ErrorCode::kConflict, "the plan is for GPUs that were yet to be found",
                "make it on this node: sublet plan --node");
  }
  const PlannedPartition* const partition = FindPartition(device, *plan);
  if (partition == nullptr) return {};
  for (const PlannedReplica& replica : partition->replicas) {
    std::size_t best = rules.size();
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const bool sized = rules[i]->mode == SharingMode::kMps;
      if (!IsByPlan(rules[i]) || (sized && !HoldsReplica(*rules[i], replica))) continue;
      if (best == rules.size() || IsSmaller(*rules[i], *rules[best])) best = i;
    }
    if (best == rules.size()) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("{}: no share is large enough for the plan's replica {}: {}, {} % "
                              "of the SMs",
                              device.Describe(), replica.id, FormatBytes(replica.memory),
                              replica.sm_percent.value_or(kAllSms)));
    }
    ++fill.counts[best];
  }
  return {};
}

// What numbers and plan leave of the device.
struct Remainder {
  Bytes memory;
  int sm_percent = 0;
};

Remainder RemainderOf(const PhysicalDevice& device, const ShareFill& fill) {
  Remainder left{device.usable, kAllSms};
  for (std::size_t i = 0; i < fill.counts.size(); ++i) {
    left.memory -= fill.sizes[i].memory.value_or(Bytes{}) * fill.counts[i];
    left.sm_percent -= fill.sizes[i].sm_percent.value_or(0) * fill.counts[i];
  }
  return left;
}

void FillUp(const PhysicalDevice& device, const std::vector<const ShareRule*>& rules,
            ShareFill& fill) {
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (rules[i]->count_how != ShareRule::Count::kFill) continue;
    const Remainder left = RemainderOf(device, fill);
    const ShareSize& size = fill.sizes[i];
    std::int64_t count = kReplicasMax;
    if (size.memory) count = std::min(count, left.memory.count / size.memory->count);
    if (size.sm_percent) count = std::min<std::int64_t>(count, left.sm_percent / *size.sm_percent);
    const std::int64_t clients =
        device.mps_clients_max - std::accumulate(fill.counts.begin(), fill.counts.end(), 0);
    count = std::clamp<std::int64_t>(count, 0, std::max<std::int64_t>(clients, 0));
    fill.counts[i] = static_cast<int>(count);
    if (count > 0) continue;
    fill.warnings.push_back(fmt::format("{}: nothing is left for {}: {} and {} % of the SMs are",
                                        device.Describe(), rules[i]->resource,
                                        FormatBytes(std::max(left.memory, Bytes{})),
                                        std::max(left.sm_percent, 0)));
  }
}

// What can't be whatever else lies on the device; after it no sum overflows.
Status CheckEach(const PhysicalDevice& device, const std::vector<const ShareRule*>& rules,
                 const ShareFill& fill) {
  const int clients = std::accumulate(fill.counts.begin(), fill.counts.end(), 0);
  if (clients > device.mps_clients_max) {
    return Fail(ErrorCode::kUnsupported,
                fmt::format("{}: {} replicas, but an MPS server takes {} clients",
                            device.Describe(), clients, device.mps_clients_max));
  }
  const bool limited = std::ranges::any_of(fill.sizes, [](const ShareSize& size) {
    return size.memory.has_value() || size.sm_percent.has_value();
  });
  if (limited && !device.mps_limits) {
    return Fail(ErrorCode::kUnsupported,
                fmt::format("{}: below compute capability 7.0 MPS can't limit its clients",
                            device.Describe()));
  }
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const std::optional<Bytes>& memory = fill.sizes[i].memory;
    if (!memory || (*memory >= 1_MiB && *memory <= device.usable)) continue;
    return Fail(ErrorCode::kInfeasible,
                fmt::format("{}: a share of {} doesn't fit: {} of {}", device.Describe(),
                            rules[i]->resource, FormatBytes(*memory), FormatBytes(device.usable)));
  }
  return {};
}

Status CheckSum(const PhysicalDevice& device, const std::vector<const ShareRule*>& rules,
                ShareFill& fill) {
  const Remainder left = RemainderOf(device, fill);
  if (left.memory.count < 0) {
    std::vector<std::string> parts;
    for (std::size_t i = 0; i < rules.size(); ++i) {
      if (fill.counts[i] == 0) continue;
      parts.push_back(DescribeRule(*rules[i], fill.sizes[i], fill.counts[i]));
    }
    return Fail(ErrorCode::kInfeasible,
                fmt::format("{}: shares of {} don't fit into {}: {}", device.Describe(),
                            FormatBytes(device.usable - left.memory), FormatBytes(device.usable),
                            fmt::join(parts, " + ")),
                "make them fewer or smaller, or let count: fill find how many fit");
  }
  if (left.sm_percent < 0) {
    fill.warnings.push_back(fmt::format(
        "{}: the shares' SM caps add up to {} %: when all are busy, each gets less than its cap",
        device.Describe(), kAllSms - left.sm_percent));
  }
  return {};
}

}  // namespace

ShareSize EqualPart(Bytes memory, int replicas) {
  return {Bytes::FromMib(memory.mib() / replicas), std::max(1, kAllSms / replicas)};
}

Result<ShareFill> FillDevice(const PhysicalDevice& device,
                             const std::vector<const ShareRule*>& rules, const Plan* plan) {
  ShareFill fill;
  fill.counts.assign(rules.size(), 0);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const ShareRule& rule = *rules[i];
    if (rule.count_how == ShareRule::Count::kFixed) fill.counts[i] = rule.count;
    const bool equal = rule.mode == SharingMode::kMps && rule.size == ShareSize();
    fill.sizes.push_back(equal ? EqualPart(device.usable, rule.count) : rule.size);
  }
  RETURN_IF_ERROR(CountByPlan(device, rules, plan, fill));
  const bool mps = std::ranges::any_of(
      rules, [](const ShareRule* rule) { return rule->mode == SharingMode::kMps; });
  if (!mps) return fill;
  RETURN_IF_ERROR(CheckEach(device, rules, fill));
  FillUp(device, rules, fill);
  RETURN_IF_ERROR(CheckSum(device, rules, fill));
  return fill;
}

}  // namespace sublet
