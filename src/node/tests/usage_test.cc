#include "node/usage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "node/tests/sim_hands.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using Kind = ProcessOwner::Kind;

ProcessUsage Process(int pid, Bytes memory, std::optional<double> sm_percent = {}) {
  ProcessUsage process;
  process.pid = pid;
  process.memory = memory;
  process.sm_percent = sm_percent;
  return process;
}

ProcessUsage Client(int pid, Bytes memory) {
  ProcessUsage process = Process(pid, memory);
  process.mps_client = true;
  return process;
}

UsageSample SampleOf(std::vector<ProcessUsage> processes) {
  GpuUsage gpu;
  gpu.uuid = "GPU-0";
  gpu.processes = std::move(processes);
  gpu.clients_known = true;
  return {.gpus = {gpu}};
}

ProcessOwner Owner(Kind kind, const std::string& id, const std::string& name = "python3") {
  ProcessOwner owner;
  owner.kind = kind;
  owner.id = id;
  owner.name = name;
  owner.started = 5;
  return owner;
}

Share ShareOf(const std::string& id, const std::string& domain = "") {
  Share share;
  share.id = id;
  share.domain = domain;
  return share;
}

TEST(AttributeUsage, AddsUpAShareAndNamesTheForeign) {
  const UsageSample sample =
      SampleOf({Process(10, 100_MiB, 30), Process(11, 50_MiB, 20), Process(12, 7_MiB, 90)});
  const NodeUsage usage = AttributeUsage(sample,
                                         {{10, Owner(Kind::kShare, "s1")},
                                          {11, Owner(Kind::kShare, "s1")},
                                          {12, Owner(Kind::kForeign, "", "Xorg")}},
                                         {ShareOf("s1")});
  ASSERT_THAT(usage.shares, SizeIs(1));
  EXPECT_EQ(usage.shares.at("s1").memory_used, 150_MiB);
  EXPECT_EQ(usage.shares.at("s1").sm_used_percent, 50);
  EXPECT_THAT(usage.shares.at("s1").pids, ElementsAre(10, 11));
  ASSERT_THAT(usage.foreign.at("GPU-0"), SizeIs(1));
  EXPECT_EQ(usage.foreign.at("GPU-0")[0].pid, 12);
  EXPECT_EQ(usage.foreign.at("GPU-0")[0].name, "Xorg");
  EXPECT_EQ(usage.foreign.at("GPU-0")[0].memory, 7_MiB);
}

TEST(AttributeUsage, AProcessThatNobodyCouldLookAtIsForeign) {
  const NodeUsage usage = AttributeUsage(SampleOf({Process(10, 1_MiB)}), {}, {});
  EXPECT_THAT(usage.foreign.at("GPU-0"), SizeIs(1));
}

TEST(AttributeUsage, WhatTheDriverDoesNotTellIsAbsent) {
  ProcessUsage silent;
  silent.pid = 10;
  const NodeUsage usage = AttributeUsage(SampleOf({silent}), {{10, Owner(Kind::kShare, "s1")}}, {});
  EXPECT_FALSE(usage.shares.at("s1").memory_used);
  EXPECT_FALSE(usage.shares.at("s1").sm_used_percent);
}

TEST(AttributeUsage, ProcessesSideBySideAreAtMostTheWholeGpu) {
  const NodeUsage usage =
      AttributeUsage(SampleOf({Process(10, 1_MiB, 80), Process(11, 1_MiB, 70)}),
                     {{10, Owner(Kind::kShare, "s1")}, {11, Owner(Kind::kShare, "s1")}}, {});
  EXPECT_EQ(usage.shares.at("s1").sm_used_percent, 100);
}

