#include "http/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "http/http_connection.h"

namespace sublet {
namespace {

using boost::system::error_code;
using internal::HttpConnection;
using internal::HttpServing;

constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
// Where descriptors have run out, nothing tells when there are some again.
constexpr auto kPauseWithoutDescriptors = std::chrono::milliseconds(100);
constexpr std::size_t kTokenBytesMin = 16;  // 96 bits in base64: nobody guesses that.

struct Listener {
  explicit Listener(asio::io_context& loop) : socket(loop) {}

  asio::posix::stream_descriptor socket;
  std::optional<UnixListener> local;  // Absent: TCP. `socket` is a copy of its descriptor.
  std::string token;
};

std::chrono::nanoseconds Seconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

// For one who isn't let in: told, as far as it can be without waiting, and closed.
void TurnAway(const FileDescriptor& socket, const Error& error) {
  const std::string body = ErrorBody(error);
  const std::string answer = fmt::format(
      "HTTP/1.1 {} Refused\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: "
      "close\r\n\r\n{}",
      HttpStatusOf(error.code), kJsonType, body.size(), body);
  static_cast<void>(
      ::send(socket.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
}

}  // namespace

class HttpServer::Impl : public std::enable_shared_from_this<HttpServer::Impl> {
 public:
  Impl(asio::io_context& loop, std::shared_ptr<const HttpServing> serving)
      : loop_(loop), serving_(std::move(serving)), sweep_(loop), emptied_(loop) {
    const HttpServerOptions& options = serving_->options;
    const double shortest = std::min({options.idle_s, options.request_s, options.write_s});
    // A limit is kept to a quarter of itself, or a second.
    sweep_period_ = Seconds(std::min(1.0, shortest / 4));
  }

  Status Listen(int fd, std::optional<UnixListener> local, std::string token);
  void StopListening();
  Task<void> Close(double drain_s);
  void Cut();
  std::size_t connections() const { return connections_.size(); }
  asio::io_context& loop() { return loop_; }

 private:
  static Task<void> Accept(std::shared_ptr<Impl> self, std::shared_ptr<Listener> listener);
  void Admit(FileDescriptor socket, const Listener& listener);
  void Sweep();
  void Forget(const std::shared_ptr<HttpConnection>& connection);

  asio::io_context& loop_;
  const std::shared_ptr<const HttpServing> serving_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::set<std::shared_ptr<HttpConnection>> connections_;
  asio::steady_timer sweep_;  // One timer for the limits of all connections.
  std::chrono::nanoseconds sweep_period_;
  asio::steady_timer emptied_;  // Cancelled when the last connection goes.
};

Status HttpServer::Impl::Listen(int fd, std::optional<UnixListener> local, std::string token) {
  auto listener = std::make_shared<Listener>(loop_);
  error_code error;
  listener->socket.assign(fd, error);
  if (error) {
    ::close(fd);
    return FailFromErrno(error.value(), "listening");
  }
  if (local) listener->local.emplace(std::move(*local));
  listener->token = std::move(token);
  listeners_.push_back(listener);
  asio::co_spawn(loop_, Accept(shared_from_this(), listener), EndsTheProgram);
  return {};
}

Task<void> HttpServer::Impl::Accept(std::shared_ptr<Impl> self,
                                    std::shared_ptr<Listener> listener) {
  asio::steady_timer pause(self->loop_);
  while (listener->socket.is_open()) {
    const auto [error] =
        co_await listener->socket.async_wait(asio::posix::stream_descriptor::wait_read, kAsTuple);
    if (error || !listener->socket.is_open()) co_return;
    FileDescriptor socket(::accept4(listener->socket.native_handle(), nullptr, nullptr,
                                    SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.valid()) {
      self->Admit(std::move(socket), *listener);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      pause.expires_after(kPauseWithoutDescriptors);
      co_await pause.async_wait(kAsTuple);
    }
    // All other errors are of one client that left before it was accepted.
  }
}

void HttpServer::Impl::Admit(FileDescriptor socket, const Listener& listener) {
  const std::size_t connections_max = serving_->options.connections_max;
  if (connections_.size() >= connections_max) {
    TurnAway(socket, {ErrorCode::kUnavailable,
                      fmt::format("too many connections, at most: {}", connections_max), ""});
    return;
  }
  Peer peer;
  asio::generic::stream_protocol protocol(asio::ip::tcp::v4());
  if (listener.local) {
    peer = PeerOf(socket.get());
    if (!MayConnect(listener.local->access(), peer, socket.get())) {
      TurnAway(socket, {ErrorCode::kPermission,
                        fmt::format("the socket is not for this user: {}", peer.uid), ""});
      return;
    }
    protocol = asio::generic::stream_protocol(AF_UNIX, 0);
  } else {
    // The lines of a streamed answer are short, and each counts when it is sent.
    const int on = 1;
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  HttpConnection::Socket stream(loop_);
  error_code error;
  stream.assign(protocol, socket.get(), error);
  if (error) return;
  static_cast<void>(socket.Release());  // The stream owns it now.
  auto connection = std::make_shared<HttpConnection>(std::move(stream), std::move(peer), serving_,
                                                     listener.token);
  connections_.insert(connection);
  if (connections_.size() == 1) Sweep();
  // An exception is that of a handler or a read that was cancelled; the connection has ended by it.
  asio::co_spawn(loop_, connection->Run(),
                 asio::bind_cancellation_slot(
                     connection->slot(), [self = shared_from_this(), connection](
                                             std::exception_ptr) { self->Forget(connection); }));
}

// The coroutine that accepts holds its listener until it has seen the end.
void HttpServer::Impl::StopListening() {
  for (const auto& listener : listeners_) {
    error_code ignored;
    listener->socket.close(ignored);
    if (listener->local) listener->local->Close();
  }
  listeners_.clear();
}

void HttpServer::Impl::Forget(const std::shared_ptr<HttpConnection>& connection) {
  connections_.erase(connection);
  if (!connections_.empty()) return;
  sweep_.cancel();
  emptied_.cancel();
}

void HttpServer::Impl::Sweep() {
  sweep_.expires_after(sweep_period_);
  sweep_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->connections_.empty()) return;
    const std::int64_t now_ns = MonotonicNanoseconds();
    for (const auto& connection : self->connections_) connection->Expire(now_ns);
    self->Sweep();
  });
}

Task<void> HttpServer::Impl::Close(double drain_s) {
  // A copy, because the server may go while this waits.
  const std::shared_ptr<Impl> self = shared_from_this();
  StopListening();
  for (const auto& connection : connections_) connection->FinishUp();
  emptied_.expires_after(Seconds(drain_s));
  if (!connections_.empty()) co_await emptied_.async_wait(kAsTuple);
  for (const auto& connection : connections_) connection->Cut();
  // Work on a pool can't be cancelled, so this may still take a while.
  emptied_.expires_at(asio::steady_timer::time_point::max());
  if (!connections_.empty()) co_await emptied_.async_wait(kAsTuple);
}

void HttpServer::Impl::Cut() {
  StopListening();
  for (const auto& connection : connections_) connection->Cut();
}

Result<std::unique_ptr<HttpServer>> HttpServer::Open(asio::io_context& loop,
                                                     const HttpServerOptions& options,
                                                     HttpHandler handler) {
  if (options.body_bytes_max == 0 || options.header_bytes_max == 0 ||
      options.connections_max == 0 || !(options.idle_s > 0) || !(options.request_s > 0) ||
      !(options.write_s > 0)) {
    return Fail(ErrorCode::kUsage, "a limit of the HTTP server is 0");
  }
  auto serving = std::make_shared<const HttpServing>(HttpServing{options, std::move(handler)});
  auto impl = std::make_shared<Impl>(loop, std::move(serving));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() {
  impl_->Cut();
}

Status HttpServer::AddUnixListener(const UnixListenerOptions& options) {
  ASSIGN_OR_RETURN(UnixListener local, ListenOnUnixSocket(options));
  const int fd = ::fcntl(local.fd(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return FailFromErrno(errno, "listening");
  return impl_->Listen(fd, std::move(local), "");
}

Status HttpServer::AdoptUnixListener(FileDescriptor socket) {
  ASSIGN_OR_RETURN(UnixListener local, AdoptUnixSocket(std::move(socket)));
  const int fd = ::fcntl(local.fd(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return FailFromErrno(errno, "listening");
  return impl_->Listen(fd, std::move(local), "");
}

Result<int> HttpServer::AddTcpListener(const TcpListenerOptions& options) {
  const std::string where = fmt::format("{} port {}", options.address, options.port);
  if (!options.open_to_all && options.token.size() < kTokenBytesMin) {
    return Fail(ErrorCode::kUsage,
                fmt::format("the token for {} has less than {} bytes", where, kTokenBytesMin));
  }
  error_code error;
  const asio::ip::address address = asio::ip::make_address(options.address, error);
  if (error || options.port < 0 || options.port > 65535) {
    return Fail(ErrorCode::kUsage, fmt::format("not an address and a port: {}", where));
  }
  if (!address.is_loopback() && !options.beyond_this_machine) {
    return Fail(ErrorCode::kUsage,
                fmt::format("others than this machine could connect, unencrypted: {}", where),
                "listen at 127.0.0.1, behind a proxy that speaks TLS");
  }
  const asio::ip::tcp::endpoint endpoint(address, static_cast<std::uint16_t>(options.port));
  asio::ip::tcp::acceptor acceptor(impl_->loop());
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::ip::tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) acceptor.non_blocking(true, error);
  if (error == asio::error::address_in_use) {
    return Fail(ErrorCode::kConflict, fmt::format("a server listens already at {}", where));
  }
  if (error) return FailFromErrno(error.value(), fmt::format("listening at {}", where));
  const int port = acceptor.local_endpoint(error).port();
  const int fd = ::fcntl(acceptor.native_handle(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return FailFromErrno(errno, "listening");
  RETURN_IF_ERROR(impl_->Listen(fd, std::nullopt, options.open_to_all ? "" : options.token));
  return port;
}

Task<void> HttpServer::Close(double drain_s) {
  return impl_->Close(drain_s);
}

std::size_t HttpServer::Connections() const {
  return impl_->connections();
}

}  // namespace sublet
