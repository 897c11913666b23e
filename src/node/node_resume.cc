// What a node does when it begins: brings together what its store says and what the kernel and the
// driver show, and goes on with what was under way.

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "base/crash_point.h"
#include "base/files.h"
#include "node/node_core.h"
#include "node/share_environment.h"

namespace sublet {
namespace {

Result<std::string> BootId() {
  ASSIGN_OR_RETURN(std::string id, ReadFile("/proc/sys/kernel/random/boot_id", 256));
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

void Silent(const ProgressLine& /*line*/) {}

// For what they left behind to end; what takes longer is given back later.
constexpr double kReturnPatienceSeconds = 2;

// "s17": a part of file names.
bool IsShareId(const std::string& id) {
  constexpr std::size_t kDigitsMax = 18;  // As a 64-bit number has in any case.
  const std::string_view digits = std::string_view(id).substr(std::min<std::size_t>(1, id.size()));
  return id.starts_with('s') && !digits.empty() && digits.size() <= kDigitsMax &&
         digits.find_first_not_of("0123456789") == std::string_view::npos;
}

// Whose a folder is; absent where none is there.
std::optional<UserIds> OwnerOf(const std::string& folder) {
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return std::nullopt;
  return UserIds{status.st_uid, status.st_gid};
}

// After another boot nothing of it runs any more, and MIG instances are gone too; only the wish is
// left, which is then gone after anew.
Status ForgetProcesses(NodeStore& store, NodeRecord& record) {
  const Status removed = store.Transaction([&]() -> Status {
    for (const ShareRow& row : record.shares) RETURN_IF_ERROR(store.RemoveShare(row.share.id));
    for (const DomainRow& row : record.domains) {
      RETURN_IF_ERROR(store.RemoveDomain(row.domain.name));
    }
    return {};
  });
  if (!removed) return removed;
  record.shares.clear();
  record.domains.clear();
  return {};
}

}  // namespace

Task<Status> NodeCore::Resume() {
  const auto self = shared_from_this();
  Result<NodeRecord> loaded = store.LoadAll();
  if (!loaded) co_return tl::unexpected<Error>(std::move(loaded).error());
  NodeRecord record = std::move(*loaded);
  const Result<std::string> boot = BootId();
  if (!boot) co_return tl::unexpected<Error>(boot.error());
  const bool rebooted = !record.boot_id.empty() && record.boot_id != *boot;
  if (rebooted) {
    events.Append("daemon", "node", "rebooted", "what ran before is gone; the plan comes up anew");
    if (Status forgotten = ForgetProcesses(store, record); !forgotten) co_return forgotten;
  }
  if (Status written = store.SetBootId(*boot); !written) co_return written;
  plan_row = record.plan;
  if (plan_row) {
    Result<Plan> parsed = ParsePlan(plan_row->plan, "the plan that is up");
    if (!parsed) co_return tl::unexpected<Error>(std::move(parsed).error());
    plan = std::move(*parsed);
  }
  instances_ = record.instances;
  if (options.rebuild) {
    if (Status rebuilt = Rebuild(record); !rebuilt) co_return rebuilt;
  }
  co_await EndStrays(record);
  RemoveStrayLogs(record);
  ResumeDomains(record);
  ResumeShares(record);
  co_await AwaitReturns(record);
  WatchHealth();
  asio::co_spawn(parts.loop, LookAround(), EndsTheProgram);
  if (record.operation || (plan_row && (rebooted || LacksReplicas()))) {
    asio::co_spawn(parts.loop, GoOn(record.operation), EndsTheProgram);
  }
  asio::co_spawn(parts.loop, RemoveOrphans(), EndsTheProgram);
  events.Append("daemon", "node", "started",
                fmt::format("{} shares and {} mps domains taken over", record.shares.size(),
                            record.domains.size()));
  co_return Status{};
}

// Logs of shares that are over.
void NodeCore::RemoveStrayLogs(const NodeRecord& record) {
  std::set<std::string> known;
  for (const ShareRow& row : record.shares) known.insert(row.share.id);
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(settings.state + "/logs", failed)) {
    const std::string name = entry.path().filename();
    if (known.count(name.substr(0, name.find('.'))) == 0) {
      std::filesystem::remove(entry.path(), failed);
    }
  }
}

// Processes, folders and sockets that carry our mark and that no row names: begun and never
// written, or half removed.
Task<void> NodeCore::EndStrays(const NodeRecord& record) {
  std::set<std::string> shares;
  for (const ShareRow& row : record.shares) {
    // One that was being started may have a process that nobody wrote down; it is begun anew.
    if (row.state == RowState::kPresent) shares.insert(row.share.id);
  }
  std::set<std::string> strays;
  for (const auto& [process, share] : ProcessesOfShares(settings.state)) {
    if (shares.count(share) == 0) strays.insert(share);
  }
  std::set<std::string> domains;
  for (const DomainRow& row : record.domains) domains.insert(row.domain.name);
  std::vector<std::string> folders;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(settings.run + "/mps", failed)) {
    if (domains.count(entry.path().filename()) == 0) folders.push_back(entry.path());
  }
  const std::string state = settings.state;
  // One that doesn't end is no reason to leave all others alone.
  auto end = [strays, folders, state]() -> Status {
    Status all;
    for (const std::string& share : strays) {
      ProcessEnding ending;
      ending.share = share;
      ending.state = state;
      if (Status ended = EndProcess(ending); !ended) all = std::move(ended);
    }
    for (const std::string& folder : folders) {
      if (Status ended = EndLeftovers(folder, OwnerOf(folder)); !ended) all = std::move(ended);
    }
    return all;
  };
  if (!strays.empty() || !folders.empty()) {
    events.Append("daemon", "node", "strays",
                  fmt::format("ends {} shares and {} mps domains that nobody wrote down",
                              strays.size(), folders.size()));
  }
  const Status ended = co_await OnPool(parts.pool, end);
  if (!ended) events.Append("daemon", "node", "not-ended", ended.error().message);
}

