// Processes that share the simulated card through MPS: the daemon, its servers and clients, and
// what a fault of one does to the others.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>
#include <utility>
#include <vector>

#include "base/process_handle.h"
#include "cuda_crowd.h"
#include "mps_client.h"
#include "mps_wire.h"
#include "mps_words.h"

namespace sublet::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr const char* kNvmlLibrary = SUBLET_BINARY_DIR "/lib/sublet-sim/libnvidia-ml.so.1";
constexpr const char* kControl = SUBLET_BINARY_DIR "/lib/sublet-sim/nvidia-cuda-mps-control";

// A control daemon with a pipe directory of its own, below the crowd's folder.
class Mps {
 public:
  Mps(const CudaCrowd& crowd, const std::string& name)
      : crowd_(crowd), folder_(crowd.folder() + "/" + name) {
    pid_ = crowd_.Start(variables(), [this] {
      ::dup2(::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), STDOUT_FILENO);
      ::execl(kControl, kControl, "-f", nullptr);
      return 127;
    });
    while (!Answers() && ::waitpid(pid_, nullptr, WNOHANG) == 0) ::sched_yield();
  }
  ~Mps() {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  Mps(const Mps&) = delete;
  Mps& operator=(const Mps&) = delete;

  std::map<std::string, std::string> variables() const {
    return {{"CUDA_MPS_PIPE_DIRECTORY", folder_}, {"CUDA_MPS_LOG_DIRECTORY", folder_ + "-logs"}};
  }
  const std::string& folder() const { return folder_; }
  int pid() const { return pid_; }

  // In the foreground it prints what it would log.
  std::string log_path() const { return folder_ + ".log"; }
  std::string Log() const {
    std::ifstream file(log_path());
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void AwaitLog(const std::string& text) const {
    while (Log().find(text) == std::string::npos) ::sched_yield();
  }

  bool Answers() const { return std::filesystem::exists(folder_ + "/nvidia-cuda-mps-control.pid"); }

  std::string Ask(const std::string& command) const {
    const std::string in = crowd_.folder() + "/in";
    const std::string out = crowd_.folder() + "/out";
    std::ofstream(in) << command << "\n";
    const int pid = crowd_.Start(variables(), [&] {
      ::dup2(::open(in.c_str(), O_RDONLY), STDIN_FILENO);
      ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
      ::execl(kControl, kControl, nullptr);
      return 127;
    });
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    std::ifstream answer(out);
    std::stringstream text;
    text << answer.rdbuf();
    return text.str();
  }

 private:
  const CudaCrowd& crowd_;
  const std::string folder_;
  int pid_ = 0;
};

Member Client(const Mps& mps, const std::string& work, const char* percent = nullptr) {
  Member member{.work = work, .variables = mps.variables()};
  if (percent != nullptr) member.variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = percent;
  return member;
}

std::vector<Member> Times(int count, const Member& member) {
  return std::vector<Member>(static_cast<std::size_t>(count), member);
}

void ExpectNear(double value, double measured, double within = 0.05) {
  EXPECT_NEAR(value / measured, 1, within) << value << " instead of " << measured;
}

double Sum(const std::vector<Figures*>& figures) {
  return std::accumulate(figures.begin(), figures.end(), 0.0,
                         [](double sum, const Figures* one) { return sum + one->rate; });
}

// Of a process that isn't ours. Its number may be another's soon after it.
class ProcessEnd {
 public:
  explicit ProcessEnd(int pid) : identity_(ProcessIdentity::Of(pid).value()) {}
  void Await() const {
    while (ProcessIdentity::Of(identity_.pid) == identity_) ::sched_yield();
  }

 private:
  const ProcessIdentity identity_;
};

TEST(CudaMps, ClientsRunTogetherAsMeasured) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  struct Row {
    const char* work;
    int clients;
    double each;
  };
  for (const Row& row : {Row{"small", 2, 9931}, Row{"small", 4, 9944}, Row{"big", 2, 1305},
                         Row{"big", 4, 652}, Row{"mem", 2, 3783}, Row{"mem", 4, 1879}}) {
    SCOPED_TRACE(row.work);
    for (const Figures* one : crowd.Run(Times(row.clients, Client(mps, row.work)))) {
      ExpectNear(one->rate, row.each);
    }
  }
  ExpectNear(Sum(crowd.Run({Client(mps, "transformer")})), 4111);
}

