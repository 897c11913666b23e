// What holds of admission whatever is asked: no device and no quota is ever booked beyond what it
// has, a release gives back exactly what was booked, a refusal is right, and the same books give
// the same answer. An oracle that looks at the list of shares alone, not at sums, says what is
// right.

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "admission_rig.h"

namespace sublet {
namespace {

using Shares = std::map<std::string, Share>;

const std::vector<std::string> kTenants{"a", "b", "c"};

struct Scene {
  std::vector<Device> devices;
  std::vector<TenantConfig> tenants;
};

Device AnyDevice(int index) {
  if (*rc::gen::inRange(0, 4) == 0) return MigGpu(index);
  Device device = WholeGpu(index, Bytes::FromMib(*rc::gen::inRange(2'000, 20'000)));
  for (const SharingMode mode :
       {SharingMode::kExclusive, SharingMode::kTimeSlicing, SharingMode::kMps}) {
    if (*rc::gen::inRange(0, 6) == 0) device.modes.erase(mode);
  }
  if (*rc::gen::inRange(0, 8) == 0) device.obstacle = "is sick";
  if (*rc::gen::inRange(0, 4) == 0) {
    ForeignProcess process;
    process.pid = 7;
    process.memory = Bytes::FromMib(*rc::gen::inRange(0, 4'000));
    device.foreign.push_back(process);
  }
  return device;
}

Scene AnyScene() {
  Scene scene;
  const int gpus = *rc::gen::inRange(1, 4);
  for (int index = 0; index < gpus; ++index) {
    scene.devices.push_back(AnyDevice(index));
    const int instances = scene.devices.back().mig_mode ? *rc::gen::inRange(0, 4) : 0;
    for (int i = 0; i < instances; ++i) {
      const int slices = *rc::gen::inRange(1, 4);
      scene.devices.push_back(MigDevice(index, i, fmt::format("{}g", slices),
                                        Bytes::FromMib(slices * 3'000), slices * 14));
    }
  }
  for (const std::string& name : kTenants) {
    TenantConfig tenant;
    tenant.name = name;
    if (*rc::gen::arbitrary<bool>()) {
      tenant.quota.gpu_memory = Bytes::FromMib(*rc::gen::inRange(1'000, 20'000));
    }
    if (*rc::gen::arbitrary<bool>()) tenant.quota.sm_percent = *rc::gen::inRange(20, 400);
    if (*rc::gen::arbitrary<bool>()) tenant.quota.shares = *rc::gen::inRange(1, 8);
    scene.tenants.push_back(std::move(tenant));
  }
  return scene;
}

Wish AnyWish(const Scene& scene) {
  Wish wish;
  wish.tenant = *rc::gen::elementOf(kTenants);
  if (*rc::gen::arbitrary<bool>()) {
    wish.mode = *rc::gen::element(SharingMode::kExclusive, SharingMode::kTimeSlicing,
                                  SharingMode::kMps, SharingMode::kMig);
  }
  if (*rc::gen::inRange(0, 4) > 0) wish.memory = Bytes::FromMib(*rc::gen::inRange(1, 8'000));
  if (*rc::gen::arbitrary<bool>()) wish.sm_percent = *rc::gen::inRange(1, 101);
  if (*rc::gen::inRange(0, 4) == 0) {
    wish.gpu = scene.devices[*rc::gen::inRange<std::size_t>(0, scene.devices.size())].uuid();
  }
  return wish;
}

std::vector<const Share*> On(const Shares& shares, const Device& device) {
  std::vector<const Share*> on;
  for (const auto& [id, share] : shares) {
    if (share.device_uuid() == device.uuid()) on.push_back(&share);
  }
  return on;
}

int PercentOf(const Device& device, std::optional<int> sm_percent) {
  const int parts = sm_percent.value_or(100) * device.sm_count;
  return (parts + device.gpu_sm_count - 1) / device.gpu_sm_count;
}

const Device& DeviceAt(const Scene& scene, const std::string& uuid) {
  return *std::ranges::find(scene.devices, uuid, &Device::uuid);
}

// What a tenant holds, by the list.
struct Holding {
  Bytes memory;
  int percent = 0;
  int shares = 0;
};
Holding HoldingOf(const Scene& scene, const Shares& shares, const std::string& tenant) {
  Holding holding;
  for (const auto& [id, share] : shares) {
    if (share.tenant != tenant) continue;
    holding.memory += share.memory;
    holding.percent += PercentOf(DeviceAt(scene, share.device_uuid()), share.sm_percent);
    ++holding.shares;
  }
  return holding;
}

bool InQuota(const Scene& scene, const Shares& shares, const std::string& tenant, Bytes memory,
             int percent) {
  const Holding now = HoldingOf(scene, shares, tenant);
  const TenantQuota& quota = std::ranges::find(scene.tenants, tenant, &TenantConfig::name)->quota;
  return now.memory + memory <= quota.gpu_memory.value_or(Bytes{1LL << 60}) &&
         now.percent + percent <= quota.sm_percent.value_or(1'000'000) &&
         now.shares + 1 <= quota.shares.value_or(1'000'000);
}

// Could the wish be granted on this device in this mode?
bool WouldDo(const Scene& scene, const Shares& shares, const std::vector<Domain>& domains,
             const Wish& wish, const Device& device, SharingMode mode) {
  if (device.mig_mode || !device.modes.contains(mode) || !device.obstacle.empty()) return false;
  const std::vector<const Share*> there = On(shares, device);
  const bool mps = mode == SharingMode::kMps;
  const Bytes need =
      wish.memory.value_or(Bytes{}) + TestContext(device, mps ? wish.sm_percent : std::nullopt);
  if (mode == SharingMode::kExclusive || mode == SharingMode::kMig) {
    const bool enough_sms = mode == SharingMode::kExclusive || !wish.sm_percent ||
                            device.sm_count >= *wish.sm_percent;  // Of 100, in these tests.
    return there.empty() && device.foreign.empty() && need <= device.memory && enough_sms &&
           InQuota(scene, shares, wish.tenant, device.memory, PercentOf(device, std::nullopt));
  }
  Bytes left = device.memory - ForeignMemory(device);
  const bool insists = wish.mode && !wish.gpu.empty();
  for (const Share* share : there) {
    left -= share->memory;
    const bool alone = share->mode == SharingMode::kExclusive || share->mode == SharingMode::kMig;
    if (alone || (share->mode != mode && !insists)) return false;
  }
  bool own = false;
  int clients = 0;
  for (const Domain& domain : domains) {
    if (domain.device_uuid() != device.uuid()) continue;
    left -= kMpsServerMemory;
    own = own || domain.tenant == wish.tenant;
  }
  for (const Share* share : there) {
    if (share->mode == SharingMode::kMps && share->tenant == wish.tenant) ++clients;
  }
  if (mps && !own) left -= kMpsServerMemory;
  const TenantQuota& quota =
      std::ranges::find(scene.tenants, wish.tenant, &TenantConfig::name)->quota;
  if (quota.gpu_memory && !wish.memory) return false;
  return need <= left && (!mps || clients < kMpsClientsMax) &&
         InQuota(scene, shares, wish.tenant, need,
                 PercentOf(device, mps ? wish.sm_percent : std::nullopt));
}

bool CouldBeGranted(const Scene& scene, const Shares& shares, const std::vector<Domain>& domains,
                    const Wish& wish) {
  std::vector<SharingMode> modes{SharingMode::kExclusive};
  if (wish.memory || wish.sm_percent) modes = {SharingMode::kMps, SharingMode::kMig};
  if (wish.mode) modes = {*wish.mode};
  for (const Device& device : scene.devices) {
    const bool named = wish.gpu == device.uuid();
    const bool in_scope = wish.gpu.empty() || named || wish.gpu == device.gpu_uuid;
    if (!in_scope) continue;
    for (const SharingMode mode : modes) {
      // Whole GPUs aren't MIG devices, and MIG devices are shared only where they are named.
      const bool fit =
          device.mig_uuid.empty() ? mode != SharingMode::kMig : mode == SharingMode::kMig || named;
      if (fit && WouldDo(scene, shares, domains, wish, device, mode)) return true;
    }
  }
  return false;
}

void CheckBooks(const Scene& scene, const Ledger& ledger, const Shares& shares) {
  for (const Device& device : scene.devices) {
    Bytes booked;
    for (const Share* share : On(shares, device)) booked += share->memory;
    RC_ASSERT(booked + ForeignMemory(device) <= device.memory || booked == Bytes{});
    RC_ASSERT(ledger.SharesOn(device.uuid()).size() == On(shares, device).size());
    if (device.mig_uuid.empty() && !device.mig_mode) {
      RC_ASSERT(ledger.BookedOn(device.gpu_uuid) == booked);
    }
  }
  for (const TenantConfig& tenant : scene.tenants) {
    const Holding holding = HoldingOf(scene, shares, tenant.name);
    RC_ASSERT(holding.memory <= tenant.quota.gpu_memory.value_or(holding.memory));
    RC_ASSERT(holding.percent <= tenant.quota.sm_percent.value_or(holding.percent));
    RC_ASSERT(holding.shares <= tenant.quota.shares.value_or(holding.shares));
  }
}

RC_GTEST_PROP(AdmissionProperty, NeverOverbooksAndRefusesOnlyWhatCannotBe, ()) {
  const Scene scene = AnyScene();
  Ledger ledger = LedgerOf(scene.devices, scene.tenants);
  Shares shares;
  std::vector<Domain> domains;
  const int steps = *rc::gen::inRange(1, 60);
  for (int step = 0; step < steps; ++step) {
    if (!shares.empty() && *rc::gen::inRange(0, 4) == 0) {
      const auto gone =
          std::next(shares.begin(), *rc::gen::inRange<int>(0, static_cast<int>(shares.size())));
      ledger.Release(gone->first);
      shares.erase(gone);
      continue;
    }
    const Wish wish = AnyWish(scene);
    const bool could = CouldBeGranted(scene, shares, domains, wish);
    const Result<Grant> again = Admit(ledger, wish.Request(), Owner());
    const Result<Grant> grant = AdmitAndBook(ledger, wish, step);
    RC_LOG(grant ? grant->share.reason : grant.error().message);
    RC_ASSERT(grant.has_value() == could);
    RC_ASSERT(grant.has_value() == again.has_value());
    if (!grant) {
      RC_ASSERT(!grant.error().message.empty() && !grant.error().hint.empty());
      RC_ASSERT(grant.error().message == again.error().message);
      continue;
    }
    Share same = again->share;
    same.id = grant->share.id;
    RC_ASSERT(ShareToJson(same).dump() == ShareToJson(grant->share).dump());
    RC_ASSERT(grant->share.tenant == wish.tenant);
    if (grant->new_domain) domains.push_back(*grant->new_domain);
    shares[grant->share.id] = grant->share;
    CheckBooks(scene, ledger, shares);
  }
}

// After everything has been given back, the books answer as new ones do.
RC_GTEST_PROP(AdmissionProperty, AReleaseGivesBackExactlyWhatWasBooked, ()) {
  const Scene scene = AnyScene();
  Ledger ledger = LedgerOf(scene.devices, scene.tenants);
  std::vector<Grant> grants;
  const int steps = *rc::gen::inRange(1, 40);
  for (int step = 0; step < steps; ++step) {
    Result<Grant> grant = AdmitAndBook(ledger, AnyWish(scene), step);
    if (grant) grants.push_back(std::move(*grant));
  }
  while (!grants.empty()) {
    const auto gone = grants.begin() + *rc::gen::inRange<int>(0, static_cast<int>(grants.size()));
    ledger.Release(gone->share.id);
    grants.erase(gone);
  }
  for (const Device& device : scene.devices) {
    RC_ASSERT(ledger.BookedOn(device.gpu_uuid) == Bytes{});
    RC_ASSERT(ledger.SharesOn(device.uuid()).empty());
    for (const TenantConfig& tenant : scene.tenants) {
      std::string domain = fmt::format("run-gpu{}-{}", device.gpu_index, tenant.name);
      ledger.RemoveDomain(domain);
      RC_ASSERT(ledger.SharesIn(domain) == 0);
      if (!device.mig_uuid.empty()) {
        domain = fmt::format("run-gpu{}-{}-{}", device.gpu_index, device.mig_uuid.substr(4, 8),
                             tenant.name);
        ledger.RemoveDomain(domain);
      }
    }
  }
  const Ledger fresh = LedgerOf(scene.devices, scene.tenants);
  for (int i = 0; i < 5; ++i) {
    const Wish wish = AnyWish(scene);
    const Result<Grant> now = Admit(ledger, wish.Request(), Owner());
    const Result<Grant> first = Admit(fresh, wish.Request(), Owner());
    RC_ASSERT(now.has_value() == first.has_value());
    if (now) {
      RC_ASSERT(ShareToJson(now->share).dump() == ShareToJson(first->share).dump());
    } else {
      RC_ASSERT(now.error().message == first.error().message);
    }
  }
}

}  // namespace
}  // namespace sublet
