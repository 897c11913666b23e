// Domains on the simulated GPU: they outlive their owners, are taken over or cleared away, belong
// to users, have limits that a probe meets, and don't see each other's faults.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "mps/folder_users.h"
#include "mps/limit_probe.h"
#include "mps/log_reader.h"
#include "mps/mps_daemon.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* kLibraries = SUBLET_BINARY_DIR "/lib/sublet-sim/";
constexpr const char* kProgram = SUBLET_BINARY_DIR "/bin/sublet";
constexpr const char* kClient = SUBLET_SOURCE_DIR "/sim/driver/tests/cuda_client.py";
constexpr UserIds kTenant{65534, 65534};  // nobody, who is on every machine.
constexpr UserIds kOther{65533, 65533};

class MpsSimTest : public ::testing::Test {
 protected:
  MpsSimTest() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    // Open, because some tests have several users, who meet on the GPU.
    ::chmod(folder_.c_str(), 0711);
    fs::create_directory(folder_ + "/state");
    ::chmod((folder_ + "/state").c_str(), 0777);
    ::setenv("SUBLET_SIM", "h200:1", 1);
    ::setenv("SUBLET_SIM_STATE", (folder_ + "/state").c_str(), 1);
  }
  ~MpsSimTest() override {
    for (const char* name : {"a", "b"}) {
      EXPECT_TRUE(EndLeftovers(Path(name), kTenant).has_value());
      EXPECT_THAT(FolderUsers(Path(name)), IsEmpty());
    }
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    fs::remove_all(folder_);
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  MpsOptions Options(const std::string& name) const {
    MpsOptions options;
    options.gpu_uuid = "0";
    options.program = std::string(kLibraries) + "nvidia-cuda-mps-control";
    options.folder = Path(name);
    options.outlives_owner = true;
    options.memory_limit = 2_GiB;
    options.sm_percent = 25;
    options.variables["SUBLET_SHARE"] = "s17";
    return options;
  }

  static std::unique_ptr<MpsDaemon> Take(Result<std::unique_ptr<MpsDaemon>> started) {
    EXPECT_TRUE(started.has_value()) << started.error().message;
    return started ? std::move(*started) : nullptr;
  }

  static ChildEnvironment ClientEnvironment(const MpsDaemon& mps) {
    ChildEnvironment environment;
    environment.UnsetPrefix("CUDA_");
    environment.Set("CUDA_VISIBLE_DEVICES", "0");
    environment.Set("CUDA_MPS_PIPE_DIRECTORY", mps.pipe_directory());
    return environment;
  }

  // A client that goes when its input ends; it has printed a line once it has a context.
  struct Client {
    ChildProcess process;
    FileDescriptor in;
    FileDescriptor out;
    std::string line;
  };
  static Client StartClient(const MpsDaemon& mps, const char* mode) {
    int in[2];
    int out[2];
    EXPECT_EQ(::pipe2(in, O_CLOEXEC) + ::pipe2(out, O_CLOEXEC), 0);
    ChildOptions options;
    options.argv = {"/usr/bin/python3", kClient, std::string(kLibraries) + "libcuda.so.1", mode};
    options.environment = ClientEnvironment(mps);
    options.descriptors = {{in[0], STDIN_FILENO}, {out[1], STDOUT_FILENO}};
    auto started = ChildProcess::Start(options);
    EXPECT_TRUE(started.has_value());
    Client client{std::move(*started), FileDescriptor(in[1]), FileDescriptor(out[0]), ""};
    ::close(in[0]);
    ::close(out[1]);
    for (char byte = 0; ::read(client.out.get(), &byte, 1) == 1 && byte != '\n';) {
      client.line += byte;
    }
    return client;
  }

  ProbeRequest Probe(const MpsDaemon& mps) const {
    ProbeRequest request;
    request.environment = ClientEnvironment(mps);
    request.program = kProgram;
    request.memory_limit = 2_GiB;
    request.sm_percent = 25;
    request.device_sm_count = 132;
    return request;
  }

  // Short, because of the sockets' names.
  std::string folder_ = "/tmp/sublet-mpssim-XXXXXX";
};

