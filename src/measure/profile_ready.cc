#include "measure/profile_ready.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "base/child_process.h"
#include "base/clock.h"
#include "base/file_descriptor.h"

namespace sublet {
namespace {

constexpr double kPatienceS = 2;  // For a connection, and again for an answer.
constexpr double kCommandPatienceS = 10;
constexpr int kPortMax = 65535;

struct HostPort {
  std::string host;
  std::string port;
};

Result<HostPort> ParseHostPort(std::string_view text, std::string_view default_port) {
  std::string_view port = default_port;
  // In front of the port stands the last colon, unless that is inside of [::1].
  const std::size_t bracket = text.rfind(']');
  const std::size_t colon = text.rfind(':');
  if (colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket)) {
    port = text.substr(colon + 1);
    text = text.substr(0, colon);
  }
  if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string_view::npos;
  const int number = digits ? std::atoi(std::string(port).c_str()) : 0;
  if (text.empty() || number < 1 || number > kPortMax) {
    return Fail(ErrorCode::kUsage, fmt::format("no host and port: '{}:{}'", text, port),
                "as in tcp:localhost:8000 or http://localhost:8000/health");
  }
  return HostPort{std::string(text), std::string(port)};
}

bool WaitFor(const FileDescriptor& socket, short events, Deadline deadline) {
  pollfd ready{socket.get(), events, 0};
  int count = 0;
  do {
    count = ::poll(&ready, 1, deadline.PollMilliseconds());
  } while (count < 0 && errno == EINTR);
  return count > 0;
}

FileDescriptor ConnectTo(const addrinfo& address) {
  FileDescriptor socket(::socket(
      address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol));
  if (!socket.valid()) return {};
  if (::connect(socket.get(), address.ai_addr, address.ai_addrlen) == 0) return socket;
  if (errno != EINPROGRESS || !WaitFor(socket, POLLOUT, Deadline::In(kPatienceS))) return {};
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) return {};
  return socket;
}

FileDescriptor Connect(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return {};
  FileDescriptor socket;
  for (const addrinfo* at = found; at != nullptr && !socket.valid(); at = at->ai_next) {
    socket = ConnectTo(*at);
  }
  ::freeaddrinfo(found);
  return socket;
}

// The status line of the answer: "HTTP/1.1 200 OK".
int AskStatus(const FileDescriptor& socket, const std::string& host, const std::string& path) {
  const std::string request =
      fmt::format("GET {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", path, host);
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return 0;
  }
  constexpr std::string_view kBefore = "HTTP/1.";
  std::string answer;
  const Deadline deadline = Deadline::In(kPatienceS);
  while (answer.size() < kBefore.size() + 5 && WaitFor(socket, POLLIN, deadline)) {
    std::array<char, 512> chunk;
    const ssize_t got = ::recv(socket.get(), chunk.data(), chunk.size(), 0);
    if (got <= 0) break;
    answer.append(chunk.data(), static_cast<std::size_t>(got));
  }
  if (!answer.starts_with(kBefore) || answer.size() < kBefore.size() + 5) return 0;
  return std::atoi(answer.substr(kBefore.size() + 2, 3).c_str());
}

}  // namespace

Result<ReadyCheck> ReadyCheck::Parse(const std::string& text) {
  ReadyCheck check;
  const std::string_view view = text;
  if (view.empty()) return Fail(ErrorCode::kUsage, "--ready: empty");
  if (view.starts_with("https://")) {
    return Fail(ErrorCode::kUsage, fmt::format("--ready: only http, not https: {}", text),
                "use tcp:HOST:PORT, or a command such as 'curl -fs https://...'");
  }
  constexpr std::string_view kHttp = "http://";
  constexpr std::string_view kTcp = "tcp:";
  if (view.starts_with(kHttp)) {
    const std::string_view rest = view.substr(kHttp.size());
    const std::size_t slash = std::min(rest.find('/'), rest.size());
    ASSIGN_OR_RETURN(HostPort place, ParseHostPort(rest.substr(0, slash), "80"));
    check.kind_ = Kind::kHttp;
    check.host_ = std::move(place.host);
    check.port_ = std::move(place.port);
    check.path_ = slash == rest.size() ? "/" : std::string(rest.substr(slash));
  } else if (view.starts_with(kTcp)) {
    ASSIGN_OR_RETURN(HostPort place, ParseHostPort(view.substr(kTcp.size()), ""));
    check.kind_ = Kind::kTcp;
    check.host_ = std::move(place.host);
    check.port_ = std::move(place.port);
  } else {
    check.command_ = text;
  }
  return check;
}

bool ReadyCheck::Passes() const {
  if (kind_ == Kind::kCommand) {
    const Result<CommandOutcome> outcome =
        RunCommand({.argv = {"/bin/sh", "-c", command_}}, "", {.timeout_s = kCommandPatienceS});
    return outcome && outcome->end.Succeeded();
  }
  const FileDescriptor socket = Connect(host_, port_);
  if (!socket.valid()) return false;
  if (kind_ == Kind::kTcp) return true;
  const int status = AskStatus(socket, host_, path_);
  return status >= 100 && status < 400;
}

}  // namespace sublet
