#include "kube/mps_server.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <boost/asio/co_spawn.hpp>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/crash_point.h"
#include "base/files.h"
#include "kube/compute_mode.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

// Between two questions whether a server that is to go has clients left.
constexpr double kDrainLookSeconds = 2;
constexpr double kStartAgainSeconds = 5;  // After what the keeper can't mend by itself.
constexpr std::string_view kModeFile = "compute-mode";
constexpr std::size_t kModeBytesMax = 32;

Domain DomainOf(const std::string& name, const MpsWant& want, const std::string& tenant) {
  Domain domain;
  domain.name = name;
  domain.tenant = tenant;
  domain.gpu_uuid = want.gpu_uuid;
  if (want.IsMig()) domain.mig_uuid = want.device;
  domain.memory_limit = want.wall.memory;
  domain.sm_percent = want.wall.sm_percent;
  return domain;
}

}  // namespace

Status MakePassage(const std::string& path) {
  if (::mkdir(path.c_str(), 0711) != 0 && errno != EEXIST) {
    return FailFromErrno(errno, fmt::format("making {}", path));
  }
  if (::chmod(path.c_str(), 0711) != 0) {
    return FailFromErrno(errno, fmt::format("opening {}", path));
  }
  return {};
}

MpsServer::MpsServer(MpsServerHome& home, std::string name, std::string tenant)
    : home_(home),
      name_(std::move(name)),
      tenant_(std::move(tenant)),
      folder_(fmt::format("{}/servers/{}", home.options.root, name_)),
      bell_(home.node.loop),
      changes_(home.node.loop) {}

void MpsServer::Want(const MpsWant& want) {
  if (wanted_ && *wanted_ == want) return;
  wanted_ = want;
  bell_.Ring();
  home_.changed();
}

void MpsServer::Unwant() {
  if (!wanted_) return;
  wanted_.reset();
  bell_.Ring();
  home_.changed();
}

Task<Status> MpsServer::AwaitReady() {
  const auto self = shared_from_this();
  while (true) {
    if (!wanted_ || gone_) {
      co_return Fail(ErrorCode::kUnavailable, "the MPS server is being ended");
    }
    if (ready()) co_return Status();
    if (!problem_.empty()) co_return Fail(ErrorCode::kUnavailable, problem_);
    if (keeper_ && !Draining()) {
      co_return co_await keeper_->AwaitReady();
    }
    co_await changes_.Next();
  }
}

Task<void> MpsServer::AwaitGone() {
  const auto self = shared_from_this();
  while (running_) co_await changes_.Next();
}

std::string MpsServer::Obstacle() const {
  if (ready()) return "";
  if (Draining()) {
    return "its MPS server has clients yet, and its limits are to be others, or it is to end";
  }
  if (!problem_.empty()) return problem_;
  if (!keeper_) return "its MPS server hasn't started yet";
  const std::string why = keeper_->Now().why;
  return why.empty() ? "its MPS server starts" : fmt::format("its MPS server: {}", why);
}

bool MpsServer::Draining() const {
  return keeper_ && (!wanted_ || *running_domain_ != DomainOf(name_, *wanted_, tenant_));
}

Task<void> MpsServer::Live() {
  const auto self = shared_from_this();
  while (!gone_) {
    if (Draining()) {
      co_await Drain();
    } else if (keeper_) {
      co_await bell_.Wait();
    } else if (!wanted_ && !row_) {
      co_await OpenTheDoor();
      if (gone_) break;
      std::error_code ignored;
      fs::remove_all(folder_, ignored);
      if (!wanted_) break;
    } else if (Clock() < next_start_) {
      co_await bell_.Wait(next_start_);
    } else {
      co_await Start();
    }
  }
  running_ = false;
  changes_.Announce();
  if (gone_) co_return;
  home_.ended(name_);
}

// Ends a server that isn't wanted as it is, once nobody needs it.
Task<void> MpsServer::Drain() {
  const auto keeper = keeper_;
  if (!at_once_) {
    // One that is just being taken over doesn't know its clients yet.
    static_cast<void>(co_await keeper->AwaitReady());
    if (gone_ || !Draining()) co_return;
    const Result<std::size_t> clients = co_await keeper->CountClients();
    if (gone_ || !Draining()) co_return;
    // A server that takes nobody has nobody to lose.
    if (clients && *clients > 0 && !at_once_) {
      co_await bell_.Wait(MomentIn(kDrainLookSeconds));
      co_return;
    }
  }
  const Status ended = co_await keeper->End();
  if (gone_) co_return;
  if (!ended) spdlog::error("MPS server {}: {}", name_, ended.error().message);
  keeper_.reset();
  running_domain_.reset();
  changes_.Announce();
}

