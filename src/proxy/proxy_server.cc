#include "proxy/proxy_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/files.h"
#include "proxy/client_connection.h"
#include "proxy/openai_error.h"
#include "proxy/proxy_loop.h"

namespace sublet {

using internal::ProxyLoop;
using internal::ProxySettings;
using internal::ProxyShared;

namespace {

constexpr int kThreadsMax = 256;
// Clients that arrive together wait for each other no longer than this many accepts take.
constexpr int kAcceptsAtOnce = 64;
constexpr auto kPauseWithoutDescriptors = std::chrono::milliseconds(100);
constexpr auto kDrainLook = std::chrono::milliseconds(5);

Status CheckOptions(const ProxyOptions& options) {
  const ProxyLimits& limits = options.limits;
  if (options.threads < 1 || options.threads > kThreadsMax) {
    return Fail(ErrorCode::kUsage,
                fmt::format("threads must be 1 to 256, not: {}", options.threads));
  }
  const std::pair<std::string_view, double> positive[] = {
      {"body_bytes_max", static_cast<double>(limits.body_bytes_max)},
      {"bodies_bytes_max", static_cast<double>(limits.bodies_bytes_max)},
      {"control_body_bytes_max", static_cast<double>(limits.control_body_bytes_max)},
      {"header_count_max", limits.header_count_max},
      {"connections_max", static_cast<double>(limits.connections_max)},
      {"idle_s", limits.idle_s},
      {"header_s", limits.header_s},
      {"body_s", limits.body_s},
      {"client_stall_s", limits.client_stall_s},
      {"connect_s", limits.connect_s},
      {"first_byte_s", limits.first_byte_s},
      {"stall_s", limits.stall_s},
      {"pool_idle_s", limits.pool_idle_s},
      {"tries_max", limits.tries_max},
  };
  for (const auto& [name, value] : positive) {
    if (!(value > 0)) {
      return Fail(ErrorCode::kUsage, fmt::format("{} must be more than 0, not: {}", name, value));
    }
  }
  if (limits.header_bytes_max < 1024 || limits.header_bytes_max > (1u << 20)) {
    return Fail(ErrorCode::kUsage, fmt::format("header_bytes_max must be 1 KiB to 1 MiB, not: {}",
                                               limits.header_bytes_max));
  }
  if (options.tls.certificate_chain.empty() != options.tls.private_key.empty()) {
    return Fail(ErrorCode::kUsage, "TLS needs both a certificate and its key");
  }
  return {};
}

Result<std::shared_ptr<const ProxySettings>> MakeSettings(const ProxyOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  auto settings = std::make_shared<ProxySettings>();
  settings->options = options;
  settings->keys = internal::ApiKeyRing(options.api_keys);
  if (!options.tls.certificate_chain.empty()) {
    ASSIGN_OR_RETURN(settings->server_tls, internal::TlsContext::ForServer(options.tls));
  }
  RETURN_IF_ERROR(
      settings->client_tls.Prepare(options.upstream_ca_file, options.upstream_tls_verify));
  return std::shared_ptr<const ProxySettings>(std::move(settings));
}

// For one who isn't let in: told, as far as it can be without waiting.
void TurnAway(const FileDescriptor& socket) {
  const std::string body =
      internal::OpenAiErrorBody({503, "too_many_connections", "too many connections"});
  const std::string answer = fmt::format(
      "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n"
      "retry-after: 1\r\nconnection: close\r\n\r\n{}",
      body.size(), body);
  static_cast<void>(
      ::send(socket.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
}

std::string AddressText(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
      ::inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof text);
    } else {
      ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    }
  } else {
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text,
                sizeof text);
  }
  return text;
}

}  // namespace

class ProxyServer::Impl {
 public:
  Impl(std::shared_ptr<const ProxySettings> settings, ProxyHooks hooks)
      : shared_(std::move(hooks), settings->options.admission), settings_(std::move(settings)) {
    for (int i = 0; i < settings_->options.threads; ++i) {
      std::uint64_t seed = 0;
      CHECK(::getrandom(&seed, sizeof seed, 0) == sizeof seed);
      loops_.push_back(std::make_unique<ProxyLoop>(shared_, settings_, i == 0, seed));
    }
  }
  ~Impl() { Stop(); }

  Result<int> Listen(const std::string& address, int port);
  Status Start();
  bool Drain(double deadline_s);
  void Stop();
  Status Reload(const ProxyOptions& options);
  void WakeWaiting() { shared_.gate.Sweep(MonotonicNanoseconds()); }
  ProxyCounters Counters() const;

 private:
  struct Listener {
    explicit Listener(asio::io_context& io) : socket(io), pause(io) {}
    asio::posix::stream_descriptor socket;
    asio::steady_timer pause;
  };