void NodeCore::ResumeDomains(const NodeRecord& record) {
  for (const DomainRow& row : record.domains) {
    DomainTarget target;
    target.domain = row.domain;
    for (const Device& device : ledger_->devices()) {
      if (device.uuid() == row.domain.device_uuid()) target.sm_count = device.sm_count;
    }
    target.seat = SeatOfDevice(row.domain.gpu_uuid, row.domain.mig_uuid);
    const auto domain = MakeDomain(target, row);
    if (row.state != RowState::kRemoving) continue;
    retiring_.insert(row.domain.name);
    asio::co_spawn(parts.loop, RetireDomain(row.domain.name), EndsTheProgram);
  }
}

std::optional<MigSeat> NodeCore::SeatOfDevice(const std::string& gpu_uuid,
                                              const std::string& mig_uuid) const {
  const Gpu* const gpu = inventory_.FindGpu(gpu_uuid);
  if (mig_uuid.empty() || gpu == nullptr) return std::nullopt;
  for (const GpuInstance& instance : gpu->instances) {
    for (const ComputeInstance& compute : instance.compute_instances) {
      if (compute.uuid != mig_uuid) continue;
      MigSeat seat;
      seat.profile = instance.profile;
      seat.profile_id = instance.profile_id;
      seat.start = instance.placement.start;
      seat.size = instance.placement.size;
      return seat;
    }
  }
  return std::nullopt;
}

void NodeCore::ResumeShares(const NodeRecord& record) {
  std::map<std::string, ReplicaRow> history;
  for (const ReplicaRow& row : record.replicas) history[row.id] = row;
  for (const ShareRow& row : record.shares) {
    ledger_->Keep(row.share);
    if (row.replica) {
      ResumeReplica(row, history);
      continue;
    }
    std::optional<ProcessHandle> process;
    // One that was being granted has no answer, and never will.
    if (row.state == RowState::kPresent && row.process) {
      if (auto opened = ProcessHandle::Open(IdentityOf(*row.process))) process = std::move(*opened);
    }
    Hold(row, std::move(process));
  }
}

