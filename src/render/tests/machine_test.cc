// The scripts of a rendered machine, run for real: sh runs them, and stand-ins for NVIDIA's
// programs (tests/fake/) answer as driver 580 was observed to.
//
// Each test writes a rendering into a folder of its own and runs it from there, with state below
// the same folder. The replicas' command prints its environment and arguments.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "child_process.h"
#include "plan_builder.h"
#include "render/output_folder.h"
#include "render/render.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kUuid[] = "GPU-00000001-0000-4000-8000-000000000000";
constexpr char kShow[] =
    "echo device=$CUDA_VISIBLE_DEVICES pipe=$CUDA_MPS_PIPE_DIRECTORY "
    "percent=${CUDA_MPS_ACTIVE_THREAD_PERCENTAGE-none} "
    "memory=${CUDA_MPS_PINNED_DEVICE_MEM_LIMIT-none}";

// One GPU with a server whose two clients have different limits, and a server without limits.
Plan TwoServersPlan() {
  PlanBuilder build("test");
  build.AddWorkload("a", {"sh", "-c", kShow});
  build.AddWorkload("b", {"sh", "-c", kShow});
  PlannedPartition& whole = build.AddWhole(build.AddGpu("gpu0", "h200", "host"), SharingMode::kMps);
  build.AddServer(whole, "gpu0-blue");
  build.AddServer(whole, "gpu0-green");
  build.AddReplica(whole, {.workload = "a", .memory_limit = 15_GiB + 100_MiB, .sm_percent = 30});
  build.AddReplica(whole, {.workload = "a", .memory_limit = 300_MiB, .sm_percent = 10});
  build.AddReplica(whole, {.workload = "b", .server = 1});
  return build.plan();
}

class Machine : public ::testing::Test {
 protected:
  void Install(const Plan& plan) {
    const Result<Rendering> rendering = Render(plan, Target::kLinux, {});
    ASSERT_TRUE(rendering) << rendering.error().message;
    const Status written = WriteRendering(*rendering, Target::kLinux, folder_.path(), {});
    ASSERT_TRUE(written) << written.error().message;
    home_ = folder_ / plan.gpus.front().node;

    fs::create_directories(folder_ / ("smi/" + std::string(kUuid)));
    Smi("compute_mode", "Default\n");
    Smi("mig", "Disabled\n");
    Smi("pids", "");
  }

  // With `fault` as FAKE_MPS, or as FAKE_SMI_FAULT for the scripts that call nvidia-smi.
  Finished Run(std::vector<std::string> words, const std::string& fault = "") {
    words.front() = home_ + "/" + words.front();
    return RunProgram(words, Environment(fault));
  }