  void WaitToAccept(Listener& listener);
  void Accept(Listener& listener);
  void Admit(FileDescriptor socket, const sockaddr_storage& peer);
  void StopListening();

  ProxyShared shared_;
  std::shared_ptr<const ProxySettings> settings_;
  std::vector<std::unique_ptr<ProxyLoop>> loops_;
  // On the first loop. One accepts for all, and hands each client to the loop that has the fewest:
  // streams last long, and with a listener a loop (SO_REUSEPORT) the kernel's hash would put three
  // of them on one thread while another has none.
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::thread> threads_;
  std::atomic<std::int64_t> refused_ = 0;
  std::size_t turn_ = 0;
  bool stopped_ = false;
};

Result<int> ProxyServer::Impl::Listen(const std::string& address, int port) {
  CHECK(threads_.empty());
  boost::system::error_code not_numeric;
  const auto ip = asio::ip::make_address(address, not_numeric);
  if (not_numeric || port < 0 || port > 65535) {
    return Fail(ErrorCode::kUsage,
                fmt::format("not a numeric address and a port: {} {}", address, port));
  }
  const asio::ip::tcp::endpoint wanted(ip, static_cast<std::uint16_t>(port));
  FileDescriptor socket(
      ::socket(wanted.protocol().family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const std::string what = fmt::format("listening on {} port {}", address, port);
  if (!socket.valid()) return FailFromErrno(errno, what);
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(socket.get(), wanted.data(), static_cast<socklen_t>(wanted.size())) != 0) {
    if (errno == EADDRINUSE) return Fail(ErrorCode::kConflict, "the port is taken: " + what);
    return FailFromErrno(errno, what);
  }
  if (::listen(socket.get(), 4096) != 0) return FailFromErrno(errno, what);
  asio::ip::tcp::endpoint bound;
  auto size = static_cast<socklen_t>(bound.capacity());
  if (::getsockname(socket.get(), bound.data(), &size) != 0) return FailFromErrno(errno, what);
  auto listener = std::make_unique<Listener>(loops_.front()->io());
  listener->socket.assign(socket.Release());
  listeners_.push_back(std::move(listener));
  return bound.port();
}

Status ProxyServer::Impl::Start() {
  CHECK(threads_.empty());
  for (const auto& listener : listeners_) WaitToAccept(*listener);
  for (const auto& loop : loops_) {
    threads_.emplace_back([&loop] {
      // OpenSSL writes without saying that a closed connection is no reason for a signal.
      sigset_t pipe;
      ::sigemptyset(&pipe);
      ::sigaddset(&pipe, SIGPIPE);
      ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
      loop->io().run();
    });
  }
  return {};
}

void ProxyServer::Impl::WaitToAccept(Listener& listener) {
  listener.socket.async_wait(asio::posix::stream_descriptor::wait_read,
                             [this, &listener](const boost::system::error_code& error) {
                               if (!error) Accept(listener);
                             });
}

void ProxyServer::Impl::Accept(Listener& listener) {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    FileDescriptor socket(::accept4(listener.socket.native_handle(),
                                    reinterpret_cast<sockaddr*>(&peer), &size,
                                    SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.valid()) {
      Admit(std::move(socket), peer);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      listener.pause.expires_after(kPauseWithoutDescriptors);
      listener.pause.async_wait([this, &listener](const boost::system::error_code& error) {
        if (!error) WaitToAccept(listener);
      });
      return;
    }
    // All others are of one client that left before it was accepted.
  }
  WaitToAccept(listener);
}

void ProxyServer::Impl::Admit(FileDescriptor socket, const sockaddr_storage& peer) {
  const auto connections_max =
      static_cast<std::int64_t>(loops_.front()->settings()->options.limits.connections_max);
  if (shared_.connections.load(std::memory_order_relaxed) >= connections_max) {
    TurnAway(socket);
    refused_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  shared_.connections.fetch_add(1, std::memory_order_relaxed);
  // The loop with the fewest; of several, in turn.
  std::size_t best = turn_++ % loops_.size();
  for (std::size_t i = 0; i < loops_.size(); ++i) {
    if (loops_[i]->clients() < loops_[best]->clients()) best = i;
  }
  ProxyLoop& loop = *loops_[best];
  loop.AddClients(1);
  std::string address = AddressText(peer);
  if (best == 0) {
    loop.Adopt(std::move(socket), std::move(address));
    return;
  }
  loop.Post([&loop, socket = std::move(socket), address = std::move(address)]() mutable {
    loop.Adopt(std::move(socket), std::move(address));
  });
}

void ProxyServer::Impl::StopListening() {
  for (const auto& listener : listeners_) {
    boost::system::error_code ignored;
    listener->socket.close(ignored);
    listener->pause.cancel();
  }
}

bool ProxyServer::Impl::Drain(double deadline_s) {
  if (threads_.empty()) return true;
  loops_.front()->Post([this] { StopListening(); });
  for (const auto& loop : loops_) loop->Post([&loop] { loop->FinishUp(); });
  const Deadline deadline = Deadline::In(deadline_s);
  while (shared_.connections.load() > 0 && !deadline.Passed()) {
    std::this_thread::sleep_for(kDrainLook);
  }
  const bool drained = shared_.connections.load() == 0;
  if (!drained) {
    for (const auto& loop : loops_) loop->Post([&loop] { loop->Cut(); });
  }
  return drained;
}

void ProxyServer::Impl::Stop() {
  if (stopped_) return;
  stopped_ = true;
  if (threads_.empty()) {
    StopListening();
    for (const auto& loop : loops_) loop->Cut();
    for (const auto& loop : loops_) loop->io().run();
    return;
  }
  // In this order: what the first loop has handed over by then is cut by its own loop, later.
  loops_.front()->Post([this] {
    StopListening();
    for (const auto& loop : loops_) loop->Post([&loop] { loop->Cut(); });
  });
  for (std::thread& thread : threads_) thread.join();
}

Status ProxyServer::Impl::Reload(const ProxyOptions& options) {
  ProxyOptions kept = options;
  kept.threads = settings_->options.threads;
  ASSIGN_OR_RETURN(settings_, MakeSettings(kept));
  for (const auto& loop : loops_) {
    loop->Post([&loop, settings = settings_] { loop->Use(settings); });
  }
  return {};
}

ProxyCounters ProxyServer::Impl::Counters() const {
  ProxyCounters sum;
  sum.connections_open = shared_.connections.load(std::memory_order_relaxed);
  sum.connections_refused = refused_.load(std::memory_order_relaxed);
  sum.requests_waiting = static_cast<std::int64_t>(shared_.gate.waiting());
  sum.bodies_bytes = shared_.bodies_bytes.load(std::memory_order_relaxed);
  for (const auto& loop : loops_) {
    const internal::LoopTallies& tallies = std::as_const(*loop).tallies();
    sum.connections_accepted += tallies.accepted.value();
    sum.requests += tallies.requests.value();
    sum.requests_running += tallies.running.value();
    sum.retries += tallies.retries.value();
    sum.retries_unaffordable += tallies.retries_unaffordable.value();
    sum.upstream_connects += tallies.connects.value();
    sum.upstream_connects_failed += tallies.connects_failed.value();
    sum.upstream_reused += tallies.reused.value();
    sum.upstream_stale += tallies.stale.value();
    sum.upstream_idle += tallies.idle.value();
  }
  return sum;
}

// ---- the surface -------------------------------------------------------------------------------

ProxyServer::ProxyServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProxyServer::~ProxyServer() = default;

Result<std::unique_ptr<ProxyServer>> ProxyServer::Open(const ProxyOptions& options,
                                                       ProxyHooks hooks) {
  CHECK(hooks.router != nullptr);
  CHECK(!hooks.access || hooks.control);
  ASSIGN_OR_RETURN(std::shared_ptr<const ProxySettings> settings, MakeSettings(options));
  return std::unique_ptr<ProxyServer>(
      new ProxyServer(std::make_unique<Impl>(std::move(settings), std::move(hooks))));
}

Result<int> ProxyServer::Listen(const std::string& address, int port) {
  return impl_->Listen(address, port);
}
Status ProxyServer::Start() {
  return impl_->Start();
}
bool ProxyServer::Drain(double deadline_s) {
  return impl_->Drain(deadline_s);
}
void ProxyServer::Stop() {
  impl_->Stop();
}
Status ProxyServer::Reload(const ProxyOptions& options) {
  return impl_->Reload(options);
}
void ProxyServer::WakeWaiting() {
  impl_->WakeWaiting();
}
ProxyCounters ProxyServer::Counters() const {
  return impl_->Counters();
}

std::string_view RequestOutcomeName(RequestOutcome outcome) {
  switch (outcome) {
    case RequestOutcome::kServed:
      return "served";
    case RequestOutcome::kControl:
      return "control";
    case RequestOutcome::kMalformed:
      return "malformed";
    case RequestOutcome::kDenied:
      return "denied";
    case RequestOutcome::kNoModel:
      return "no-model";
    case RequestOutcome::kClientError:
      return "client-error";
    case RequestOutcome::kRejected:
      return "rejected";
    case RequestOutcome::kUnavailable:
      return "unavailable";
    case RequestOutcome::kFailed:
      return "failed";
    case RequestOutcome::kBroken:
      return "broken";
    case RequestOutcome::kClientGone:
      return "client-gone";
    case RequestOutcome::kDrained:
      return "drained";
  }
  return "unknown";
}

}  // namespace sublet