TEST(CudaMps, AQuarterOfTheSmsEachMeansNoNeighbour) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  for (const Figures* one : crowd.Run(Times(2, Client(mps, "big", "25")))) {
    EXPECT_EQ(one->sm_count, 32) << "33, and SMs come in pairs";
    ExpectNear(one->rate, 2377);
  }
}

TEST(CudaMps, SmCapsHelpACrowdOfReplicasAsMeasured) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  ExpectNear(Sum(crowd.Run(Times(40, Client(mps, "transformer")), 100)), 10790);
  ExpectNear(Sum(crowd.Run(Times(40, Client(mps, "transformer", "10")), 100)), 25589);
}

TEST(CudaMps, TwoServersTakeTurns) {
  CudaCrowd crowd("h200");
  const Mps a(crowd, "a");
  const Mps b(crowd, "b");
  for (const Figures* one : crowd.Run(
           {Client(a, "small"), Client(a, "small"), Client(b, "small"), Client(b, "small")})) {
    ExpectNear(one->rate, 2190);
  }
}

TEST(CudaMps, WithoutADaemonAClientRunsUnconfined) {
  CudaCrowd crowd("h200");
  Member lost{.work = "big"};
  lost.variables = {{"CUDA_MPS_PIPE_DIRECTORY", "/nowhere"},
                    {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10"}};
  const std::vector<Figures*> figures = crowd.Run({lost});
  EXPECT_EQ(figures[0]->error, 0);
  EXPECT_EQ(figures[0]->sm_count, 132);
}

TEST(CudaMps, AnIllegalAccessTakesTheServersClientsAlong) {
  CudaCrowd crowd("h200");
  const Mps a(crowd, "a");
  const Mps b(crowd, "b");
  Member culprit = Client(a, "small");
  culprit.poke_at_ms = 50;
  const std::vector<Figures*> figures =
      crowd.Run({culprit, Client(a, "small"), Client(b, "small")}, 400);
  EXPECT_EQ(figures[0]->error, 700);
  EXPECT_EQ(figures[1]->error, 700);
  EXPECT_EQ(figures[2]->error, 0);
  EXPECT_NEAR(figures[2]->max_ms, 141, 1) << "one pause of the neighbouring server's client";
  const std::string server = a.Ask("get_server_list");
  EXPECT_EQ(a.Ask("get_server_status " + server), "ACTIVE\n");
  EXPECT_EQ(crowd.Run({Client(a, "small")})[0]->error, 0) << "a new client works";
}

TEST(CudaMps, AKilledClientLeavesItsNeighbourRunning) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  Member victim = Client(mps, "small");
  victim.die_at_ms = 50;
  const std::vector<Figures*> figures = crowd.Run({victim, Client(mps, "small")});
  EXPECT_EQ(figures[0]->state, 1) << "it never came to its end";
  EXPECT_EQ(figures[1]->error, 0);
  EXPECT_LT(figures[1]->max_ms, 0.3);
  ExpectNear(figures[1]->rate, 9931);
}

TEST(CudaMps, ServesFortyEightClients) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  const std::vector<Figures*> figures = crowd.Run(Times(50, Client(mps, "small")), 1);
  for (std::size_t i = 0; i < figures.size(); ++i) {
    EXPECT_EQ(figures[i]->error, i < 48 ? 0 : 808) << i;
  }
}

TEST(CudaMps, EndsOneClientAtACommand) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  const int pid = crowd.Start(mps.variables(), [&] {
    Figures figures{};
    const Member idle{.variables = mps.variables(), .keeps_time = false};
    CrowdMember member(idle, figures);
    member.Prepare();
    while (figures.error == 0) member.Work(10);
    return figures.error & 0xFF;
  });
  std::string server;
  while (server.empty() || mps.Ask("get_client_list " + server).empty()) {
    server = mps.Ask("get_server_list");
    server = server.substr(0, server.find('\n'));
  }
  EXPECT_EQ(mps.Ask("get_client_list " + server), std::to_string(pid) + "\n");
  const std::string list = mps.Ask("ps");
  EXPECT_THAT(list, StartsWith("PID       ID    SERVER    DEVICE             NAMESPACE"));
  EXPECT_THAT(list, HasSubstr(std::to_string(pid)));
  EXPECT_EQ(mps.Ask("terminate_client " + server + " " + std::to_string(pid)), "0\n");
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 810 & 0xFF);
  mps.AwaitLog("Client process " + std::to_string(pid) + " disconnected");
  EXPECT_THAT(mps.Log(), HasSubstr("MPS server requesting client {PID: " + std::to_string(pid) +
                                   ", Context ID: 1} to exit"));
  EXPECT_EQ(mps.Ask("get_server_list"), server + "\n") << "the server stays";
}