TEST(AttributeUsage, UnderMpsAServersFigureIsTheDomainsAndOfOnlyOneShare) {
  const UsageSample sample = SampleOf({Process(9, 66_MiB, 99), Client(10, 500_MiB)});
  const std::vector<Share> shares{ShareOf("s1", "gpu0-a"), ShareOf("s2", "gpu0-a")};
  const NodeUsage alone = AttributeUsage(
      sample, {{9, Owner(Kind::kOwn, "gpu0-a")}, {10, Owner(Kind::kShare, "s1")}}, shares);
  EXPECT_THAT(alone.domain_sm_percent, UnorderedElementsAre(Pair("gpu0-a", 99)));
  EXPECT_EQ(alone.shares.at("s1").sm_used_percent, 99);
  EXPECT_EQ(alone.shares.at("s1").memory_used, 500_MiB) << "the server's own is nobody's";
  EXPECT_THAT(alone.foreign, IsEmpty());

  const UsageSample both = SampleOf({Process(9, 66_MiB, 99), Client(10, 1_MiB), Client(11, 1_MiB)});
  const NodeUsage crowd = AttributeUsage(both,
                                         {{9, Owner(Kind::kOwn, "gpu0-a")},
                                          {10, Owner(Kind::kShare, "s1")},
                                          {11, Owner(Kind::kShare, "s2")}},
                                         shares);
  EXPECT_FALSE(crowd.shares.at("s1").sm_used_percent) << "nobody knows who of the two did it";
  EXPECT_THAT(crowd.domain_sm_percent, UnorderedElementsAre(Pair("gpu0-a", 99)));
}

TEST(AttributeUsage, AShareWithoutProcessesUsesNothingIfTheDriverTellsThemAll) {
  Share share = ShareOf("s1");
  share.gpu_uuid = "GPU-0";
  UsageSample sample = SampleOf({});
  EXPECT_THAT(AttributeUsage(sample, {}, {share}).shares, IsEmpty()) << "perhaps it didn't answer";
  sample.gpus[0].processes_known = true;
  const NodeUsage usage = AttributeUsage(sample, {}, {share});
  EXPECT_EQ(usage.shares.at("s1").memory_used, 0_MiB);
  EXPECT_EQ(usage.shares.at("s1").sm_used_percent, 0);
  EXPECT_THAT(usage.shares.at("s1").pids, IsEmpty());
  sample.gpus[0].problem = "gpu is lost (15)";
  EXPECT_THAT(AttributeUsage(sample, {}, {share}).shares, IsEmpty());
}

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(Unconfined, AClientThatIsNoneIsNamedAfterTheGrace) {
  UnconfinedSearch search(2);
  const UsageSample sample = SampleOf({Process(10, 1_MiB), Client(11, 1_MiB)});
  const ProcessOwners owners{{10, Owner(Kind::kShare, "s1")}, {11, Owner(Kind::kShare, "s1")}};
  const std::vector<Share> shares{ShareOf("s1", "gpu0-a")};
  EXPECT_THAT(search.Find(sample, owners, shares, 0), IsEmpty());
  EXPECT_THAT(search.Find(sample, owners, shares, kSecond), IsEmpty());
  const auto found = search.Find(sample, owners, shares, 2 * kSecond);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].pid, 10);
  EXPECT_EQ(found[0].started, 5);
  EXPECT_EQ(found[0].share, "s1");
  EXPECT_EQ(found[0].gpu_uuid, "GPU-0");
}

TEST(Unconfined, NobodyIsNamedWhereTheDriverDoesNotTellClients) {
  UnconfinedSearch search(0);
  UsageSample sample = SampleOf({Process(10, 1_MiB)});
  sample.gpus[0].clients_known = false;
  const ProcessOwners owners{{10, Owner(Kind::kShare, "s1")}};
  const std::vector<Share> shares{ShareOf("s1", "gpu0-a")};
  search.Find(sample, owners, shares, 0);
  EXPECT_THAT(search.Find(sample, owners, shares, kSecond), IsEmpty());
}

