// node/admission.h
//
// Who gets which part of which GPU: the books of what is held, and the decision about a request.
//
//   Ledger ledger(DevicesOf(inventory, foreign), tenants, contexts);
//   ASSIGN_OR_RETURN(Grant grant, Admit(ledger, request, {.uid = 1000, .user = "alice"}));
//   grant.share.id = store.TakeShareId();
//   RETURN_IF_ERROR(ledger.Book(grant.share));
//   ...
//   ledger.Release("s17");
//
// A device is a whole GPU without MIG instances, or one MIG device. What a request gets:
//
//   nothing limited              exclusive: a device without shares and foreign processes
//   memory or SMs limited        the first of mps and mig that can enforce it there
//   mode mps                     a client of its tenant's domain on the device; one domain for each
//                                tenant and device, made with its first share
//   mode mig                     a free MIG device that is large enough, the smallest; else an
//                                instance to make, where that destroys nothing
//   mode time-slicing            a device that is not in another mode; limits are booked, and
//                                marked as not enforced
//
// Of the devices that would do, the one with the least memory left that fits; one where the
// tenant's domain is already comes first; then the lowest index. The decision is a function of the
// books alone.
//
// Memory is never booked twice: what is booked, what foreign processes hold and the request must
// fit into the device together. SM caps are maxima and may add up to more than 100.
//
// Thread safety: values; one thread at a time for each Ledger.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/daemon_config.h"
#include "model/inventory.h"
#include "model/mig_target.h"
#include "model/node_status.h"
#include "model/share.h"

namespace sublet {

// Where shares can be: a whole GPU, or one MIG device of it.
struct Device {
  std::string gpu_uuid;
  std::string mig_uuid;  // Empty: the whole GPU.
  int gpu_index = 0;
  std::string profile;  // Of the MIG device's instance: "1g.10gb"; empty: the whole GPU.
  Bytes memory;         // That shares can use: the driver's reserve taken off.
  int sm_count = 0;
  std::set<SharingMode> modes;          // That can run here.
  std::string obstacle;                 // Why it gets no new share ("XID 79 ..."); empty: it may.
  std::vector<ForeignProcess> foreign;  // Not Sublet's, on this device.

  const std::string& uuid() const { return mig_uuid.empty() ? gpu_uuid : mig_uuid; }
};

// The devices of a node: each MIG device of GPUs in MIG mode, the others whole. `foreign` and
// `obstacles` by GPU's UUID; a GPU with a problem has it as its obstacle.
std::vector<Device> DevicesOf(const Inventory& inventory,
                              const std::map<std::string, std::vector<ForeignProcess>>& foreign,
                              const std::map<std::string, std::string>& obstacles);

// The CUDA context of a process on a device: of `sm_percent` of its SMs under MPS, of all without
// (absent).
using ContextSize = std::function<Bytes(const Device&, std::optional<int> sm_percent)>;

class Ledger {
 public:
  Ledger(std::vector<Device> devices, std::vector<TenantConfig> tenants, ContextSize contexts);

  // The same books for other devices, after MIG, health or foreign processes have changed. Shares
  // whose device is gone stay booked.
  void SetDevices(std::vector<Device> devices);

  // Fails with kConflict where the device hasn't the room, or isn't there, and books nothing. A
  // share with the id of a booked one is our own mistake.
  Status Book(const Share& share);
  void Release(std::string_view share_id);  // Does nothing where it isn't booked.

  // A domain exists as long as it is in the books, with shares or without.
  void AddDomain(const Domain& domain);
  void RemoveDomain(std::string_view name);

  const std::vector<Device>& devices() const;
  std::vector<const Share*> SharesOn(std::string_view device_uuid) const;
  int SharesIn(std::string_view domain) const;
  Bytes BookedOn(std::string_view gpu_uuid) const;  // With all its MIG devices.
  const std::vector<TenantConfig>& tenants() const;

 private:
  friend class Admission;
  // (as the implementation needs)
};

struct Requester {
  uid_t uid = 0;
  std::string user;         // Name of that user.
  bool own_daemon = false;  // The daemon's own user, or root.
};

// A MIG instance that has to be made first.
struct MigToMake {
  std::string gpu_uuid;
  MigSeat seat;
};

struct Grant {
  Share share;                       // Without id; without mig_uuid where `make` is given.
  std::optional<Domain> new_domain;  // To be started first.
  std::optional<MigToMake> make;
};

// Errors: kNotFound for an unknown tenant, GPU or profile (with those that there are), kPermission
// for a tenant that isn't the user's, kInfeasible where no device of this node could ever do,
// kConflict where one could if others held less or the quota were larger, with the figures, and
// kUnsupported where nothing can enforce what is asked.
Result<Grant> Admit(const Ledger& ledger, const ShareRequest& request, const Requester& requester);

}  // namespace sublet