// Those whose holders have ended meanwhile are given back before anybody asks for their room.
Task<void> NodeCore::AwaitReturns(const NodeRecord& record) {
  const Moment patience = MomentIn(kReturnPatienceSeconds);
  for (const ShareRow& row : record.shares) {
    while (Clock() < patience) {
      const auto it = held_.find(row.share.id);
      if (it == held_.end() || it->second->process()) break;
      co_await returned_.Next(patience);
    }
  }
}

void NodeCore::ResumeReplica(const ShareRow& row,
                             const std::map<std::string, ReplicaRow>& history) {
  Result<ReplicaTarget> target = ParseReplicaTarget(row.target, "the node's state");
  if (!target) {
    events.Append("share", row.share.id, "unreadable", target.error().message);
    return;
  }
  target->share = row.share;
  const auto it = history.find(target->id);
  const auto replica =
      MakeReplica(*target, row, it == history.end() ? std::nullopt : std::optional(it->second));
  if (row.state == RowState::kRemoving) {
    asio::co_spawn(parts.loop, FinishRemoval(target->id), EndsTheProgram);
  }
}

Task<void> NodeCore::FinishRemoval(std::string replica) {
  const auto self = shared_from_this();
  const std::shared_ptr<ReplicaKeeper> keeper = replicas_.at(replica);
  const Status ended = co_await keeper->End();
  if (!ended) co_return;
  ledger_->Release(keeper->share().id);
  if (const auto it = replicas_.find(replica); it != replicas_.end() && it->second == keeper) {
    replicas_.erase(it);
  }
}

// Whether a replica of the plan isn't there, as when the daemon ended while it moved one.
bool NodeCore::LacksReplicas() {
  const Result<PlanTarget> target = SideOf(plan_row);
  return target && std::any_of(target->replicas.begin(), target->replicas.end(),
                               [&](const ReplicaTarget& replica) {
                                 return replicas_.count(replica.id) == 0;
                               });
}

// Goes on with what was under way. Without an operation, with the plan itself: it stays the one
// that is wanted, also where a replica doesn't start at once.
Task<void> NodeCore::GoOn(std::optional<OperationRow> operation) {
  const auto self = shared_from_this();
  if (!operation) {
    operation.emplace();
    operation->id = fmt::format("again-{}", UtcMilliseconds());
    operation->from = plan_row;
    operation->to = plan_row;
    operation->started_at = UtcMilliseconds();
    if (const Status written = store.PutOperation(*operation); !written) co_return;
  }
  const std::string what(OperationKindName(operation->kind));
  const Turn turn(*this, fmt::format("{}, begun {}", what, operation->started_at));
  events.Append("plan", what, "resumed",
                fmt::format("begun {}, going {}", operation->started_at,
                            OperationDirectionName(operation->direction)));
  Status done;
  if (operation->kind == OperationKind::kMig) {
    done = co_await FinishMig(*operation, Silent);
  } else {
    done = co_await Finish(*operation, Silent);
  }
  if (!done) events.Append("plan", what, "failed", done.error().message);
}

// Instances of shares that are over.
Task<void> NodeCore::RemoveOrphans() {
  const auto self = shared_from_this();
  std::set<std::string> shares;
  for (const MigInstanceRow& row : instances_) {
    if (row.made_for.starts_with("share ")) shares.insert(row.made_for.substr(6));
  }
  for (const std::string& share : shares) {
    if (held_.count(share) == 0) co_await RemoveInstances(share);
  }
}

// Whether a user may hold a share of the tenant.
bool NodeCore::MayHold(uid_t uid, const std::string& tenant) const {
  Requester requester;
  requester.uid = uid;
  requester.user = UserName(uid);
  requester.own_daemon = uid == 0 || uid == ::geteuid();
  return TenantFor(options.config.tenants, requester, tenant).has_value();
}