  Finished RunAsNobody(const std::string& script) {
    if (::geteuid() != 0) return Run({script});
    return RunProgram(
        {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", home_ + "/" + script},
        Environment(""));
  }

  std::vector<std::string> Environment(const std::string& fault) const {
    const std::string fakes = std::string(SUBLET_SOURCE_DIR) + "/src/render/tests/fake";
    return {"PATH=" + fakes + ":/usr/sbin:/usr/bin:/sbin:/bin",
            "SUBLET_RUN_DIR=" + RunDir(),
            "SUBLET_LOG_DIR=" + (folder_ / "log"),
            "FAKE_SMI=" + (folder_ / "smi"),
            "SUBLET_START_TRIES=5",
            "SUBLET_WATCH_SECONDS=0.1",
            "FAKE_MPS=" + fault,
            "FAKE_SMI_FAULT=" + fault};
  }

  // Sends a command past the scripts.
  Finished Control(const std::string& server, const std::string& command) {
    std::vector<std::string> environment = Environment("");
    environment.push_back("CUDA_MPS_PIPE_DIRECTORY=" + Pipe(server));
    return RunProgram({"sh", "-c", fmt::format("echo {} | nvidia-cuda-mps-control", command)},
                      environment);
  }

  void Smi(const std::string& file, const std::string& content) {
    WriteAll(folder_ / ("smi/" + std::string(kUuid) + "/" + file), content);
  }
  std::string SmiState(const std::string& file) {
    return ReadAll(folder_ / ("smi/" + std::string(kUuid) + "/" + file));
  }
  std::string RunDir() const { return folder_ / "run"; }
  std::string Pipe(const std::string& server) const { return RunDir() + "/" + server + "/pipe"; }
  bool IsUp(const std::string& server) const {
    return fs::exists(Pipe(server) + "/nvidia-cuda-mps-control.pid");
  }

  TemporaryFolder folder_;
  std::string home_;
};

TEST_F(Machine, StartsAServerWithTheLargestLimitsOfItsClients) {
  Install(TwoServersPlan());
  const Finished start = Run({"bin/mps-server", "start", "gpu0-blue"});
  EXPECT_EQ(start.status, 0) << start.err;
  EXPECT_THAT(start.err, IsEmpty());
  EXPECT_EQ(ReadAll(Pipe("gpu0-blue") + "/devices"), std::string(kUuid) + "\n");
  EXPECT_EQ(ReadAll(Pipe("gpu0-blue") + "/percent"), "30.0\n");
  // 15 GiB + 100 MiB, and the context of 512 MiB, which MPS counts too.
  EXPECT_EQ(ReadAll(Pipe("gpu0-blue") + "/memory"), "15972\n");
  EXPECT_EQ(Run({"bin/mps-server", "check", "gpu0-blue"}).status, 0);
}

TEST_F(Machine, LetsOnlyTheServersUserIntoThePipeDirectory) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  EXPECT_EQ(fs::status(Pipe("gpu0-blue")).permissions(), fs::perms::owner_all);
}

TEST_F(Machine, GivesEachReplicaItsOwnLimits) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  Run({"bin/mps-server", "start", "gpu0-green"});
  EXPECT_EQ(Run({"replicas/a-0"}).out, fmt::format("device={} pipe={} percent=30 memory=0=15972M\n",
                                                   kUuid, Pipe("gpu0-blue")));
  EXPECT_EQ(Run({"replicas/a-1"}).out,
            fmt::format("device={} pipe={} percent=10 memory=0=812M\n", kUuid, Pipe("gpu0-blue")));
  EXPECT_EQ(Run({"replicas/b-0"}).out,
            fmt::format("device={} pipe={} percent=none memory=none\n", kUuid, Pipe("gpu0-green")));
}

// Seen on an H200: of two replicas that start at the same moment one is turned away.
TEST_F(Machine, AReplicaAsksAgainWhileTheDaemonServesAnother) {
  Install(TwoServersPlan());
  ASSERT_EQ(Run({"bin/mps-server", "start", "gpu0-blue"}).status, 0);
  const Finished done = Run({"replicas/a-0"}, "busy");
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("percent=30"));
}

TEST_F(Machine, StopsAServerAndStartsItAgainOverWhatItLeftBehind) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  EXPECT_EQ(Run({"bin/mps-server", "stop", "gpu0-blue"}).status, 0);
  EXPECT_FALSE(IsUp("gpu0-blue"));
  EXPECT_TRUE(fs::exists(Pipe("gpu0-blue") + "/control"));
  EXPECT_EQ(Run({"bin/mps-server", "stop", "gpu0-blue"}).status, 0);
  EXPECT_EQ(Run({"bin/mps-server", "start", "gpu0-blue"}).status, 0);
  EXPECT_TRUE(IsUp("gpu0-blue"));
}

TEST_F(Machine, StartingARunningServerKeepsIt) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  EXPECT_EQ(Run({"bin/mps-server", "start", "gpu0-blue"}).status, 0);
  // Started once: limits are for MPS servers that start after they were set.
  EXPECT_EQ(ReadAll(folder_ / "log/gpu0-blue/control.log"), fmt::format("started for {}\n", kUuid));
}

// --- it fails closed ---