// The owner is a process forked here, so that it can be killed without ending the test.
TEST_F(MpsSimTest, OutlivesAnOwnerThatIsKilledAndIsAdoptedByTheNext) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t owner = ::fork();
  ASSERT_GE(owner, 0);
  if (owner == 0) {
    const auto mps = Take(MpsDaemon::Start(Options("a")));
    const ProcessIdentity identity = mps->identity();
    static_cast<void>(::write(fds[1], &identity, sizeof identity) == sizeof identity);
    ::pause();
    ::_exit(0);
  }
  ProcessIdentity identity;
  ASSERT_EQ(::read(fds[0], &identity, sizeof identity), static_cast<ssize_t>(sizeof identity));
  ::close(fds[0]);
  ::close(fds[1]);
  ::kill(owner, SIGKILL);
  ::waitpid(owner, nullptr, 0);
  EXPECT_THAT(FolderUsers(Path("a")), Contains(identity.pid));
  EXPECT_EQ(ProcessesWithEnvironment("SUBLET_SHARE", "s17").size(), 1u);

  const auto mps = Take(MpsDaemon::Adopt(Options("a"), identity));
  ASSERT_NE(mps, nullptr);
  EXPECT_EQ(mps->identity(), identity);
  EXPECT_EQ(::getsid(mps->pid()), mps->pid()) << "a session of its own";
  EXPECT_TRUE(mps->ConfirmLimits().has_value());
  EXPECT_EQ(mps->Ask("get_default_active_thread_percentage").value_or(""), "25.0");
  EXPECT_TRUE(mps->Stop().has_value());
  EXPECT_FALSE(fs::exists(Path("a")));
}

TEST_F(MpsSimTest, IsLeftRunningByAnOwnerThatEnds) {
  ProcessIdentity identity;
  {
    const auto mps = Take(MpsDaemon::Start(Options("a")));
    ASSERT_NE(mps, nullptr);
    identity = mps->identity();
  }
  const auto again = Take(MpsDaemon::Adopt(Options("a"), identity));
  ASSERT_NE(again, nullptr);
  EXPECT_TRUE(again->Servers().has_value());
}

TEST_F(MpsSimTest, AdoptsNobodyElse) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  ProcessIdentity reused = mps->identity();
  ++reused.start_ticks;
  const auto other = MpsDaemon::Adopt(Options("a"), reused);
  ASSERT_FALSE(other.has_value());
  EXPECT_EQ(other.error().code, ErrorCode::kNotFound);
  const auto elsewhere = MpsDaemon::Adopt(Options("b"), mps->identity());
  ASSERT_FALSE(elsewhere.has_value());
  EXPECT_EQ(elsewhere.error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(mps->Servers().has_value()) << "nothing was ended";
}

TEST_F(MpsSimTest, SeesThatItsLimitsWereChanged) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  ASSERT_TRUE(mps->Ask("set_default_device_pinned_mem_limit 0 7G").has_value());
  const Status confirmed = mps->ConfirmLimits();
  ASSERT_FALSE(confirmed.has_value());
  EXPECT_EQ(confirmed.error().code, ErrorCode::kConflict);
  const auto adopted = MpsDaemon::Adopt(Options("a"), mps->identity());
  ASSERT_FALSE(adopted.has_value());
  EXPECT_EQ(adopted.error().code, ErrorCode::kConflict);
}

