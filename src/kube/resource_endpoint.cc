#include "kube/resource_endpoint.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <utility>

#include "base/crash_point.h"
#include "kube/kubelet_client.h"
#include "node/back_off.h"

namespace sublet {
namespace {

// Between tries that lead to nothing. A kubelet that starts takes a second or two, and its socket
// is watched beside this.
constexpr BackOff kRegisterBackOff{.first_s = 0.1, .most_s = 30};
// A kubelet that has answered Register opens its stream within milliseconds.
constexpr double kFirstStreamSeconds = 5;
// For kubelet to read that there are no devices any more.
constexpr double kLastListSeconds = 0.5;

}  // namespace

// Carries the number of open streams to the loop. It outlives the endpoint where a stream does.
class ResourceEndpoint::Counter final : public ResourceAnswers {
 public:
  Counter(asio::io_context& loop, std::weak_ptr<ResourceEndpoint> endpoint,
          std::shared_ptr<ResourceDesk> desk)
      : loop_(loop), endpoint_(std::move(endpoint)), desk_(std::move(desk)) {}

  OptionalCalls Options() override { return desk_->Options(); }
  Result<std::vector<std::string>> Prefer(PreferenceRequest request) override {
    return desk_->Prefer(std::move(request));
  }
  Result<ContainerGrant> Allocate(const std::vector<std::string>& ids) override {
    return desk_->Allocate(ids);
  }
  void PreStart(std::vector<std::string> ids, std::function<void(Status)> done) override {
    desk_->PreStart(std::move(ids), std::move(done));
  }
  void StreamsChanged(int open) override {
    asio::post(loop_, [endpoint = endpoint_, open] {
      if (const auto alive = endpoint.lock()) alive->StreamsAre(open);
    });
  }

 private:
  asio::io_context& loop_;
  const std::weak_ptr<ResourceEndpoint> endpoint_;
  const std::shared_ptr<ResourceDesk> desk_;
};

ResourceEndpoint::ResourceEndpoint(EndpointParts& parts, std::string resource,
                                   std::shared_ptr<ResourceDesk> desk)
    : parts_(parts),
      resource_(std::move(resource)),
      desk_(std::move(desk)),
      bell_(parts.loop),
      changes_(parts.loop) {}

ResourceEndpoint::~ResourceEndpoint() = default;

Status ResourceEndpoint::Bind() {
  ASSIGN_OR_RETURN(PluginSocket socket, PluginSocket::Listen(parts_.folder, resource_));
  socket_ = std::move(socket);
  ++round_;
  asio::co_spawn(parts_.loop, Accept(round_), EndsTheProgram);
  return {};
}

void ResourceEndpoint::List(const std::vector<ListedDevice>& devices) {
  if (!served_) {
    served_ = std::make_shared<ServedResource>(
        std::make_shared<Counter>(parts_.loop, weak_from_this(), desk_));
  }
  served_->List(devices);
}

void ResourceEndpoint::Begin() {
  running_ = true;
  asio::co_spawn(parts_.loop, Live(), EndsTheProgram);
}

Task<void> ResourceEndpoint::Accept(int round) {
  const auto self = shared_from_this();
  while (round == round_ && socket_ && co_await WaitReadable(socket_->fd())) {
    if (round != round_ || !socket_) break;
    FileDescriptor connection(
        ::accept4(socket_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid() && served_) parts_.server.Serve(std::move(connection), served_);
  }
}

Task<void> ResourceEndpoint::Live() {
  const auto self = shared_from_this();
  while (wanted_) {
    if (!socket_) {
      if (Clock() < next_try_) {
        co_await bell_.Wait(next_try_);
        continue;
      }
      if (const Status bound = Bind(); !bound) {
        if (why_ != bound.error().message) {
          spdlog::error("{}: {}", resource_, bound.error().message);
        }
        why_ = bound.error().message;
        next_try_ = MomentIn(RestartDelay(++attempts_, resource_, kRegisterBackOff));
        continue;
      }
      next_try_ = {};
    }
    const bool settled = streams_ > 0 && !outdated_;
    if (parts_.kubelet_socket.empty() || settled) {
      co_await bell_.Wait();
    } else if (Clock() < next_try_) {
      co_await bell_.Wait(next_try_);
    } else {
      co_await Register();
    }
  }
  running_ = false;
  changes_.Announce();
}

Task<void> ResourceEndpoint::Register() {
  if (std::exchange(asked_, false)) {
    why_ = "kubelet has registered it, and then doesn't ask for its devices";
    spdlog::warn("{}: {}", resource_, why_);
  }
  outdated_ = false;
  Registration registration;
  registration.kubelet_socket = parts_.kubelet_socket;
  registration.endpoint = socket_->name();
  registration.resource = resource_;
  registration.options = desk_->Options();
  CrashPoint("plugin-listening");
  auto ask = [registration] { return RegisterWithKubelet(registration); };
  const int streams_before = streams_;
  const Status answered = co_await OnPool(parts_.pool, ask);
  CrashPoint("plugin-registered");
  if (!wanted_ || (streams_ > streams_before && !outdated_)) co_return;
  ++attempts_;
  if (answered) {
    ++registrations_;
    asked_ = true;
    next_try_ =
        MomentIn(kFirstStreamSeconds +
                 (attempts_ > 1 ? RestartDelay(attempts_, resource_, kRegisterBackOff) : 0));
    co_return;
  }
  const std::string& message = answered.error().message;
  // A kubelet that isn't there is told of once.
  if (why_ != message) spdlog::warn("{}: not registered: {}", resource_, message);
  why_ = message;
  next_try_ = MomentIn(RestartDelay(attempts_, resource_, kRegisterBackOff));
}

void ResourceEndpoint::StreamsAre(int open) {
  const bool was = registered();
  const bool more = open > streams_;
  streams_ = open;
  if (more) {
    if (!was) spdlog::info("{}: registered, kubelet watches its devices", resource_);
    CrashPoint("plugin-watched");
    attempts_ = 0;
    asked_ = false;
    why_.clear();
  } else if (was && !registered() && wanted_) {
    why_ = "kubelet doesn't watch its devices any more";
    spdlog::warn("{}: {}", resource_, why_);
    next_try_ = MomentIn(RestartDelay(++attempts_, resource_, kRegisterBackOff));
  }
  bell_.Ring();
  changes_.Announce();
}

void ResourceEndpoint::KubeletCame() {
  attempts_ = 0;
  asked_ = false;
  next_try_ = {};
  // Its streams, if any are left, are of the one before.
  outdated_ = true;
  bell_.Ring();
}

void ResourceEndpoint::SocketMayBeGone() {
  if (!socket_ || socket_->IsThere()) return;
  spdlog::info("{}: its socket was removed; it is made anew", resource_);
  ++round_;
  socket_.reset();
  KubeletCame();
}

void ResourceEndpoint::RegisterAgain() {
  outdated_ = true;
  bell_.Ring();
}

Task<void> ResourceEndpoint::End() {
  const auto self = shared_from_this();
  wanted_ = false;
  if (served_ && registered()) {
    served_->List({});
    served_->Close();
    const Moment until = MomentIn(kLastListSeconds);
    while (registered() && Clock() < until) co_await changes_.Next(until);
  }
  LetGo();
  while (running_) co_await changes_.Next();
}

void ResourceEndpoint::LetGo() {
  wanted_ = false;
  ++round_;
  socket_.reset();
  if (served_) served_->Close();
  bell_.Ring();
}

}  // namespace sublet