TEST_F(Machine, ADaemonThatRefusesToStartIsAnErrorAndNoReplicaRuns) {
  Install(TwoServersPlan());
  const Finished start = Run({"bin/mps-server", "start", "gpu0-blue"}, "refuse");
  EXPECT_NE(start.status, 0);
  EXPECT_THAT(start.err, HasSubstr("does not start"));
  const Finished replica = Run({"replicas/a-0"});
  EXPECT_NE(replica.status, 0);
  EXPECT_THAT(replica.out, IsEmpty());
  EXPECT_THAT(replica.err, HasSubstr("can't reach an MPS control daemon"));
}

TEST_F(Machine, ADaemonThatNeverAnswersIsAnError) {
  Install(TwoServersPlan());
  const Finished start = Run({"bin/mps-server", "start", "gpu0-blue"}, "silent");
  EXPECT_NE(start.status, 0);
  EXPECT_THAT(start.err, HasSubstr("does not answer"));
}

TEST_F(Machine, LimitsThatReadBackDifferentlyStopTheDaemonAgain) {
  Install(TwoServersPlan());
  for (const char* fault : {"deaf", "shrunk"}) {
    const Finished start = Run({"bin/mps-server", "start", "gpu0-blue"}, fault);
    EXPECT_NE(start.status, 0) << fault;
    EXPECT_THAT(start.err, HasSubstr("limit is")) << fault;
    EXPECT_FALSE(IsUp("gpu0-blue")) << fault;
  }
}

TEST_F(Machine, AMemoryLimitBelowAGibibyteIsReadBackExactly) {
  Install(TwoServersPlan());
  WriteAll(home_ + "/etc/servers.conf", "gpu0-blue gpu0 812 30\n");
  EXPECT_EQ(Run({"bin/mps-server", "start", "gpu0-blue"}).status, 0);
  Control("gpu0-blue", "set_default_device_pinned_mem_limit 0 811M");
  EXPECT_THAT(Run({"bin/mps-server", "check", "gpu0-blue"}).err,
              HasSubstr("memory limit is \"811M\", planned 812 MiB"));
}

TEST_F(Machine, AReplicaDoesNotStartOnceTheLimitsWereChanged) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  Control("gpu0-blue", "set_default_active_thread_percentage 100");
  const Finished replica = Run({"replicas/a-1"});
  EXPECT_NE(replica.status, 0);
  EXPECT_THAT(replica.out, IsEmpty());
  EXPECT_THAT(replica.err, HasSubstr("SM limit is \"100.0\", planned 30"));
  // A daemon that runs with other limits is not taken for the planned one either.
  EXPECT_NE(Run({"bin/mps-server", "start", "gpu0-blue"}).status, 0);
}

TEST_F(Machine, AReplicaThatCanNotEnterThePipeDirectoryDoesNotStart) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  ASSERT_EQ(::chmod(Pipe("gpu0-blue").c_str(), 0), 0);
  const Finished replica = RunAsNobody("replicas/a-0");
  ASSERT_EQ(::chmod(Pipe("gpu0-blue").c_str(), 0700), 0);
  EXPECT_NE(replica.status, 0);
  EXPECT_THAT(replica.out, IsEmpty());
  EXPECT_THAT(replica.err, HasSubstr("can't reach an MPS control daemon"));
}

TEST_F(Machine, AGpuWithoutUuidIsNotGuessed) {
  Plan plan = TwoServersPlan();
  plan.gpus.front().uuid.clear();
  Install(plan);
  const Finished start = Run({"bin/mps-server", "start", "gpu0-blue"});
  EXPECT_NE(start.status, 0);
  EXPECT_THAT(start.err, HasSubstr("write the UUID of gpu0"));
  EXPECT_FALSE(IsUp("gpu0-blue"));
}

TEST_F(Machine, ForegroundServerEndsWhenItsDaemonIsGone) {
  Install(TwoServersPlan());
  const Finished run =
      RunProgram({"sh", "-c",
                  fmt::format("'{0}/bin/mps-server' run gpu0-blue & server=$!\n"
                              "until [ -e '{1}/memory' ]; do :; done\n"
                              "rm -f '{1}/nvidia-cuda-mps-control.pid'\nwait $server",
                              home_, Pipe("gpu0-blue"))},
                 Environment(""));
  EXPECT_NE(run.status, 0);
  EXPECT_THAT(run.err, Not(IsEmpty()));
}

