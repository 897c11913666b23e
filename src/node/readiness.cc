#include "node/readiness.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>

#include "base/child_process.h"
#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/files.h"

namespace sublet {
namespace {

// "HTTP/1.1 200": what there is to know stands at the very beginning of an answer.
constexpr std::size_t kStatusLineBytes = 12;
constexpr std::size_t kStatusBegin = 9;
// The last words of a command that failed are part of the reason.
constexpr std::size_t kReasonBytesMax = 200;

Status WaitFor(int socket, short events, Deadline deadline) {
  pollfd ready{socket, events, 0};
  int count = 0;
  do {
    count = ::poll(&ready, 1, deadline.PollMilliseconds());
  } while (count < 0 && errno == EINTR);
  if (count < 0) return FailFromErrno(errno, "waiting for an answer");
  if (count == 0) return Fail(ErrorCode::kUnavailable, "no answer in time");
  return {};
}

Result<FileDescriptor> Connect(int port, Deadline deadline) {
  FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return FailFromErrno(errno, "making a socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int error = 0;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    error = errno;
  }
  if (error == EINPROGRESS) {
    RETURN_IF_ERROR(WaitFor(socket.get(), POLLOUT, deadline));
    socklen_t size = sizeof error;
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) return Fail(ErrorCode::kUnavailable, std::strerror(error));
  return socket;
}

Status TryConnection(int port, Deadline deadline) {
  ASSIGN_OR_RETURN(const FileDescriptor socket, Connect(port, deadline));
  return {};
}

Status SendAll(int socket, std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(WaitFor(socket, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return Fail(ErrorCode::kUnavailable, std::strerror(errno));
    }
  }
  return {};
}

// The answer's first bytes; fewer where it ends before.
Result<std::string> ReadStatusLine(int socket, Deadline deadline) {
  std::string line;
  while (line.size() < kStatusLineBytes) {
    std::array<char, kStatusLineBytes> bytes;
    const ssize_t got = ::recv(socket, bytes.data(), kStatusLineBytes - line.size(), 0);
    if (got > 0) {
      line.append(bytes.data(), static_cast<std::size_t>(got));
    } else if (got == 0) {
      break;
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(WaitFor(socket, POLLIN, deadline));
    } else if (errno != EINTR) {
      return Fail(ErrorCode::kUnavailable, std::strerror(errno));
    }
  }
  return line;
}

Status Get(const std::string& path, int port, Deadline deadline) {
  ASSIGN_OR_RETURN(const FileDescriptor socket, Connect(port, deadline));
  const std::string request = fmt::format(
      "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUser-Agent: sublet\r\nAccept: */*\r\n"
      "Connection: close\r\n\r\n",
      path, port);
  RETURN_IF_ERROR(SendAll(socket.get(), request, deadline));
  ASSIGN_OR_RETURN(const std::string line, ReadStatusLine(socket.get(), deadline));
  int status = 0;
  if (line.size() == kStatusLineBytes && line.starts_with("HTTP/1.")) {
    std::from_chars(line.data() + kStatusBegin, line.data() + kStatusLineBytes, status);
  }
  if (status == 0) return Fail(ErrorCode::kUnavailable, "the answer isn't HTTP");
  if (status >= 200 && status < 400) return {};
  return Fail(ErrorCode::kUnavailable, fmt::format("status {}", status));
}

// The last line that isn't empty, as one that fits a message.
std::string_view LastWords(std::string_view output) {
  const std::size_t end = output.find_last_not_of(" \n\r\t");
  output = output.substr(0, end == std::string_view::npos ? 0 : end + 1);
  const std::size_t begin = output.rfind('\n');
  if (begin != std::string_view::npos) output.remove_prefix(begin + 1);
  return output.substr(0, kReasonBytesMax);
}

Status RunProbe(const Readiness& readiness, const ReadinessPlace& place) {
  ChildOptions options;
  options.argv = readiness.command;
  options.environment = LaunchEnvironment(place.environment, place.user);
  options.directory = place.directory;
  options.user = place.user;
  ASSIGN_OR_RETURN(const CommandOutcome outcome,
                   RunCommand(std::move(options), "", {.timeout_s = place.limit_s}));
  if (outcome.end.Succeeded()) return {};
  const std::string_view words = LastWords(outcome.err);
  return Fail(ErrorCode::kUnavailable,
              fmt::format("{} {}{}{}", readiness.command[0], DescribeEnd(outcome.end),
                          words.empty() ? "" : ": ", words));
}

}  // namespace

Status ProbeOnce(const Readiness& readiness, const ReadinessPlace& place) {
  if (!readiness.command.empty()) return RunProbe(readiness, place);
  if (place.port <= 0 || place.port > 65535) {
    return Fail(ErrorCode::kInvalid, fmt::format("not a port to be probed: {}", place.port));
  }
  // What would end the line is no part of a path; a model's reader refuses it with its place.
  if (readiness.http.find_first_of(" \r\n") != std::string::npos) {
    return Fail(ErrorCode::kInvalid, "the path to be probed has a space or a line's end");
  }
  const Deadline deadline = Deadline::In(place.limit_s);
  const bool http = !readiness.http.empty();
  const Status status =
      http ? Get(readiness.http, place.port, deadline) : TryConnection(place.port, deadline);
  if (status) return {};
  Error error = status.error();
  return tl::unexpected<Error>(
      std::move(error).Prefixed(http ? fmt::format("GET {} on port {}", readiness.http, place.port)
                                     : fmt::format("connecting to port {}", place.port)));
}

}  // namespace sublet
