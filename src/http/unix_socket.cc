#include "http/unix_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/files.h"
#include "base/interrupt.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // linux/socket.h, since 6.5.
#endif

namespace sublet {
namespace {

// As many connections as may wait while the loop is busy with one event.
constexpr int kBacklog = 128;
// A full backlog is seen as EAGAIN, and nothing tells when it has room again.
constexpr int kBacklogRetryMs = 2;

Result<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!path.starts_with('/')) {
    return Fail(ErrorCode::kUsage, fmt::format("a socket's path must be absolute: {}", path));
  }
  if (path.size() >= sizeof address.sun_path) {
    return Fail(ErrorCode::kUsage,
                fmt::format("a socket's path has at most {} bytes, this one {}: {}",
                            sizeof address.sun_path - 1, path.size(), path),
                "choose a folder with a shorter path");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

int ConnectTo(int socket, const sockaddr_un& address) {
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  return ::connect(socket, generic, sizeof address) == 0 ? 0 : errno;
}

FileDescriptor NewSocket() {
  return FileDescriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

bool OursOrRoots(uid_t uid) {
  return uid == ::geteuid() || uid == 0;
}

// Nobody but root and this user may be able to put another file in the place of ours.
Status CheckFolder(const std::string& path) {
  const std::string folder = path.substr(0, std::max<std::size_t>(path.rfind('/'), 1));
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("listening at {}", path));
  }
  const uid_t owner_of_name = status.st_uid;  // Of the link, where it is one.
  if (S_ISLNK(status.st_mode) && ::stat(folder.c_str(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("listening at {}", path));
  }
  if (!S_ISDIR(status.st_mode)) {
    return Fail(ErrorCode::kNotFound, fmt::format("listening at {}: no folder is there", path));
  }
  if (!OursOrRoots(owner_of_name) || !OursOrRoots(status.st_uid)) {
    return Fail(ErrorCode::kPermission,
                fmt::format("listening at {}: the folder is another user's: {}", path, folder));
  }
  if ((status.st_mode & S_IWOTH) != 0 && (status.st_mode & S_ISVTX) == 0) {
    return Fail(ErrorCode::kPermission,
                fmt::format("listening at {}: anyone may replace files in {}", path, folder),
                "choose a folder of your own, or take the write permission of others from it");
  }
  return {};
}

// Held while the socket listens, so that of two servers that start at once one loses, and neither
// takes the other's fresh file for a stale one. The file goes with its holder; so who gets the lock
// of a file that has no name any more must begin again.
Result<FileDescriptor> Lock(const std::string& path) {
  const std::string name = path + ".lock";
  constexpr int kTries = 100;  // Each needs another server that ends at that very moment.
  for (int i = 0; i < kTries; ++i) {
    FileDescriptor lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock.valid()) return FailFromErrno(errno, fmt::format("locking {}", name));
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return FailFromErrno(errno, fmt::format("locking {}", name));
      return Fail(ErrorCode::kConflict, fmt::format("a server listens already at {}", path));
    }
    struct stat held {};
    struct stat named {};
    if (::fstat(lock.get(), &held) == 0 && ::lstat(name.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
      return lock;
    }
  }
  return Fail(ErrorCode::kConflict, fmt::format("other servers come and go at {}", path));
}

// Removes the file of a server that was killed.
Status ClearPlace(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return FailFromErrno(errno, fmt::format("listening at {}", path));
  }
  if (!S_ISSOCK(status.st_mode)) {
    return Fail(ErrorCode::kConflict, fmt::format("this is there and is no socket: {}", path));
  }
  if (!OursOrRoots(status.st_uid)) {
    return Fail(ErrorCode::kPermission, fmt::format("a socket of another user: {}", path));
  }
  const FileDescriptor knock = NewSocket();
  if (!knock.valid()) return FailFromErrno(errno, "making a socket");
  if (const int error = ConnectTo(knock.get(), address); error != ECONNREFUSED) {
    return Fail(ErrorCode::kConflict, fmt::format("a server listens already at {}", path));
  }
  if (::unlink(path.c_str()) != 0) return FailFromErrno(errno, fmt::format("removing {}", path));
  return {};
}

Status Listen(int socket, const sockaddr_un& address, const UnixListenerOptions& options) {
  const std::string what = fmt::format("listening at {}", options.path);
  // The file gets the socket's own mode, less the umask. So it begins closed to all, and nobody
  // can connect before listen() in any case.
  if (::fchmod(socket, 0) != 0 ||
      ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return FailFromErrno(errno, what);
  }
  const gid_t group = options.group.value_or(static_cast<gid_t>(-1));
  if (::lchown(options.path.c_str(), static_cast<uid_t>(-1), group) != 0 ||
      ::chmod(options.path.c_str(), options.mode) != 0 || ::listen(socket, kBacklog) != 0) {
    const int error = errno;
    ::unlink(options.path.c_str());
    return FailFromErrno(error, what);
  }
  return {};
}

Error NoConnection(int error, const std::string& path) {
  if (error == ENOENT || error == ENOTDIR) {
    return {ErrorCode::kNotFound, fmt::format("there is no socket {}", path), ""};
  }
  if (error == ECONNREFUSED) {
    return {ErrorCode::kUnavailable, fmt::format("nobody listens at {}", path),
            "the server that made it was killed; a new one takes its place"};
  }
  Error failed = FailFromErrno(error, fmt::format("connecting to {}", path)).value();
  struct stat status {};
  if (failed.code == ErrorCode::kPermission && ::stat(path.c_str(), &status) == 0) {
    const struct group* group = ::getgrgid(status.st_gid);
    failed.hint =
        fmt::format("its group may connect: {}",
                    group != nullptr ? std::string(group->gr_name) : std::to_string(status.st_gid));
    if ((status.st_mode & S_IWGRP) == 0) failed.hint = "only its owner may connect";
  }
  if (failed.code == ErrorCode::kIo) failed.code = ErrorCode::kUnavailable;
  return failed;
}