TEST_F(MpsSimTest, AWedgedDaemonIsNotAdoptedButCleared) {
  MpsOptions options = Options("a");
  options.answer_timeout_s = 0.2;
  const auto mps = Take(MpsDaemon::Start(options));
  ASSERT_NE(mps, nullptr);
  const auto server = ProcessIdentity::Of(mps->StartServer().value_or(0));
  ASSERT_TRUE(server.has_value());
  ::kill(mps->pid(), SIGSTOP);
  const auto adopted = MpsDaemon::Adopt(options, mps->identity());
  ASSERT_FALSE(adopted.has_value());
  EXPECT_EQ(adopted.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(EndLeftovers(Path("a")).has_value());
  EXPECT_FALSE(fs::exists(Path("a")));
  EXPECT_THAT(FolderUsers(Path("a")), IsEmpty());
  EXPECT_FALSE(ProcessHandle::Open(*server).has_value()) << "the server has gone, too";
  const auto next = Take(MpsDaemon::Start(options));
  EXPECT_NE(next, nullptr);
}

TEST_F(MpsSimTest, StopsOneThatHangs) {
  MpsOptions options = Options("a");
  options.answer_timeout_s = 0.2;
  const auto mps = Take(MpsDaemon::Start(options));
  ASSERT_NE(mps, nullptr);
  ::kill(mps->pid(), SIGSTOP);
  EXPECT_TRUE(mps->Stop().has_value());
  EXPECT_FALSE(fs::exists(Path("a")));
}

TEST_F(MpsSimTest, DoesNotStartInAFolderThatIsThere) {
  fs::create_directory(Path("a"));
  const auto started = MpsDaemon::Start(Options("a"));
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, ErrorCode::kConflict);
  EXPECT_TRUE(fs::exists(Path("a")));
}

TEST_F(MpsSimTest, LeavesNothingOfAStartThatFailed) {
  ::setenv("SUBLET_SIM_FAULTS", "hang=mpsCommand", 1);
  MpsOptions options = Options("a");
  options.start_timeout_s = 0.3;
  options.answer_timeout_s = 0.1;
  const auto started = MpsDaemon::Start(options);
  ::unsetenv("SUBLET_SIM_FAULTS");
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(fs::exists(Path("a")));
  EXPECT_THAT(FolderUsers(Path("a")), IsEmpty());
}

TEST_F(MpsSimTest, ClearsOneDomainAndLeavesTheOther) {
  const auto a = Take(MpsDaemon::Start(Options("a")));
  const auto b = Take(MpsDaemon::Start(Options("b")));
  ASSERT_TRUE(a != nullptr && b != nullptr);
  const Client client = StartClient(*b, "idle");
  EXPECT_TRUE(EndLeftovers(Path("a")).has_value());
  EXPECT_TRUE(EndLeftovers(Path("a")).has_value()) << "and once more";
  EXPECT_THAT(b->AllClients().value_or(std::set<int>{}), Contains(client.process.pid()));
}

TEST_F(MpsSimTest, RemovesNoFolderOfOthers) {
  fs::create_directory_symlink("/usr", Path("a"));
  const Status ended = EndLeftovers(Path("a"));
  ASSERT_FALSE(ended.has_value());
  EXPECT_EQ(ended.error().code, ErrorCode::kPermission);
  fs::remove(Path("a"));
}

