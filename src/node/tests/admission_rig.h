// node/tests/admission_rig.h
//
// Devices, requests and books for the tests of admission.
//
//   Ledger ledger = LedgerOf({WholeGpu(0, 80_GiB)});
//   const Grant grant = Granted(ledger, {.memory = 10_GiB});
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "node/admission.h"

namespace sublet {

// 200 MiB for a context that may use all SMs, in proportion below.
inline Bytes TestContext(const Device&, std::optional<int> sm_percent) {
  return Bytes::FromMib(2 * sm_percent.value_or(100));
}

inline Device WholeGpu(int index, Bytes memory) {
  Device device;
  device.gpu_uuid = fmt::format("GPU-{}", index);
  device.gpu_index = index;
  device.memory = memory;
  device.sm_count = device.gpu_sm_count = 100;
  device.modes = {SharingMode::kExclusive, SharingMode::kTimeSlicing, SharingMode::kMps};
  return device;
}

// A GPU in MIG mode, on which instances can be made.
inline Device MigGpu(int index) {
  Device device = WholeGpu(index, 80_GiB);
  device.mig_mode = true;
  device.modes = {SharingMode::kMig};
  return device;
}

inline Device MigDevice(int index, int number, const std::string& profile, Bytes memory, int sms) {
  Device device = WholeGpu(index, memory);
  device.mig_uuid = fmt::format("MIG-{}000000{}-x", index, number);
  device.profile = profile;
  device.sm_count = sms;
  device.modes.insert(SharingMode::kMig);
  return device;
}

inline MigOffer OfferOf(const std::string& profile, Bytes memory, int sms,
                        const std::vector<int>& starts) {
  MigOffer offer;
  offer.profile = profile;
  offer.memory = memory;
  offer.sm_count = sms;
  for (const int start : starts) {
    MigSeat seat;
    seat.profile = profile;
    seat.start = start;
    seat.size = 1;
    offer.seats.push_back(seat);
  }
  return offer;
}

inline Ledger LedgerOf(std::vector<Device> devices, std::vector<TenantConfig> tenants = {}) {
  return Ledger(std::move(devices), std::move(tenants), TestContext);
}

inline Requester Owner() {
  Requester requester;
  requester.user = "root";
  requester.own_daemon = true;
  return requester;
}

// What is asked for, field by field, without a warning about those left out.
struct Wish {
  std::optional<SharingMode> mode{};
  std::optional<Bytes> memory{};
  std::optional<int> sm_percent{};
  std::string tenant{};
  std::string gpu{};
  std::string profile{};

  ShareRequest Request() const {
    ShareRequest request;
    request.name = "test";
    request.mode = mode;
    request.memory = memory;
    request.sm_percent = sm_percent;
    request.tenant = tenant;
    request.gpu = gpu;
    request.profile = profile;
    return request;
  }
};

// The grant, booked with an id and its domain.
inline Result<Grant> AdmitAndBook(Ledger& ledger, const Wish& wish, int number,
                                  const Requester& requester = Owner()) {
  ASSIGN_OR_RETURN(Grant grant, Admit(ledger, wish.Request(), requester));
  if (grant.make) return grant;
  grant.share.id = fmt::format("s{}", number);
  RETURN_IF_ERROR(ledger.Book(grant.share));
  if (grant.new_domain) ledger.AddDomain(*grant.new_domain);
  return grant;
}

}  // namespace sublet