TEST(CudaMps, AnswersAsTheRealDaemonDoes) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  EXPECT_EQ(mps.Ask("get_server_list"), "");
  EXPECT_EQ(mps.Ask("lspart"), "Unknown command \"lspart\"\n");
  EXPECT_EQ(mps.Ask("get_default_active_thread_percentage"), "100.0\n");
  EXPECT_EQ(mps.Ask("set_default_active_thread_percentage 25"), "25.0\n");
  EXPECT_EQ(mps.Ask("set_default_active_thread_percentage 0"), "Invalid percentage value\n");
  EXPECT_EQ(mps.Ask("set_default_device_pinned_mem_limit 0 600M"), "");
  EXPECT_EQ(mps.Ask("get_default_device_pinned_mem_limit 0"), "600M\n");
  EXPECT_EQ(mps.Ask("start_server -uid 0"), "");
  EXPECT_THAT(mps.Ask("get_server_list"), Not(IsEmpty()));
}

// Files as observed with driver 580.
TEST(CudaMps, LeavesItsSocketsAndRemovesTheRest) {
  CudaCrowd crowd("h200");
  std::string folder;
  {
    const Mps mps(crowd, "a");
    folder = mps.folder();
    for (const char* name :
         {"control", "control_privileged", "control_lock", "log", "nvidia-cuda-mps-control.pid"}) {
      EXPECT_TRUE(std::filesystem::exists(folder + "/" + name)) << name;
    }
    mps.Ask("quit");
    while (std::filesystem::exists(folder + "/log")) ::sched_yield();
  }
  EXPECT_TRUE(std::filesystem::exists(folder + "/control"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/nvidia-cuda-mps-control.pid"));
}

TEST(CudaMps, DefaultsHoldForServersThatStartLater) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  mps.Ask("set_default_active_thread_percentage 50");
  EXPECT_EQ(crowd.Run({Client(mps, "small")}, 1)[0]->sm_count, 66);
  mps.Ask("set_default_active_thread_percentage 25");
  EXPECT_EQ(crowd.Run({Client(mps, "small")}, 1)[0]->sm_count, 66);
  EXPECT_EQ(crowd.Run({Client(mps, "small", "90")}, 1)[0]->sm_count, 66) << "the smaller holds";
}

TEST(CudaMps, MemoryEndsAtTheLimitWithTheContextCountedIn) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  mps.Ask("set_default_device_pinned_mem_limit 0 600M");
  std::map<std::string, std::string> variables = mps.variables();
  variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "10";
  const int pid = crowd.Start(variables, [] {
    const SimCuda cuda;
    cuda::Context context = nullptr;
    cuda::DevicePointer pointer = 0;
    cuda.init(0);
    cuda.context_retain(&context, 0);
    cuda.context_set_current(context);
    int pieces = 0;
    while (cuda.memory_alloc(&pointer, 2 << 20) == cuda::kSuccess) ++pieces;
    return pieces & 0xFF;
  });
  int status = 0;
  ::waitpid(pid, &status, 0);
  // 12 SMs' context has 72 MiB, which leaves 264 pieces of 2 MiB: as on an H200.
  EXPECT_EQ(WEXITSTATUS(status), 264 & 0xFF);
}

// A client that has a context and waits until it is told to go; or says which error it met.
class IdleClient {
 public:
  IdleClient(const CudaCrowd& crowd, const std::map<std::string, std::string>& variables,
             bool works_long = false)
      : works_long_(works_long) {
    EXPECT_EQ(::pipe(ready_), 0);
    EXPECT_EQ(::pipe(go_), 0);
    pid_ = crowd.Start(variables, [this] { return Body(); });
    ::close(ready_[1]);
    ::close(go_[0]);
    EXPECT_EQ(::read(ready_[0], &error_, sizeof error_), static_cast<ssize_t>(sizeof error_));
  }
  ~IdleClient() {
    ::close(ready_[0]);
    End();
  }
  IdleClient(const IdleClient&) = delete;
  IdleClient& operator=(const IdleClient&) = delete;

