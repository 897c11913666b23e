// node/domain_keeper.h
//
// Keeps one MPS domain: its control daemon runs, answers and has the limits that it should, or it
// is being replaced.
//
//   auto domain = std::make_shared<DomainKeeper>(parts, spec, changed);
//   domain->Begin({});                         // Or with its row, to take over what runs.
//   RETURN_IF_ERROR(co_await domain->AwaitReady());
//   ...
//   RETURN_IF_ERROR(co_await domain->End());
//
// Ready means: the daemon has answered, its defaults read back as they were set, and a probe client
// allocated to the wall and met it. What fails at that isn't ready, and no client is let in.
//
// Faults. A GPU fault by one client costs all clients of the server their contexts, and until the
// last of them has ended the server admits nobody. Its log says at once that there is one; whom it
// names is often an innocent client. The generation() goes up, by
// which the clients' keepers know that theirs have to be started again; the domain is ready once
// its server says that it is active. A daemon that ended, or that doesn't answer, is replaced
// together with all that is left of it, with growing pauses, and the generation goes up, too.
//
// Ends. A client that is killed in the midst of a kernel takes its neighbours with it, by such a
// fault. So who ends a client first calls Disconnect(), after which it may be killed.
//
// The control daemon outlives this program, so a keeper that just goes leaves it running.
//
// Thread safety: the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/user.h"
#include "model/node_status.h"
#include "mps/limit_probe.h"
#include "mps/log_reader.h"
#include "mps/mps_daemon.h"
#include "node/bell.h"
#include "node/node_parts.h"
#include "node/plan_diff.h"

namespace sublet {

struct DomainSetup {
  DomainTarget target;
  std::optional<UserIds> run_as;  // The tenant's user; absent: the daemon's own.
  // Its pipe directory, whose parent is there; empty: one of its name below the node's.
  std::string folder = {};
  bool any_user = false;  // MpsOptions::any_user
};

class DomainKeeper : public std::enable_shared_from_this<DomainKeeper> {
 public:
  // `changed` is called after each change of state or generation, `fault` at a GPU fault, with what
  // the log says.
  struct Listener {
    std::function<void()> changed;
    std::function<void(const std::string& text)> fault;
  };
  DomainKeeper(NodeParts& parts, DomainSetup setup, Listener listener);

  // Once. `found`: the row of a domain that may run already.
  void Begin(std::optional<DomainRow> found);
  // Until it is ready, or has failed to become so: then with the reason, though it goes on trying.
  Task<Status> AwaitReady();
  // Ends the control daemon, its servers and all their clients, and the row. Fails where somebody
  // doesn't end; the row then stays, for the next start to finish.
  Task<Status> End();

  // Another share's limits met a wall in this domain, or the reason why not; each pair of limits is
  // tried once. Call when ready and before the first process of the share.
  Task<Status> Confirm(std::optional<Bytes> memory_limit, std::optional<int> sm_percent);

  // How many processes are its clients now. Fails with kUnavailable where it isn't ready.
  Task<Result<std::size_t>> CountClients();

  // Takes the clients among these processes off the server, without harm to the others.
  Task<void> Disconnect(std::vector<int> processes);

  bool ready() const { return state_ == DomainState::kReady; }
  int generation() const { return generation_; }
  const Domain& domain() const { return setup_.target.domain; }
  const DomainTarget& target() const { return setup_.target; }
  // Of the control daemon; absent while there is none.
  std::optional<ProcessIdentity> process() const {
    if (!mps_) return std::nullopt;
    return mps_->identity();
  }
  const std::string& pipe_directory() const { return folder_; }
  DomainStatus Now() const;

 private:
  using Limits = std::pair<std::optional<Bytes>, std::optional<int>>;

  MpsOptions Options() const;
  ProbeRequest ProbeFor(const Limits& limits) const;
  Task<void> Live(std::optional<DomainRow> found);
  Task<void> Adopt(DomainRow found);
  Task<void> Start();
  Task<Status> Bring();
  Task<void> Look();
  void ReadLogs();
  Task<void> Ask();
  Task<void> AwaitRecovery();
  Task<void> Replace(DomainState state, std::string why);
  Task<void> EndAll();
  Status WriteRow(RowState state);
  void Become(DomainState state, std::string why);
  void WatchDaemon();
  Task<void> WatchLogs(int round);
  Task<void> WatchEnd(int round);

  NodeParts& parts_;
  const DomainSetup setup_;
  const Listener listener_;
  const std::string folder_;
  DomainRow row_;

  bool wanted_ = true;
  bool gone_ = false;
  Status end_status_;
  DomainState state_ = DomainState::kStarting;
  std::string why_;
  int generation_ = 0;
  int attempts_ = 0;     // Failed starts since it was last ready.
  bool failed_ = false;  // A start failed since AwaitReady() could have seen it.
  Moment next_start_{};
  Moment next_question_ = kNever;
  int round_ = 0;  // Of watching: what watches an earlier daemon stops.

  std::unique_ptr<MpsDaemon> mps_;
  std::optional<LogTail> log_;
  std::set<Limits> confirmed_;
  bool busy_ = false;  // The daemon is being asked; one question at a time.
  Moment recover_until_ = kNever;
  Bell bell_;
  Broadcast changes_;
};

}  // namespace sublet
