#include "mps_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>

namespace sublet::sim {

void MpsLog::Control(std::string_view text) const {
  Write("control.log", "Control", ::getpid(), text);
}

void MpsLog::Server(int pid, std::string_view text) const {
  Write("server.log", "Server", pid, text);
}

void MpsLog::Starting(int pid, std::string_view text) const {
  Write("server.log", "Other", pid, text);
}

void MpsLog::Write(const char* file, std::string_view writer, int pid,
                   std::string_view text) const {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const std::string line =
      fmt::format("[{:%Y-%m-%d %H:%M:%S}.{:03} {} {:5}] {}\n", fmt::localtime(now.tv_sec),
                  now.tv_nsec / 1'000'000, writer, pid, text);
  int out = STDOUT_FILENO;
  if (!directory_.empty()) {
    const std::string path = fmt::format("{}/{}", directory_, file);
    out = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (out < 0) return;  // Without a log the daemon still works.
  }
  static_cast<void>(::write(out, line.data(), line.size()) + 1);
  if (out != STDOUT_FILENO) ::close(out);
}

}  // namespace sublet::sim
