// node/replica_keeper.h
//
// Keeps one replica of the plan running in its share: starts it, asks whether it is ready, starts
// it again when it ends, and stops it when it is no longer wanted.
//
//   auto replica = std::make_shared<ReplicaKeeper>(parts, target, share, surroundings, changed);
//   replica->Begin({});                              // Or with its rows, to take over what runs.
//   RETURN_IF_ERROR(co_await replica->AwaitReady());
//   ...
//   RETURN_IF_ERROR(co_await replica->End());
//
// Its process is never without a row in the store: kCreating before it is started, with its number
// and start time afterwards. It outlives this program. It is started only while its GPU is healthy
// and its MPS domain ready, with the limits of its share confirmed; when the domain's generation
// has changed since, its context is lost or soon will be, and it is started again.
//
// Thread safety: the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/process_handle.h"
#include "base/user.h"
#include "model/node_status.h"
#include "node/bell.h"
#include "node/domain_keeper.h"
#include "node/launcher.h"
#include "node/node_parts.h"
#include "node/plan_diff.h"
#include "node/replica_log.h"

namespace sublet {

class ReplicaKeeper : public std::enable_shared_from_this<ReplicaKeeper> {
 public:
  struct Setup {
    ReplicaTarget target;  // With its share, which has its id.
    std::optional<UserIds> run_as;
    std::shared_ptr<DomainKeeper> domain;  // Null without MPS.
    // Whether its GPU can be given work; the sentence why not, else empty.
    std::function<std::string()> obstacle;
    std::function<void()> changed;
  };

  ReplicaKeeper(NodeParts& parts, Setup setup);

  // Once. The rows of what may run already.
  void Begin(std::optional<ShareRow> found, std::optional<ReplicaRow> history);
  // Until it is ready (running, where it has no probe), or its process has ended, its probe's time
  // is over, or it can't be started: then with the reason.
  Task<Status> AwaitReady();
  // Who waits for it to be ready is told this instead; it goes on.
  void GiveUp(std::string why);
  // Stops it and removes its rows.
  Task<Status> End();
  // Stops its process and starts it anew, without a pause.
  void Restart(std::string why);
  // Its domain or its GPU may have changed.
  void Look() { bell_.Ring(); }

  const Share& share() const { return setup_.target.share; }
  const ReplicaTarget& target() const { return setup_.target; }
  std::optional<ProcessIdentity> process() const;
  const std::shared_ptr<ReplicaLog>& log() const { return log_; }
  ShareStatus Now() const;

 private:
  Task<void> Live(std::optional<ShareRow> found);
  void Adopt(const ShareRow& found);
  Task<void> Step();
  Task<void> Start();
  Task<Result<ProcessIdentity>> Launched();
  Task<void> Stop(std::string why, bool at_once);
  Task<void> Unplug(double patience_s);
  void OnEnd();
  void PauseBeforeNextStart(const std::string& why);
  EnvironmentChanges Environment() const;
  Task<void> ProbeReadiness();
  Task<void> EndAll();
  Status WriteShare(RowState state);
  void WriteHistory();
  void Become(ShareState state, std::string why);
  void Watch();
  Task<void> WatchEnd(int round);

  NodeParts& parts_;
  const Setup setup_;
  ShareRow row_;
  ReplicaRow history_;
  std::shared_ptr<ReplicaLog> log_;

  bool wanted_ = true;
  bool gone_ = false;
  Status end_status_;
  ShareState state_ = ShareState::kWaiting;
  std::string why_;
  std::string since_;
  Moment started_{};
  std::optional<ProcessHandle> process_;
  int generation_ = 0;       // Of the domain when the process was started.
  int attempts_ = 0;         // Ends in a row that came soon after the start.
  std::string failed_;       // What AwaitReady() has to tell; empty: nothing.
  std::string restart_why_;  // Somebody asked for a restart; empty: nobody.
  Moment next_start_{};
  Moment next_probe_ = kNever;
  Moment probe_until_ = kNever;
  int round_ = 0;
  Bell bell_;
  Broadcast changes_;
};

}  // namespace sublet