// Anybody can write such a mark on a process of his own. It counts where the node would have
// started that process as that user, or have granted him that share.
std::optional<ShareRow> NodeCore::RebuiltShare(const ProcessIdentity& process,
                                               const std::string& id,
                                               const std::string& mark) const {
  const std::optional<uid_t> user = UserOfProcess(process);
  if (!user || !IsShareId(id)) return std::nullopt;
  ShareRow row;
  row.state = RowState::kPresent;
  row.process = Process{process.pid, static_cast<std::int64_t>(process.start_ticks), *user};
  row.log = fmt::format("{}/logs/{}.log", settings.state, id);
  bool allowed = false;
  if (auto target = ParseReplicaTarget(mark, "a process's mark")) {
    row.replica = true;
    row.share = target->share;
    row.target = mark;
    allowed = *user == UserOf(row.share.tenant).value_or(CurrentUser()).uid;
  } else if (auto share = ParseShare(mark, "a process's mark")) {
    row.share = std::move(*share);
    allowed = MayHold(*user, row.share.tenant);
  }
  if (!allowed || row.share.id != id) return std::nullopt;
  return row;
}

// As above. The folder was made by the node, and given to the user whose processes use it.
std::optional<DomainRow> NodeCore::RebuiltDomain(const ProcessIdentity& process,
                                                 const std::string& mark) const {
  const std::optional<uid_t> user = UserOfProcess(process);
  Result<Domain> domain = ParseDomain(mark, "a process's mark");
  if (!user || !domain || domain->name.find('/') != std::string::npos) return std::nullopt;
  if (*user != UserOf(*domain).value_or(CurrentUser()).uid) return std::nullopt;
  DomainRow row;
  row.domain = std::move(*domain);
  row.state = RowState::kPresent;
  row.pipe_directory = fmt::format("{}/mps/{}", settings.run, row.domain.name);
  row.daemon = Process{process.pid, static_cast<std::int64_t>(process.start_ticks), *user};
  const std::optional<UserIds> owner = OwnerOf(row.pipe_directory);
  if (!owner || owner->uid != *user) return std::nullopt;
  return row;
}

// A new store for what still runs: every process of ours carries what it was started with.
Status NodeCore::Rebuild(NodeRecord& record) {
  std::map<std::string, ShareRow> shares;  // With the process that began it.
  std::map<std::string, DomainRow> domains;
  // The control daemon's servers have its environment, and a share's children their parent's; it is
  // the one that began first.
  const auto keep = [](auto& rows, const std::string& name, const auto& row, auto process) {
    const auto [it, first] = rows.try_emplace(name, row);
    if (!first && (row.*process)->start_ticks < (it->second.*process)->start_ticks) {
      it->second = row;
    }
  };
  const auto marks = ProcessesWithEnvironment(kRecordVariable);
  for (const auto& [process, id] : ProcessesOfShares(settings.state)) {
    const auto mark = marks.find(process);
    if (mark == marks.end()) continue;
    if (const auto row = RebuiltShare(process, id, mark->second)) {
      keep(shares, id, *row, &ShareRow::process);
    }
  }
  for (const auto& [process, mark] : marks) {
    if (EnvironmentVariable(process, kStateVariable) != settings.state) continue;
    if (const auto row = RebuiltDomain(process, mark)) {
      keep(domains, row->domain.name, *row, &DomainRow::daemon);
    }
  }
  std::int64_t last = 0;
  for (const auto& [id, row] : shares) {
    last = std::max<std::int64_t>(last, std::strtoll(id.c_str() + 1, nullptr, 10));
    RETURN_IF_ERROR(store.PutShare(row));
    record.shares.push_back(row);
  }
  RETURN_IF_ERROR(store.SkipShareIds(last));
  for (const auto& [name, row] : domains) {
    RETURN_IF_ERROR(store.PutDomain(row));
    record.domains.push_back(row);
  }
  events.Append("daemon", "node", "rebuilt",
                fmt::format("{} shares and {} mps domains found", record.shares.size(),
                            record.domains.size()));
  return {};
}

}  // namespace sublet
