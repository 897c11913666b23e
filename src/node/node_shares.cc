// Shares of `sublet run`, and the domains that are made for them.

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/crash_point.h"
#include "base/files.h"
#include "node/node_core.h"
#include "node/share_environment.h"

namespace sublet {
namespace {

// A domain made for `sublet run` stays so long after its last share: the next command of a script
// would otherwise wait for a new one each time.
constexpr double kLingerSeconds = 10;
// A process that lost its context in a fault gets so long to notice and end. Until it does, its
// server admits nobody.
constexpr double kStragglerSeconds = 5;

// For what an ended holder left behind to end; who asks for its room waits no longer.
constexpr double kReturnPatienceSeconds = 2;

void Silent(const ProgressLine& /*line*/) {}

std::string MadeFor(const std::string& share) {
  return fmt::format("share {}", share);
}

}  // namespace

std::optional<UserIds> NodeCore::UserOf(const std::string& tenant) const {
  if (::geteuid() != 0) return std::nullopt;
  for (const TenantConfig& each : options.config.tenants) {
    if (each.name != tenant || each.run_as.empty()) continue;
    // It was found when this node began.
    if (const Result<UserIds> user = FindUser(each.run_as)) return *user;
  }
  return std::nullopt;
}

std::optional<UserIds> NodeCore::UserOf(const Domain& domain) const {
  if (!domain.uid) return UserOf(domain.tenant);
  const auto uid = static_cast<uid_t>(*domain.uid);
  if (uid == ::geteuid()) return std::nullopt;
  const Result<UserIds> user = FindUser(std::to_string(uid));
  return user ? *user : UserIds{uid, uid};
}

Result<Requester> NodeCore::RequesterOf(const Peer& peer) const {
  if (!peer.local) {
    return Fail(ErrorCode::kPermission, "shares are for processes of this machine",
                "ask over the UNIX socket");
  }
  if (peer.pid <= 0) {
    return Fail(ErrorCode::kPermission,
                "the process that asks can't be seen from here: it is in another PID namespace",
                "run it, or the daemon, with the host's PID namespace");
  }
  Requester requester;
  requester.uid = peer.uid;
  requester.user = UserName(peer.uid);
  requester.own_daemon = peer.uid == 0 || peer.uid == ::geteuid();
  requester.mps = ::geteuid() == 0 || peer.uid == ::geteuid();
  return requester;
}

// The peer, held by number and start. The kernel tells the number of who connected; that it is
// still the same one, the descriptor made at that time says.
Result<ProcessHandle> NodeCore::HolderOf(const Peer& peer) const {
  ASSIGN_OR_RETURN(const ProcessIdentity identity, ProcessIdentity::Of(peer.pid));
  ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(identity));
  pollfd ended{peer.pidfd ? peer.pidfd->get() : -1, POLLIN, 0};
  if (!peer.pidfd || ::poll(&ended, 1, 0) != 0) {
    return Fail(ErrorCode::kNotFound, "the process that asked has ended");
  }
  return process;
}

Task<Result<Granted>> NodeCore::Grant(ShareRequest request, Peer peer) {
  const auto self = shared_from_this();
  const auto asked_at = Clock();
  Result<Granted> granted = co_await TryGrant(std::move(request), std::move(peer));
  if (granted) {
    ++counters.grants;
    counters.grant_seconds_sum += SecondsSince(asked_at);
  } else {
    ++counters.refusals[std::string(ErrorCodeName(granted.error().code))];
    events.Append("share", "-", "refused", granted.error().message);
  }
  co_return granted;
}

// A holder has ended, and its share is on its way back.
bool NodeCore::SharesReturn() const {
  return std::any_of(held_.begin(), held_.end(),
                     [](const auto& entry) { return entry.second->Returns(); });
}

