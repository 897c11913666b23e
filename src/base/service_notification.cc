#include "base/service_notification.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/files.h"

namespace sublet {
namespace {

constexpr int kFirstSocket = 3;  // SD_LISTEN_FDS_START
constexpr int kSocketsMax = 64;  // We know what to do with one; this only bounds a wrong number.
constexpr double kWatchdogPart = 0.5;

// The value, taken out of the environment; empty without one.
std::string TakeVariable(const char* name) {
  const char* value = std::getenv(name);
  std::string taken = value != nullptr ? value : "";
  ::unsetenv(name);
  return taken;
}

template <typename Number>
std::optional<Number> NumberIn(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::vector<InheritedSocket> SocketsFrom(const std::string& for_pid, const std::string& count_text,
                                         std::string_view names) {
  std::vector<InheritedSocket> sockets;
  // Meant for another process, which forgot to take them out of the environment that it handed on.
  if (NumberIn<pid_t>(for_pid) != ::getpid()) return sockets;
  const std::optional<int> count = NumberIn<int>(count_text);
  if (!count || *count > kSocketsMax) return sockets;
  for (int i = 0; i < *count; ++i) {
    const std::size_t end = names.find(':');
    const int fd = kFirstSocket + i;
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) {
      sockets.push_back({std::string(names.substr(0, end)), FileDescriptor(fd)});
    }
    names = end == std::string_view::npos ? std::string_view() : names.substr(end + 1);
  }
  return sockets;
}

}  // namespace

ServiceManager ServiceManager::FromEnvironment() {
  ServiceManager manager;
  manager.address_ = TakeVariable("NOTIFY_SOCKET");
  // Other kinds (vsock:) are for virtual machines, which no GPU daemon is.
  if (!manager.address_.starts_with('/') && !manager.address_.starts_with('@')) {
    manager.address_.clear();
  }
  const std::string watched = TakeVariable("WATCHDOG_PID");
  const auto microseconds = NumberIn<std::int64_t>(TakeVariable("WATCHDOG_USEC"));
  if (microseconds && *microseconds > 0 &&
      (watched.empty() || NumberIn<pid_t>(watched) == ::getpid())) {
    manager.watchdog_period_s_ = static_cast<double>(*microseconds) * 1e-6 * kWatchdogPart;
  }
  const std::string for_pid = TakeVariable("LISTEN_PID");
  const std::string count = TakeVariable("LISTEN_FDS");
  manager.sockets_ = SocketsFrom(for_pid, count, TakeVariable("LISTEN_FDNAMES"));
  return manager;
}

Status ServiceManager::Notify(std::string_view lines) const {
  if (!present()) return {};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (address_.size() >= sizeof address.sun_path) {
    return Fail(ErrorCode::kInvalid, fmt::format("NOTIFY_SOCKET is too long: {}", address_));
  }
  std::memcpy(address.sun_path, address_.data(), address_.size());
  if (address_.front() == '@') address.sun_path[0] = '\0';
  // An abstract name has no end of its own: the size says where it is.
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  const FileDescriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return FailFromErrno(errno, "notifying systemd");
  const ssize_t sent =
      ::sendto(socket.get(), lines.data(), lines.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
               reinterpret_cast<const sockaddr*>(&address), size);
  if (sent < 0) return FailFromErrno(errno, "notifying systemd");
  return {};
}

}  // namespace sublet