TEST(Unconfined, OneThatBecameAClientIsForgotten) {
  UnconfinedSearch search(2);
  const ProcessOwners owners{{10, Owner(Kind::kShare, "s1")}};
  const std::vector<Share> shares{ShareOf("s1", "gpu0-a")};
  search.Find(SampleOf({Process(10, 1_MiB)}), owners, shares, 0);
  search.Find(SampleOf({Client(10, 1_MiB)}), owners, shares, kSecond);
  EXPECT_THAT(search.Find(SampleOf({Process(10, 1_MiB)}), owners, shares, 10 * kSecond), IsEmpty());
}

TEST(Unconfined, AnotherProcessOfThatPidHasItsOwnGrace) {
  UnconfinedSearch search(2);
  const std::vector<Share> shares{ShareOf("s1", "gpu0-a")};
  const UsageSample sample = SampleOf({Process(10, 1_MiB)});
  search.Find(sample, {{10, Owner(Kind::kShare, "s1")}}, shares, 0);
  ProcessOwner other = Owner(Kind::kShare, "s1");
  other.started = 6;
  EXPECT_THAT(search.Find(sample, {{10, other}}, shares, 5 * kSecond), IsEmpty());
}

TEST(Unconfined, OnlySharesWithADomainHaveToBeClients) {
  UnconfinedSearch search(0);
  ProcessUsage graphics = Process(12, 1_MiB);
  graphics.graphics = true;
  const UsageSample sample =
      SampleOf({Process(9, 1_MiB), Process(10, 1_MiB), Process(11, 1_MiB), graphics});
  const ProcessOwners owners{{9, Owner(Kind::kOwn, "gpu0-a")},
                             {10, Owner(Kind::kShare, "exclusive")},
                             {12, Owner(Kind::kShare, "s1")}};
  const std::vector<Share> shares{ShareOf("exclusive"), ShareOf("s1", "gpu0-a")};
  search.Find(sample, owners, shares, 0);
  EXPECT_THAT(search.Find(sample, owners, shares, kSecond), IsEmpty());
}

// A process that only exists.
class Sleeper {
 public:
  Sleeper() : pid_(::fork()) {
    if (pid_ == 0) {
      ::pause();
      std::_Exit(0);
    }
  }
  ~Sleeper() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  int pid() const { return pid_; }

 private:
  pid_t pid_;
};

class SampleUsageTest : public ::testing::Test {
 protected:
  const Simulation simulation_{"h100-80gb:2"};
  SimHands hands_;
  Result<NvmlLibrary> nvml_ = NvmlLibrary::Open(Simulation::LibraryPath());
  UsageCursor cursor_;
};

TEST_F(SampleUsageTest, ReadsEachGpuAndItsProcesses) {
  const Sleeper plain;
  const Sleeper client;
  const Sleeper window;
  ASSERT_EQ(hands_.StartProcess(plain.pid(), 1, 3_GiB, SimProcess::kCompute), 0);
  ASSERT_EQ(hands_.StartProcess(client.pid(), 1, 2_GiB, SimProcess::kMpsClient), 0);
  ASSERT_EQ(hands_.StartProcess(window.pid(), 1, 1_GiB, SimProcess::kGraphics), 0);
  const auto sample = SampleUsage(nvml_->api(), cursor_);
  ASSERT_TRUE(sample) << sample.error().message;
  ASSERT_THAT(sample->gpus, SizeIs(2));
  EXPECT_THAT(sample->gpus[0].processes, IsEmpty());
  const GpuUsage& gpu = sample->gpus[1];
  EXPECT_EQ(gpu.index, 1);
  EXPECT_THAT(gpu.uuid, HasSubstr("GPU-"));
  EXPECT_TRUE(gpu.processes_known);
  EXPECT_TRUE(gpu.clients_known);
  EXPECT_EQ(gpu.memory_used - sample->gpus[0].memory_used, 6_GiB);
  ASSERT_THAT(gpu.processes, SizeIs(3)) << "each once, though clients are in two lists";
  for (const ProcessUsage& one : gpu.processes) {
    EXPECT_EQ(one.mps_client, one.pid == client.pid());
    EXPECT_EQ(one.graphics, one.pid == window.pid());
    if (one.pid == plain.pid()) {
      EXPECT_EQ(one.memory, 3_GiB);
    }
  }
}

