#include "kube/plugin_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/files.h"
#include "model/device_plugin_config.h"

namespace sublet {
namespace {

constexpr int kBacklog = 16;  // kubelet connects once or twice.

Result<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Fail(ErrorCode::kUsage,
                fmt::format("too long a path for a socket, {} bytes of {}: {}", path.size(),
                            sizeof(address.sun_path) - 1, path),
                "a shorter folder (--plugin-dir) or resource name");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

FileDescriptor NewSocket() {
  return FileDescriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

int Connect(const FileDescriptor& socket, const sockaddr_un& address) {
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// Whether somebody listens at a path. One whose queue is full lives, too.
bool IsLive(const sockaddr_un& address) {
  const FileDescriptor probe = NewSocket();
  return Connect(probe, address) == 0 || errno == EAGAIN || errno == EINPROGRESS;
}

// The path can be taken: nothing is there, or a socket on which nobody listens.
Status CheckFree(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return FailFromErrno(errno, fmt::format("looking at {}", path));
  }
  if (!S_ISSOCK(status.st_mode)) {
    return Fail(ErrorCode::kConflict, fmt::format("not a socket, and in the way: {}", path),
                "remove it");
  }
  if (!IsLive(address)) return {};
  return Fail(ErrorCode::kConflict, fmt::format("another device plugin listens at {}", path),
              "end it first: NVIDIA's plugin and this one can't offer the same resource");
}

}  // namespace

std::string PluginSocketName(std::string_view resource) {
  const std::size_t slash = resource.find('/');
  const std::string_view domain =
      slash == std::string_view::npos ? kNvidiaResourcePrefix : resource.substr(0, slash);
  const std::string_view name =
      slash == std::string_view::npos ? resource : resource.substr(slash + 1);
  return fmt::format("{}-{}.sock", domain == kNvidiaResourcePrefix ? "nvidia" : domain, name);
}

Result<PluginSocket> PluginSocket::Listen(const std::string& folder, std::string_view resource) {
  const std::string path = fmt::format("{}/{}", folder, PluginSocketName(resource));
  // First made under another name, whose length is checked with the final one.
  const std::string early = path + "~";
  ASSIGN_OR_RETURN(const sockaddr_un early_address, AddressOf(early));
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  RETURN_IF_ERROR(CheckFree(path, address));
  const auto fail = [&](std::string_view what) {
    return FailFromErrno(errno, fmt::format("{} {}", what, path));
  };
  FileDescriptor socket = NewSocket();
  if (!socket.valid()) return fail("making");
  ::unlink(early.c_str());  // What a process left that was killed at this place.
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&early_address),
             sizeof(early_address)) != 0) {
    return fail("making");
  }
  struct stat status {};
  // Nobody but kubelet, which runs as this user or as root.
  if (::chmod(early.c_str(), 0600) != 0 || ::listen(socket.get(), kBacklog) != 0 ||
      ::lstat(early.c_str(), &status) != 0 || ::rename(early.c_str(), path.c_str()) != 0) {
    const auto error = fail("listening at");
    ::unlink(early.c_str());
    return error;
  }
  return PluginSocket(std::move(socket), path, status.st_dev, status.st_ino);
}

PluginSocket::PluginSocket(PluginSocket&& other) noexcept
    : socket_(std::move(other.socket_)),
      path_(std::move(other.path_)),
      device_(other.device_),
      inode_(other.inode_) {}

PluginSocket& PluginSocket::operator=(PluginSocket&& other) noexcept {
  if (this == &other) return *this;
  Close();
  socket_ = std::move(other.socket_);
  path_ = std::move(other.path_);
  device_ = other.device_;
  inode_ = other.inode_;
  return *this;
}

bool PluginSocket::IsThere() const {
  struct stat status {};
  return socket_.valid() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
         status.st_ino == inode_;
}

void PluginSocket::Close() {
  if (IsThere()) ::unlink(path_.c_str());
  // Wakes who waits for connections on a copy of the descriptor.
  if (socket_.valid()) ::shutdown(socket_.get(), SHUT_RDWR);
  socket_.Close();
}

}  // namespace sublet
