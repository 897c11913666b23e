// Processes that share the simulated card through MPS: the daemon, its servers and clients, and
// what a fault of one does to the others.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>
#include <vector>

#include "cuda_crowd.h"
#include "mps_client.h"
#include "mps_words.h"

namespace sublet::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr const char* kControl = SUBLET_BINARY_DIR "/lib/sublet-sim/nvidia-cuda-mps-control";

// A control daemon with a pipe directory of its own, below the crowd's folder.
class Mps {
 public:
  Mps(const CudaCrowd& crowd, const std::string& name)
      : crowd_(crowd), folder_(crowd.folder() + "/" + name) {
    pid_ = crowd_.Start(variables(), [] {
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
    EXPECT_EQ(one->sm_count, 34) << "33, and SMs come in pairs";
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
    EXPECT_EQ(figures[i]->error, i < 48 ? 0 : 46) << i;
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
  EXPECT_EQ(mps.Ask("terminate_client " + server + " " + std::to_string(pid)), "");
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 810 & 0xFF);
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
  // 14 SMs' context has 78 MiB, which leaves 261 pieces of 2 MiB.
  EXPECT_EQ(WEXITSTATUS(status), 261 & 0xFF);
}

TEST(MpsClientLimits, AListThatNamesAnAbsentDeviceDropsAllLimits) {
  MpsGrant grant{.memory_limit = 600_MiB};
  ApplyClientLimits(nullptr, "0=500M", 0, 1, grant);
  EXPECT_EQ(grant.memory_limit, 500_MiB);
  ApplyClientLimits(nullptr, "0=700M", 0, 1, grant);
  EXPECT_EQ(grant.memory_limit, 500_MiB);
  ApplyClientLimits(nullptr, "0=500M,7=1G", 0, 1, grant);
  EXPECT_EQ(grant.memory_limit, std::nullopt);
}

TEST(MpsWords, ReadsLimits) {
  EXPECT_EQ(ParseMpsLimit("600M"), 600_MiB);
  EXPECT_EQ(ParseMpsLimit("2g"), 2_GiB);
  EXPECT_EQ(ParseMpsLimit("4096"), Bytes{4096});
  for (const char* bad : {"", "M", "-1M", "1T", "1MB", "0", "99999999999G"}) {
    EXPECT_EQ(ParseMpsLimit(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(FormatMpsLimit(600_MiB), "600M");
  EXPECT_EQ(FormatMpsLimit(2_GiB), "2G");
}

}  // namespace
}  // namespace sublet::sim
