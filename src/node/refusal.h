// node/refusal.h
//
// Why a device can't take a request, and the error that says so for all of them.
//
//   std::vector<Refusal> refusals = ...;          // One for each device, as admission found it.
//   return RefusalError({.request = request, .tenant = "search"}, refusals, ledger);
//   // no room for 20.0 GiB: GPU 0 has 5.0 GiB of 79.3 GiB left: 70.0 GiB are booked by 4 shares,
//   // python3 (pid 4711) holds 4.3 GiB; ...   (hint: at most 4.7 GiB would fit now; ...)
//
// Thread safety: pure.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/share.h"
#include "node/ledger.h"

namespace sublet {

struct Refusal {
  // In the order in which they say what stands in the way: the last one that a device came to is
  // the one nearest to a grant.
  enum class Why {
    kNoMode,        // The device can't run the mode.
    kNoMpsFor,      // The node can't run an MPS server as the user who asks.
    kMigMode,       // A GPU in MIG mode, asked for as a whole.
    kNotMig,        // A GPU without MIG mode, asked for a MIG device.
    kNoMigChange,   // This daemon can't make instances.
    kTooSmall,      // Even when it is empty.
    kTooFewSms,     // As kTooSmall.
    kObstacle,      // Device::obstacle
    kHeldAlone,     // By a share of mode exclusive or mig.
    kOtherMode,     // Shared in another mode.
    kHasShares,     // Wanted alone.
    kForeign,       // Wanted alone.
    kNoSeat,        // No instance can be made beside those that there are.
    kDomainLimits,  // The tenant's MPS server was started with smaller ones.
    kClientsMax,    // The tenant's MPS server is full.
    kNoRoom,        // Memory.
    kQuota,         // There is room, but not for this tenant.
  };
  Why why = Why::kNoMode;
  const Device* device = nullptr;
  SharingMode mode = SharingMode::kExclusive;  // That was tried.
  Bytes need{};                                // Memory to book.
  Bytes left{};                                // Before it; of kTooSmall, all that there is.
  Bytes context{};                             // The part of `need` that is the CUDA context.
  std::string detail{};  // kNoMpsFor, kDomainLimits, kClientsMax, kNoSeat, kQuota.
};

struct Asked {
  const ShareRequest& request;
  const std::string& tenant;
};

// "10.0 GiB and 20 % of the SMs", "a whole GPU", "a MIG instance 1g.10gb"
std::string DescribeRequest(const ShareRequest& request);

// kConflict where a device would do if others held less, else kInfeasible where one is only too
// small, else kUnsupported. REQUIRES: one refusal at least.
Error RefusalError(const Asked& asked, const std::vector<Refusal>& refusals, const Ledger& ledger);

}  // namespace sublet