// The command before this one of a script has ended, and its share may be a moment from free.
Task<Result<sublet::Grant>> NodeCore::Decide(ShareRequest request, Requester requester) {
  Result<sublet::Grant> grant = Admit(*ledger_, request, requester);
  const Moment patience = MomentIn(kReturnPatienceSeconds);
  while (!grant && SharesReturn() && Clock() < patience) {
    co_await returned_.Next(patience);
    grant = Admit(*ledger_, request, requester);
  }
  co_return grant;
}

Task<Result<Granted>> NodeCore::TryGrant(ShareRequest request, Peer peer) {
  const Result<Requester> requester = RequesterOf(peer);
  if (!requester) co_return tl::unexpected<Error>(requester.error());
  Result<ProcessHandle> process = HolderOf(peer);
  if (!process) co_return tl::unexpected<Error>(std::move(process).error());
  Result<sublet::Grant> grant = co_await Decide(request, *requester);
  while (grant && grant->share.mode == SharingMode::kMig &&
         (share_mig_ || (grant->make && !operation_.empty()))) {
    co_await AwaitShareMig(grant->make.has_value());
    grant = Admit(*ledger_, request, *requester);
  }
  if (!grant) co_return tl::unexpected<Error>(std::move(grant).error());
  ShareRow row;
  row.share = std::move(grant->share);
  Result<std::string> id = store.TakeShareId();
  if (!id) co_return tl::unexpected<Error>(std::move(id).error());
  row.share.id = std::move(*id);
  row.process =
      Process{peer.pid, static_cast<std::int64_t>(process->identity().start_ticks), peer.uid};
  if (grant->make) {
    share_mig_ = true;
    Status made = co_await MakeInstance(*grant->make, row.share);
    share_mig_ = false;
    operation_over_.Announce();
    if (!made) co_return tl::unexpected<Error>(std::move(made).error());
  } else if (Status kept = KeepInstance(row.share); !kept) {
    co_return tl::unexpected<Error>(std::move(kept).error());
  }
  // From here to the end of this function others may ask; what is booked they can't have.
  if (Status booked = ledger_->Book(row.share); !booked) {
    OnReturned(row.share.id);
    co_return tl::unexpected<Error>(std::move(booked).error());
  }
  Status ready = co_await PrepareDomain(row.share, grant->new_domain);
  if (ready) ready = store.PutShare(row);
  CrashPoint("run-creating");
  Result<std::string> log = Fail(ErrorCode::kInternal, "");
  if (ready) {
    log = LogFileFor(row.share, peer);
    if (!log) ready = tl::unexpected<Error>(log.error());
  }
  if (ready) {
    row.log = *log;
    row.state = RowState::kPresent;
    ready = store.PutShare(row);
  }
  if (!ready) {
    static_cast<void>(store.RemoveShare(row.share.id));
    OnReturned(row.share.id);
    co_return tl::unexpected<Error>(std::move(ready).error());
  }
  CrashPoint("run-present");
  Granted granted;
  granted.share = row.share;
  granted.environment = EnvironmentOf(settings, row.share, PipeOf(row.share));
  granted.log = row.log;
  events.Append("share", row.share.id, "granted",
                fmt::format("{} of tenant {} (process {}): {}", row.share.name, row.share.tenant,
                            peer.pid, row.share.reason));
  Hold(std::move(row), std::move(*process));
  co_return granted;
}

// The share's domain is there, ready, and admits nothing beyond the share's limits.
Task<Status> NodeCore::PrepareDomain(Share share, std::optional<Domain> new_domain) {
  if (share.domain.empty()) co_return Status{};
  // One of that name may be on its way out.
  while (retiring_.count(share.domain) > 0) co_await retired_.Next();
  std::shared_ptr<DomainKeeper> domain = FindDomain(share.domain);
  if (domain == nullptr) {
    if (!new_domain) {
      co_return Fail(ErrorCode::kConflict, fmt::format("mps domain {} is gone", share.domain));
    }
    DomainTarget target;
    target.domain = *new_domain;
    for (const Device& device : ledger_->devices()) {
      if (device.uuid() == new_domain->device_uuid()) target.sm_count = device.sm_count;
    }
    domain = MakeDomain(target, std::nullopt);
  } else if (new_domain && domain->domain().uid != new_domain->uid) {
    co_return Fail(ErrorCode::kConflict,
                   fmt::format("mps domain {} has become another user's", share.domain),
                   "ask again");
  }
  Status ready = co_await domain->AwaitReady();
  if (!ready) co_return ready;
  co_return co_await domain->Confirm(PinnedLimit(share), share.sm_percent);
}