TEST_F(SampleUsageTest, ALostGpuHidesNoOther) {
  hands_.Fault("lost=0");
  const auto sample = SampleUsage(nvml_->api(), cursor_);
  ASSERT_TRUE(sample);
  ASSERT_THAT(sample->gpus, SizeIs(2));
  EXPECT_THAT(sample->gpus[0].problem, HasSubstr("lost"));
  EXPECT_EQ(sample->gpus[1].problem, "");
}

TEST_F(SampleUsageTest, WithoutADriverThereIsNoSample) {
  hands_.Fault("fail=nvmlDeviceGetCount_v2:9");
  const auto sample = SampleUsage(nvml_->api(), cursor_);
  ASSERT_FALSE(sample);
  EXPECT_EQ(sample.error().code, ErrorCode::kUnavailable);
}

// What a driver answers to a look at utilisation, of which only that function is asked.
struct FakeDriver {
  static inline std::vector<nvml::ProcessUtilizationSample> samples;
  static inline nvml::Return code = nvml::kSuccess;
  static inline unsigned long long asked_since = 0;

  static nvml::Return Utilization(nvml::Device, nvml::ProcessUtilizationSample* out,
                                  unsigned* count, unsigned long long since) {
    asked_since = since;
    if (code != nvml::kSuccess) return code;
    if (*count < samples.size()) {
      *count = static_cast<unsigned>(samples.size());
      return nvml::kInsufficientSize;
    }
    *count = static_cast<unsigned>(samples.size());
    std::copy(samples.begin(), samples.end(), out);
    return nvml::kSuccess;
  }
};

TEST_F(SampleUsageTest, SmUseIsTheMeanSinceTheLastLook) {
  const Sleeper busy;
  const Sleeper idle;
  const Sleeper client;
  ASSERT_EQ(hands_.StartProcess(busy.pid(), 0, 1_GiB, SimProcess::kCompute), 0);
  ASSERT_EQ(hands_.StartProcess(idle.pid(), 0, 1_GiB, SimProcess::kCompute), 0);
  ASSERT_EQ(hands_.StartProcess(client.pid(), 0, 1_GiB, SimProcess::kMpsClient), 0);
  nvml::Api api = nvml_->api();
  api.device_process_utilization = FakeDriver::Utilization;
  const auto pid = static_cast<unsigned>(busy.pid());
  const auto look = [&] {
    const auto sample = SampleUsage(api, cursor_);
    std::map<int, std::optional<double>> figures;
    for (const ProcessUsage& one : sample->gpus[0].processes) figures[one.pid] = one.sm_percent;
    return figures;
  };
  FakeDriver::code = nvml::kSuccess;
  FakeDriver::samples = {{pid, 1000, 77, 0, 0, 0}};
  EXPECT_EQ(look()[busy.pid()], std::nullopt) << "old figures, perhaps another process's";
  FakeDriver::samples = {
      {pid, 900, 90, 0, 0, 0}, {pid, 1100, 40, 0, 0, 0}, {pid, 1200, 60, 0, 0, 0}};
  const auto figures = look();
  EXPECT_EQ(FakeDriver::asked_since, 1000u);
  EXPECT_EQ(figures.at(busy.pid()), 50);
  EXPECT_EQ(figures.at(idle.pid()), 0) << "the driver names only who did something";
  EXPECT_EQ(figures.at(client.pid()), std::nullopt) << "it is in the server's figure";
  FakeDriver::samples.assign(500, {pid, 1300, 10, 0, 0, 0});
  EXPECT_EQ(look()[busy.pid()], 10) << "more than there was room for at first";
  FakeDriver::code = nvml::kNotFound;
  EXPECT_EQ(look()[busy.pid()], 0);
  EXPECT_EQ(FakeDriver::asked_since, 1300u);
  FakeDriver::code = nvml::kNotSupported;
  EXPECT_EQ(look()[busy.pid()], std::nullopt);
}

}  // namespace
}  // namespace sublet
