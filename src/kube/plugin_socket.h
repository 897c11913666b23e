// kube/plugin_socket.h
//
// The socket of a resource in kubelet's folder of device plugins.
//
//   ASSIGN_OR_RETURN(PluginSocket socket, PluginSocket::Listen(folder, "nvidia.com/gpu"));
//   socket.fd()                // Listens; doesn't block.
//   socket.name()              // "nvidia-gpu.sock": the endpoint of a RegisterRequest
//   if (!socket.IsThere()) ... // kubelet has restarted, and removed it.
//
// Names are those of NVIDIA's plugin, so what one of them left behind is replaced by the other. A
// socket on which somebody still listens is not: two plugins of one resource would take it from
// each other all the time.
//
// The socket appears under its name when it listens already: kubelet, which may see it at once,
// never meets one that refuses.
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

// "nvidia.com/gpu.shared" → "nvidia-gpu.shared.sock"; of another domain "example.com-gpu.sock".
std::string PluginSocketName(std::string_view resource);

class PluginSocket {
 public:
  // Fails with kUsage where the path is longer than a socket's may be (107 bytes), with kConflict
  // where another plugin listens there, with kPermission, kNotFound or kIo as the folder is.
  static Result<PluginSocket> Listen(const std::string& folder, std::string_view resource);

  PluginSocket(PluginSocket&& other) noexcept;
  PluginSocket& operator=(PluginSocket&& other) noexcept;
  PluginSocket(const PluginSocket&) = delete;
  PluginSocket& operator=(const PluginSocket&) = delete;
  ~PluginSocket() { Close(); }

  int fd() const { return socket_.get(); }
  const std::string& path() const { return path_; }
  std::string name() const { return path_.substr(path_.rfind('/') + 1); }
  // The file is this socket's, and not gone or another's.
  bool IsThere() const;
  // Removes the file where it is this socket's.
  void Close();

 private:
  PluginSocket(FileDescriptor socket, std::string path, dev_t device, ino_t inode)
      : socket_(std::move(socket)), path_(std::move(path)), device_(device), inode_(inode) {}

  FileDescriptor socket_;
  std::string path_;
  dev_t device_;
  ino_t inode_;
};

}  // namespace sublet
