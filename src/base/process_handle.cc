#include "base/process_handle.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <memory>

namespace sublet {
namespace {

constexpr std::size_t kEnvironmentBytesMax = 4u << 20;  // The kernel's own limit is 1/4 of a stack.
constexpr std::size_t kStatusBytesMax = 64u << 10;      // With many groups and processors.
constexpr std::size_t kStatBytesMax = 2048;  // 52 numbers and a name of at most 64 bytes.

// What /proc/PID/stat says, as far as it is needed here.
struct ProcessStat {
  char state = 0;
  int session = 0;
  std::uint64_t start_ticks = 0;
  bool Ended() const { return state == 'Z' || state == 'X'; }
};

// Returns whether all could be read. `text` keeps its room from one process to the next: a scan
// would else spend its time on memory.
bool ReadAll(int folder, const char* path, std::size_t bytes_max, std::string& text) {
  const FileDescriptor file(::openat(folder, path, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return false;
  std::size_t size = 0;
  while (size < bytes_max) {
    if (text.size() < size + kStatBytesMax)
      text.resize(std::max(2 * text.size(), 2 * kStatBytesMax));
    const ssize_t got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    if (got == 0) {
      text.resize(size);
      return true;
    }
    size += static_cast<std::size_t>(got);
  }
  return false;
}

template <typename Number>
bool ParseNumber(std::string_view word, Number& number) {
  const auto parsed = std::from_chars(word.data(), word.data() + word.size(), number);
  return !word.empty() && parsed.ec == std::errc() && parsed.ptr == word.data() + word.size();
}

// proc(5): "pid (name) state ppid pgrp session ...", with the start as word 22. A name may contain
// parentheses and spaces, the words behind it don't.
std::optional<ProcessStat> ParseStat(std::string_view text) {
  constexpr std::size_t kState = 3;
  constexpr std::size_t kSession = 6;
  constexpr std::size_t kStart = 22;
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  text.remove_prefix(name_end + 1);
  ProcessStat stat;
  for (std::size_t field = kState; field <= kStart; ++field) {
    text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));
    const std::string_view word = text.substr(0, text.find_first_of(" \n"));
    if (word.empty()) return std::nullopt;
    if (field == kState) stat.state = word[0];
    if (field == kSession && !ParseNumber(word, stat.session)) return std::nullopt;
    if (field == kStart && !ParseNumber(word, stat.start_ticks)) return std::nullopt;
    text.remove_prefix(word.size());
  }
  return stat;
}

std::optional<ProcessStat> ReadStat(int folder, const char* path, std::string& text) {
  text.clear();
  if (!ReadAll(folder, path, kStatBytesMax, text)) return std::nullopt;
  return ParseStat(text);
}

// The value in an environment as the kernel shows it: lines that end in a zero byte.
std::optional<std::string_view> FindVariable(std::string_view environment, std::string_view name) {
  while (environment.size() > name.size()) {
    const std::size_t end = std::min(environment.find('\0'), environment.size());
    const std::string_view line = environment.substr(0, end);
    if (line.size() > name.size() && line[name.size()] == '=' && line.starts_with(name)) {
      return line.substr(name.size() + 1);
    }
    environment.remove_prefix(std::min(end + 1, environment.size()));
  }
  return std::nullopt;
}

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};

// Calls use(folder of /proc, name, pid) for each process but this one.
template <typename Use>
void ForEachProcess(const Use& use) {
  const std::unique_ptr<DIR, CloseFolder> proc(::opendir("/proc"));
  if (!proc) return;
  const pid_t self = ::getpid();
  while (const dirent* entry = ::readdir(proc.get())) {
    int pid = 0;
    if (ParseNumber(entry->d_name, pid) && pid != self) {
      use(::dirfd(proc.get()), entry->d_name, pid);
    }
  }
}

struct Mark {
  std::string_view name;
  std::string_view value;
};

// The value of `wanted`, where the environment has that and `other`, too.
std::optional<std::string> MarkedWith(std::string_view environment, std::string_view wanted,
                                      const std::optional<Mark>& other) {
  const std::optional<std::string_view> value = FindVariable(environment, wanted);
  if (!value) return std::nullopt;
  if (other && FindVariable(environment, other->name) != other->value) return std::nullopt;
  return std::string(*value);
}

// Both facts of one process: a descriptor of a process's folder is of this process, and never of
// the next one that gets its number.
std::optional<std::pair<ProcessIdentity, std::string>> ReadMarked(int proc, const char* name,
                                                                  int pid,
                                                                  std::string_view variable,
                                                                  const std::optional<Mark>& other,
                                                                  std::string& text) {
  const FileDescriptor folder(::openat(proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || !ReadAll(folder.get(), "environ", kEnvironmentBytesMax, text)) {
    return std::nullopt;
  }
  std::optional<std::string> value = MarkedWith(text, variable, other);
  if (!value) return std::nullopt;
  const std::optional<ProcessStat> stat = ReadStat(folder.get(), "stat", text);
  if (!stat || stat->Ended()) return std::nullopt;
  return std::pair{ProcessIdentity{pid, stat->start_ticks}, std::move(*value)};
}

std::map<ProcessIdentity, std::string> FindMarked(std::string_view name,
                                                  const std::optional<Mark>& other) {
  std::map<ProcessIdentity, std::string> found;
  std::string text;
  ForEachProcess([&](int proc, const char* folder, int pid) {
    // Most have nothing to do with us: for them this one file is all that is opened.
    const std::string path = fmt::format("{}/environ", folder);
    if (!ReadAll(proc, path.c_str(), kEnvironmentBytesMax, text)) return;
    if (!MarkedWith(text, name, other)) return;
    if (auto marked = ReadMarked(proc, folder, pid, name, other, text)) {
      found.insert(std::move(*marked));
    }
  });
  return found;
}

}  // namespace

Result<ProcessIdentity> ProcessIdentity::Of(int pid) {
  std::string text;
  const std::string path = fmt::format("/proc/{}/stat", pid);
  const std::optional<ProcessStat> stat = ReadStat(AT_FDCWD, path.c_str(), text);
  if (pid <= 0 || !stat) {
    return Fail(ErrorCode::kNotFound, fmt::format("no such process: {}", pid));
  }
  return ProcessIdentity{pid, stat->start_ticks};
}

Result<ProcessHandle> ProcessHandle::Open(ProcessIdentity identity) {
  const auto gone = [&] {
    return Fail(ErrorCode::kNotFound, fmt::format("process has ended: {}", identity.pid));
  };
  if (identity.pid <= 0) return gone();
  FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, identity.pid, 0)));
  if (!pidfd.valid()) {
    // EINVAL: the number is a thread's of some process.
    if (errno == ESRCH || errno == EINVAL) return gone();
    return Fail(ErrorCode::kUnsupported,
                fmt::format("watching process {}: {}", identity.pid, std::strerror(errno)),
                "Linux 5.3 or newer is needed");
  }
  // In this order: what the descriptor holds can't change any more, so that a process whose start
  // is right, and which hasn't ended afterwards, is the one that the descriptor holds.
  const Result<ProcessIdentity> now = ProcessIdentity::Of(identity.pid);
  if (!now || *now != identity) return gone();
  ProcessHandle handle(identity, std::move(pidfd));
  if (handle.Ended()) return gone();
  return handle;
}

