#include "kube/allocation_desk.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/files.h"
#include "kube/mps_pool.h"

namespace sublet {
namespace {

constexpr std::size_t kUuidBytesMax = 64;

// Random, from the kernel: the annotation's name must be another for each container of a pod.
Result<std::string> RandomUuid() {
  ASSIGN_OR_RETURN(std::string uuid, ReadFile("/proc/sys/kernel/random/uuid", kUuidBytesMax));
  while (!uuid.empty() && uuid.back() == '\n') uuid.pop_back();
  return uuid;
}

// Whose server the container becomes a client of: that of its first device. AllocateContainer()
// refuses devices of several.
std::optional<MpsServerFolder> ServerFor(const ResourceFacts& facts,
                                         const ResourceCondition& condition,
                                         const std::vector<std::string>& ids) {
  if (ids.empty()) return std::nullopt;
  const AdvertisedReplica* const replica = facts.index.Find(ids.front());
  if (replica == nullptr) return std::nullopt;
  const auto found = condition.mps.find(facts.resource.devices[replica->device].uuid);
  if (found == condition.mps.end()) return std::nullopt;
  MpsServerFolder folder = found->second;
  if (!facts.PerTenant()) return folder;
  const std::string claim = ClaimName(facts.resource.name, ids);
  folder.host_directory += claim;
  folder.host_pipe_directory = folder.host_directory + "/pipe";
  folder.tenant = claim;
  return folder;
}

Status CheckObstacles(const ResourceFacts& facts, const ResourceCondition& condition,
                      const std::vector<std::string>& ids) {
  for (const std::string& id : ids) {
    const AdvertisedReplica* const replica = facts.index.Find(id);
    if (replica == nullptr) continue;  // AllocateContainer() says so.
    const AdvertisedDevice& device = facts.resource.devices[replica->device];
    const auto obstacle = condition.obstacles.find(device.uuid);
    if (obstacle == condition.obstacles.end()) continue;
    return Fail(ErrorCode::kUnavailable, fmt::format("device {}: {}", id, obstacle->second),
                "the pod can be admitted again when kubelet shows the device as allocatable");
  }
  return {};
}

}  // namespace

bool ResourceFacts::PerTenant() const {
  return resource.mode == SharingMode::kMps && config->sublet.tenancy != MpsTenancy::kResource;
}

std::vector<ListedDevice> ListDevices(const AdvertisedResource& resource,
                                      const ResourceCondition& condition) {
  std::vector<char> well;
  for (const AdvertisedDevice& device : resource.devices) well.push_back(condition.Well(device));
  std::vector<ListedDevice> listed;
  listed.reserve(resource.replicas.size());
  for (const AdvertisedReplica& replica : resource.replicas) {
    listed.push_back({.id = replica.id,
                      .healthy = well[replica.device] != 0,
                      .numa_node = resource.devices[replica.device].numa_node});
  }
  return listed;
}

void AllocationDesk::Set(std::shared_ptr<const ResourceFacts> facts) {
  const std::lock_guard lock(mutex_);
  facts_ = std::move(facts);
}

void AllocationDesk::Set(std::shared_ptr<const ResourceCondition> condition) {
  const std::lock_guard lock(mutex_);
  condition_ = std::move(condition);
}

std::shared_ptr<const ResourceFacts> AllocationDesk::facts() const {
  const std::lock_guard lock(mutex_);
  return facts_;
}

std::shared_ptr<const ResourceCondition> AllocationDesk::condition() const {
  const std::lock_guard lock(mutex_);
  return condition_;
}

OptionalCalls AllocationDesk::Options() {
  return {.pre_start_required = facts()->PerTenant(), .preferred_allocation = true};
}

Result<std::vector<std::string>> AllocationDesk::Prefer(PreferenceRequest request) {
  const auto known = facts();
  request.policy = known->config->flags.allocation_policy;
  return PreferDevices(*known->inventory, known->index, request);
}

Result<ContainerGrant> AllocationDesk::Allocate(const std::vector<std::string>& ids) {
  const auto known = facts();
  const auto now = condition();
  const DevicePluginConfig& config = *known->config;
  RETURN_IF_ERROR(CheckObstacles(*known, *now, ids));
  ContainerRequest request{.ids = ids, .response_id = ""};
  if (config.flags.Uses(DeviceListStrategy::kCdiAnnotations)) {
    ASSIGN_OR_RETURN(request.response_id, RandomUuid());
  }
  AllocationContext context{.flags = config.flags, .imex = config.imex};
  if (known->resource.mode == SharingMode::kMps) context.mps = ServerFor(*known, *now, ids);
  context.unhealthy = now->unhealthy;
  context.present_nodes = known->present_nodes;
  context.limits_for_pod = config.sublet.limits_for_pod;
  context.fail_closed = config.sublet.fail_closed;
  Result<ContainerGrant> grant = AllocateContainer(known->index, request, context);
  if (!grant) {
    spdlog::warn("{}: not handed out: {}", known->resource.name, grant.error().message);
  } else if (context.mps) {
    spdlog::info("{}: {} for a container; {}", known->resource.name, fmt::join(grant->devices, ","),
                 grant->limits.text);
  }
  return grant;
}

void AllocationDesk::PreStart(std::vector<std::string> ids, std::function<void(Status)> done) {
  if (facts()->PerTenant()) {
    pre_start_(std::move(ids), std::move(done));
  } else {
    done({});
  }
}

}  // namespace sublet