TEST_F(MpsSimTest, AFaultStaysInItsDomainAndIsInItsLog) {
  const auto a = Take(MpsDaemon::Start(Options("a")));
  const auto b = Take(MpsDaemon::Start(Options("b")));
  ASSERT_TRUE(a != nullptr && b != nullptr);
  Client neighbour = StartClient(*b, "idle");
  Client victim = StartClient(*a, "idle");
  LogTail log(a->log_path(), ::geteuid(), LogTail::From::kEnd);
  LogTail quiet(b->log_path(), ::geteuid(), LogTail::From::kEnd);
  Client culprit = StartClient(*a, "fault");
  EXPECT_EQ(culprit.line, R"({"error": 700})");
  std::vector<MpsEvent> events;
  const auto has = [&](MpsEventKind kind, int pid) {
    return std::ranges::any_of(
        events, [&](const MpsEvent& event) { return event.kind == kind && event.pid == pid; });
  };
  const Deadline deadline = Deadline::In(10);
  while (!has(MpsEventKind::kClientLost, victim.process.pid()) && !deadline.Passed()) {
    for (MpsEvent& event : log.Read()) events.push_back(std::move(event));
    ::poll(nullptr, 0, 1);
  }
  EXPECT_TRUE(has(MpsEventKind::kClientConnected, culprit.process.pid()));
  EXPECT_TRUE(has(MpsEventKind::kFault, 0));
  EXPECT_TRUE(has(MpsEventKind::kClientLost, victim.process.pid()));
  const std::vector<int> servers = a->Servers().value_or(std::vector<int>{});
  ASSERT_EQ(servers.size(), 1u);
  EXPECT_EQ(a->ServerState(servers[0]).value_or(MpsServerState::kUnknown), MpsServerState::kFault);
  victim.in.Close();
  EXPECT_EQ(victim.process.Wait(Deadline::In(10)).value_or(ChildEnd{}).status, 1);
  while (a->ServerState(servers[0]).value_or(MpsServerState::kUnknown) != MpsServerState::kActive &&
         !deadline.Passed()) {
    ::poll(nullptr, 0, 1);
  }
  EXPECT_EQ(StartClient(*a, "idle").line, "{}") << "the domain works again";
  for (const MpsEvent& event : quiet.Read()) EXPECT_NE(event.kind, MpsEventKind::kFault);
  neighbour.in.Close();
  EXPECT_EQ(neighbour.process.Wait(Deadline::In(10)).value_or(ChildEnd{}).status, 0);
}

TEST_F(MpsSimTest, TerminatesOneClientOfTwo) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  Client one = StartClient(*mps, "work");
  Client two = StartClient(*mps, "work");
  const int server = mps->Servers().value_or(std::vector<int>{0}).front();
  EXPECT_TRUE(mps->TerminateClient(server, one.process.pid()).has_value());
  EXPECT_EQ(one.process.Wait(Deadline::In(10)).value_or(ChildEnd{}).status, 1);
  EXPECT_FALSE(mps->TerminateClient(server, 1).has_value()) << "that is no client";
  two.in.Close();
  EXPECT_EQ(two.process.Wait(Deadline::In(10)).value_or(ChildEnd{}).status, 0);
}

TEST_F(MpsSimTest, TheProbeMeetsTheLimits) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  const auto report = ProbeLimits(*mps, Probe(*mps));
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_TRUE(report->was_client);
  EXPECT_EQ(report->sight.mps, true);
  EXPECT_EQ(report->sight.sm_count, 32);
  EXPECT_EQ(report->sight.granted, 2_GiB - 144_MiB) << "the context counts";
  EXPECT_LT(report->sight.free - report->sight.granted, kProbePiece);
  EXPECT_THAT(mps->AllClients().value_or(std::set<int>{1}), Not(Contains(report->pid)));
}

TEST_F(MpsSimTest, TheProbeSeesALimitThatDoesNotBite) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  ProbeRequest request = Probe(*mps);
  request.environment.Set("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=2G,7=3G");
  const auto report = ProbeLimits(*mps, request);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, ErrorCode::kConflict);
  EXPECT_THAT(report.error().message, HasSubstr("limit 2048 MiB, granted 2112 MiB"));
}

TEST_F(MpsSimTest, TheProbeSeesACapThatDoesNotBite) {
  MpsOptions options = Options("a");
  options.sm_percent.reset();
  const auto mps = Take(MpsDaemon::Start(options));
  ASSERT_NE(mps, nullptr);
  const auto report = ProbeLimits(*mps, Probe(*mps));
  ASSERT_FALSE(report.has_value());
  EXPECT_THAT(report.error().message, HasSubstr("the probe has 132"));
}

TEST_F(MpsSimTest, TheProbeSeesThatItIsNoClient) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  ProbeRequest request = Probe(*mps);
  request.environment.Set("CUDA_MPS_PIPE_DIRECTORY", Path("nowhere"));
  const auto report = ProbeLimits(*mps, request);
  ASSERT_FALSE(report.has_value());
  EXPECT_THAT(report.error().message, HasSubstr("without MPS"));
}

