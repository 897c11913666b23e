#include "mps_wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace sublet::sim {
namespace {

constexpr std::size_t kAnswerBytesMax = 1 << 20;  // Thousands of clients, a line each.

bool SetAddress(const std::string& path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  path.copy(address.sun_path, path.size());
  return true;
}

std::string VariableOr(const char* name, const char* otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

// Reads what is there, up to a line's end where `one_line`; false at the end, or without any.
bool ReadSome(int socket, int timeout_ms, bool one_line, std::string& text) {
  pollfd waiting{.fd = socket, .events = POLLIN, .revents = 0};
  if (::poll(&waiting, 1, timeout_ms) <= 0) return false;
  char buffer[4096];
  const ssize_t count = ::recv(socket, buffer, one_line ? 1 : sizeof buffer, 0);
  if (count < 0 && errno == EINTR) return true;
  if (count > 0) text.append(buffer, static_cast<std::size_t>(count));
  return count > 0 && text.size() < kAnswerBytesMax;
}

}  // namespace

std::string MpsPipeDirectory() {
  return VariableOr("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps");
}

std::string MpsLogDirectory() {
  return VariableOr("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps");
}

int ListenAt(const std::string& path, unsigned mode) {
  sockaddr_un address;
  if (!SetAddress(path, address)) return -1;
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return -1;
  ::unlink(path.c_str());        // Left by an earlier daemon; the caller holds the folder's lock.
  constexpr int kWaiting = 256;  // More than all clients of a server at once.
  const bool good =
      ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      ::chmod(path.c_str(), mode) == 0 && ::listen(socket, kWaiting) == 0;
  if (good) return socket;
  ::close(socket);
  return -1;
}

int ConnectTo(const std::string& path) {
  sockaddr_un address;
  if (!SetAddress(path, address)) return -1;
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return -1;
  if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return socket;
  }
  ::close(socket);
  return -1;
}

bool SendText(int socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

std::string ReadLine(int socket, int timeout_ms) {
  std::string text;
  while (ReadSome(socket, timeout_ms, true, text)) {
    if (!text.ends_with('\n')) continue;
    text.pop_back();
    return text;
  }
  return {};
}

std::optional<std::string> ReadAll(int socket, int timeout_ms) {
  std::string text;
  while (ReadSome(socket, timeout_ms, false, text)) {
  }
  pollfd ended{.fd = socket, .events = POLLIN, .revents = 0};
  char more = 0;
  const bool whole = ::poll(&ended, 1, 0) == 1 && ::recv(socket, &more, 1, 0) == 0;
  return whole ? std::optional(text) : std::nullopt;
}

}  // namespace sublet::sim
