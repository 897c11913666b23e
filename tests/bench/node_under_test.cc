#include "bench/node_under_test.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string_view>

#include "base/check.h"
#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/process_handle.h"

namespace sublet::bench {
namespace {

constexpr double kStartSeconds = 30;
constexpr double kSettleSeconds = 60;
constexpr int kLookMs = 20;
constexpr double kAnswerSeconds = 30;

std::string NewFolder() {
  // Short: the sockets of MPS domains lie below.
  std::string path = "/tmp/sublet-bench-XXXXXX";
  CHECK(::mkdtemp(path.data()) != nullptr);
  return path;
}

void Pause() {
  ::poll(nullptr, 0, kLookMs);
}

std::vector<char*> PointersTo(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

double Microseconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
}

}  // namespace

NodeUnderTest::NodeUnderTest(const std::string& simulation)
    : simulation_(simulation), folder_(NewFolder()), socket_(folder_ + "/run/s") {
  ChildOptions options;
  options.argv = {Program(), "daemon", "--socket", socket_, "--state", folder_ + "/state"};
  options.environment = Environment();
  // It tells of each share.
  const FileDescriptor log(
      ::open((folder_ + "/log").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  options.descriptors = {{log.get(), STDOUT_FILENO}, {log.get(), STDERR_FILENO}};
  std::filesystem::create_directory(folder_ + "/run");
  std::filesystem::create_directory(folder_ + "/state");
  daemon_ = ChildProcess::Start(options).value();
  const Deadline deadline = Deadline::In(kStartSeconds);
  while (!HttpClient::ConnectUnix(socket_, kAnswerSeconds)) {
    CHECK(!deadline.Passed());
    Pause();
  }
}

NodeUnderTest::~NodeUnderTest() {
  daemon_->Stop({.after_term_s = 5});
  // MPS domains and whatever was started for shares outlive the daemon.
  const std::string state = folder_ + "/state";
  const Deadline deadline = Deadline::In(kSettleSeconds);
  while (!deadline.Passed()) {
    const std::vector<ProcessIdentity> left = ProcessesWithEnvironment("SUBLET_STATE", state);
    if (left.empty()) break;
    for (const ProcessIdentity& each : left) {
      if (const auto process = ProcessHandle::Open(each)) {
        static_cast<void>(process->Signal(SIGKILL));
      }
    }
    Pause();
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

ChildEnvironment NodeUnderTest::Environment() const {
  ChildEnvironment environment;
  environment.UnsetPrefix("SUBLET_").UnsetPrefix("CUDA_");
  environment.Set("SUBLET_SIM", simulation_)
      .Set("SUBLET_SIM_STATE", simulation_state())
      .Set("SUBLET_SOCKET", socket_);
  return environment;
}

std::string NodeUnderTest::Get(const std::string& target) const {
  return HttpClient::ConnectUnix(socket_, kAnswerSeconds).value().Send({.target = target})->body;
}

double NodeUnderTest::Metric(const std::string& name) const {
  const std::string text = "\n" + Get("/metrics");
  const std::size_t at = text.find(fmt::format("\n{} ", name));
  CHECK(at != std::string::npos);
  return std::strtod(text.c_str() + at + 2 + name.size(), nullptr);
}

void NodeUnderTest::AwaitShares(std::size_t count) const {
  const Deadline deadline = Deadline::In(kSettleSeconds);
  while (static_cast<std::size_t>(Metric("sublet_grants_total") - Metric("sublet_returns_total")) !=
         count) {
    CHECK(!deadline.Passed());
    Pause();
  }
}

Spread SpreadOf(std::vector<double> values) {
  CHECK(!values.empty());
  std::ranges::sort(values);
  const auto at = [&](double part) {
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
  };
  return {.p50 = at(0.5), .p99 = at(0.99), .p999 = at(0.999), .max = values.back()};
}

ProgramRun RunProgram(const std::vector<std::string>& argv,
                      const std::vector<std::string>& environment) {
  const std::vector<char*> words = PointersTo(argv);
  const std::vector<char*> variables = PointersTo(environment);
  // What it says would stand in the midst of the figures.
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const std::int64_t begin = MonotonicNanoseconds();
  pid_t pid = 0;
  CHECK(::posix_spawn(&pid, argv.front().c_str(), &quiet, nullptr, words.data(),
                      variables.data()) == 0);
  posix_spawn_file_actions_destroy(&quiet);
  rusage used{};
  int status = 0;
  while (::wait4(pid, &status, 0, &used) < 0) CHECK(errno == EINTR);
  ProgramRun run;
  run.wall_us = static_cast<double>(MonotonicNanoseconds() - begin) * 1e-3;
  run.cpu_us = Microseconds(used.ru_utime) + Microseconds(used.ru_stime);
  run.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

}  // namespace sublet::bench
