// What one scrape costs with 8 GPUs and 200 pods: the driver's lists and clocks, a cgroup for each
// process, kubelet's folders, the join, the text. Kubelet's own answer isn't in it.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "inventory/take.h"
#include "kube/kube_metrics.h"
#include "node/tests/sim_hands.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr int kGpus = 8;

// Processes that only exist, each in a pod of its own, spread over the GPUs of a simulated node.
class PodCrowd {
 public:
  explicit PodCrowd(int count) : simulation_(fmt::format("h200:{}", kGpus)) {
    hands_ = std::make_unique<SimHands>();
    folder_ = fs::temp_directory_path() / fmt::format("pod_metrics_bench.{}", ::getpid());
    inventory_ = std::make_shared<Inventory>(
        TakeInventory({.nvml_path = Simulation::LibraryPath(), .mps_daemons = false},
                      [](const char*) { return std::nullopt; })
            .value_or(Inventory()));
    for (int i = 0; i < count && !inventory_->gpus.empty(); ++i) AddPod(i);
  }
  ~PodCrowd() {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  PodCrowd(const PodCrowd&) = delete;
  PodCrowd& operator=(const PodCrowd&) = delete;

  PodMeterOptions Options() const {
    return {.nvml = Simulation::LibraryPath(),
            .pod_resources_socket = folder_ / "none.sock",
            .pod_logs = folder_ / "logs",
            .proc = folder_ / "proc"};
  }
  PluginState State() const {
    PluginState state;
    state.inventory = inventory_;
    return state;
  }
  const std::vector<PodDevices>& pods() const { return pods_; }

 private:
  void AddPod(int i) {
    std::string program = "/bin/sleep";
    std::string forever = "infinity";
    char* const argv[] = {program.data(), forever.data(), nullptr};
    char* const environment[] = {nullptr};
    pid_t pid = 0;
    if (::posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv, environment) != 0) return;
    pids_.push_back(pid);
    const unsigned gpu = static_cast<unsigned>(i % kGpus);
    hands_->StartProcess(pid, gpu, 1_GiB, SimProcess::kCompute);
    const std::string uid = fmt::format("6f2b41d2-0f5c-4d0e-9d6e-{:012}", i);
    const fs::path proc = folder_ / "proc" / std::to_string(pid);
    fs::create_directories(proc);
    fs::create_directories(folder_ / "logs" / fmt::format("ns_p{}_{}", i, uid));
    std::ofstream(proc / "cgroup") << "0::/kubepods/burstable/pod" << uid << "/c\n";
    std::ofstream(proc / "comm") << "sleep\n";
    pods_.push_back({.pod_namespace = "ns",
                     .pod = fmt::format("p{}", i),
                     .container = "main",
                     .resource = "nvidia.com/gpu",
                     .ids = {fmt::format("{}::{}", inventory_->gpus[gpu].uuid, i)}});
  }

  const Simulation simulation_;
  std::unique_ptr<SimHands> hands_;
  fs::path folder_;
  std::shared_ptr<Inventory> inventory_;
  std::vector<pid_t> pids_;
  std::vector<PodDevices> pods_;
};

void Scrape(benchmark::State& state) {
  const PodCrowd crowd(static_cast<int>(state.range(0)));
  PodMeter meter(crowd.Options());
  const PluginState plugin = crowd.State();
  std::string text;
  for (auto _ : state) {
    PodSight sight = *meter.Look();
    sight.pods = crowd.pods();
    text = KubeMetricsText(plugin, &sight, 0, 0);
  }
  if (text.find("pod=\"p0\"") == std::string::npos ||
      text.find("sublet_kube_unattributed") != text.npos) {
    state.SkipWithError("a process was not attributed");
  }
  state.counters["bytes"] = static_cast<double>(text.size());
}
BENCHMARK(Scrape)->Arg(1)->Arg(200)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
