// base/service_notification.h
//
// What a service and systemd tell each other: "I am ready", "I stop", "I am alive"; and which
// sockets systemd opened for it.
//
//   ServiceManager manager = ServiceManager::FromEnvironment();
//   for (InheritedSocket& socket : manager.TakeSockets()) server->AdoptUnixListener(...);
//   manager.Notify("READY=1\nSTATUS=12 shares");
//   if (auto period_s = manager.WatchdogPeriod()) every *period_s: manager.Notify("WATCHDOG=1");
//   manager.Notify("STOPPING=1");
//
// The protocols are those of sd_notify(3) and sd_listen_fds(3), which systemd promises to keep.
// They are a datagram and three variables; libsystemd for them would bring liblzma, libzstd,
// liblz4, libcap and libgcrypt into every bundle.
//
// Without systemd nothing is notified and no socket is there.
//
// Thread safety: FromEnvironment() before other threads start, because it changes the environment;
// Notify() from any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

struct InheritedSocket {
  std::string name;  // FileDescriptorName= of the .socket unit; its file's name by default.
  FileDescriptor fd;
};

class ServiceManager {
 public:
  // Takes the variables out of the environment, so that no child of this process speaks for it or
  // takes its sockets for its own.
  static ServiceManager FromEnvironment();

  bool present() const { return !address_.empty(); }
  // Lines NAME=VALUE: READY=1, STATUS=text, STOPPING=1, WATCHDOG=1, MAINPID=17. Does nothing
  // without a manager; never blocks.
  Status Notify(std::string_view lines) const;
  // Half of WatchdogSec=, as systemd advises; absent: none is expected.
  std::optional<double> WatchdogPeriod() const { return watchdog_period_s_; }
  // Once; then there are none.
  std::vector<InheritedSocket> TakeSockets() { return std::exchange(sockets_, {}); }

 private:
  std::string address_;  // Of the datagram socket; a leading '@' for an abstract one.
  std::optional<double> watchdog_period_s_;
  std::vector<InheritedSocket> sockets_;
};

}  // namespace sublet
