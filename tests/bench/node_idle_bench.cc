// What a daemon costs that has nothing to do: 8 GPUs and 200 shares, held by processes that sleep
// and have memory of a GPU each; half of them clients in MPS domains. The goals are 0.5 % of a core
// and 40 MiB.
//
//   core_percent      processor time of the daemon and of the programs that it ran, by the time
//   own_percent       without those programs
//   switches_per_s    of all its threads
//   pss_mib, rss_mib  at the end; PSS counts a page shared with others by their number
//
// Watched: somebody asks for the status each second, as `sublet top` does.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/process_handle.h"
#include "bench/node_under_test.h"
#include "bench/share_holders.h"
#include "node/tests/sim_hands.h"

namespace sublet::bench {
namespace {

constexpr int kGpus = 8;
constexpr int kShares = 200;
constexpr int kTenants = 2;  // Each has a domain on each of four GPUs.

std::string Proc(pid_t pid, std::string_view file) {
  return ReadFile(fmt::format("/proc/{}/{}", pid, file), 1u << 20).value();
}

struct Cost {
  double own_s = 0;
  double programs_s = 0;  // That it ran and that have ended.
  double switches = 0;
};

double NumberBehind(std::string_view text, std::string_view name) {
  const std::size_t at = text.find(name);
  CHECK(at != std::string_view::npos);
  return std::strtod(std::string(text.substr(at + name.size(), 32)).c_str(), nullptr);
}

// proc(5): words 14 to 17 are utime, stime, cutime and cstime, in ticks.
Cost CostOf(pid_t pid) {
  const std::string stat = Proc(pid, "stat");
  std::string_view rest = std::string_view(stat).substr(stat.rfind(')') + 2);
  std::vector<double> words;
  for (int field = 3; field <= 17; ++field) {
    words.push_back(std::strtod(std::string(rest.substr(0, rest.find(' '))).c_str(), nullptr));
    rest.remove_prefix(rest.find(' ') + 1);
  }
  const auto ticks_per_s = static_cast<double>(::sysconf(_SC_CLK_TCK));
  Cost cost;
  cost.own_s = (words[11] + words[12]) / ticks_per_s;
  cost.programs_s = (words[13] + words[14]) / ticks_per_s;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    const std::string status = ReadFile(task.path().string() + "/status", 1u << 16).value();
    cost.switches += NumberBehind(status, "\nvoluntary_ctxt_switches:");
    cost.switches += NumberBehind(status, "\nnonvoluntary_ctxt_switches:");
  }
  return cost;
}

// Half of the shares as clients of MPS, half taking turns; each with a process on its GPU.
ShareRequest RequestOf(int number) {
  ShareRequest request;
  request.name = fmt::format("sleeper-{}", number);
  request.tenant = fmt::format("tenant-{}", number % kTenants);
  request.memory = Bytes::FromMib(1024);
  if (number < kShares / 2) {
    request.mode = SharingMode::kMps;
    request.sm_percent = 5;
  } else {
    request.mode = SharingMode::kTimeSlicing;
  }
  return request;
}

void Measure(benchmark::State& state, bool watched) {
  const auto seconds = static_cast<double>(state.range(0));
  const NodeUnderTest node(fmt::format("h200:{}", kGpus));
  ::setenv("SUBLET_SIM", node.simulation().c_str(), 1);
  ::setenv("SUBLET_SIM_STATE", node.simulation_state().c_str(), 1);
  SimHands driver;
  ShareHolders holders(node);
  for (int i = 0; i < kShares; ++i) {
    ShareRequest request = RequestOf(i);
    const bool mps = request.mode == SharingMode::kMps;
    const auto gpu = static_cast<unsigned>(i / kTenants % (kGpus / 2) + (mps ? 0 : kGpus / 2));
    request.gpu = fmt::format("{}", gpu);
    const pid_t pid = holders.Add(request);
    CHECK(driver.StartProcess(pid, gpu, 1_GiB,
                              mps ? SimProcess::kMpsClient : SimProcess::kCompute) == 0);
  }
  node.AwaitShares(kShares);
  // What the grants left to do is done.
  ::poll(nullptr, 0, 3000);
  for (auto _ : state) {
    const Cost before = CostOf(node.pid());
    const std::int64_t begin = MonotonicNanoseconds();
    const Deadline end = Deadline::In(seconds);
    while (!end.Passed()) {
      if (watched) node.Get("/v1/status");
      ::poll(nullptr, 0, Earlier(end, Deadline::In(1)).PollMilliseconds());
    }
    const double passed_s = static_cast<double>(MonotonicNanoseconds() - begin) * 1e-9;
    const Cost after = CostOf(node.pid());
    const double own_s = after.own_s - before.own_s;
    const double programs_s = after.programs_s - before.programs_s;
    state.counters["core_percent"] = (own_s + programs_s) / passed_s * 100;
    state.counters["own_percent"] = own_s / passed_s * 100;
    state.counters["switches_per_s"] = (after.switches - before.switches) / passed_s;
  }
  const std::string memory = Proc(node.pid(), "smaps_rollup");
  state.counters["pss_mib"] = NumberBehind(memory, "\nPss:") / 1024;
  state.counters["rss_mib"] = NumberBehind(memory, "\nRss:") / 1024;
  ::unsetenv("SUBLET_SIM");
  ::unsetenv("SUBLET_SIM_STATE");
}

void Idle(benchmark::State& state) {
  Measure(state, false);
}
void Watched(benchmark::State& state) {
  Measure(state, true);
}
// The first is what a test run does; the second has the figures.
BENCHMARK(Idle)->Arg(1)->Arg(120)->Iterations(1)->Unit(benchmark::kSecond);
BENCHMARK(Watched)->Arg(1)->Arg(60)->Iterations(1)->Unit(benchmark::kSecond);

}  // namespace
}  // namespace sublet::bench

BENCHMARK_MAIN();
