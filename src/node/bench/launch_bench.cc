// What a launch costs beside the least that a start of a process can cost: posix_spawn of the same
// program, in turns with it, so that a busy machine slows both.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "node/launcher.h"

namespace sublet {
namespace {

constexpr const char* kProgram = "/bin/true";

double Median(std::vector<double>& values) {
  std::ranges::nth_element(values, values.begin() + static_cast<long>(values.size() / 2));
  return values[values.size() / 2];
}

// Microseconds until the program is executed.
double SpawnPlainly() {
  char* const argv[] = {const_cast<char*>(kProgram), nullptr};
  const std::int64_t begin = MonotonicNanoseconds();
  pid_t pid = 0;
  CHECK(::posix_spawn(&pid, kProgram, nullptr, nullptr, argv, ::environ) == 0);
  const std::int64_t end = MonotonicNanoseconds();
  ::waitpid(pid, nullptr, 0);
  return static_cast<double>(end - begin) * 1e-3;
}

double LaunchIt(const LaunchSpec& spec) {
  const std::int64_t begin = MonotonicNanoseconds();
  const Result<ProcessHandle> process = Launch(spec);
  const std::int64_t end = MonotonicNanoseconds();
  CHECK(process.has_value());
  pollfd ended{process->fd(), POLLIN, 0};
  ::poll(&ended, 1, -1);
  ReapIfEnded(process->identity().pid);
  return static_cast<double>(end - begin) * 1e-3;
}

// With as many MiB in use as the argument says: fork copies the page table, posix_spawn doesn't.
void BM_LaunchBesideSpawn(benchmark::State& state) {
  std::string folder = (std::filesystem::temp_directory_path() / "launch-XXXXXX").string();
  CHECK(::mkdtemp(folder.data()) != nullptr);
  const std::string in_use(static_cast<std::size_t>(state.range(0)) << 20, 'x');
  LaunchSpec spec;
  spec.argv = {kProgram};
  spec.environment = {{"SUBLET_SHARE", "s1"}, {"SUBLET_STATE", folder}};
  spec.log_path = folder + "/s1.log";
  std::vector<double> plain;
  std::vector<double> launched;
  for (auto _ : state) {
    plain.push_back(SpawnPlainly());
    launched.push_back(LaunchIt(spec));
  }
  benchmark::DoNotOptimize(in_use.data());
  state.counters["spawn_us"] = Median(plain);
  state.counters["launch_us"] = Median(launched);
  state.counters["ratio"] = Median(launched) / Median(plain);
  std::filesystem::remove_all(folder);
}
BENCHMARK(BM_LaunchBesideSpawn)->Arg(0)->Arg(40)->Unit(benchmark::kMicrosecond);

// One look for the processes of all shares, among as many marked ones as the argument says and
// whatever else runs on the machine.
void BM_FindProcessesOfShares(benchmark::State& state) {
  std::vector<ProcessHandle> processes;
  for (int i = 0; i < state.range(0); ++i) {
    LaunchSpec spec;
    spec.argv = {"/bin/sleep", "600"};
    spec.environment = {{"SUBLET_SHARE", fmt::format("s{}", i)}, {"SUBLET_STATE", "/bench"}};
    processes.push_back(Launch(spec).value());
  }
  std::size_t found = 0;
  for (auto _ : state) found = ProcessesOfShares("/bench").size();
  CHECK(found == processes.size());
  for (const ProcessHandle& process : processes) {
    static_cast<void>(process.Signal(SIGKILL));
    pollfd ended{process.fd(), POLLIN, 0};
    ::poll(&ended, 1, -1);
    ReapIfEnded(process.identity().pid);
  }
}
BENCHMARK(BM_FindProcessesOfShares)->Arg(1)->Arg(500)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