std::string NodeCore::PipeOf(const Share& share) const {
  const auto domain = FindDomain(share.domain);
  return domain == nullptr ? "" : domain->pipe_directory();
}

// MIG is changed by one at a time: a target that was worked out while another change was under way
// would undo it.
Task<void> NodeCore::AwaitShareMig(bool operation_too) {
  while (share_mig_ || (operation_too && !operation_.empty())) co_await operation_over_.Next();
}

// The instance of a share that is over, and which would be removed for that, has the next one.
Status NodeCore::KeepInstance(const Share& share) {
  const std::optional<MigSeat> seat = SeatOfDevice(share.gpu_uuid, share.mig_uuid);
  for (MigInstanceRow& row : instances_) {
    const bool there = seat && row.gpu_uuid == share.gpu_uuid && row.start == seat->start;
    if (!there || !row.made_for.starts_with(MadeFor(""))) continue;
    row.made_for = MadeFor(share.id);
    RETURN_IF_ERROR(store.PutMigInstance(row));
  }
  return {};
}

// An instance for one share, in the books of MIG as any other.
Task<Status> NodeCore::MakeInstance(const MigToMake& make, Share& share) {
  const Gpu* const gpu = inventory_.FindGpu(make.gpu_uuid);
  Result<MigTarget> target = CurrentTarget(*gpu);
  if (!target) co_return tl::unexpected<Error>(std::move(target).error());
  target->instances.push_back(make.seat);
  Result<MigTarget> resolved = ResolveTarget(*gpu, std::move(*target));
  if (!resolved) co_return tl::unexpected<Error>(std::move(resolved).error());
  std::vector<MigTarget> targets{std::move(*resolved)};
  Status made = co_await ApplyMig(std::move(targets), MadeFor(share.id), Silent);
  // Steps that stay in the journal would be undone with the next operation.
  if (!made) static_cast<void>(co_await UndoMig());
  Status cleared = store.ClearMigSteps();
  if (made) made = std::move(cleared);
  if (!made) co_return made;
  Result<std::string> uuid = MigUuidAt(make.gpu_uuid, make.seat);
  if (!uuid) co_return tl::unexpected<Error>(std::move(uuid).error());
  share.mig_uuid = std::move(*uuid);
  co_return Status{};
}

// An empty file that the holder, whoever that is, may append to.
Result<std::string> NodeCore::LogFileFor(const Share& share, const Peer& peer) const {
  std::string path = fmt::format("{}/logs/{}.log", settings.state, share.id);
  const FileDescriptor file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.valid()) return FailFromErrno(errno, fmt::format("making {}", path));
  if (peer.uid != ::geteuid() && ::fchown(file.get(), peer.uid, peer.gid) != 0) {
    return FailFromErrno(errno, fmt::format("giving {} to its user", path));
  }
  return path;
}

void NodeCore::Hold(ShareRow row, std::optional<ProcessHandle> process) {
  const std::string id = row.share.id;
  auto held = std::make_shared<HeldShare>(parts, std::move(row), std::move(process),
                                          [weak = weak_from_this()](const std::string& share) {
                                            if (const auto node = weak.lock())
                                              node->OnReturned(share);
                                          });
  held_[id] = held;
  held->Begin();
}

