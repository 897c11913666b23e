// node/node_core.h
//
// The inside of a LocalNode (node/local_node.h). Internal to the module. Its functions are in
//
//   local_node.cc        opening, status, the regular look around
//   node_resume.cc       taking over what an earlier daemon left
//   node_shares.cc       shares of `sublet run`, domains made for them
//   node_changes.cc      plans up and down
//   node_mig.cc          MIG, for plans, for shares and by itself
//   node_sickness.cc     what the driver tells of the GPUs, and what follows
//
// Thread safety: the loop's thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_descriptor.h"
#include "inventory/nvml_library.h"
#include "mig/mig_apply.h"
#include "node/admission.h"
#include "node/bell.h"
#include "node/domain_keeper.h"
#include "node/gpu_health.h"
#include "node/health_watch.h"
#include "node/held_share.h"
#include "node/local_node.h"
#include "node/node_parts.h"
#include "node/plan_diff.h"
#include "node/process_owners.h"
#include "node/replica_keeper.h"
#include "node/share_search.h"
#include "node/usage.h"
#include "node/xid_rules.h"

namespace sublet {

// In a MigInstanceRow's place: that MIG mode was turned on.
inline constexpr int kModeRow = -1;
// Whom instances were made for. What was asked for by itself is the user's, and has no row.
inline constexpr std::string_view kMadeForUser = "user";
inline constexpr std::string_view kMadeForPlan = "plan ";

// What one look at the driver and /proc found; made on a worker.
struct Sighting {
  UsageSample sample;
  ProcessOwners owners;
};

// Its functions are also called by coroutines that outlive the call, so it is always shared.
class NodeCore : public std::enable_shared_from_this<NodeCore> {
 public:
  NodeCore(asio::io_context& loop, asio::thread_pool& pool, NodeOptions options, NodeStore store);

  Status Begin();  // The inventory, the devices.

  // local_node.cc
  Task<Status> Resume();
  Task<NodeStatus> Fresh();
  NodeCounters Counters() const;
  Status MayAdminister(const Peer& by) const;
  bool Idle() const;
  void LetGo();

  // node_shares.cc
  Task<Result<Granted>> Grant(ShareRequest request, Peer peer);
  Task<Status> Release(std::string id, Peer by);
  Result<std::shared_ptr<const ReplicaLog>> Log(const std::string& name, const Peer& by) const;

  // node_changes.cc, node_mig.cc
  Task<Status> Up(Plan plan, std::string directory, Progress progress);
  Result<std::vector<std::string>> UpSteps(const Plan& wanted, const std::string& directory);
  Task<Status> Down(Progress progress);
  Task<Status> ChangeMig(std::vector<MigTarget> targets, Progress progress);
  Result<std::vector<MigStep>> MigStepsFor(const std::vector<MigTarget>& targets);
  Status Restart(const std::string& replica, const Peer& by);
  Status ClearHealth(const std::string& gpu, const Peer& by);

  Task<Result<Inventory>> TakeStock();

  NodeOptions options;
  NodeSettings settings;
  NodeStore store;
  EventLog events;
  NodeCounters counters;
  std::shared_ptr<ShareSearch> search;
  NodeParts parts;
  std::optional<PlanRow> plan_row;
  std::optional<Plan> plan;

 private:
  // What goes on at one time: the plan or MIG being changed. Whoever comes second is refused, with
  // what is under way.
  class Turn {
   public:
    Turn(NodeCore& node, std::string what) : node_(node) { node_.operation_ = std::move(what); }
    ~Turn() {
      node_.operation_.clear();
      node_.operation_over_.Announce();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    static Status Free(const NodeCore& node);

   private:
    NodeCore& node_;
  };

  Task<void> LookAround();
  NodeStatus Now();
  Task<void> Look();
  Task<void> LookOnce();
  void EndUnconfined(const Sighting& seen);
  void RetireDomains();
  Task<void> RetireDomain(std::string name);
  void BookDevices();
  ProcessOwners KnownProcesses() const;
  std::vector<Share> Shares() const;
  std::string Obstacle(const std::string& gpu_uuid) const;
  // As whom a tenant's replicas run, or a domain's processes; absent: as the daemon.
  std::optional<UserIds> UserOf(const std::string& tenant) const;
  std::optional<UserIds> UserOf(const Domain& domain) const;
  bool IsOfTenant(const Peer& by, const std::string& tenant) const;
  Result<Requester> RequesterOf(const Peer& peer) const;

  // node_resume.cc
  Task<void> EndStrays(const NodeRecord& record);
  void ResumeDomains(const NodeRecord& record);
  void RemoveStrayLogs(const NodeRecord& record);
  void ResumeShares(const NodeRecord& record);
  Task<void> AwaitReturns(const NodeRecord& record);
  void ResumeReplica(const ShareRow& row, const std::map<std::string, ReplicaRow>& history);
  Task<void> FinishRemoval(std::string replica);
  Task<void> GoOn(std::optional<OperationRow> operation);
  Task<void> RemoveOrphans();
  bool LacksReplicas();
  Status Rebuild(NodeRecord& record);
  std::optional<ShareRow> RebuiltShare(const ProcessIdentity& process, const std::string& id,
                                       const std::string& mark) const;
  std::optional<DomainRow> RebuiltDomain(const ProcessIdentity& process,
                                         const std::string& mark) const;
  bool MayHold(uid_t uid, const std::string& tenant) const;
  std::optional<MigSeat> SeatOfDevice(const std::string& gpu_uuid,
                                      const std::string& mig_uuid) const;