Task<void> MpsServer::Start() {
  Status made = MakePassage(folder_);
  if (made && wanted_) made = co_await ShutTheDoor();
  if (gone_) co_return;
  if (!made) {
    problem_ = made.error().message;
    spdlog::error("MPS server {}: {}", name_, problem_);
    next_start_ = MomentIn(kStartAgainSeconds);
    changes_.Announce();
    home_.changed();
    co_return;
  }
  problem_.clear();
  CrashPoint("mps-folder-made");
  // One that runs is taken over as it is; where it should be another, it is drained then.
  if (!row_ && !wanted_) co_return;
  DomainSetup setup;
  setup.target.domain = row_ ? row_->domain : DomainOf(name_, *wanted_, tenant_);
  setup.target.sm_count = wanted_ ? wanted_->sm_count : 0;
  setup.folder = folder_ + "/pipe";
  setup.any_user = true;
  running_domain_ = setup.target.domain;
  keeper_ = std::make_shared<DomainKeeper>(home_.node, std::move(setup), Listens());
  keeper_->Begin(std::exchange(row_, std::nullopt));
  changes_.Announce();
  home_.changed();
}

DomainKeeper::Listener MpsServer::Listens() {
  DomainKeeper::Listener listener;
  listener.changed = [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self || self->gone_) return;
    self->changes_.Announce();
    self->home_.changed();
  };
  listener.fault = [name = name_](const std::string& text) {
    spdlog::warn("MPS server {}: a GPU fault: {}", name, text);
  };
  return listener;
}

// The mode before is written down first: who comes after a crash puts it back.
Task<Status> MpsServer::ShutTheDoor() {
  if (!home_.options.exclusive_mode || wanted_->IsMig() || wanted_->per_tenant) {
    co_return Status();
  }
  const std::string file = fmt::format("{}/{}", folder_, kModeFile);
  const std::string nvml = home_.options.nvml;
  const std::string uuid = wanted_->gpu_uuid;
  auto set = [nvml, uuid, file]() -> Status {
    ASSIGN_OR_RETURN(const ComputeMode before, ReadComputeMode(nvml, uuid));
    if (before == ComputeMode::kExclusiveProcess) return {};
    RETURN_IF_ERROR(WriteFileAtomically(file, ComputeModeName(before), 0600));
    CrashPoint("mps-mode-written");
    return SetComputeMode(nvml, uuid, ComputeMode::kExclusiveProcess);
  };
  const Status done = co_await OnPool(home_.node.pool, set);
  CrashPoint("mps-mode-set");
  if (done) co_return done;
  // What can't be shut is said, and is no reason not to serve: vGPUs have no modes, for instance.
  const ErrorCode code = done.error().code;
  if (code == ErrorCode::kUnsupported || code == ErrorCode::kPermission) {
    spdlog::warn(
        "MPS server {}: not enforced: a process that drops its variables has the whole "
        "GPU: {}",
        name_, done.error().message);
    co_return Status();
  }
  co_return done;
}

Task<void> MpsServer::OpenTheDoor() {
  const Result<std::string> written =
      ReadFile(fmt::format("{}/{}", folder_, kModeFile), kModeBytesMax);
  if (!written) co_return;
  // The only other mode in which a server can have been begun.
  const ComputeMode mode = *written == ComputeModeName(ComputeMode::kExclusiveThread)
                               ? ComputeMode::kExclusiveThread
                               : ComputeMode::kDefault;
  const std::string nvml = home_.options.nvml;
  const std::string uuid = device();
  auto set = [nvml, uuid, mode] { return SetComputeMode(nvml, uuid, mode); };
  const Status done = co_await OnPool(home_.node.pool, set);
  if (done || done.error().code == ErrorCode::kNotFound) co_return;
  spdlog::error("{} stays in exclusive-process mode: {}", uuid, done.error().message);
}

}  // namespace sublet
