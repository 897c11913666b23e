// What one look at who uses the GPUs costs: the driver's lists, whose each process is, the sums.
// The goal is a daemon that idles below 0.5 % of a core with 8 GPUs and 200 shares; the node looks
// every few seconds, so 5 ms of CPU a look are 0.1 to 0.25 %.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <memory>
#include <vector>

#include "base/files.h"
#include "node/process_owners.h"
#include "node/tests/sim_hands.h"
#include "node/usage.h"

namespace sublet {
namespace {

constexpr int kGpus = 8;
constexpr const char* kState = "/var/lib/sublet-bench";

// Processes that only exist, with the marks of a share each, spread over the GPUs of a simulated
// node.
class Crowd {
 public:
  explicit Crowd(int count) : simulation_(fmt::format("h200:{}", kGpus)) {
    hands_ = std::make_unique<SimHands>();
    for (int i = 0; i < count; ++i) {
      std::string share = fmt::format("SUBLET_SHARE=s{}", i);
      std::string state = fmt::format("SUBLET_STATE={}", kState);
      std::string program = "/bin/sleep";
      std::string forever = "infinity";
      char* const argv[] = {program.data(), forever.data(), nullptr};
      char* const environment[] = {share.data(), state.data(), nullptr};
      pid_t pid = 0;
      if (::posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv, environment) != 0) break;
      pids_.push_back(pid);
      // Its environment is there a moment after its program is.
      while (ReadFile(fmt::format("/proc/{}/environ", pid), 4096).value_or("").empty()) continue;
      hands_->StartProcess(pid, static_cast<unsigned>(i % kGpus), 1_GiB, SimProcess::kMpsClient);
      Share one;
      one.id = fmt::format("s{}", i);
      one.domain = fmt::format("gpu{}-bench", i % kGpus);
      shares_.push_back(one);
    }
  }
  ~Crowd() {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
  }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;

  const std::vector<Share>& shares() const { return shares_; }

 private:
  const Simulation simulation_;
  std::unique_ptr<SimHands> hands_;
  std::vector<pid_t> pids_;
  std::vector<Share> shares_;
};

void LookAtUsage(benchmark::State& state) {
  const Crowd crowd(static_cast<int>(state.range(0)));
  const Result<NvmlLibrary> nvml = NvmlLibrary::Open(Simulation::LibraryPath());
  if (!nvml) return state.SkipWithError(nvml.error().message.c_str());
  UsageCursor cursor;
  ProcessDirectory directory(kState);
  UnconfinedSearch search;
  std::int64_t now_ns = 0;
  std::size_t attributed = 0;
  for (auto _ : state) {
    const Result<UsageSample> sample = SampleUsage(nvml->api(), cursor);
    if (!sample) return state.SkipWithError(sample.error().message.c_str());
    const ProcessOwners owners = directory.Owners(*sample, {});
    const NodeUsage usage = AttributeUsage(*sample, owners, crowd.shares());
    benchmark::DoNotOptimize(search.Find(*sample, owners, crowd.shares(), now_ns += 2'000'000'000));
    attributed = usage.shares.size();
  }
  if (attributed != crowd.shares().size()) state.SkipWithError("a process was not attributed");
  state.counters["shares"] = static_cast<double>(attributed);
}
BENCHMARK(LookAtUsage)->Arg(1)->Arg(200)->Unit(benchmark::kMillisecond);

void LookAtOwners(benchmark::State& state) {
  const Crowd crowd(static_cast<int>(state.range(0)));
  const Result<NvmlLibrary> nvml = NvmlLibrary::Open(Simulation::LibraryPath());
  if (!nvml) return state.SkipWithError(nvml.error().message.c_str());
  UsageCursor cursor;
  const Result<UsageSample> sample = SampleUsage(nvml->api(), cursor);
  if (!sample) return state.SkipWithError(sample.error().message.c_str());
  ProcessDirectory directory(kState);
  for (auto _ : state) benchmark::DoNotOptimize(directory.Owners(*sample, {}));
}
BENCHMARK(LookAtOwners)->Arg(200)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