bool ProcessHandle::Ended() const {
  pollfd ended{pidfd_.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&ended, 1, 0);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

Status ProcessHandle::Signal(int signal) const {
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0) == 0) return {};
  const ErrorCode code = errno == ESRCH   ? ErrorCode::kNotFound
                         : errno == EPERM ? ErrorCode::kPermission
                                          : ErrorCode::kUnavailable;
  return Fail(code, fmt::format("sending signal {} to process {}: {}", signal, identity_.pid,
                                std::strerror(errno)));
}

std::vector<ProcessIdentity> ProcessesWithEnvironment(std::string_view name,
                                                      std::string_view value) {
  std::vector<ProcessIdentity> found;
  for (const auto& [process, its_value] : ProcessesWithEnvironment(name)) {
    if (its_value == value) found.push_back(process);
  }
  return found;
}

std::map<ProcessIdentity, std::string> ProcessesWithEnvironment(std::string_view name) {
  return FindMarked(name, std::nullopt);
}

std::map<ProcessIdentity, std::string> ProcessesWithEnvironment(std::string_view name,
                                                                std::string_view other_name,
                                                                std::string_view other_value) {
  return FindMarked(name, Mark{other_name, other_value});
}

std::optional<std::string> EnvironmentVariable(const ProcessIdentity& process,
                                               std::string_view name) {
  std::string text;
  const std::string folder = fmt::format("/proc/{}", process.pid);
  auto marked = ReadMarked(AT_FDCWD, folder.c_str(), process.pid, name, std::nullopt, text);
  if (!marked || marked->first != process) return std::nullopt;
  return std::move(marked->second);
}

std::optional<uid_t> UserOfProcess(const ProcessIdentity& process) {
  constexpr std::string_view kLine = "\nUid:";
  constexpr int kUsers = 4;  // Real, effective, saved, and of the file system.
  std::string text;
  const std::string path = fmt::format("/proc/{}", process.pid);
  const FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || !ReadAll(folder.get(), "status", kStatusBytesMax, text)) {
    return std::nullopt;
  }
  const std::size_t at = text.find(kLine);
  if (at == std::string::npos) return std::nullopt;
  std::string_view line(text);
  line.remove_prefix(at + kLine.size());
  line = line.substr(0, line.find('\n'));
  std::optional<uid_t> user;
  for (int i = 0; i < kUsers; ++i) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    const std::string_view word = line.substr(0, line.find_first_of(" \t"));
    uid_t number = 0;
    if (!ParseNumber(word, number) || user.value_or(number) != number) return std::nullopt;
    user = number;
    line.remove_prefix(word.size());
  }
  const std::optional<ProcessStat> stat = ReadStat(folder.get(), "stat", text);
  if (!stat || stat->Ended() || stat->start_ticks != process.start_ticks) return std::nullopt;
  return user;
}

std::vector<ProcessIdentity> ProcessesOfSession(int session) {
  std::vector<ProcessIdentity> found;
  std::string text;
  ForEachProcess([&](int proc, const char* folder, int pid) {
    const std::string path = fmt::format("{}/stat", folder);
    const std::optional<ProcessStat> stat = ReadStat(proc, path.c_str(), text);
    if (stat && !stat->Ended() && stat->session == session) {
      found.push_back({pid, stat->start_ticks});
    }
  });
  std::ranges::sort(found);
  return found;
}

}  // namespace sublet