void NodeCore::OnReturned(const std::string& id) {
  ledger_->Release(id);
  if (const auto it = held_.find(id); it != held_.end()) {
    it->second->log()->Remove();
    held_.erase(it);
  }
  const bool made =
      std::any_of(instances_.begin(), instances_.end(),
                  [&](const MigInstanceRow& row) { return row.made_for == MadeFor(id); });
  if (made) asio::co_spawn(parts.loop, RemoveInstances(id), EndsTheProgram);
  returned_.Announce();
  bell_.Ring();
}

// Those that were made for a share that is over.
Task<void> NodeCore::RemoveInstances(std::string share) {
  const auto self = shared_from_this();
  co_await AwaitShareMig(true);
  std::vector<MigTarget> targets;
  for (const Gpu& gpu : inventory_.gpus) {
    const Result<MigTarget> now = CurrentTarget(gpu);
    if (!now) continue;
    MigTarget target = *now;
    std::erase_if(target.instances, [&](const MigSeat& seat) {
      return std::any_of(instances_.begin(), instances_.end(), [&](const MigInstanceRow& row) {
        return row.made_for == MadeFor(share) && row.gpu_uuid == gpu.uuid &&
               row.start == seat.start;
      });
    });
    if (target != *now) targets.push_back(std::move(target));
  }
  share_mig_ = true;
  Status removed = co_await ApplyMig(std::move(targets), MadeFor(share), Silent);
  share_mig_ = false;
  operation_over_.Announce();
  if (removed) removed = store.ClearMigSteps();
  if (!removed) events.Append("mig", share, "not-removed", removed.error().message);
}

Task<Status> NodeCore::Release(std::string id, Peer by) {
  const auto self = shared_from_this();
  const auto it = held_.find(id);
  if (it == held_.end()) {
    co_return Fail(ErrorCode::kNotFound, fmt::format("no such share: {}", id),
                   "sublet ps shows them; replicas of a plan end with sublet down");
  }
  const std::shared_ptr<HeldShare> held = it->second;
  if (by.local && by.uid == held->user()) co_return co_await EndHeld(held);
  if (Status may = MayAdminister(by); !may) co_return may;
  co_return co_await EndHeld(held);
}

// Off its server first: killed in the midst of a kernel, it would take its neighbours with it.
Task<Status> NodeCore::EndHeld(std::shared_ptr<HeldShare> held) {
  if (const auto domain = FindDomain(held->share().domain)) {
    const std::shared_ptr<const ShareProcesses> found = co_await search->Find();
    const auto processes = found->find(held->share().id);
    if (processes != found->end()) co_await domain->Disconnect(processes->second);
  }
  co_return co_await held->End();
}

std::shared_ptr<DomainKeeper> NodeCore::FindDomain(const std::string& name) const {
  const auto it = domains_.find(name);
  return it == domains_.end() ? nullptr : it->second;
}

std::shared_ptr<DomainKeeper> NodeCore::MakeDomain(const DomainTarget& target,
                                                   std::optional<DomainRow> found) {
  const std::string name = target.domain.name;
  DomainKeeper::Listener listener;
  listener.changed = [weak = weak_from_this(), name] {
    const auto node = weak.lock();
    if (!node) return;
    for (const auto& [id, replica] : node->replicas_) {
      if (replica->share().domain == name) replica->Look();
    }
  };
  listener.fault = [weak = weak_from_this(), name](const std::string& text) {
    if (const auto node = weak.lock()) node->OnFault(name, text);
  };
  auto domain = std::make_shared<DomainKeeper>(parts, DomainSetup{target, UserOf(target.domain)},
                                               std::move(listener));
  domains_[name] = domain;
  ledger_->AddDomain(target.domain);
  domain->Begin(std::move(found));
  return domain;
}