tl::unexpected<Error> FailAsForeign(const std::string& path) {
  return Fail(ErrorCode::kPermission, fmt::format("a socket of another user: {}", path),
              "it must be of root or of you, because its answers decide what is executed");
}

}  // namespace

UnixListener::UnixListener(FileDescriptor socket, FileDescriptor lock, std::string path,
                           SocketAccess access)
    : socket_(std::move(socket)), lock_(std::move(lock)), path_(std::move(path)), access_(access) {}

void UnixListener::Close() {
  socket_.Close();
  // With the lock, nobody can have put another socket in its place, so the file is ours.
  if (lock_.valid()) {
    ::unlink(path_.c_str());
    ::unlink((path_ + ".lock").c_str());
  }
  lock_.Close();
}

Result<UnixListener> ListenOnUnixSocket(const UnixListenerOptions& options) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(options.path));
  RETURN_IF_ERROR(CheckFolder(options.path));
  ASSIGN_OR_RETURN(FileDescriptor lock, Lock(options.path));
  RETURN_IF_ERROR(ClearPlace(options.path, address));
  FileDescriptor socket = NewSocket();
  if (!socket.valid()) return FailFromErrno(errno, "making a socket");
  RETURN_IF_ERROR(Listen(socket.get(), address, options));
  struct stat status {};
  if (::lstat(options.path.c_str(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("listening at {}", options.path));
  }
  return UnixListener(std::move(socket), std::move(lock), options.path,
                      {status.st_uid, status.st_gid, status.st_mode});
}

Result<UnixListener> AdoptUnixSocket(FileDescriptor socket) {
  int listens = 0;
  socklen_t size = sizeof listens;
  sockaddr_un address{};
  socklen_t address_size = sizeof address;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &address_size) != 0 ||
      address.sun_family != AF_UNIX) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("the descriptor is no listening UNIX socket: {}", socket.get()));
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) != 0) {
    return FailFromErrno(errno, "adopting a socket");
  }
  // Without a file there is no mode that would let another in.
  SocketAccess access{::geteuid(), ::getegid(), 0600};
  struct stat status {};
  if (address.sun_path[0] == '/' && ::lstat(address.sun_path, &status) == 0) {
    access = {status.st_uid, status.st_gid, status.st_mode};
  }
  return UnixListener(std::move(socket), FileDescriptor(), "", access);
}

Result<FileDescriptor> ConnectToUnixSocket(const std::string& path, Deadline deadline) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    return tl::unexpected<Error>(NoConnection(errno, path));
  }
  if (!OursOrRoots(status.st_uid)) return FailAsForeign(path);
  FileDescriptor socket = NewSocket();
  if (!socket.valid()) return FailFromErrno(errno, "making a socket");
  int error = ConnectTo(socket.get(), address);
  while (error == EAGAIN) {
    pollfd interrupt = {InterruptFd(), POLLIN, 0};
    if (::poll(&interrupt, 1, kBacklogRetryMs) > 0) {
      return Fail(ErrorCode::kUnavailable, fmt::format("interrupted, connecting to {}", path));
    }
    if (deadline.Passed()) {
      return Fail(ErrorCode::kUnavailable, fmt::format("the server doesn't accept at {}", path));
    }
    error = ConnectTo(socket.get(), address);
  }
  if (error != 0) return tl::unexpected<Error>(NoConnection(error, path));
  // The file may have been replaced since it was looked at. The kernel's word on who called
  // listen() can't be.
  ucred server{};
  socklen_t size = sizeof server;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &server, &size) != 0 ||
      !OursOrRoots(server.uid)) {
    return FailAsForeign(path);
  }
  return socket;
}

Peer PeerOf(int socket) {
  Peer peer;
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return peer;
  peer.local = true;
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  peer.gid = credentials.gid;
  int pidfd = -1;
  size = sizeof pidfd;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) != 0) {
    pidfd = -1;
    // An older kernel knows the number only, which may be another process's once its owner has
    // ended. Its end closes the connection, unless it has handed that on: so look for that after
    // the process is held.
    if (errno == ENOPROTOOPT && credentials.pid > 0) {
      pidfd = static_cast<int>(::syscall(SYS_pidfd_open, credentials.pid, 0));
      pollfd hung_up = {socket, POLLRDHUP, 0};
      if (pidfd >= 0 && ::poll(&hung_up, 1, 0) != 0) {
        ::close(pidfd);
        pidfd = -1;
      }
    }
  }
  if (pidfd >= 0) {
    ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    peer.pidfd = std::make_shared<const FileDescriptor>(pidfd);
  }
  return peer;
}

bool MayConnect(const SocketAccess& access, const Peer& peer, int socket) {
  if (!peer.local) return false;
  if (peer.uid == 0 || peer.uid == access.owner || (access.mode & S_IWOTH) != 0) return true;
  if ((access.mode & S_IWGRP) == 0) return false;
  if (peer.gid == access.group) return true;
  std::vector<gid_t> groups(64);
  socklen_t size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  int got = ::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  if (got != 0 && errno == ERANGE) {  // `size` says now how much there is.
    groups.resize(size / sizeof(gid_t));
    got = ::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  }
  if (got != 0) return false;
  groups.resize(size / sizeof(gid_t));
  return std::find(groups.begin(), groups.end(), access.group) != groups.end();
}

}  // namespace sublet
