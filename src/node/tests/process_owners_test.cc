#include "node/process_owners.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>

namespace sublet {
namespace {

using ::testing::Key;
using ::testing::UnorderedElementsAre;
using Kind = ProcessOwner::Kind;

// A /proc of our own.
class ProcessOwnersTest : public ::testing::Test {
 protected:
  ProcessOwnersTest() {
    std::string path = std::filesystem::temp_directory_path() / "sublet-proc-XXXXXX";
    proc_ = ::mkdtemp(path.data());
    directory_ = std::make_unique<ProcessDirectory>("/state", proc_);
  }
  ~ProcessOwnersTest() override { std::filesystem::remove_all(proc_); }

  struct Fake {
    int parent = 1;
    int session = 1;
    int started = 100;
    std::string name = "python3";
    std::string state = "S";
  };
  void Put(int pid, const Fake& fake, const std::vector<std::string>& environment) {
    const std::filesystem::path folder = std::filesystem::path(proc_) / std::to_string(pid);
    std::filesystem::create_directories(folder);
    std::ofstream stat(folder / "stat");
    stat << fmt::format("{} ({}) {} {} 1 {} 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 {} 9 9\n", pid,
                        fake.name, fake.state, fake.parent, fake.session, fake.started);
    std::ofstream out(folder / "environ");
    for (const std::string& line : environment) out << line << '\0';
  }
  void Remove(int pid) {
    std::filesystem::remove_all(std::filesystem::path(proc_) / std::to_string(pid));
  }
  static UsageSample SampleOf(const std::vector<int>& pids) {
    GpuUsage gpu;
    for (const int pid : pids) {
      ProcessUsage process;
      process.pid = pid;
      gpu.processes.push_back(process);
    }
    return {.gpus = {gpu}};
  }
  static std::vector<std::string> Marks(const std::string& share) {
    return {"PATH=/bin", "SUBLET_SHARE=" + share, "SUBLET_STATE=/state"};
  }
  ProcessOwner OwnerOf(int pid, const ProcessOwners& known = {}) {
    const ProcessOwners owners = directory_->Owners(SampleOf({pid}), known);
    const auto found = owners.find(pid);
    return found == owners.end() ? ProcessOwner{} : found->second;
  }