TEST_F(Machine, ForegroundServerStopsItsDaemonOnASignal) {
  Install(TwoServersPlan());
  const Finished run =
      RunProgram({"sh", "-c",
                  fmt::format("'{0}/bin/mps-server' run gpu0-green & server=$!\n"
                              "until [ -e '{1}/nvidia-cuda-mps-control.pid' ]; do :; done\n"
                              "kill -TERM $server\nwait $server",
                              home_, Pipe("gpu0-green"))},
                 Environment(""));
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_FALSE(IsUp("gpu0-green"));
}

TEST_F(Machine, AReplicaWithoutMpsIsKeptAwayFromOthersDaemons) {
  PlanBuilder build("test");
  build.AddWorkload("a", {"sh", "-c", kShow}).env["GREETING"] = "it's $HOME";
  build.AddReplica(build.AddWhole(build.AddGpu("gpu0", "h200", "host"), SharingMode::kExclusive),
                   {.workload = "a"});
  Install(build.plan());
  EXPECT_EQ(Run({"replicas/a-0"}).out,
            fmt::format("device={} pipe=/nonexistent percent=none memory=none\n", kUuid));
}

// --- compute mode and node check ---

TEST_F(Machine, SetsTheComputeModeAndReadsItBack) {
  Install(TwoServersPlan());
  EXPECT_EQ(Run({"bin/compute-mode", "gpu0", "EXCLUSIVE_PROCESS"}).status, 0);
  EXPECT_EQ(SmiState("compute_mode"), "Exclusive_Process\n");
  EXPECT_EQ(Run({"bin/compute-mode", "gpu0", "DEFAULT"}).status, 0);
  EXPECT_EQ(SmiState("compute_mode"), "Default\n");
  const Finished stubborn = Run({"bin/compute-mode", "gpu0", "EXCLUSIVE_PROCESS"}, "stubborn");
  EXPECT_NE(stubborn.status, 0);
  EXPECT_THAT(stubborn.err, HasSubstr("compute mode is \"Default\""));
}

TEST_F(Machine, NodeCheckFindsAProcessOutsideTheServers) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  Run({"bin/mps-server", "start", "gpu0-green"});
  WriteAll(Pipe("gpu0-blue") + "/server", "500\n");
  WriteAll(Pipe("gpu0-blue") + "/clients", "601\n602\n");
  Smi("pids", "500\n601\n602\n");
  const Finished good = Run({"bin/check-node"});
  EXPECT_EQ(good.status, 0) << good.out << good.err;
  EXPECT_THAT(good.out, IsEmpty());
  Smi("pids", "500\n601\n602\n60\n");
  const Finished bad = Run({"bin/check-node"});
  EXPECT_EQ(bad.status, 1);
  EXPECT_EQ(bad.out,
            "gpu0: process 60 is not a client of a planned MPS server: nothing limits it\n");
}

TEST_F(Machine, NodeCheckFindsAServerThatIsGone) {
  Install(TwoServersPlan());
  Run({"bin/mps-server", "start", "gpu0-blue"});
  const Finished check = Run({"bin/check-node"});
  EXPECT_EQ(check.status, 1);
  EXPECT_EQ(check.out, "gpu0-green: no MPS control daemon answers\n");
}

// --- MIG ---

class MigMachine : public Machine {
 protected:
  void SetUp() override {
    PlanBuilder build("test");
    build.AddWorkload("a", {"sh", "-c", kShow});
    PlannedGpu& gpu = build.AddGpu("gpu0", "a100-80gb", "host");
    PlannedPartition& large = build.AddInstance(gpu, "3g.40gb", 0, SharingMode::kMps);
    build.AddServer(large, "gpu0-large");
    build.AddReplica(large, {.workload = "a", .memory_limit = 10_GiB, .sm_percent = 50});
    build.AddReplica(large, {.workload = "a", .memory_limit = 10_GiB, .sm_percent = 50});
    build.AddReplica(build.AddInstance(gpu, "1g.10gb", 4, SharingMode::kExclusive),
                     {.workload = "a"});
    build.AddReplica(build.AddInstance(gpu, "1g.10gb+me", 6, SharingMode::kExclusive),
                     {.workload = "a"});
    Install(build.plan());
  }
};

