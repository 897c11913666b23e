// http/unix_socket.h
//
// UNIX sockets as both ends of the API need them: made where no other user can slip in one of his,
// and with the kernel's word on who is at the other end.
//
//   ASSIGN_OR_RETURN(UnixListener listener, ListenOnUnixSocket({.path = "/run/x/x.sock"}));
//   ASSIGN_OR_RETURN(FileDescriptor socket, ConnectToUnixSocket(path, Deadline::In(2)));
//   const Peer peer = PeerOf(accepted);
//   if (!MayConnect(listener.access, peer, accepted)) ...
//
// Thread safety: no shared state.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

// Who sent a request, as the kernel knows it from the moment of connect().
struct Peer {
  bool local = false;  // By a UNIX socket; else all below is unset, and a token was shown.
  int pid = -1;        // In this process's PID namespace; 0 where it can't be seen from here.
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  // Readable once the process has ended; null where it had ended already when it was accepted. Keep
  // a copy of the pointer to keep the descriptor.
  std::shared_ptr<const FileDescriptor> pidfd = nullptr;
};

struct UnixListenerOptions {
  std::string path;                           // Absolute, at most 107 bytes: the kernel's limit.
  mode_t mode = 0600;                         // Of the file: who may write to it may connect.
  std::optional<gid_t> group = std::nullopt;  // Owner group of the file.
};

// Who may connect to a socket, as its file says.
struct SocketAccess {
  uid_t owner = 0;
  gid_t group = 0;
  mode_t mode = 0;
};

// A listening socket and its file, which goes with it.
class UnixListener {
 public:
  UnixListener(FileDescriptor socket, FileDescriptor lock, std::string path, SocketAccess access);
  UnixListener(UnixListener&& other) noexcept = default;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener() { Close(); }

  int fd() const { return socket_.get(); }
  const SocketAccess& access() const { return access_; }
  // Unlinks the file, unless it is another's by now.
  void Close();

 private:
  FileDescriptor socket_;
  FileDescriptor lock_;  // PATH.lock, held as long as the socket listens.
  std::string path_;     // Empty: not ours to unlink.
  SocketAccess access_;
};

// Errors as HttpServer::AddUnixListener() has them.
Result<UnixListener> ListenOnUnixSocket(const UnixListenerOptions& options);
// A socket that listens already; its file, where it has one, says who may connect, and stays.
// kInvalid where it is no listening UNIX socket.
Result<UnixListener> AdoptUnixSocket(FileDescriptor socket);

// Errors as HttpClient::ConnectUnix() has them. The descriptor doesn't block.
Result<FileDescriptor> ConnectToUnixSocket(const std::string& path, Deadline deadline);

// Of a connected UNIX socket.
Peer PeerOf(int socket);
// The kernel checks a file's mode at connect(), but some file systems don't carry it, and a socket
// that was handed on may never have had it. Root always may.
bool MayConnect(const SocketAccess& access, const Peer& peer, int socket);

}  // namespace sublet
