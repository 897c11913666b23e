#include "node/ledger.h"

#include <fmt/format.h>

#include <utility>

#include "base/check.h"

namespace sublet {
namespace {

bool HeldAlone(SharingMode mode) {
  return mode == SharingMode::kExclusive || mode == SharingMode::kMig;
}

// Counts a share in (`by` 1) or out (-1).
void CountMode(SharingMode mode, int by, int& exclusive, int& time_slicing, int& mps) {
  if (HeldAlone(mode)) exclusive += by;
  if (mode == SharingMode::kTimeSlicing) time_slicing += by;
  if (mode == SharingMode::kMps) mps += by;
}

}  // namespace

Bytes ForeignMemory(const Device& device) {
  Bytes sum;
  for (const ForeignProcess& process : device.foreign) sum += process.memory.value_or(Bytes{});
  return sum;
}

Ledger::Ledger(std::vector<Device> devices, std::vector<TenantConfig> tenants, ContextSize contexts)
    : tenants_(std::move(tenants)), contexts_(std::move(contexts)) {
  SetDevices(std::move(devices));
}

void Ledger::SetDevices(std::vector<Device> devices) {
  devices_ = std::move(devices);
  device_at_.clear();
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    CHECK(device_at_.emplace(devices_[i].uuid(), i).second);
  }
}

const Device* Ledger::FindDevice(std::string_view uuid) const {
  const auto found = device_at_.find(uuid);
  return found == device_at_.end() ? nullptr : &devices_[found->second];
}

int Ledger::GpuPercent(const Device* device, std::optional<int> sm_percent) {
  const int percent = sm_percent.value_or(100);
  if (device == nullptr || device->gpu_sm_count <= 0 || device->sm_count <= 0) return percent;
  const int whole = device->gpu_sm_count;
  return (percent * device->sm_count + whole - 1) / whole;
}

Status Ledger::Book(const Share& share) {
  const Device* const device = FindDevice(share.device_uuid());
  if (device == nullptr || device->mig_mode) {
    return Fail(ErrorCode::kConflict,
                fmt::format("no share can be on {}: {}", share.device_uuid(),
                            device == nullptr ? "it isn't there" : "it is in MIG mode"),
                "sublet inspect shows the devices that there are");
  }
  const auto sums = sums_.find(device->uuid());
  const DeviceSums now = sums == sums_.end() ? DeviceSums{} : sums->second;
  if (now.exclusive > 0 || (HeldAlone(share.mode) && now.shares > 0)) {
    return Fail(ErrorCode::kConflict,
                fmt::format("{} is {}", device->uuid(),
                            now.exclusive > 0 ? "held alone by another share"
                                              : "to be held alone, but has shares"),
                "sublet ps shows them");
  }
  const Bytes foreign = ForeignMemory(*device);
  if (now.booked + foreign + share.memory > device->memory) {
    return Fail(
        ErrorCode::kConflict,
        fmt::format("{} has {}, of which {} are booked and {} held by processes that aren't "
                    "Sublet's: no room for {}",
                    device->uuid(), FormatBytes(device->memory), FormatBytes(now.booked),
                    FormatBytes(foreign), FormatBytes(share.memory)),
        "sublet ps shows who holds it");
  }
  Add(share);
  return {};
}

void Ledger::Keep(const Share& share) {
  Add(share);
}

void Ledger::Add(const Share& share) {
  const std::string& uuid = share.device_uuid();
  const int percent = GpuPercent(FindDevice(uuid), share.sm_percent);
  CHECK(held_.emplace(share.id, Held{share, percent}).second);
  DeviceSums& sums = sums_[uuid];
  sums.booked += share.memory;
  ++sums.shares;
  sums.sm_percent += share.sm_percent.value_or(100);
  CountMode(share.mode, 1, sums.exclusive, sums.time_slicing, sums.mps);
  ids_on_[uuid].insert(share.id);
  TenantSums& tenant = tenant_sums_[share.tenant];
  tenant.memory += share.memory;
  tenant.sm_percent += percent;
  ++tenant.shares;
  if (!share.domain.empty()) ++domain_shares_[share.domain];
}

void Ledger::Release(std::string_view share_id) {
  const auto held = held_.find(share_id);
  if (held == held_.end()) return;
  const Share& share = held->second.share;
  const std::string& uuid = share.device_uuid();
  DeviceSums& sums = sums_[uuid];
  sums.booked -= share.memory;
  --sums.shares;
  sums.sm_percent -= share.sm_percent.value_or(100);
  CountMode(share.mode, -1, sums.exclusive, sums.time_slicing, sums.mps);
  if (sums.shares == 0) sums_.erase(uuid);
  std::set<std::string>& ids = ids_on_[uuid];
  ids.erase(share.id);
  if (ids.empty()) ids_on_.erase(uuid);
  TenantSums& tenant = tenant_sums_[share.tenant];
  tenant.memory -= share.memory;
  tenant.sm_percent -= held->second.gpu_percent;
  if (--tenant.shares == 0) tenant_sums_.erase(share.tenant);
  if (!share.domain.empty() && --domain_shares_[share.domain] == 0) {
    domain_shares_.erase(share.domain);
  }
  held_.erase(held);
}

void Ledger::AddDomain(const Domain& domain) {
  RemoveDomain(domain.name);
  domains_[domain.name] = domain;
  domains_on_[domain.device_uuid()].insert(domain.name);
}

void Ledger::RemoveDomain(std::string_view name) {
  const auto found = domains_.find(name);
  if (found == domains_.end()) return;
  const auto on = domains_on_.find(found->second.device_uuid());
  on->second.erase(found->first);
  if (on->second.empty()) domains_on_.erase(on);
  domains_.erase(found);
}

std::vector<const Share*> Ledger::SharesOn(std::string_view uuid) const {
  std::vector<const Share*> shares;
  const auto ids = ids_on_.find(uuid);
  if (ids == ids_on_.end()) return shares;
  for (const std::string& id : ids->second) shares.push_back(&held_.find(id)->second.share);
  return shares;
}

int Ledger::SharesIn(std::string_view domain) const {
  const auto found = domain_shares_.find(domain);
  return found == domain_shares_.end() ? 0 : found->second;
}

Bytes Ledger::BookedOn(std::string_view gpu_uuid) const {
  Bytes sum;
  for (const Device& device : devices_) {
    if (device.gpu_uuid != gpu_uuid) continue;
    if (const auto sums = sums_.find(device.uuid()); sums != sums_.end()) {
      sum += sums->second.booked;
    }
  }
  return sum;
}

}  // namespace sublet