TEST_F(MpsSimTest, TheProbeTakesNothingWithoutALimit) {
  MpsOptions options = Options("a");
  options.memory_limit.reset();
  const auto mps = Take(MpsDaemon::Start(options));
  ASSERT_NE(mps, nullptr);
  ProbeRequest request = Probe(*mps);
  request.memory_limit.reset();
  const auto report = ProbeLimits(*mps, request);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(report->sight.granted, Bytes{0});
}

TEST_F(MpsSimTest, TheProbeSaysWhatTheDriverSays) {
  const auto mps = Take(MpsDaemon::Start(Options("a")));
  ASSERT_NE(mps, nullptr);
  ProbeRequest request = Probe(*mps);
  request.environment.Set("SUBLET_SIM_FAULTS", "fail=cuMemGetInfo_v2:999");
  const auto report = ProbeLimits(*mps, request);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(report.error().message, HasSubstr("asking for free memory"));
  request.environment.Set("SUBLET_SIM_FAULTS", "hang=cuMemGetInfo_v2");
  request.timeout_s = 0.3;
  const auto hung = ProbeLimits(*mps, request);
  ASSERT_FALSE(hung.has_value());
  EXPECT_THAT(hung.error().message, HasSubstr("says nothing within 0.3 s"));
}

TEST_F(MpsSimTest, BelongsToItsTenantAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can start a daemon for another user";
  MpsOptions options = Options("a");
  options.run_as = kTenant;
  const auto mps = Take(MpsDaemon::Start(options));
  ASSERT_NE(mps, nullptr);
  for (const std::string& path : {mps->pipe_directory(), mps->log_directory(), mps->log_path(),
                                  "/proc/" + std::to_string(mps->pid())}) {
    struct stat status {};
    ASSERT_EQ(::lstat(path.c_str(), &status), 0) << path;
    EXPECT_EQ(status.st_uid, kTenant.uid) << path;
    const bool in_proc = path.starts_with("/proc/");
    EXPECT_TRUE(in_proc || (status.st_mode & 077) == 0) << path;
  }
  ProbeRequest request = Probe(*mps);
  request.run_as = kTenant;
  const auto own = ProbeLimits(*mps, request);
  EXPECT_TRUE(own.has_value()) << own.error().message;
  // Another user can't enter, and would have the whole GPU; root can, and isn't served.
  request.run_as = kOther;
  const auto others = ProbeLimits(*mps, request);
  ASSERT_FALSE(others.has_value());
  EXPECT_THAT(others.error().message, HasSubstr("without MPS"));
  request.run_as.reset();
  EXPECT_FALSE(ProbeLimits(*mps, request).has_value());
  const auto adopted = Take(MpsDaemon::Adopt(options, mps->identity()));
  ASSERT_NE(adopted, nullptr);
  EXPECT_TRUE(adopted->Stop().has_value());
  EXPECT_FALSE(fs::exists(Path("a")));
}

TEST_F(MpsSimTest, ATenantsLinksLeadNowhere) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can start a daemon for another user";
  MpsOptions options = Options("a");
  options.run_as = kTenant;
  const auto mps = Take(MpsDaemon::Start(options));
  ASSERT_NE(mps, nullptr);
  fs::create_directory(Path("precious"));
  ASSERT_TRUE(WriteFileAtomically(Path("precious/control.log"), "secret\n").has_value());
  fs::remove_all(mps->log_directory());
  fs::create_directory_symlink(Path("precious"), mps->log_directory());
  ::kill(mps->pid(), SIGKILL);
  pollfd ended{mps->pidfd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 10'000), 1);
  const auto answer = mps->Ask("get_server_list");
  ASSERT_FALSE(answer.has_value());
  EXPECT_THAT(answer.error().message, Not(HasSubstr("secret")));
  EXPECT_TRUE(mps->Stop().has_value());
  EXPECT_TRUE(fs::exists(Path("precious/control.log")));
}

}  // namespace
}  // namespace sublet