  // Shares and domains.
  Task<Result<Granted>> TryGrant(ShareRequest request, Peer peer);
  Task<Result<sublet::Grant>> Decide(ShareRequest request, Requester requester);
  bool SharesReturn() const;
  Task<Status> PrepareDomain(Share share, std::optional<Domain> new_domain);
  Task<Status> MakeInstance(const MigToMake& make, Share& share);
  Task<void> AwaitShareMig(bool operation_too);
  Status KeepInstance(const Share& share);
  Task<void> RemoveInstances(std::string share);
  Result<ProcessHandle> HolderOf(const Peer& peer) const;
  std::string PipeOf(const Share& share) const;
  std::shared_ptr<DomainKeeper> MakeDomain(const DomainTarget& target,
                                           std::optional<DomainRow> found);
  std::shared_ptr<DomainKeeper> FindDomain(const std::string& name) const;
  void Hold(ShareRow row, std::optional<ProcessHandle> process);
  void OnReturned(const std::string& id);
  Task<Status> EndHeld(std::shared_ptr<HeldShare> held);
  void OnFault(const std::string& domain, const std::string& text);
  Task<void> EndStragglers(std::string domain);
  Result<std::string> LogFileFor(const Share& share, const Peer& peer) const;

  // Changes.
  PlanTarget Current();
  Result<PlanTarget> TargetFor(const Plan& wanted, const std::string& directory);
  Result<PlanTarget> SideOf(const std::optional<PlanRow>& row);
  Status OneUserEach(const PlanTarget& target) const;
  Status Fits(const PlanTarget& target);
  Task<void> GiveUpOperation();
  Task<Status> Finish(OperationRow operation, const Progress& progress);
  Status Settle(const std::optional<PlanRow>& row);
  Task<Status> GoTo(const std::optional<PlanRow>& row, const Progress& progress);
  Task<Status> MakeSo(PlanTarget wanted, std::string made_for, const Progress& progress);
  Task<Status> StopReplica(PlanStep step, Progress progress);
  Task<Status> EndDomain(PlanStep step, Progress progress);
  Task<Status> StartDomain(PlanStep step, const PlanTarget& target, Progress progress);
  Task<Status> StartReplicas(std::vector<ReplicaTarget> replicas, const Progress& progress);
  Task<Status> StartReplica(ReplicaTarget target, Progress progress);
  std::shared_ptr<ReplicaKeeper> MakeReplica(const ReplicaTarget& target,
                                             std::optional<ShareRow> found,
                                             std::optional<ReplicaRow> history);
  Task<Status> ApplyMig(std::vector<MigTarget> targets, std::string made_for,
                        const Progress& progress);
  Task<Status> UndoMig();
  Task<Status> FinishMig(OperationRow operation, const Progress& progress);
  Result<std::string> MigUuidAt(const std::string& gpu_uuid, const MigSeat& seat) const;
  bool IsOfPlan(const MigInstanceRow& row) const;

  // Sickness.
  void WatchHealth();
  void OnSighting(const HealthSighting& seen);
  void OnSightingOf(const std::string& gpu_uuid, const HealthSighting& seen);
  void LookForHungDriver();
  void OnHealthChange(const std::string& gpu_uuid, const HealthChange& change);
  Task<void> MoveAway(std::string gpu_uuid);
  Task<void> MoveReplica(std::shared_ptr<ReplicaKeeper> replica);
  Task<void> DriverIsBack();

  FileDescriptor run_lock_;  // Of the folder of the domains.
  std::optional<NvmlLibrary> nvml_;
  Inventory inventory_;
  std::optional<Ledger> ledger_;
  std::map<std::string, std::shared_ptr<DomainKeeper>> domains_;  // By name.
  std::map<std::string, Moment> domain_free_since_;               // Of those without shares.
  std::set<std::string> retiring_;                                // Domains on their way out.
  Broadcast retired_;
  Broadcast returned_;
  std::map<std::string, std::shared_ptr<ReplicaKeeper>> replicas_;  // By replica's id.
  std::map<std::string, std::shared_ptr<HeldShare>> held_;          // By share's id.
  std::vector<MigInstanceRow> instances_;                           // That we made.
  std::string operation_;   // What is being done, for people; empty: nothing.
  bool share_mig_ = false;  // An instance is made or removed for a share of `sublet run`.
  bool given_up_ = false;   // The operation that goes on is to end, and be undone.
  Broadcast operation_over_;

  XidOverrides xids_;
  std::map<std::string, HealthJudge> health_;  // By GPU.
  std::unique_ptr<HealthWatch> watch_;
  std::shared_ptr<ProcessDirectory> directory_;
  std::shared_ptr<UsageCursor> cursor_ = std::make_shared<UsageCursor>();
  UnconfinedSearch unconfined_;
  UsageSample sample_;
  NodeUsage usage_;
  Moment looked_at_{};  // By somebody, for whom figures are to be fresh.
  Moment rotated_{};
  Moment sampled_at_{};
  bool looking_ = false;
  Broadcast looked_;
  Bell bell_;
  bool stopping_ = false;
  const Moment began_ = Clock();
};

}  // namespace sublet