// A GPU fault in a domain. Neither MPS's log nor the XID tells reliably who caused it: both name a
// client, often an innocent one. Known it is where there was only one client.
void NodeCore::OnFault(const std::string& domain, const std::string& text) {
  std::vector<std::string> lost;
  for (const auto& [id, replica] : replicas_) {
    if (replica->share().domain != domain) continue;
    lost.push_back(id);
    ++counters.share_faults[replica->share().id];
  }
  for (const auto& [id, held] : held_) {
    if (held->share().domain != domain) continue;
    lost.push_back(id);
    ++counters.share_faults[id];
  }
  std::string message = fmt::format("{} lost {}", fmt::join(lost, ", "),
                                    lost.size() == 1 ? "its context" : "their contexts");
  message += lost.size() == 1 ? ", by its own fault" : "; MPS doesn't tell which of them caused it";
  events.Append("domain", domain, "fault", fmt::format("{} [{}]", message, text));
  asio::co_spawn(parts.loop, EndStragglers(domain), EndsTheProgram);
}

// Replicas are started again by their keepers. Processes of others that don't end by themselves
// would keep the server from coming back.
Task<void> NodeCore::EndStragglers(std::string domain) {
  const auto self = shared_from_this();
  std::vector<std::string> affected;
  for (const auto& [id, held] : held_) {
    if (held->share().domain == domain) affected.push_back(id);
  }
  Bell pause(parts.loop);
  co_await pause.Wait(MomentIn(kStragglerSeconds));
  for (const std::string& id : affected) {
    const auto it = held_.find(id);
    if (it == held_.end()) continue;
    events.Append("share", id, "stopped",
                  "it lost its context in a fault of its mps domain and did not end by itself");
    const std::shared_ptr<HeldShare> held = it->second;
    static_cast<void>(co_await held->End());
  }
}

// Domains of `sublet run` go some time after their last share.
void NodeCore::RetireDomains() {
  const Moment now = Clock();
  for (const auto& [name, domain] : domains_) {
    if (domain->domain().planned || ledger_->SharesIn(name) > 0) {
      domain_free_since_.erase(name);
      continue;
    }
    const Moment since = domain_free_since_.try_emplace(name, now).first->second;
    if (now - since < std::chrono::duration<double>(kLingerSeconds)) continue;
    if (!retiring_.insert(name).second) continue;
    asio::co_spawn(parts.loop, RetireDomain(name), EndsTheProgram);
  }
}

Task<void> NodeCore::RetireDomain(std::string name) {
  const auto self = shared_from_this();
  // Out of the books first, so that no request is sent to it any more.
  ledger_->RemoveDomain(name);
  const std::shared_ptr<DomainKeeper> domain = domains_.at(name);
  const Status ended = co_await domain->End();
  retiring_.erase(name);
  domain_free_since_.erase(name);
  // One that doesn't end stays known, for the next start to finish.
  if (ended) domains_.erase(name);
  retired_.Announce();
}

// Who may act for the tenant, and as whom its replicas run.
bool NodeCore::IsOfTenant(const Peer& by, const std::string& tenant) const {
  const auto user = UserOf(tenant);
  return by.local && ((user && by.uid == user->uid) || MayHold(by.uid, tenant));
}

Result<std::shared_ptr<const ReplicaLog>> NodeCore::Log(const std::string& name,
                                                        const Peer& by) const {
  if (const auto it = replicas_.find(name); it != replicas_.end()) {
    const bool own = IsOfTenant(by, it->second->share().tenant);
    if (const Status may = MayAdminister(by); !own && !may) {
      return tl::unexpected<Error>(may.error());
    }
    return std::shared_ptr<const ReplicaLog>(it->second->log());
  }
  if (const auto it = held_.find(name); it != held_.end()) {
    const bool own = by.local && by.uid == it->second->user();
    if (const Status may = MayAdminister(by); !own && !may) {
      return tl::unexpected<Error>(may.error());
    }
    return std::shared_ptr<const ReplicaLog>(it->second->log());
  }
  return Fail(ErrorCode::kNotFound, fmt::format("no such replica or share: {}", name),
              "sublet ps shows them");
}

}  // namespace sublet
