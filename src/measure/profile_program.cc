#include "measure/profile_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <new>
#include <utility>

#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kTailBytes = 8192;
constexpr int kTailLines = 10;
// What a program may print between two looks without being held up.
constexpr int kPipeBytes = 1 << 20;

void Prepend(ChildEnvironment& environment, const char* name, const std::string& first,
             char separator) {
  const std::optional<std::string> before = environment.Get(name);
  environment.Set(
      name, before && !before->empty() ? fmt::format("{}{}{}", first, separator, *before) : first);
}

Result<guard::Observation*> MapObservation(const FileDescriptor& memory) {
  if (::ftruncate(memory.get(), static_cast<off_t>(guard::kObservationBytes)) != 0) {
    return FailFromErrno(errno, "making shared memory");
  }
  void* const address = ::mmap(nullptr, guard::kObservationBytes, PROT_READ | PROT_WRITE,
                               MAP_SHARED, memory.get(), 0);
  if (address == MAP_FAILED) return FailFromErrno(errno, "mapping shared memory");
  auto* const observation = new (address) guard::Observation{};
  observation->magic = guard::kObservationMagic;
  return observation;
}

}  // namespace

ChildEnvironment ProgramEnvironment(const ProgramOptions& options,
                                    const std::string& observation_path) {
  ChildEnvironment environment;
  environment.UnsetPrefix("CUDA_MPS_");
  PutInPlace(environment, options.place);
  environment.Set(guard::kObservationVariable, observation_path);
  environment.Set("SUBLET_COPY", std::to_string(options.copy));
  Prepend(environment, "LD_PRELOAD", options.guard_library, ':');
  if (!options.driver_folder.empty()) {
    Prepend(environment, "LD_LIBRARY_PATH", options.driver_folder, ':');
  }
  return environment;
}

Result<std::unique_ptr<WatchedProgram>> WatchedProgram::Start(const ProgramOptions& options) {
  FileDescriptor memory(::memfd_create("sublet-observation", MFD_CLOEXEC));
  if (!memory.valid()) return FailFromErrno(errno, "making shared memory");
  ASSIGN_OR_RETURN(guard::Observation* const observation, MapObservation(memory));
  observation->hold_ms = static_cast<std::uint32_t>(options.hold_ms.value_or(0));
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) {
    const int error = errno;
    ::munmap(observation, guard::kObservationBytes);
    return FailFromErrno(error, "making a pipe");
  }
  FileDescriptor ours(pipe[0]);
  const FileDescriptor theirs(pipe[1]);
  ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(ours.get(), F_SETPIPE_SZ, kPipeBytes);
  ChildOptions child{.argv = options.argv, .environment = {}, .descriptors = {}};
  child.environment =
      ProgramEnvironment(options, fmt::format("/proc/{}/fd/{}", ::getpid(), memory.get()));
  child.descriptors = {{theirs.get(), STDOUT_FILENO}, {theirs.get(), STDERR_FILENO}};
  Result<ChildProcess> started = ChildProcess::Start(child);
  if (!started) {
    ::munmap(observation, guard::kObservationBytes);
    return tl::unexpected<Error>(std::move(started).error());
  }
  return std::unique_ptr<WatchedProgram>(
      new WatchedProgram(*std::move(started), std::move(ours), std::move(memory), observation));
}

WatchedProgram::WatchedProgram(ChildProcess child, FileDescriptor output, FileDescriptor memory,
                               guard::Observation* observation)
    : child_(std::move(child)),
      output_(std::move(output)),
      memory_(std::move(memory)),
      observation_(observation) {}

WatchedProgram::~WatchedProgram() {
  // A process that is held would not see SIGTERM's handler to its end.
  for (const int pid : HeldPids()) LetGo(pid);
  if (!end_) static_cast<void>(child_.Stop({.after_term_s = 2}));
  ::munmap(observation_, guard::kObservationBytes);
}

std::vector<int> WatchedProgram::GpuPids() const {
  std::vector<int> pids;
  for (const guard::ObservedProcess& process : observation_->processes) {
    if (process.pid != 0 && process.contexts > 0) pids.push_back(process.pid);
  }
  return pids;
}

std::vector<int> WatchedProgram::HeldPids() const {
  std::vector<int> pids;
  for (const guard::ObservedProcess& process : observation_->processes) {
    if (process.context_state == guard::kContextHeld) pids.push_back(process.pid);
  }
  return pids;
}

void WatchedProgram::LetGo(int pid) {
  for (guard::ObservedProcess& process : observation_->processes) {
    if (process.pid == pid) process.context_state = guard::kContextGo;
  }
}

void WatchedProgram::Pump() {
  std::array<char, 65536> chunk;
  while (output_.valid()) {
    const ssize_t got = ::read(output_.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return;
    if (got == 0) {
      output_.Close();
      return;
    }
    tail_.append(chunk.data(), static_cast<std::size_t>(got));
    if (tail_.size() > kTailBytes) tail_.erase(0, tail_.size() - kTailBytes);
  }
}

std::string WatchedProgram::LastLines() const {
  std::string text = tail_;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  std::size_t begin = text.size();
  for (int lines = 0; lines < kTailLines && begin > 0; ++lines) {
    const std::size_t newline = text.rfind('\n', begin - 1);
    begin = newline == std::string::npos ? 0 : newline;
  }
  if (begin < text.size() && text[begin] == '\n') ++begin;
  text.erase(0, begin);
  // What it prints may be meant for a terminal that moves its cursor.
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') c = ' ';
  }
  return text;
}

std::optional<ChildEnd> WatchedProgram::Ended() {
  if (end_) return end_;
  pollfd ended{child_.pidfd(), POLLIN, 0};
  if (::poll(&ended, 1, 0) <= 0) return std::nullopt;
  Pump();
  // Not reaped yet, so that the rest of its group can still be named.
  end_ = child_.Stop({.after_term_s = 0});
  return end_;
}

void WatchedProgram::AskToStop() {
  for (const int pid : HeldPids()) LetGo(pid);
  child_.Signal(SIGTERM);
}

}  // namespace sublet