  int pid() const { return pid_; }
  int error() const { return error_; }  // Of making its context.
  void Kill() {
    ::kill(pid_, SIGKILL);
    End();
  }
  // It goes of its own; its exit status is the error that has befallen it meanwhile.
  int End() {
    if (go_[1] >= 0) ::close(std::exchange(go_[1], -1));
    if (pid_ > 0) ::waitpid(std::exchange(pid_, -1), &status_, 0);
    return WEXITSTATUS(status_);
  }

 private:
  int Body() {
    ::close(go_[1]);
    const SimCuda cuda;
    cuda::Context context = nullptr;
    int code = cuda.init(0);
    if (code == 0) code = cuda.context_retain(&context, 0);
    if (code == 0) code = cuda.context_set_current(context);
    if (works_long_) {
      cuda::Module module = nullptr;
      cuda::Function spin = nullptr;
      cuda.module_load(&module, kTestPtx.data());
      cuda.module_function(&spin, module, "sublet_spin");
      unsigned long long where = 0;
      unsigned long long iterations = 46'000ull * 30'000;  // 2.8 s
      void* parameters[] = {&where, &iterations};
      cuda.launch(spin, 16, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr);
    }
    static_cast<void>(::write(ready_[1], &code, sizeof code) == sizeof code);
    char byte = 0;
    static_cast<void>(::read(go_[0], &byte, 1) == 1);
    return cuda.context_synchronize() & 0xFF;
  }

  const bool works_long_;
  int pid_ = 0;
  int error_ = -1;
  int status_ = 0;
  int ready_[2] = {-1, -1};
  int go_[2] = {-1, -1};
};

TEST(CudaMps, LogsAClientsLife) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient client(crowd, mps.variables());
  const std::string pid = std::to_string(client.pid());
  client.End();
  mps.AwaitLog("Client process " + pid + " disconnected");
  const std::string log = mps.Log();
  for (const std::string& line :
       {"Control " + fmt::format("{:5}", mps.pid()) + "] Starting control daemon using socket ",
        "] NEW CLIENT " + pid + " from user " + std::to_string(::geteuid()) +
            ": Server is not ready, push client to pending list\n",
        std::string("] Server has started\n"),
        "] Client {PID: " + pid + ", Context ID: 0} connected\n",
        "] Status of client {PID: " + pid + ", Context ID: 1} is ACTIVE\n",
        "] Client {PID: " + pid + ", Context ID: 1} exiting. Number of active client contexts is " +
            "0.\n"}) {
    EXPECT_THAT(log, HasSubstr(line));
  }
}

TEST(CudaMps, AFaultedServerTakesNobodyUntilItsVictimsAreGone) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient victim(crowd, mps.variables());
  Member culprit = Client(mps, "small");
  culprit.poke_at_ms = 5;
  culprit.keeps_time = false;
  EXPECT_EQ(crowd.Run({culprit}, 100)[0]->error, 700);
  mps.AwaitLog("] Server is handling a fatal GPU error.\n");
  mps.AwaitLog("Client {PID: " + std::to_string(victim.pid()) +
               ", Context ID: 1} on device 0 to be torn down");
  std::string server = mps.Ask("get_server_list");
  server.pop_back();
  EXPECT_EQ(mps.Ask("get_server_status " + server), "FAULT\n");
  EXPECT_EQ(IdleClient(crowd, mps.variables()).error(), 807);
  EXPECT_EQ(victim.End(), 700 & 0xFF);
  mps.AwaitLog("Destroy server context on device 0");
  EXPECT_EQ(mps.Ask("get_server_status " + server), "ACTIVE\n");
  EXPECT_EQ(IdleClient(crowd, mps.variables()).error(), 0);
  EXPECT_EQ(mps.Ask("get_server_list"), server + "\n") << "the same one";
}

TEST(CudaMps, AClientKilledWithinALongKernelTakesItsNeighboursAlong) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient neighbour(crowd, mps.variables());
  IdleClient busy(crowd, mps.variables(), true);
  busy.Kill();
  mps.AwaitLog("] Server is handling a fatal GPU error.\n");
  EXPECT_EQ(neighbour.End(), 700 & 0xFF);
}

TEST(CudaMps, ATerminatedClientCanBeKilledWithoutHarm) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient neighbour(crowd, mps.variables());
  IdleClient busy(crowd, mps.variables(), true);
  std::string server = mps.Ask("get_server_list");
  server.pop_back();
  const std::string pid = std::to_string(busy.pid());
  EXPECT_EQ(mps.Ask("terminate_client " + server + " " + pid), "0\n");
  EXPECT_THAT(mps.Ask("get_client_list " + server), HasSubstr(pid)) << "until it has ended";
  busy.Kill();
  mps.AwaitLog("Client process " + pid + " disconnected");
  EXPECT_EQ(neighbour.End(), 0);
}

