#include "node/replica_keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>

#include <cctype>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/child_process.h"
#include "base/crash_point.h"
#include "base/files.h"
#include "node/back_off.h"
#include "node/launcher.h"
#include "node/readiness.h"
#include "node/share_environment.h"

namespace sublet {
namespace {

// A program without a probe counts as running once it has lived so long: one that can't even read
// its configuration has ended by then.
constexpr double kLivesSeconds = 1;

// Whether a process has a handler for SIGTERM, so that it ends in its own way.
bool CatchesTerm(int pid) {
  const Result<std::string> status = ReadFile(fmt::format("/proc/{}/status", pid), 64u << 10);
  if (!status) return false;
  const std::size_t at = status->find("SigCgt:");
  if (at == std::string::npos) return false;
  const unsigned long long caught = std::strtoull(status->c_str() + at + 7, nullptr, 16);
  return (caught >> (SIGTERM - 1) & 1) != 0;
}

// The last line of a log that isn't blank, as one line that is safe to show; empty without one.
std::string LastLine(const ReplicaLog& log) {
  constexpr std::size_t kLines = 10;
  constexpr std::size_t kBytesMax = 400;
  const Result<LogText> tail = log.Tail(kLines);
  if (!tail) return {};
  std::string_view text = tail->text;
  const std::size_t end = text.find_last_not_of(" \t\r\n");
  if (end == std::string_view::npos) return {};
  text = text.substr(0, end + 1);
  text = text.substr(text.find_last_of("\r\n") + 1);
  std::string line(text.substr(0, kBytesMax));
  for (char& c : line) c = std::iscntrl(static_cast<unsigned char>(c)) != 0 ? ' ' : c;
  return line;
}

}  // namespace

ReplicaKeeper::ReplicaKeeper(NodeParts& parts, Setup setup)
    : parts_(parts),
      setup_(std::move(setup)),
      log_(std::make_shared<ReplicaLog>(fmt::format("{}/logs", parts.settings.state),
                                        setup_.target.share.id)),
      bell_(parts.loop),
      changes_(parts.loop) {
  row_.share = setup_.target.share;
  row_.replica = true;
  row_.log = log_->path();
  row_.target = ReplicaTargetToJson(setup_.target).dump();
  history_.id = setup_.target.id;
}

void ReplicaKeeper::Begin(std::optional<ShareRow> found, std::optional<ReplicaRow> history) {
  if (history) history_ = *history;
  asio::co_spawn(parts_.loop, Live(std::move(found)), EndsTheProgram);
}

Task<void> ReplicaKeeper::Live(std::optional<ShareRow> found) {
  const auto self = shared_from_this();
  if (found) Adopt(*found);
  while (wanted_) co_await Step();
  co_await EndAll();
}

void ReplicaKeeper::Adopt(const ShareRow& found) {
  if (found.state != RowState::kPresent || !found.process) return;
  Result<ProcessHandle> process = ProcessHandle::Open(IdentityOf(*found.process));
  if (!process) {
    ++history_.restarts;
    history_.last_end = "ended while no daemon watched it";
    parts_.events.Append("replica", history_.id, "ended", history_.last_end);
    WriteHistory();
    return;
  }
  process_ = std::move(*process);
  row_.process = found.process;
  since_ = UtcMilliseconds();
  started_ = Clock();
  if (setup_.domain) generation_ = setup_.domain->generation();
  Watch();
  const bool probed = setup_.target.readiness.has_value();
  // It was ready, or will be asked: a probe that succeeds says so at once.
  next_probe_ = probed ? Clock() : kNever;
  probe_until_ = probed ? MomentIn(setup_.target.readiness->timeout_s) : kNever;
  Become(probed ? ShareState::kStarting : ShareState::kRunning, "");
}

// One step towards a replica that runs; waits where nothing is to be done.
Task<void> ReplicaKeeper::Step() {
  const bool stale = setup_.domain && process_ && generation_ != setup_.domain->generation();
  if (process_ && process_->Ended()) {
    OnEnd();
  } else if (stale) {
    co_await Stop("its mps domain has lost its clients", false);
    next_start_ = Moment{};
  } else if (process_ && !restart_why_.empty()) {
    co_await Stop(std::exchange(restart_why_, {}), false);
    next_start_ = Moment{};
  } else if (process_ && Clock() >= next_probe_) {
    co_await ProbeReadiness();
  } else if (process_) {
    co_await bell_.Wait(next_probe_);
  } else if (history_.wanted == ReplicaWanted::kStopped) {
    co_await bell_.Wait();
  } else if (const std::string obstacle = setup_.obstacle(); !obstacle.empty()) {
    if (why_ != obstacle) Become(ShareState::kWaiting, obstacle);
    co_await bell_.Wait();
  } else if (setup_.domain && !setup_.domain->ready()) {
    const std::string why = fmt::format("waits for mps domain {}", setup_.domain->domain().name);
    if (why_ != why) Become(ShareState::kWaiting, why);
    co_await bell_.Wait();
  } else if (Clock() < next_start_) {
    co_await bell_.Wait(next_start_);
  } else {
    co_await Start();
  }
}

Task<void> ReplicaKeeper::Start() {
  Become(ShareState::kStarting, "");
  failed_.clear();
  Result<ProcessIdentity> launched = co_await Launched();
  if (launched) {
    parts_.events.Append("replica", history_.id, "started",
                         fmt::format("process {} in share {}", launched->pid, share().id));
    co_return;
  }
  row_.process.reset();
  ++attempts_;
  failed_ = launched.error().message;
  parts_.events.Append("replica", history_.id, "not-started", failed_);
  PauseBeforeNextStart(failed_);
}

void ReplicaKeeper::PauseBeforeNextStart(const std::string& why) {
  const double delay_s = RestartDelay(attempts_, share().id);
  next_start_ = MomentIn(delay_s);
  Become(ShareState::kBackingOff, fmt::format("{}; {}", why, DescribePause(attempts_, delay_s)));
}

Task<Result<ProcessIdentity>> ReplicaKeeper::Launched() {
  if (setup_.domain) {
    const Status confirmed =
        co_await setup_.domain->Confirm(PinnedLimit(share()), share().sm_percent);
    if (!confirmed) co_return tl::unexpected<Error>(confirmed.error());
    generation_ = setup_.domain->generation();
  }
  row_.process.reset();
  if (Status written = WriteShare(RowState::kCreating); !written) {
    co_return tl::unexpected<Error>(std::move(written).error());
  }
  CrashPoint("replica-creating");
  LaunchSpec spec;
  spec.argv = setup_.target.command;
  spec.environment = Environment();
  spec.directory = setup_.target.directory;
  spec.user = setup_.run_as;
  spec.log_path = log_->path();
  auto launch = [spec] { return Launch(spec); };
  Result<ProcessHandle> process = co_await OnPool(parts_.pool, launch);
  if (!process) co_return tl::unexpected<Error>(std::move(process).error());
  CrashPoint("replica-launched");
  const ProcessIdentity identity = process->identity();
  process_ = std::move(*process);
  row_.process = RowOf(identity, setup_.run_as);
  started_ = Clock();
  since_ = UtcMilliseconds();
  Watch();
  if (Status written = WriteShare(RowState::kPresent); !written) {
    // Unwritten, it would be lost to the next daemon.
    co_await Stop(written.error().message, true);
    co_return tl::unexpected<Error>(std::move(written).error());
  }
  CrashPoint("replica-present");
  const bool probed = setup_.target.readiness.has_value();
  next_probe_ = MomentIn(probed ? setup_.target.readiness->period_s : kLivesSeconds);
  probe_until_ = probed ? MomentIn(setup_.target.readiness->timeout_s) : kNever;
  co_return identity;
}

// What the workload says, and on top of it what confines it: that is not the workload's to change.
EnvironmentChanges ReplicaKeeper::Environment() const {
  EnvironmentChanges changes;
  for (const auto& [name, value] : setup_.target.env) changes.emplace_back(name, value);
  if (setup_.target.port) changes.emplace_back("PORT", std::to_string(*setup_.target.port));
  const std::string pipe = setup_.domain ? setup_.domain->pipe_directory() : "";
  for (auto& change : EnvironmentOf(parts_.settings, share(), pipe, row_.target)) {
    changes.push_back(std::move(change));
  }
  return changes;
}

Task<void> ReplicaKeeper::ProbeReadiness() {
  if (!setup_.target.readiness) {
    next_probe_ = kNever;
    Become(ShareState::kRunning, "");
    co_return;
  }
  const Readiness probe = *setup_.target.readiness;
  ReadinessPlace place;
  place.port = setup_.target.port.value_or(0);
  place.environment = Environment();
  place.directory = setup_.target.directory;
  place.user = setup_.run_as;
  auto once = [probe, place] { return ProbeOnce(probe, place); };
  const int round = round_;
  const Status ready = co_await OnPool(parts_.pool, once);
  if (round != round_ || !process_) co_return;
  if (ready) {
    next_probe_ = kNever;
    parts_.events.Append("replica", history_.id, "ready",
                         fmt::format("after {:.1f} s", SecondsSince(started_)));
    Become(ShareState::kReady, "");
    co_return;
  }
  next_probe_ = MomentIn(probe.period_s);
  if (Clock() < probe_until_) co_return;
  failed_ = fmt::format("is not ready after {:g} s: {}", probe.timeout_s, ready.error().message);
  co_await Stop(failed_, false);
  ++attempts_;
  PauseBeforeNextStart(failed_);
}

// The process has ended by itself.
void ReplicaKeeper::OnEnd() {
  ++round_;
  const std::optional<ChildEnd> end = ReapIfEnded(process_->identity().pid);
  history_.last_end = end ? DescribeEnd(*end) : "ended, how was not seen";
  const bool was_up = state_ == ShareState::kReady || state_ == ShareState::kRunning;
  const bool by_domain = setup_.domain && generation_ != setup_.domain->generation();
  process_.reset();
  next_probe_ = kNever;
  parts_.events.Append("replica", history_.id, "ended",
                       fmt::format("{} after {:.1f} s", history_.last_end, SecondsSince(started_)));
  const bool success = end && end->Succeeded();
  const bool again = setup_.target.restart == RestartPolicy::kAlways ||
                     (setup_.target.restart == RestartPolicy::kOnFailure && !success);
  if (!again) {
    history_.wanted = ReplicaWanted::kStopped;
    WriteHistory();
    // Who asked for that gets what was asked for.
    if (!success) failed_ = history_.last_end;
    Become(ShareState::kStopped, history_.last_end);
    return;
  }
  ++history_.restarts;
  WriteHistory();
  if (!was_up) failed_ = fmt::format("{} before it was ready", history_.last_end);
  if (by_domain) {
    // A neighbour's fault is no reason to wait.
    next_start_ = Moment{};
    Become(ShareState::kBackingOff, history_.last_end);
    return;
  }
  attempts_ = AttemptsAfterEnd(attempts_, SecondsSince(started_));
  PauseBeforeNextStart(history_.last_end);
}

Task<void> ReplicaKeeper::Stop(std::string why, bool at_once) {
  Become(ShareState::kEnding, why);
  ++round_;
  next_probe_ = kNever;
  const ProcessEnding ending{.identity = process_->identity(),
                             .share = share().id,
                             .state = parts_.settings.state,
                             .patience_s = at_once ? 0 : setup_.target.stop_timeout_s};
  co_await Unplug(ending.patience_s);
  auto end = [ending] { return EndProcess(ending); };
  const Status ended = co_await OnPool(parts_.pool, end);
  const std::optional<ChildEnd> how = ReapIfEnded(ending.identity.pid);
  history_.last_end = how ? DescribeEnd(*how) : "was stopped";
  parts_.events.Append("replica", history_.id, ended ? "stopped" : "not-stopped",
                       ended ? why : ended.error().message);
  if (!ended) {
    // It is still there, in the driver's hands perhaps; it must not be forgotten.
    end_status_ = ended;
    co_await bell_.Wait(MomentIn(1));
    co_return;
  }
  if (wanted_) {
    ++history_.restarts;
    WriteHistory();
  }
  process_.reset();
  Become(ShareState::kBackingOff, std::move(why));
}

// Takes the process off its MPS server before it is killed: killed in the midst of a kernel, it
// would take its neighbours with it. One that ends by itself when it is told to does so first.
Task<void> ReplicaKeeper::Unplug(double patience_s) {
  const std::shared_ptr<DomainKeeper> domain = setup_.domain;
  if (!domain || generation_ != domain->generation() || process_->Ended()) co_return;
  const int pid = process_->identity().pid;
  if (patience_s > 0 && CatchesTerm(pid)) {
    static_cast<void>(process_->Signal(SIGTERM));
    const FileDescriptor pidfd(::fcntl(process_->fd(), F_DUPFD_CLOEXEC, 0));
    auto wait = [&pidfd, patience_s]() -> bool {
      pollfd ended{pidfd.get(), POLLIN, 0};
      return ::poll(&ended, 1, static_cast<int>(patience_s * 1000)) > 0;
    };
    if (co_await OnPool(parts_.pool, wait)) co_return;
  }
  std::vector<int> processes{pid};
  const std::shared_ptr<const ShareProcesses> found = co_await parts_.search.Find();
  if (const auto more = found->find(share().id); more != found->end()) {
    processes.insert(processes.end(), more->second.begin(), more->second.end());
  }
  co_await domain->Disconnect(std::move(processes));
}

Task<void> ReplicaKeeper::EndAll() {
  Become(ShareState::kEnding, "");
  if (Status written = WriteShare(RowState::kRemoving); !written) end_status_ = written;
  CrashPoint("replica-removing");
  const ProcessEnding ending{.identity = process_ ? process_->identity() : ProcessIdentity{},
                             .share = share().id,
                             .state = parts_.settings.state,
                             .patience_s = setup_.target.stop_timeout_s};
  if (process_) co_await Unplug(ending.patience_s);
  // Also without a process: what it left behind has its mark.
  auto end = [ending] { return EndProcess(ending); };
  Status ended = co_await OnPool(parts_.pool, end);
  if (process_) static_cast<void>(ReapIfEnded(ending.identity.pid));
  CrashPoint("replica-ended");
  if (ended) {
    process_.reset();
    log_->Remove();
    ended = parts_.store.Transaction([&]() -> Status {
      RETURN_IF_ERROR(parts_.store.RemoveReplica(history_.id));
      return parts_.store.RemoveShare(share().id);
    });
  }
  end_status_ = ended;
  CrashPoint("replica-removed");
  gone_ = true;
  changes_.Announce();
  setup_.changed();
}

Task<Status> ReplicaKeeper::AwaitReady() {
  const auto self = shared_from_this();
  while (state_ != ShareState::kReady && state_ != ShareState::kRunning) {
    if (!wanted_) co_return Fail(ErrorCode::kConflict, "it is being stopped");
    if (!failed_.empty()) {
      // Its log goes when the plan is rolled back; what it said last is why it failed.
      auto last = [log = log_] { return LastLine(*log); };
      std::string line = co_await OnPool(parts_.pool, last);
      co_return Fail(ErrorCode::kUnavailable,
                     fmt::format("{}: {}", history_.id, std::exchange(failed_, {})),
                     line.empty() ? fmt::format("sublet logs {}", history_.id)
                                  : fmt::format("it printed last: {}", line));
    }
    if (state_ == ShareState::kStopped) co_return Status{};
    co_await changes_.Next();
  }
  failed_.clear();
  co_return Status{};
}

void ReplicaKeeper::GiveUp(std::string why) {
  failed_ = std::move(why);
  changes_.Announce();
}

Task<Status> ReplicaKeeper::End() {
  const auto self = shared_from_this();
  wanted_ = false;
  bell_.Ring();
  changes_.Announce();
  while (!gone_) co_await changes_.Next();
  co_return end_status_;
}

void ReplicaKeeper::Restart(std::string why) {
  restart_why_ = std::move(why);
  history_.wanted = ReplicaWanted::kRunning;
  next_start_ = Moment{};
  bell_.Ring();
}

std::optional<ProcessIdentity> ReplicaKeeper::process() const {
  if (!process_) return std::nullopt;
  return process_->identity();
}

void ReplicaKeeper::Watch() {
  ++round_;
  asio::co_spawn(parts_.loop, WatchEnd(round_), EndsTheProgram);
}

Task<void> ReplicaKeeper::WatchEnd(int round) {
  const auto self = shared_from_this();
  const FileDescriptor pidfd(::fcntl(process_->fd(), F_DUPFD_CLOEXEC, 0));
  static_cast<void>(co_await WaitReadable(pidfd.get()));
  if (round == round_) bell_.Ring();
}

Status ReplicaKeeper::WriteShare(RowState state) {
  row_.state = state;
  return parts_.store.PutShare(row_);
}

void ReplicaKeeper::WriteHistory() {
  if (const Status written = parts_.store.PutReplica(history_); !written) {
    parts_.events.Append("replica", history_.id, "unwritten", written.error().message);
  }
}

void ReplicaKeeper::Become(ShareState state, std::string why) {
  state_ = state;
  why_ = std::move(why);
  changes_.Announce();
  setup_.changed();
}

ShareStatus ReplicaKeeper::Now() const {
  ShareStatus status;
  status.share = share();
  status.replica = true;
  status.state = state_;
  status.why = why_;
  if (process_) {
    status.pid = process_->identity().pid;
    status.user = UserName(setup_.run_as.value_or(CurrentUser()).uid);
    status.since = since_;
    status.uptime_s = SecondsSince(started_);
  }
  status.restarts = history_.restarts;
  status.last_end = history_.last_end;
  status.log = log_->path();
  status.port = target().port;
  return status;
}

}  // namespace sublet
