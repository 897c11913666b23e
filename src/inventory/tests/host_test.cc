// The host's facts, read from a folder that plays the root of a machine.
#include "inventory/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

namespace fs = std::filesystem;

class HostTest : public ::testing::Test {
 protected:
  HostTest() {
    std::string path = fs::temp_directory_path() / "sublet-host-XXXXXX";
    root_ = ::mkdtemp(path.data());
    Write("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
    Write("/proc/sys/kernel/hostname", "node1\n");
    Write("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
    Write("/proc/1/cgroup", "0::/init.scope\n");
    Write("/proc/self/mountinfo", "29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
    fs::create_directories(root_ + "/dev/shm");
    fs::create_directories(root_ + "/tmp");
  }
  ~HostTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& content) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content;
  }

  // A control daemon's entries in /proc.
  void AddDaemon(int pid, const std::string& command, const std::string& environment) {
    const std::string folder = "/proc/" + std::to_string(pid);
    Write(folder + "/comm", "nvidia-cuda-mps\n");
    Write(folder + "/cmdline", command);
    Write(folder + "/environ", environment);
  }

  // A control program that answers in shell.
  void Install(const std::string& script) {
    Write("/bin/nvidia-cuda-mps-control", "#!/bin/sh\n" + script);
    ::chmod((root_ + "/bin/nvidia-cuda-mps-control").c_str(), 0755);
    variables_["PATH"] = root_ + "/bin";
  }

  Host Read() {
    return ReadHost({.root = root_}, [this](const char* name) -> std::optional<std::string> {
      const auto found = variables_.find(name);
      return found == variables_.end() ? std::nullopt : std::optional(found->second);
    });
  }

  std::string root_;
  std::map<std::string, std::string> variables_{{"PATH", "/nowhere"}};
};

using namespace std::string_literals;

TEST_F(HostTest, ReadsABareMetalHost) {
  const Host host = Read();
  EXPECT_EQ(host.hostname, "node1");
  EXPECT_EQ(host.kernel, "6.1.0-18-amd64");
  EXPECT_GT(host.cpu_cores, 0);
  EXPECT_FALSE(host.wsl2);
  EXPECT_FALSE(host.container);
  EXPECT_TRUE(host.admin);
  EXPECT_FALSE(host.cgroup2);
  EXPECT_TRUE(host.shm_usable);
  EXPECT_EQ(host.mps_control, "");
  EXPECT_EQ(host.mps_pipe_directory, "/tmp/nvidia-mps");
  EXPECT_TRUE(host.mps_pipe_usable) << "it can be made in /tmp";
}

TEST_F(HostTest, KnowsWsl2ByItsKernel) {
  Write("/proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n");
  EXPECT_TRUE(Read().wsl2);
}

TEST_F(HostTest, KnowsContainersByAnySign) {
  Write("/proc/1/cgroup", "0::/kubepods/burstable/pod1\n");
  EXPECT_TRUE(Read().container);
  Write("/proc/1/cgroup", "0::/\n");
  EXPECT_FALSE(Read().container);
  Write("/proc/self/mountinfo", "50 40 0:5 / / rw,relatime - overlay overlay rw,lowerdir=/l\n");
  EXPECT_TRUE(Read().container);
  Write("/proc/self/mountinfo", "50 40 0:5 / /var/lib/x rw - overlay overlay rw,lowerdir=/l\n");
  EXPECT_FALSE(Read().container) << "an overlay somewhere else is the runtime's, on the host";
  Write("/.dockerenv", "");
  EXPECT_TRUE(Read().container);
}

TEST_F(HostTest, KnowsWhetherItMayChangeMig) {
  Write("/proc/self/status", "CapEff:\t00000000a80425fb\n");  // A container's usual set.
  EXPECT_FALSE(Read().admin);
  Write("/proc/self/status", "CapEff:\t0000000000200000\n");  // CAP_SYS_ADMIN alone.
  EXPECT_TRUE(Read().admin);
}

TEST_F(HostTest, LooksForThePipeWhereAClientWould) {
  variables_["CUDA_MPS_PIPE_DIRECTORY"] = "/nowhere/deep/pipe";
  const Host host = Read();
  EXPECT_EQ(host.mps_pipe_directory, "/nowhere/deep/pipe");
  EXPECT_FALSE(host.mps_pipe_usable);
}

TEST_F(HostTest, FindsDaemonsByTheirProcess) {
  AddDaemon(71, "/usr/bin/nvidia-cuda-mps-control\0-d\0"s, "A=1\0CUDA_MPS_PIPE_DIRECTORY=/p\0"s);
  AddDaemon(72, "nvidia-cuda-mps-server\0"s, "");
  AddDaemon(73, "nvidia-cuda-mps-control\0"s, "");  // Somebody types commands into it.
  const std::vector<FoundMpsDaemon> daemons = FindMpsDaemons({.root = root_}, Read());
  ASSERT_THAT(daemons, SizeIs(1));
  EXPECT_EQ(daemons[0].pid, 71);
  EXPECT_EQ(daemons[0].pipe_directory, "/p");
  EXPECT_FALSE(daemons[0].answers) << "there is no program to ask with";
}

TEST_F(HostTest, FindsDaemonsByTheFoldersTheyUse) {
  Write("/run/nvidia/mps/nvidia.com/gpu/pipe/nvidia-cuda-mps-control.pid", "12\n");
  Write("/tmp/nvidia-mps/control", "");  // Left behind by one that quit.
  const std::vector<FoundMpsDaemon> daemons = FindMpsDaemons({.root = root_}, Read());
  ASSERT_THAT(daemons, SizeIs(1));
  EXPECT_EQ(daemons[0].pipe_directory, "/run/nvidia/mps/nvidia.com/gpu/pipe");
  EXPECT_EQ(daemons[0].pid, 12);
}

TEST_F(HostTest, AsksDaemonsForTheirServersAndNothingElse) {
  AddDaemon(71, "nvidia-cuda-mps-control\0-d\0"s, "CUDA_MPS_PIPE_DIRECTORY=/p\0"s);
  Install(
      "read question; [ \"$question $CUDA_MPS_PIPE_DIRECTORY\" = 'get_server_list /p' ] "
      "&& echo 901 && echo 900\n");
  const std::vector<FoundMpsDaemon> daemons = FindMpsDaemons({.root = root_}, Read());
  ASSERT_THAT(daemons, SizeIs(1));
  EXPECT_TRUE(daemons[0].answers);
  EXPECT_THAT(daemons[0].servers, ElementsAre(900, 901));
}

TEST_F(HostTest, AnEmptyListOfServersIsAnAnswer) {
  AddDaemon(71, "nvidia-cuda-mps-control\0-d\0"s, "");
  Install("read question\n");
  EXPECT_TRUE(FindMpsDaemons({.root = root_}, Read()).at(0).answers);
}

TEST_F(HostTest, AComplaintIsNoAnswer) {
  AddDaemon(71, "nvidia-cuda-mps-control\0-d\0"s, "");
  Install("echo Cannot find MPS control daemon process\n");
  const std::vector<FoundMpsDaemon> daemons = FindMpsDaemons({.root = root_}, Read());
  EXPECT_FALSE(daemons.at(0).answers);
  EXPECT_THAT(daemons.at(0).servers, IsEmpty());
}

}  // namespace
}  // namespace sublet
