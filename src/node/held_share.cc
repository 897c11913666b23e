#include "node/held_share.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <utility>

#include "base/crash_point.h"
#include "node/launcher.h"

namespace sublet {
namespace {

// From SIGTERM to SIGKILL: as for replicas that don't say.
constexpr double kPatienceSeconds = 10;
constexpr double kTryAgainSeconds = 5;

}  // namespace

HeldShare::HeldShare(NodeParts& parts, ShareRow row, std::optional<ProcessHandle> process,
                     std::function<void(const std::string& id)> gone)
    : parts_(parts),
      row_(std::move(row)),
      process_(std::move(process)),
      gone_(std::move(gone)),
      log_(std::make_shared<ReplicaLog>(fmt::format("{}/logs", parts.settings.state),
                                        row_.share.id)),
      began_(Clock()),
      since_(UtcMilliseconds()),
      bell_(parts.loop),
      changes_(parts.loop) {}

void HeldShare::Begin() {
  asio::co_spawn(parts_.loop, Live(), EndsTheProgram);
}

Task<void> HeldShare::Live() {
  const auto self = shared_from_this();
  if (process_) {
    const FileDescriptor pidfd(::fcntl(process_->fd(), F_DUPFD_CLOEXEC, 0));
    static_cast<void>(co_await WaitReadable(pidfd.get()));
  }
  co_await TakeBack();
}

Task<void> HeldShare::TakeBack() {
  row_.state = RowState::kRemoving;
  if (const Status written = parts_.store.PutShare(row_); !written) why_ = written.error().message;
  CrashPoint("run-ended");
  ProcessEnding ending;
  ending.share = row_.share.id;
  ending.state = parts_.settings.state;
  ending.patience_s = kPatienceSeconds;
  auto end = [ending] { return EndProcess(ending); };
  while (true) {
    // Most leave nobody behind, and one search says so for all that end at the same time.
    const std::shared_ptr<const ShareProcesses> found = co_await parts_.search.Find();
    Status ended;
    if (found->contains(row_.share.id)) ended = co_await OnPool(parts_.pool, end);
    if (ended) ended = parts_.store.RemoveShare(row_.share.id);
    if (ended) break;
    why_ = ended.error().message;
    parts_.events.Append("share", row_.share.id, "not-returned", why_);
    co_await bell_.Wait(MomentIn(kTryAgainSeconds));
  }
  CrashPoint("run-returned");
  parts_.events.Append(
      "share", row_.share.id, "returned",
      fmt::format("{} of tenant {} has ended", row_.share.name, row_.share.tenant));
  ++parts_.counters.returns;
  free_ = true;
  gone_(row_.share.id);
  changes_.Announce();
}

Task<Status> HeldShare::End() {
  const auto self = shared_from_this();
  if (process_ && !std::exchange(ending_, true)) {
    ProcessEnding ending;
    ending.identity = process_->identity();
    // Its session is the user's shell's.
    ending.launched = false;
    ending.share = row_.share.id;
    ending.state = parts_.settings.state;
    ending.patience_s = kPatienceSeconds;
    auto end = [ending] { return EndProcess(ending); };
    const Status ended = co_await OnPool(parts_.pool, end);
    if (!ended) {
      ending_ = false;
      co_return ended;
    }
  }
  while (!free_) co_await changes_.Next();
  co_return Status{};
}

ShareStatus HeldShare::Now() const {
  ShareStatus status;
  status.share = row_.share;
  status.state = ending_ || free_ ? ShareState::kEnding : ShareState::kRunning;
  status.why = why_;
  if (row_.process) {
    status.pid = row_.process->pid;
    status.user = UserName(row_.process->uid);
  }
  status.since = since_;
  status.uptime_s = SecondsSince(began_);
  status.log = row_.log;
  return status;
}

}  // namespace sublet
