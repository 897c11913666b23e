// sim/driver/mps_log.h
//
// What MPS logs, line by line as driver 580 does: the control daemon's own lines and those of its
// servers, with their time, their writer and its number.
//
//   const MpsLog log("");                         // In the foreground: all of it to standard
//   output. log.Control("Accepting connection..."); log.Server(4711, "Server has started");
//
// Thread safety: no shared state; each line is one write().
#pragma once

#include <string>
#include <string_view>

namespace sublet::sim {

class MpsLog {
 public:
  // `directory`: where control.log and server.log are, for a daemon in the background. Empty:
  // standard output.
  explicit MpsLog(std::string directory) : directory_(std::move(directory)) {}

  void Control(std::string_view text) const;
  void Server(int pid, std::string_view text) const;
  // Of a server that isn't up yet.
  void Starting(int pid, std::string_view text) const;

 private:
  void Write(const char* file, std::string_view writer, int pid, std::string_view text) const;

  const std::string directory_;
};

}  // namespace sublet::sim
