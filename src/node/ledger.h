// node/ledger.h
//
// The books of a node: what each share holds of which device, and what is left.
//
//   Ledger ledger(DevicesOf(inventory, foreign, obstacles), config.tenants, contexts);
//   RETURN_IF_ERROR(ledger.Book(share));
//   ledger.BookedOn("GPU-...")
//   ledger.Release("s17");
//
// Sums are kept as shares come and go, so that a decision (node/admission.h) looks at devices, not
// at shares: it takes microseconds with 500 of them.
//
// Thread safety: a value; one thread at a time for each Ledger.
#pragma once

#include <cstddef>
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
#include "model/share.h"
#include "node/device_list.h"

namespace sublet {

// The CUDA context of a process on a device: of `sm_percent` of its SMs under MPS, of all without
// (absent).
using ContextSize = std::function<Bytes(const Device&, std::optional<int> sm_percent)>;

class Ledger {
 public:
  // `tenants` empty: each user is one. Each device once.
  Ledger(std::vector<Device> devices, std::vector<TenantConfig> tenants, ContextSize contexts);

  // The same books for other devices, after MIG, health or foreign processes have changed. Shares
  // whose device is gone stay booked.
  void SetDevices(std::vector<Device> devices);

  // Fails with kConflict where the device hasn't the room, is held alone or isn't there, and books
  // nothing. A share that is to have its device alone fails where others are on it. Health and
  // quotas are not asked: a plan is an administrator's. A share with the id of a booked one is our
  // own mistake.
  Status Book(const Share& share);
  // Books a share that is held already, whatever room there is: after a restart its memory is in
  // use, and the books had better say so.
  void Keep(const Share& share);
  void Release(std::string_view share_id);  // Does nothing where it isn't booked.

  // A domain exists as long as it is in the books, with shares or without.
  void AddDomain(const Domain& domain);
  void RemoveDomain(std::string_view name);

  const std::vector<Device>& devices() const { return devices_; }
  const Device* FindDevice(std::string_view uuid) const;            // nullptr: isn't there.
  std::vector<const Share*> SharesOn(std::string_view uuid) const;  // Of a device; by id.
  int SharesIn(std::string_view domain) const;
  Bytes BookedOn(std::string_view gpu_uuid) const;  // With all its MIG devices.
  const std::vector<TenantConfig>& tenants() const { return tenants_; }

 private:
  friend class Admission;

  struct DeviceSums {
    Bytes booked;
    int shares = 0;
    int exclusive = 0;  // Those of mode exclusive or mig.
    int time_slicing = 0;
    int mps = 0;
    int sm_percent = 0;  // Of caps; a share without one counts as 100.
  };
  struct TenantSums {
    Bytes memory;
    int sm_percent = 0;  // Of whole GPUs.
    int shares = 0;
  };
  struct Held {
    Share share;
    int gpu_percent = 0;  // What it counts for its tenant; kept, since its device may go.
  };

  // What a share on `device` counts of a whole GPU's SMs.
  static int GpuPercent(const Device* device, std::optional<int> sm_percent);
  void Add(const Share& share);

  std::vector<Device> devices_;
  std::vector<TenantConfig> tenants_;
  ContextSize contexts_;
  std::map<std::string, std::size_t, std::less<>> device_at_;  // By UUID, in devices_.
  std::map<std::string, DeviceSums, std::less<>> sums_;        // By UUID.
  std::map<std::string, std::set<std::string>, std::less<>> ids_on_;
  std::map<std::string, Held, std::less<>> held_;  // By share's id.
  std::map<std::string, TenantSums, std::less<>> tenant_sums_;
  std::map<std::string, Domain, std::less<>> domains_;                    // By name.
  std::map<std::string, std::set<std::string>, std::less<>> domains_on_;  // Names, by UUID.
  std::map<std::string, int, std::less<>> domain_shares_;                 // By name.
};

// What foreign processes hold of a device.
Bytes ForeignMemory(const Device& device);

}  // namespace sublet