TEST_F(MigMachine, CreatesTheInstancesAtTheirPlacements) {
  const Finished apply = Run({"bin/mig-instances", "apply"});
  EXPECT_EQ(apply.status, 0) << apply.err;
  EXPECT_EQ(SmiState("mig"), "Enabled\n");
  EXPECT_EQ(SmiState("instances"), "9 0:4 3\n19 4:1 7\n20 6:1 9\n");
  EXPECT_EQ(Run({"bin/mig-instances", "check"}).status, 0);
}

TEST_F(MigMachine, PutsReplicasAndServersOnTheirInstance) {
  Run({"bin/mig-instances", "apply"});
  EXPECT_EQ(Run({"replicas/a-2"}).out,
            fmt::format("device=MIG-7-of-{} pipe=/nonexistent percent=none memory=none\n", kUuid));
  EXPECT_EQ(Run({"bin/mps-server", "start", "gpu0-large"}).status, 0);
  EXPECT_EQ(ReadAll(Pipe("gpu0-large") + "/devices"), fmt::format("MIG-3-of-{}\n", kUuid));
  EXPECT_THAT(Run({"replicas/a-0"}).out, HasSubstr(fmt::format("device=MIG-3-of-{} ", kUuid)));
}

TEST_F(MigMachine, CreatesOnlyWhatIsMissing) {
  Smi("mig", "Enabled\n");
  Smi("instances", "19 4:1 11\n");
  EXPECT_EQ(Run({"bin/mig-instances", "apply"}).status, 0);
  EXPECT_EQ(SmiState("instances"), "19 4:1 11\n9 0:4 3\n20 6:1 9\n");
  EXPECT_EQ(ReadAll(RunDir() + "/mig/gpu0-1g.10gb-4"), fmt::format("MIG-11-of-{}\n", kUuid));
  EXPECT_EQ(Run({"bin/mig-instances", "apply"}).status, 0);
  EXPECT_EQ(SmiState("instances"), "19 4:1 11\n9 0:4 3\n20 6:1 9\n");
}

TEST_F(MigMachine, TouchesNothingWhereAnInstanceIsNotInThePlan) {
  Smi("mig", "Enabled\n");
  Smi("instances", "14 0:2 5\n");
  const Finished apply = Run({"bin/mig-instances", "apply"});
  EXPECT_NE(apply.status, 0);
  EXPECT_THAT(apply.err, HasSubstr("GPU instance 5 (profile 14 at 0:2) is not in the plan"));
  EXPECT_EQ(SmiState("instances"), "14 0:2 5\n");
}

TEST_F(MigMachine, SaysWhyWhenModeOrInstancesDoNotCome) {
  EXPECT_THAT(Run({"bin/mig-instances", "apply"}, "needs-reset").err,
              HasSubstr("needs a GPU reset"));
  EXPECT_THAT(Run({"bin/mig-instances", "apply"}, "insufficient").err,
              HasSubstr("Insufficient Resources"));
  EXPECT_THAT(Run({"bin/mig-instances", "check"}).err, HasSubstr("MIG instances are missing"));
}

TEST_F(MigMachine, NothingStartsOnAnInstanceThatWasNotCreated) {
  const Finished replica = Run({"replicas/a-2"});
  EXPECT_NE(replica.status, 0);
  EXPECT_THAT(replica.out, IsEmpty());
  EXPECT_THAT(replica.err, HasSubstr("is not known to exist"));
  EXPECT_NE(Run({"bin/mps-server", "start", "gpu0-large"}).status, 0);
}

TEST_F(Machine, MigModeOnAGpuThatThePlanSharesWholeIsAnError) {
  Install(TwoServersPlan());
  Smi("mig", "Enabled\n");
  const Finished check = Run({"bin/mig-instances", "check"});
  EXPECT_NE(check.status, 0);
  EXPECT_THAT(check.err, HasSubstr("which is not in the plan"));
}

}  // namespace
}  // namespace sublet
