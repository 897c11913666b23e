// kube/mps_pool.h
//
// The MPS servers of a node's devices: one for each device that is shared by MPS, or one for each
// device and tenant.
//
//   ASSIGN_OR_RETURN(auto pool, MpsPool::Open(loop, threads, options, changed));
//   pool->Want({{.device = uuid, .gpu_uuid = uuid, .wall = {20_GiB, 25}, .sm_count = 108}});
//   pool->Obstacle(uuid)            // Why its server takes nobody now; empty: it does.
//   pool->FolderOf(uuid)            // What a container mounts.
//   ASSIGN_OR_RETURN(const std::string server, co_await pool->ForTenant(uuid, "team-a"));
//
//   <root>/state/                        what is to survive this program (store/node_store.h)
//   <root>/servers/<device>/pipe         CUDA_MPS_PIPE_DIRECTORY of its control daemon
//   <root>/servers/<device>.<tenant>/pipe
//   <root>/claims/<claim>  -> ../servers/...   which server a container's mount leads to
//   <root>/shm                           NVIDIA's: a tmpfs that is everybody's /dev/shm
//
// One server a device, and not one a resource as NVIDIA has it: a fault on one GPU takes down the
// clients of that GPU alone, MIG devices can have servers, and shares of different size on one GPU
// run at once instead of by turns. docs/decisions/0010-device-plugin.md.
//
// A container mounts the folder above the pipe directory, because a server that replaces another
// has a new pipe directory: a process that begins afterwards in an old container still finds it,
// instead of running on the whole GPU without a word.
//
// Control daemons outlive this program; the next one takes them over (node/domain_keeper.h). A
// server whose limits are to be others is replaced once it has no clients; until then the device
// has an obstacle.
//
// Where there is one server for a whole GPU, the GPU is in exclusive-process mode while it is
// wanted, so that no process misses the server. The mode before is put back.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"
#include "kube/allocation.h"
#include "model/device_plugin_config.h"
#include "node/bell.h"
#include "node/domain_keeper.h"

namespace sublet {

struct MpsPoolOptions {
  std::string root;       // As this process sees it; absolute.
  std::string host_root;  // As the host does.
  std::string program;    // Path of `sublet`, for the probes.
  std::string nvml;
  std::string libraries;  // Of a simulated driver, else empty.
  bool exclusive_mode = true;
  // A claim stays at least so long: who lists what is in use may not have known it yet.
  double claim_grace_s = 30;
};

// A device that is to have a server, or servers of tenants.
struct MpsWant {
  std::string device;    // UUID of the GPU or MIG device.
  std::string gpu_uuid;  // Of the GPU that it is, or is on.
  Bytes memory;          // Of the device.
  ShareSize wall;        // The server's defaults: no client gets more. Absent: all of the device.
  int sm_count = 0;      // Of the device; 0: unknown.
  bool per_tenant = false;

  bool IsMig() const { return device != gpu_uuid; }
  friend bool operator==(const MpsWant&, const MpsWant&) = default;
};

class MpsServer;

class MpsPool : public std::enable_shared_from_this<MpsPool> {
 public:
  // Opens the state and takes over what runs. `changed` is called when a device's obstacle is
  // another. Fails as NodeStore::Open() and with kUsage where the root's path is too long.
  static Result<std::shared_ptr<MpsPool>> Open(asio::io_context& loop, asio::thread_pool& threads,
                                               MpsPoolOptions options,
                                               std::function<void()> changed);
  ~MpsPool();

  // From now on these devices, and no others. Servers of devices that aren't named end as soon as
  // they have no clients.
  void Want(const std::vector<MpsWant>& wants);

  // Of any device: why a container shouldn't be started on it now. Empty where nothing speaks
  // against it, be it that it has no server or that its server is ready.
  std::string Obstacle(std::string_view device) const;
  // What a container mounts to be a client of the device's server, or, where each tenant has one,
  // of the one that its claim will lead to. Absent for a device that isn't wanted.
  std::optional<MpsServerFolder> FolderOf(std::string_view device, std::string_view resource,
                                          const std::string& claim) const;

  // Starts the tenant's server where it doesn't run, and makes the claim lead to it.
  Task<Status> Claim(std::string claim, std::string device, std::string tenant);
  // Claims that are no longer named are dropped, and tenants' servers to which no claim leads end.
  void KeepClaims(const std::set<std::string>& claims);

  // Ends every server, also with its clients, and puts compute modes back.
  Task<Status> EndAll();

  // For people: each server's state, and the name of the server that each claim leads to.
  std::vector<DomainStatus> Servers() const;
  std::map<std::string, std::string, std::less<>> Claims() const;

 private:
  struct Parts;
  struct MadeClaim {
    std::string server;  // Its name.
    Moment since;
  };

  MpsPool(asio::io_context& loop, MpsPoolOptions options, std::function<void()> changed);
  Status ReadWhatIsThere();
  std::shared_ptr<MpsServer> Add(const std::string& name, const std::string& tenant);
  void Sort(MpsServer& server);
  std::string ShmOnHost() const;

  asio::io_context& loop_;
  const MpsPoolOptions options_;
  const std::function<void()> changed_;
  std::unique_ptr<Parts> parts_;
  std::map<std::string, MpsWant, std::less<>> wants_;          // By device.
  std::map<std::string, std::shared_ptr<MpsServer>> servers_;  // By name.
  std::map<std::string, MadeClaim> claims_;
};

// The folder that the host calls `mps_root`, as this process sees it: NVIDIA's manifests mount it
// at /mps.
std::string MpsRootHere(const std::string& mps_root);

// For who uninstalls: ends every server below the root, puts compute modes back and removes what a
// pool had to remember.
Task<Status> EndMpsServers(asio::io_context& loop, asio::thread_pool& threads,
                           MpsPoolOptions options);

// The name of a container's claim: the same for the same devices.
std::string ClaimName(std::string_view resource, std::vector<std::string> ids);

}  // namespace sublet
