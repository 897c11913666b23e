#include "node/domain_keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/crash_point.h"
#include "node/back_off.h"
#include "node/share_environment.h"

namespace sublet {
namespace {

// Between two harmless questions to a control daemon that has nothing to tell. Each costs a
// process, and only a daemon that hangs is found by it: what ends or breaks is told at once.
constexpr double kQuestionSeconds = 20;

// From a fault on: its clients' keepers end them within some seconds; a server recovers 0.2 s
// after the last has gone. What takes longer won't come.
constexpr double kRecoverySeconds = 20;
constexpr double kRecoveryLookSeconds = 0.1;

std::pair<Error, bool> Seen(Status status) {
  if (status) return {Error{}, true};
  return {std::move(status).error(), false};
}

}  // namespace

DomainKeeper::DomainKeeper(NodeParts& parts, DomainSetup setup, Listener listener)
    : parts_(parts),
      setup_(std::move(setup)),
      listener_(std::move(listener)),
      folder_(setup_.folder.empty() ? fmt::format("{}/mps/{}", parts.settings.run, domain().name)
                                    : setup_.folder),
      bell_(parts.loop),
      changes_(parts.loop) {
  row_.domain = domain();
  row_.pipe_directory = folder_;
}

void DomainKeeper::Begin(std::optional<DomainRow> found) {
  asio::co_spawn(parts_.loop, Live(std::move(found)), EndsTheProgram);
}

MpsOptions DomainKeeper::Options() const {
  MpsOptions options;
  options.gpu_uuid = domain().device_uuid();
  options.folder = folder_;
  options.outlives_owner = true;
  options.run_as = setup_.run_as;
  options.any_user = setup_.any_user;
  options.memory_limit = domain().memory_limit;
  options.sm_percent = domain().sm_percent;
  options.variables = {{std::string(kStateVariable), parts_.settings.state},
                       {std::string(kRecordVariable), DomainToJson(domain()).dump()}};
  return options;
}

ProbeRequest DomainKeeper::ProbeFor(const Limits& limits) const {
  ProbeRequest request;
  Share share;
  share.mode = SharingMode::kMps;
  share.gpu_uuid = domain().gpu_uuid;
  share.mig_uuid = domain().mig_uuid;
  share.tenant = domain().tenant;
  share.domain = domain().name;
  share.memory_limit = limits.first;
  share.memory = limits.first.value_or(Bytes());
  share.sm_percent = limits.second;
  for (const auto& [name, value] : EnvironmentOf(parts_.settings, share, folder_)) {
    if (value) {
      request.environment.Set(name, *value);
    } else {
      request.environment.Unset(name);
    }
  }
  // Sublet's own process, of no share.
  request.environment.Unset(kShareVariable).Unset(kRecordVariable);
  request.program = parts_.settings.program;
  request.run_as = setup_.run_as;
  request.memory_limit = limits.first;
  request.sm_percent = limits.second;
  request.device_sm_count = setup_.target.sm_count;
  return request;
}

Task<void> DomainKeeper::Live(std::optional<DomainRow> found) {
  const auto self = shared_from_this();
  if (found) co_await Adopt(std::move(*found));
  while (wanted_) {
    if (mps_) {
      co_await Look();
      if (mps_ && wanted_) co_await bell_.Wait(next_question_);
    } else if (Clock() < next_start_) {
      co_await bell_.Wait(next_start_);
    } else {
      co_await Start();
    }
  }
  co_await EndAll();
}

Task<void> DomainKeeper::Adopt(DomainRow found) {
  row_.restarts = found.restarts;
  row_.limits_confirmed = found.limits_confirmed;
  if (found.state == RowState::kPresent && found.daemon) {
    const MpsOptions options = Options();
    const ProcessIdentity identity = IdentityOf(*found.daemon);
    auto adopt = [options, identity] { return MpsDaemon::Adopt(options, identity); };
    Result<std::unique_ptr<MpsDaemon>> adopted = co_await OnPool(parts_.pool, adopt);
    if (adopted) {
      mps_ = std::move(*adopted);
      row_.daemon = found.daemon;
      confirmed_.insert({domain().memory_limit, domain().sm_percent});
      WatchDaemon();
      Become(DomainState::kReady, "");
      co_return;
    }
    parts_.events.Append("domain", domain().name, "not-adopted", adopted.error().message);
  }
  // Its clients, where there are any, have lost their server.
  ++generation_;
}

Task<void> DomainKeeper::Start() {
  Become(DomainState::kStarting, why_);
  const auto [error, started] = Seen(co_await Bring());
  if (started) {
    attempts_ = 0;
    failed_ = false;
    parts_.events.Append(
        "domain", domain().name, "ready",
        fmt::format("mps control daemon {} serves {}", mps_->pid(), domain().device_uuid()));
    Become(DomainState::kReady, "");
    co_return;
  }
  ++attempts_;
  failed_ = true;
  next_start_ = MomentIn(RestartDelay(attempts_, domain().name));
  parts_.events.Append("domain", domain().name, "failed", error.message);
  Become(DomainState::kFaulted, error.message);
}

Task<Status> DomainKeeper::Bring() {
  row_.daemon.reset();
  row_.limits_confirmed = false;
  confirmed_.clear();
  if (auto written = WriteRow(RowState::kCreating); !written) co_return written;
  CrashPoint("domain-creating");
  const MpsOptions options = Options();
  const Limits limits{domain().memory_limit, domain().sm_percent};
  auto begin = [options]() -> Result<std::unique_ptr<MpsDaemon>> {
    // Also what a crash left of an earlier one.
    RETURN_IF_ERROR(EndLeftovers(options.folder, options.run_as));
    return MpsDaemon::Start(options);
  };
  Result<std::unique_ptr<MpsDaemon>> started = co_await OnPool(parts_.pool, begin);
  if (!started) co_return tl::unexpected<Error>(std::move(started).error());
  std::unique_ptr<MpsDaemon> mps = std::move(*started);
  CrashPoint("domain-started");
  const ProbeRequest request = ProbeFor(limits);
  auto confirm = [&mps, request]() -> Status {
    Status confirmed;
    if (request.memory_limit || request.sm_percent) {
      auto report = ProbeLimits(*mps, request);
      if (!report) confirmed = tl::unexpected<Error>(std::move(report).error());
    } else if (auto server = mps->StartServer(); !server) {
      confirmed = tl::unexpected<Error>(std::move(server).error());
    }
    if (!confirmed) static_cast<void>(mps->Stop());
    return confirmed;
  };
  Status confirmed = co_await OnPool(parts_.pool, confirm);
  if (!confirmed) co_return confirmed;
  row_.daemon = RowOf(mps->identity(), setup_.run_as);
  row_.limits_confirmed = true;
  confirmed_.insert(limits);
  if (auto written = WriteRow(RowState::kPresent); !written) {
    auto stop = [&mps] { return mps->Stop(); };
    static_cast<void>(co_await OnPool(parts_.pool, stop));
    co_return written;
  }
  CrashPoint("domain-present");
  mps_ = std::move(mps);
  WatchDaemon();
  co_return Status{};
}

Task<Status> DomainKeeper::Confirm(std::optional<Bytes> memory_limit,
                                   std::optional<int> sm_percent) {
  const auto self = shared_from_this();
  const Limits limits{memory_limit, sm_percent};
  const auto is_confirmed = [&] {
    return confirmed_.count(limits) > 0 || (!memory_limit && !sm_percent);
  };
  if (is_confirmed()) co_return Status{};
  while (busy_) co_await changes_.Next();
  if (is_confirmed()) co_return Status{};
  if (!mps_ || state_ != DomainState::kReady) {
    co_return Fail(ErrorCode::kUnavailable,
                   fmt::format("mps domain {} is not ready: {}", domain().name, why_));
  }
  busy_ = true;
  const ProbeRequest request = ProbeFor(limits);
  // The one that is asked may be replaced meanwhile, by this keeper's own loop; that waits.
  MpsDaemon* const mps = mps_.get();
  auto probe = [mps, request] { return ProbeLimits(*mps, request); };
  Result<ProbeReport> report = co_await OnPool(parts_.pool, probe);
  busy_ = false;
  changes_.Announce();
  bell_.Ring();
  if (!report) {
    parts_.events.Append("domain", domain().name, "limit-refused", report.error().message);
    co_return tl::unexpected<Error>(std::move(report).error());
  }
  confirmed_.insert(limits);
  co_return Status{};
}

void DomainKeeper::WatchDaemon() {
  ++round_;
  next_question_ = MomentIn(kQuestionSeconds);
  const uid_t owner = setup_.run_as ? setup_.run_as->uid : ::geteuid();
  log_.emplace(mps_->log_path(), owner, LogTail::From::kEnd);
  static_cast<void>(log_->Read());
  asio::co_spawn(parts_.loop, WatchEnd(round_), EndsTheProgram);
  asio::co_spawn(parts_.loop, WatchLogs(round_), EndsTheProgram);
}

Task<void> DomainKeeper::WatchEnd(int round) {
  const auto self = shared_from_this();
  const FileDescriptor pidfd(::fcntl(mps_->pidfd(), F_DUPFD_CLOEXEC, 0));
  static_cast<void>(co_await WaitReadable(pidfd.get()));
  if (round == round_) bell_.Ring();
}

Task<void> DomainKeeper::WatchLogs(int round) {
  const auto self = shared_from_this();
  const FileDescriptor watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  const std::string folder = mps_->log_directory();
  if (::inotify_add_watch(watch.get(), folder.c_str(), IN_MODIFY | IN_CREATE) < 0) {
    parts_.events.Append("domain", domain().name, "log-unwatched",
                         "its log can't be watched; faults show only in its clients' ends");
    co_return;
  }
  std::array<char, 4096> notes{};
  // The folder's removal is an event, too, so this ends with its daemon.
  while (round == round_ && co_await WaitReadable(watch.get())) {
    while (::read(watch.get(), notes.data(), notes.size()) > 0) {
    }
    if (round == round_) bell_.Ring();
  }
}

// One look at the daemon that runs: what it wrote, whether it has ended, whether it answers.
Task<void> DomainKeeper::Look() {
  ReadLogs();
  pollfd ended{mps_->pidfd(), POLLIN, 0};
  if (::poll(&ended, 1, 0) > 0) {
    co_await Replace(DomainState::kFaulted, "its mps control daemon has ended");
  } else if (state_ == DomainState::kFaulted) {
    co_await AwaitRecovery();
  } else if (Clock() >= next_question_) {
    co_await Ask();
  }
}

void DomainKeeper::ReadLogs() {
  bool fault = false;
  std::string text;
  for (MpsEvent& event : log_->Read()) {
    if (event.kind == MpsEventKind::kServerExited) next_question_ = Moment{};
    if (event.kind != MpsEventKind::kFault) continue;
    fault = true;
    if (text.empty()) text = event.text;
  }
  // Several lines tell of one fault.
  if (!fault || state_ == DomainState::kFaulted) return;
  ++generation_;
  ++parts_.counters.domains[domain().name].faults;
  recover_until_ = MomentIn(kRecoverySeconds);
  listener_.fault(text);
  Become(DomainState::kFaulted, "a GPU fault; it is ready again once its clients have ended");
}

// After a fault the server comes back by itself when the last client of that time has ended.
Task<void> DomainKeeper::AwaitRecovery() {
  co_await bell_.Wait(MomentIn(kRecoveryLookSeconds));
  while (busy_) co_await changes_.Next();
  if (!mps_ || !wanted_) co_return;
  MpsDaemon* const mps = mps_.get();
  auto ask = [mps]() -> Result<bool> {
    ASSIGN_OR_RETURN(const std::vector<int> servers, mps->Servers());
    for (const int server : servers) {
      ASSIGN_OR_RETURN(const MpsServerState state, mps->ServerState(server));
      if (state == MpsServerState::kFault) return false;
    }
    return true;
  };
  busy_ = true;
  const Result<bool> recovered = co_await OnPool(parts_.pool, ask);
  busy_ = false;
  if (recovered && *recovered) {
    parts_.events.Append("domain", domain().name, "recovered", "its server admits clients again");
    Become(DomainState::kReady, "");
  } else if (!recovered) {
    co_await Replace(DomainState::kWedged, recovered.error().message);
  } else if (Clock() > recover_until_) {
    co_await Replace(DomainState::kWedged, "its server does not recover from the fault");
  }
}

// A harmless question, which a daemon or server that hangs doesn't answer.
Task<void> DomainKeeper::Ask() {
  while (busy_) co_await changes_.Next();
  if (!mps_ || !wanted_) co_return;
  MpsDaemon* const mps = mps_.get();
  auto ask = [mps]() -> Status {
    ASSIGN_OR_RETURN(const std::vector<int> servers, mps->Servers());
    // A server that hangs shows in its status alone.
    for (const int server : servers) RETURN_IF_ERROR(mps->ServerState(server));
    return {};
  };
  busy_ = true;
  const Status answered = co_await OnPool(parts_.pool, ask);
  busy_ = false;
  changes_.Announce();
  next_question_ = MomentIn(kQuestionSeconds);
  if (!answered) co_await Replace(DomainState::kWedged, answered.error().message);
}

Task<Result<std::size_t>> DomainKeeper::CountClients() {
  const auto self = shared_from_this();
  while (busy_) co_await changes_.Next();
  if (!mps_ || state_ != DomainState::kReady) {
    co_return Fail(ErrorCode::kUnavailable,
                   fmt::format("mps domain {} is not ready: {}", domain().name, why_));
  }
  MpsDaemon* const mps = mps_.get();
  auto ask = [mps] { return mps->AllClients(); };
  busy_ = true;
  const Result<std::set<int>> clients = co_await OnPool(parts_.pool, ask);
  busy_ = false;
  changes_.Announce();
  bell_.Ring();
  if (!clients) co_return tl::unexpected<Error>(clients.error());
  co_return clients->size();
}

Task<void> DomainKeeper::Disconnect(std::vector<int> processes) {
  const auto self = shared_from_this();
  while (busy_) co_await changes_.Next();
  if (!mps_ || state_ != DomainState::kReady || processes.empty()) co_return;
  MpsDaemon* const mps = mps_.get();
  auto disconnect = [mps, processes]() -> Status {
    ASSIGN_OR_RETURN(const std::vector<int> servers, mps->Servers());
    for (const int server : servers) {
      ASSIGN_OR_RETURN(const std::vector<int> clients, mps->Clients(server));
      for (const int client : clients) {
        if (std::find(processes.begin(), processes.end(), client) == processes.end()) continue;
        // The server waits for an answer of the client, and with it the whole daemon.
        ::kill(client, SIGCONT);
        RETURN_IF_ERROR(mps->TerminateClient(server, client));
      }
    }
    return {};
  };
  busy_ = true;
  const Status done = co_await OnPool(parts_.pool, disconnect);
  busy_ = false;
  changes_.Announce();
  bell_.Ring();
  if (!done) {
    parts_.events.Append("domain", domain().name, "not-disconnected", done.error().message);
  }
}

Task<void> DomainKeeper::Replace(DomainState state, std::string why) {
  while (busy_) co_await changes_.Next();
  parts_.events.Append("domain", domain().name, state == DomainState::kWedged ? "wedged" : "lost",
                       why);
  if (state == DomainState::kWedged) ++parts_.counters.domains[domain().name].wedges;
  ++row_.restarts;
  ++generation_;
  ++round_;
  log_.reset();
  Become(state, std::move(why));
  // EndLeftovers() ends all that is in its folder; asking one that hangs to quit would only wait.
  const int pid = mps_->pid();
  mps_.reset();
  const MpsOptions options = Options();
  auto end = [options, pid] {
    Status ended = EndLeftovers(options.folder, options.run_as);
    // Where it was a child of this daemon, it would stay a zombie.
    static_cast<void>(ReapIfEnded(pid));
    return ended;
  };
  const auto [error, ended] = Seen(co_await OnPool(parts_.pool, end));
  if (!ended) {
    ++attempts_;
    next_start_ = MomentIn(RestartDelay(attempts_, domain().name));
    Become(state, error.message);
  }
}

Task<Status> DomainKeeper::AwaitReady() {
  const auto self = shared_from_this();
  while (!ready()) {
    if (!wanted_) co_return Fail(ErrorCode::kConflict, "the mps domain is being ended");
    if (std::exchange(failed_, false)) {
      co_return Fail(ErrorCode::kUnavailable,
                     fmt::format("mps domain {}: {}", domain().name, why_));
    }
    co_await changes_.Next();
  }
  co_return Status{};
}

Task<Status> DomainKeeper::End() {
  const auto self = shared_from_this();
  wanted_ = false;
  bell_.Ring();
  changes_.Announce();
  while (!gone_) co_await changes_.Next();
  co_return end_status_;
}

Task<void> DomainKeeper::EndAll() {
  Become(DomainState::kEnding, "");
  while (busy_) co_await changes_.Next();
  if (auto written = WriteRow(RowState::kRemoving); !written) end_status_ = written;
  CrashPoint("domain-removing");
  ++round_;
  std::unique_ptr<MpsDaemon> mps = std::move(mps_);
  const MpsOptions options = Options();
  auto end = [&mps, options]() -> Status {
    if (mps) RETURN_IF_ERROR(mps->Stop());
    return EndLeftovers(options.folder, options.run_as);
  };
  Status ended = co_await OnPool(parts_.pool, end);
  CrashPoint("domain-ended");
  if (ended) ended = parts_.store.RemoveDomain(domain().name);
  if (end_status_) end_status_ = ended;
  parts_.events.Append("domain", domain().name, ended ? "ended" : "not-ended",
                       ended ? "its mps control daemon is gone" : ended.error().message);
  gone_ = true;
  changes_.Announce();
}

Status DomainKeeper::WriteRow(RowState state) {
  row_.state = state;
  return parts_.store.PutDomain(row_);
}

void DomainKeeper::Become(DomainState state, std::string why) {
  state_ = state;
  why_ = std::move(why);
  changes_.Announce();
  listener_.changed();
}

DomainStatus DomainKeeper::Now() const {
  DomainStatus status;
  status.domain = domain();
  status.state = state_;
  status.why = why_;
  if (mps_) status.pid = mps_->pid();
  status.pipe_directory = folder_;
  status.restarts = row_.restarts;
  status.limits_confirmed = row_.limits_confirmed;
  return status;
}

}  // namespace sublet
