// kube/folder_watch.h
//
// Which names in a folder appear, change and go: kubelet's socket, our own, a configuration file.
//
//   auto watch = std::make_shared<FolderWatch>(loop, [&](const FolderChange& change) { ... });
//   watch->Watch("/var/lib/kubelet/device-plugins");
//   ...
//   watch->Stop();
//
// A folder that isn't there, or that goes, is looked for again every second until it is; then, and
// where the kernel lost changes because there were too many at once, the change has no name: look
// at everything.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "http/event_loop.h"
#include "node/bell.h"

namespace sublet {

struct FolderChange {
  std::string folder;
  std::string name = {};  // Empty: anything may have changed.
  bool is_gone = false;   // Removed, or moved away.
};

// Always shared: what it runs keeps it until Stop().
class FolderWatch : public std::enable_shared_from_this<FolderWatch> {
 public:
  FolderWatch(asio::io_context& loop, std::function<void(const FolderChange&)> report);

  // Fails with kIo where the kernel gives no more watches.
  Status Start();
  // Twice is fine. Changes are reported that come after it.
  void Watch(const std::string& folder);
  void Stop();

 private:
  Task<void> Read();
  void Tell(std::string_view notes);
  void TellOne(int number, std::uint32_t mask, const std::string& name);
  Task<void> LookForMissing();
  bool Add(const std::string& folder);

  asio::io_context& loop_;
  const std::function<void(const FolderChange&)> report_;
  FileDescriptor notes_;
  std::map<int, std::string> folders_;  // By the kernel's number.
  std::set<std::string> missing_;
  bool stopped_ = false;
  Bell bell_;
};

}  // namespace sublet