  std::string proc_;
  std::unique_ptr<ProcessDirectory> directory_;
};

TEST_F(ProcessOwnersTest, AMarkTellsTheShare) {
  Put(100, {}, Marks("s17"));
  const ProcessOwner owner = OwnerOf(100);
  EXPECT_EQ(owner.kind, Kind::kShare);
  EXPECT_EQ(owner.id, "s17");
  EXPECT_EQ(owner.name, "python3");
  EXPECT_EQ(owner.started, 100);
}

TEST_F(ProcessOwnersTest, AnotherDaemonsSharesAreForeign) {
  Put(100, {}, {"SUBLET_SHARE=s17", "SUBLET_STATE=/elsewhere"});
  EXPECT_EQ(OwnerOf(100).kind, Kind::kForeign);
  Put(101, {}, {"SUBLET_SHARE=s17"});
  EXPECT_EQ(OwnerOf(101).kind, Kind::kForeign);
  Put(102, {}, {"XSUBLET_SHARE=s17", "SUBLET_STATE=/state/deeper"});
  EXPECT_EQ(OwnerOf(102).kind, Kind::kForeign);
}

TEST_F(ProcessOwnersTest, AStateWithoutAShareIsSublets) {
  Put(100, {}, {"SUBLET_STATE=/state"});
  EXPECT_EQ(OwnerOf(100).kind, Kind::kOwn);
}

TEST_F(ProcessOwnersTest, AnMpsServerHasTheNameOfItsDaemonsDomain) {
  Put(90, {.parent = 1}, {"SUBLET_STATE=/state"});
  Put(100, {.parent = 90}, {"SUBLET_STATE=/state"});
  ProcessOwner daemon;
  daemon.kind = Kind::kOwn;
  daemon.id = "gpu0-search";
  const ProcessOwner owner = OwnerOf(100, {{90, daemon}});
  EXPECT_EQ(owner.kind, Kind::kOwn);
  EXPECT_EQ(owner.id, "gpu0-search");
}

TEST_F(ProcessOwnersTest, WithoutMarksAProcessIsWhatItsParentIs) {
  Put(100, {}, Marks("s17"));
  Put(101, {.parent = 100}, {});
  Put(102, {.parent = 101}, {});
  EXPECT_EQ(OwnerOf(102).id, "s17");
}

TEST_F(ProcessOwnersTest, AnOrphanIsWhatItsSessionsFirstIs) {
  Put(100, {}, {});
  Put(102, {.parent = 1, .session = 100}, {});
  ProcessOwner first;
  first.kind = Kind::kShare;
  first.id = "s17";
  EXPECT_EQ(OwnerOf(102, {{100, first}}).id, "s17");
  Remove(100);
  EXPECT_EQ(OwnerOf(102, {{100, first}}).id, "s17") << "though that is gone by now";
  EXPECT_EQ(OwnerOf(102).kind, Kind::kShare) << "remembered";
}

TEST_F(ProcessOwnersTest, WhatTheNodeKnowsBeatsAMark) {
  Put(100, {}, Marks("s99"));
  ProcessOwner known;
  known.kind = Kind::kShare;
  known.id = "s17";
  known.started = 100;
  EXPECT_EQ(OwnerOf(100, {{100, known}}).id, "s17");
  known.started = 7;  // Another process that had the pid.
  Put(101, {}, Marks("s99"));
  EXPECT_EQ(OwnerOf(101, {{101, known}}).id, "s99");
}

TEST_F(ProcessOwnersTest, APidThatIsUsedAgainIsAnotherProcess) {
  Put(100, {}, Marks("s17"));
  EXPECT_EQ(OwnerOf(100).id, "s17");
  Put(100, {.started = 200}, {});
  EXPECT_EQ(OwnerOf(100).kind, Kind::kForeign);
}

TEST_F(ProcessOwnersTest, AForeignProcessThatBecomesAShareIsNoticed) {
  Put(100, {}, {});
  EXPECT_EQ(OwnerOf(100).kind, Kind::kForeign);
  Put(100, {}, Marks("s17"));  // It executed its command, with the same pid and start.
  EXPECT_EQ(OwnerOf(100).id, "s17");
}

TEST_F(ProcessOwnersTest, AnEnvironmentIsReadOnce) {
  Put(100, {}, Marks("s17"));
  EXPECT_EQ(OwnerOf(100).id, "s17");
  Put(100, {}, {});
  EXPECT_EQ(OwnerOf(100).id, "s17");
}

TEST_F(ProcessOwnersTest, TheDeadAreNobodys) {
  Put(100, {.state = "Z"}, Marks("s17"));
  EXPECT_THAT(directory_->Owners(SampleOf({100, 12345}), {}), UnorderedElementsAre());
}

TEST_F(ProcessOwnersTest, ANameMayContainAnything) {
  Put(100, {.name = "a) S 1 (b"}, Marks("s17"));
  EXPECT_EQ(OwnerOf(100).name, "a) S 1 (b");
  EXPECT_EQ(OwnerOf(100).id, "s17");
}

TEST_F(ProcessOwnersTest, ACircleOfParentsEnds) {
  Put(100, {.parent = 101, .session = 101}, {});
  Put(101, {.parent = 100, .session = 100}, {});
  EXPECT_EQ(OwnerOf(100).kind, Kind::kForeign);
}

TEST_F(ProcessOwnersTest, ThisProcessIsThere) {
  ProcessDirectory real("/state");
  EXPECT_THAT(real.Owners(SampleOf({::getpid()}), {}), UnorderedElementsAre(Key(::getpid())));
}

}  // namespace
}  // namespace sublet