TEST(CudaMps, TheServerGoesWithItsDaemonAndTheClientsSeeIt) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient client(crowd, mps.variables());
  std::string server = mps.Ask("get_server_list");
  server.pop_back();
  const ProcessEnd gone(std::stoi(server));
  ::kill(mps.pid(), SIGKILL);
  gone.Await();
  EXPECT_EQ(client.End(), 806 & 0xFF);
  EXPECT_TRUE(mps.Answers()) << "its files stay";
}

TEST(CudaMps, AKilledServerIsReplacedForTheNextClient) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient client(crowd, mps.variables());
  std::string server = mps.Ask("get_server_list");
  server.pop_back();
  ::kill(std::stoi(server), SIGKILL);
  mps.AwaitLog("] Server " + server + " exited with status 0\n");
  EXPECT_EQ(client.End(), 806 & 0xFF);
  EXPECT_EQ(IdleClient(crowd, mps.variables()).error(), 0);
  EXPECT_NE(mps.Ask("get_server_list"), server + "\n");
}

TEST(CudaMps, QuitWithATimeDoesNotWaitForClients) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  IdleClient client(crowd, mps.variables());
  std::string server = mps.Ask("get_server_list");
  server.pop_back();
  const ProcessEnd gone(std::stoi(server));
  mps.Ask("quit -t 0");
  mps.AwaitLog("] Exit with status 0\n");
  gone.Await();
  EXPECT_EQ(client.End(), 806 & 0xFF);
}

TEST(CudaMps, ADaemonThatIsToHangAnswersNobody) {
  CudaCrowd crowd("h200");
  const Mps mps(crowd, "a");
  EXPECT_EQ(mps.Ask("get_server_list"), "");
  const pid_t asker = crowd.Start(mps.variables(), [&] {
    void* const nvml = ::dlopen(kNvmlLibrary, RTLD_NOW);
    const auto init = reinterpret_cast<int (*)()>(::dlsym(nvml, "nvmlInit_v2"));
    const auto fault = reinterpret_cast<int (*)(const char*)>(::dlsym(nvml, "subletSimFault"));
    if (init() != 0 || fault("hang=mpsCommand") != 0) return 1;
    const int socket = ConnectTo(mps.folder() + "/control");
    SendText(socket, "command get_server_list\n");
    return ReadAll(socket, 100) ? 2 : 0;
  });
  int status = 0;
  ::waitpid(asker, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ::kill(mps.pid(), SIGKILL);
}

TEST(MpsClientLimits, AListThatNamesAnAbsentDeviceDropsAllLimits) {
  const std::vector<std::string> uuids = {"GPU-aa01", "GPU-bb02"};
  const auto limited = [&](const char* limits, int device) {
    MpsGrant grant;
    grant.memory_limit = 600_MiB;
    ApplyClientLimits(nullptr, limits, uuids, device, grant);
    return grant.memory_limit;
  };
  EXPECT_EQ(limited("0=500M", 0), 500_MiB);
  EXPECT_EQ(limited("0=500", 0), 500_MiB);
  EXPECT_EQ(limited("0=700M", 0), 600_MiB);
  EXPECT_EQ(limited("", 0), 600_MiB);
  EXPECT_EQ(limited("1=500M", 0), 600_MiB);
  EXPECT_EQ(limited("GPU-bb=500M", 1), 500_MiB);
  EXPECT_EQ(limited("0=500M,7=1G", 0), std::nullopt);
  EXPECT_EQ(limited("0=500M,GPU-cc03=1G", 0), std::nullopt);
  EXPECT_EQ(limited("nonsense", 0), std::nullopt);
}

TEST(MpsWords, ReadsLimits) {
  EXPECT_EQ(ParseMpsLimit("600M"), 600_MiB);
  EXPECT_EQ(ParseMpsLimit("2g"), 2_GiB);
  EXPECT_EQ(ParseMpsLimit("600"), 600_MiB) << "without a unit";
  for (const char* bad : {"", "M", "-1M", "1T", "1MB", "0", "99999999999G"}) {
    EXPECT_EQ(ParseMpsLimit(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(FormatMpsLimit(600_MiB), "600M");
  EXPECT_EQ(FormatMpsLimit(2_GiB), "2G");
}

}  // namespace
}  // namespace sublet::sim
