// node/local_node.h
//
// This machine as a place where models run: it grants shares, brings plans up and keeps them up.
//
//   ASSIGN_OR_RETURN(auto node, LocalNode::Open(loop, pool, options));
//   RETURN_IF_ERROR(co_await node->Resume());              // What ran before goes on.
//   Result<Granted> granted = co_await node->Grant(request, peer);
//   Status up = co_await node->Up(plan, directory, [](const ProgressLine& line) { ... });
//
// All state is in memory, owned by the loop; the store has what must survive, written before the
// effect it announces. At start the two are brought together: what the rows name and the kernel
// still has is taken over, what was half done is finished or undone, what nobody asked for any more
// is ended.
//
//   LocalNode ── Ledger             who holds how much of what (node/admission.h), pure
//    ├── DomainKeeper[]        one for each MPS domain
//    ├── ReplicaKeeper[]       one for each replica of the plan
//    ├── HeldShare[]           one for each `sublet run`
//    ├── HealthWatch           what the driver tells of the GPUs
//    └── NodeStore, EventLog   the journal
//
// One change of the plan or of MIG at a time; a second one is refused with what is under way.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"
#include "http/http_server.h"
#include "model/daemon_config.h"
#include "model/inventory.h"
#include "model/mig_target.h"
#include "model/node_counters.h"
#include "model/node_status.h"
#include "model/plan.h"
#include "model/share.h"
#include "node/event_log.h"
#include "node/launcher.h"
#include "node/replica_log.h"

namespace sublet {

struct NodeOptions {
  std::string state;      // Absolute folder of the store and the logs.
  std::string run;        // Absolute folder for the MPS domains' sockets; a short path.
  std::string program;    // Path of `sublet`.
  std::string nvml;       // What NvmlLibrary::Open takes.
  std::string libraries;  // For LD_LIBRARY_PATH of tenants; empty: as it is.
  std::string version;
  DaemonConfig config;
  bool rebuild = false;  // The store is new: take what processes' marks and the driver show.
};

// A share and what its process has to be started with; nullopt: the variable is to be unset.
struct Granted {
  Share share;
  EnvironmentChanges environment;
  std::string log;  // Where its output may go, for the holder to append to.
};

// What an operation says of itself as it goes.
struct ProgressLine {
  std::string step;   // "replica chat/3"
  std::string state;  // "starting", "done", "failed"
  std::string message;
};
using Progress = std::function<void(const ProgressLine&)>;

class NodeCore;

class LocalNode {
 public:
  // Opens the store and reads the inventory; blocks. Fails as those do.
  static Result<std::unique_ptr<LocalNode>> Open(asio::io_context& loop, asio::thread_pool& pool,
                                                 NodeOptions options);
  ~LocalNode();
  LocalNode(const LocalNode&) = delete;
  LocalNode& operator=(const LocalNode&) = delete;

  // Once, before anything else: takes over what runs, finishes or undoes what was begun. Returns
  // when the node's books are right; replicas may still be starting.
  Task<Status> Resume();

  // Books a share for the peer's process, which holds it until it ends.
  Task<Result<Granted>> Grant(ShareRequest request, Peer peer);
  // Takes a share back before its process has ended; that is told to end. The share's own user and
  // administrators may.
  Task<Status> Release(std::string id, Peer by);

  // Makes the plan so: the smallest change from what is. When a step fails, what was there before
  // is put back, and the error says both.
  Task<Status> Up(Plan plan, std::string directory, Progress progress);
  // The steps that Up() would take, one sentence each.
  Result<std::vector<std::string>> UpSteps(const Plan& plan, const std::string& directory);
  Task<Status> Down(Progress progress);

  // Changes the GPUs' MIG geometry; instances in use, or held by shares, stay.
  Task<Status> ChangeMig(std::vector<MigTarget> targets, Progress progress);
  Result<std::vector<std::string>> MigSteps(const std::vector<MigTarget>& targets);

  Status Restart(const std::string& replica, const Peer& by);
  // An administrator's word that a GPU, by UUID or index, is well again: after a reset that the
  // driver doesn't show. Fails with kConflict where it is still seen not to be.
  Status ClearHealth(const std::string& gpu, const Peer& by);
  // The log of a replica, or of a share by its id; kPermission where it is another tenant's.
  Result<std::shared_ptr<const ReplicaLog>> Log(const std::string& replica, const Peer& by) const;

  // With what the driver said within the last second.
  Task<NodeStatus> Now();
  Task<Result<Inventory>> TakeStock();
  const std::optional<Plan>& plan() const;
  EventLog& events();
  NodeCounters Counters() const;

  // Whether a peer may change the plan, MIG, and what others hold.
  Status MayAdminister(const Peer& by) const;
  // Nothing is up or held, so a daemon that was started for it may go.
  bool Idle() const;
  // Lets go of everything without ending it: the next daemon takes it over.
  void LetGo();

 private:
  explicit LocalNode(std::shared_ptr<NodeCore> core) : core_(std::move(core)) {}
  std::shared_ptr<NodeCore> core_;
};

}  // namespace sublet
