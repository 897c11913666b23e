// node/admission.h
//
// Who gets which part of which GPU: the decision about a request, from the books alone.
//
//   ASSIGN_OR_RETURN(Grant grant, Admit(ledger, request, {.uid = 1000, .user = "alice"}));
//   grant.share.id = store.TakeShareId();
//   RETURN_IF_ERROR(ledger.Book(grant.share));
//
// What a request gets:
//
//   nothing limited              exclusive: a whole GPU without shares and foreign processes
//   memory or SMs limited        mps, where a device can run it and has the room; else mig
//   mode mps                     a client of its tenant's domain on the device; one domain for each
//                                tenant, user and device, made with its first share, because an MPS
//                                server takes clients of its own user only. The domains of a plan
//                                take the plan's replicas alone
//   mode mig                     a free MIG device that is large enough, the smallest; else an
//                                instance to make, where that destroys nothing. SMs are counted in
//                                percent of the whole GPU
//   mode time-slicing            a device that is not in another mode; memory is booked, and marked
//                                as not enforced
//
// Of the devices that would do, one where the tenant's domain is already comes first; then the one
// with the least memory left; then the lowest index. A MIG device is taken for other modes than mig
// only where the request names it: a percentage of its SMs is not what somebody means who thinks of
// a GPU.
//
// Memory is never booked twice: what is booked, what foreign processes hold and the request must
// fit into the device together. A request that limits no memory books its CUDA context alone, and
// its share says that nothing holds it. SM caps are maxima and may add up to more than 100. A
// device is in one mode at a time, but for a request that names both device and mode: that may join
// time-slicing and mps.
//
// Thread safety: pure.
#pragma once

#include <optional>

#include "base/result.h"
#include "model/mig_target.h"
#include "model/share.h"
#include "mps/mps_daemon.h"
#include "node/device_list.h"
#include "node/ledger.h"
#include "node/tenancy.h"

namespace sublet {

// What a server without clients holds of its device: 74 MiB on an H200 with driver 580.
inline constexpr Bytes kMpsServerMemory = 80_MiB;

// A MIG instance that has to be made first.
struct MigToMake {
  std::string gpu_uuid;
  MigSeat seat;
};

struct Grant {
  Share share;                       // Without id; without mig_uuid where `make` is given.
  std::optional<Domain> new_domain;  // To be started first, where it isn't there already.
  std::optional<MigToMake> make;
};

// Errors:
//  - kNotFound for an unknown tenant, GPU or profile, with those that there are
//  - kPermission for a tenant that isn't the user's; kInvalid where several are and none is named
//  - kInfeasible where the devices are too small even when empty
//  - kConflict where one would do if others held less, the quota were larger or the GPU were well
//  - kUnsupported where nothing here can run or enforce what is asked
// Messages have the figures, device by device, and hints the way out.
Result<Grant> Admit(const Ledger& ledger, const ShareRequest& request, const Requester& requester);

}  // namespace sublet
