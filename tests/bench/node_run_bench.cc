// What `sublet run` adds to the start of a process: `sublet run ... -- true` beside `true` itself,
// and beside the least program that asks a daemon before it becomes `true`; one after the other, so
// that what else the machine does meets all three alike.
//
//   added_ms_p50, added_ms_p99   `sublet run` less the median of `true`; the goal is 5 ms
//   least_ms_p50                 the same of the least program
//   cpu_ms                       processor time of `sublet run` with its command; no other program
//                                of the machine changes it much
//
// All of it is with a daemon that runs, and where MPS is asked for, with a domain that runs.

#include <benchmark/benchmark.h>
#include <poll.h>

#include <string>
#include <vector>

#include "base/check.h"
#include "bench/node_under_test.h"

namespace sublet::bench {
namespace {

const char* const kTrue = "/bin/true";

// Keeps a domain of MPS, or nothing, from going between two runs.
class Resident {
 public:
  Resident(const NodeUnderTest& node, std::vector<std::string> flags) {
    ChildOptions options;
    options.argv = {NodeUnderTest::Program(), "run"};
    options.argv.insert(options.argv.end(), flags.begin(), flags.end());
    options.argv.insert(options.argv.end(), {"--", "/bin/sleep", "infinity"});
    options.environment = node.Environment();
    held_ = ChildProcess::Start(options).value();
    node.AwaitShares(1);
  }

 private:
  std::optional<ChildProcess> held_;
};

struct Runs {
  std::vector<double> direct_us;
  std::vector<double> least_us;
  std::vector<double> sublet_us;
  double sublet_cpu_us = 0;
};

Runs Measure(const NodeUnderTest& node, const std::vector<std::string>& flags, int rounds) {
  std::vector<std::string> run = {NodeUnderTest::Program(), "run"};
  run.insert(run.end(), flags.begin(), flags.end());
  run.insert(run.end(), {"--", kTrue});
  const std::vector<std::string> least = {SUBLET_BINARY_DIR "/bin/least_client", node.socket(),
                                          kTrue};
  const std::vector<std::string> environment = node.Environment().Lines();
  Runs runs;
  const auto wall_us = [&](const std::vector<std::string>& argv) {
    const ProgramRun done = RunProgram(argv, environment);
    CHECK(done.status == 0);
    return done.wall_us;
  };
  for (int i = 0; i < rounds; ++i) {
    runs.direct_us.push_back(wall_us({kTrue}));
    runs.least_us.push_back(wall_us(least));
    const ProgramRun done = RunProgram(run, environment);
    CHECK(done.status == 0);
    runs.sublet_us.push_back(done.wall_us);
    runs.sublet_cpu_us += done.cpu_us;
    // One command after the other, not as many as go: what is given back costs the daemon time,
    // and the node may have no more than one share of this kind.
    ::poll(nullptr, 0, 10);
  }
  return runs;
}

void Report(benchmark::State& state, const std::vector<std::string>& flags, bool resident) {
  const NodeUnderTest node("h200:8");
  std::optional<Resident> other;
  if (resident) other.emplace(node, flags);
  Measure(node, flags, 1);  // What is made once is made by now.
  Runs runs;
  for (auto _ : state) runs = Measure(node, flags, static_cast<int>(state.range(0)));
  const Spread direct = SpreadOf(runs.direct_us);
  const Spread least = SpreadOf(runs.least_us);
  const Spread sublet = SpreadOf(runs.sublet_us);
  state.counters["true_ms_p50"] = direct.p50 / 1e3;
  state.counters["true_ms_p99"] = direct.p99 / 1e3;
  state.counters["least_ms_p50"] = (least.p50 - direct.p50) / 1e3;
  state.counters["added_ms_p50"] = (sublet.p50 - direct.p50) / 1e3;
  state.counters["added_ms_p99"] = (sublet.p99 - direct.p50) / 1e3;
  state.counters["times_least"] = (sublet.p50 - direct.p50) / (least.p50 - direct.p50);
  state.counters["cpu_ms"] = runs.sublet_cpu_us / 1e3 / static_cast<double>(runs.sublet_us.size());
}

void Exclusive(benchmark::State& state) {
  Report(state, {"--mode", "exclusive"}, false);
}
void TimeSlicing(benchmark::State& state) {
  Report(state, {"--mode", "time-slicing", "--gpu-memory", "1GiB"}, true);
}
void Mps(benchmark::State& state) {
  Report(state, {"--mode", "mps", "--gpu", "0", "--gpu-memory", "1GiB", "--sm", "10%"}, true);
}
// The first is what a test run does; the second has the figures.
BENCHMARK(Exclusive)->Arg(3)->Arg(500)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(TimeSlicing)->Arg(3)->Arg(500)->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(Mps)->Arg(3)->Arg(500)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet::bench

BENCHMARK_MAIN();
