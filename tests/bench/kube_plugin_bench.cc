// How fast the device plugin is, as kubelet sees it: the shipped program on a simulated node with 8
// GPUs, in front of the kubelet of our tests.
//
//   Start      ms from making the process to kubelet's having the devices. Goal: 200.
//   List       ms from a new list of 10,000 replicas to its arrival over the socket. Goal: 50.
//   Allocate   us of one call over one connection, as kubelet has one. ClosedLoop: so many callers
//              are at it all the time, so it is also a measure of this client, on the same cores.
//              Paced: 1000 calls a second, up to so many of them at once. Burst: so many in one
//              moment. Goal: a p99 of 1 ms with 100 callers.
//   Health     ms from an XID in the driver to kubelet's having the devices as unhealthy. Goal:
//   100. Idle       percent of a core and MiB of memory with nothing to do. Goals: 0.2 and 40.

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/child_process.h"
#include "base/clock.h"
#include "base/files.h"
#include "bench/node_under_test.h"
#include "kube/plugin_server.h"
#include "kube/plugin_socket.h"
#include "kubelet/kubelet.h"
#include "node/tests/sim_hands.h"
#include "proto/deviceplugin.grpc.pb.h"

namespace sublet::bench {
namespace {

using kubelet::Kubelet;

constexpr int kGpus = 8;
constexpr int kReplicas = 4;
constexpr double kPatienceSeconds = 30;
constexpr const char* kResource = "nvidia.com/gpu";

double MillisecondsSince(std::int64_t begin_ns) {
  return static_cast<double>(MonotonicNanoseconds() - begin_ns) * 1e-6;
}

// A kubelet, and the shipped plugin in front of it once it is started.
class PluginUnderTest {
 public:
  PluginUnderTest() {
    CHECK(::mkdtemp(folder_.data()) != nullptr);
    CHECK(WriteFileAtomically(Config(),
                              fmt::format("version: v1\nsharing:\n  timeSlicing:\n    resources:\n"
                                          "      - {{name: {}, replicas: {}}}\n",
                                          kResource, kReplicas),
                              0600));
    kubelet_ = Kubelet::Start({.folder = folder_ + "/k"}).value();
  }
  ~PluginUnderTest() {
    if (plugin_) plugin_->Stop({.after_term_s = 5});
    kubelet_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  PluginUnderTest(const PluginUnderTest&) = delete;
  PluginUnderTest& operator=(const PluginUnderTest&) = delete;

  void Start() {
    ChildOptions options;
    options.argv = {
        NodeUnderTest::Program(),   "kube", "plugin", "--config-file", Config(), "--kubelet-socket",
        folder_ + "/k/kubelet.sock"};
    options.environment.UnsetPrefix("SUBLET_").UnsetPrefix("CUDA_");
    options.environment.Set("SUBLET_SIM", fmt::format("h100-80gb:{}", kGpus))
        .Set("SUBLET_SIM_STATE", Simulation());
    const FileDescriptor log(
        ::open((folder_ + "/log").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND, 0600));
    options.descriptors = {{log.get(), STDOUT_FILENO}, {log.get(), STDERR_FILENO}};
    plugin_ = ChildProcess::Start(options).value();
  }
  void Stop() {
    plugin_->Stop({.after_term_s = 5});
    plugin_.reset();
  }
  void AwaitAllocatable(int count) {
    CHECK(kubelet_->Await(kPatienceSeconds, [&](const Kubelet::View& view) {
      const auto found = view.find(kResource);
      return found != view.end() && found->second.allocatable == count;
    }));
  }

  Kubelet& kubelet() { return *kubelet_; }
  pid_t pid() const { return plugin_->pid(); }
  std::string Simulation() const { return folder_ + "/sim"; }
  std::string Socket() const { return folder_ + "/k/nvidia-gpu.sock"; }

 private:
  std::string Config() const { return folder_ + "/config.yaml"; }

  std::string folder_ = "/tmp/sublet-bench-XXXXXX";
  std::unique_ptr<Kubelet> kubelet_;
  std::optional<ChildProcess> plugin_;
};

void Start(benchmark::State& state) {
  PluginUnderTest subject;
  std::vector<double> times_ms;
  for (auto _ : state) {
    for (int i = 0; i < state.range(0); ++i) {
      const std::int64_t begin_ns = MonotonicNanoseconds();
      subject.Start();
      subject.AwaitAllocatable(kGpus * kReplicas);
      times_ms.push_back(MillisecondsSince(begin_ns));
      subject.Stop();
      subject.AwaitAllocatable(0);
    }
  }
  const Spread spread = SpreadOf(std::move(times_ms));
  state.counters["ms_p50"] = spread.p50;
  state.counters["ms_max"] = spread.max;
}
BENCHMARK(Start)->Arg(2)->Arg(30)->Iterations(1)->Unit(benchmark::kSecond);

// ---- the server by itself ----------------------------------------------------------------------

class NoAnswers final : public ResourceAnswers {
 public:
  OptionalCalls Options() override { return {}; }
  Result<std::vector<std::string>> Prefer(PreferenceRequest /*request*/) override {
    return std::vector<std::string>();
  }
  Result<ContainerGrant> Allocate(const std::vector<std::string>& /*ids*/) override {
    return ContainerGrant{};
  }
  void PreStart(std::vector<std::string> /*ids*/, std::function<void(Status)> done) override {
    done({});
  }
  void StreamsChanged(int /*open*/) override {}
};

std::unique_ptr<v1beta1::DevicePlugin::Stub> Dial(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1beta1::DevicePlugin::NewStub(grpc::CreateCustomChannel(
      fmt::format("unix:{}", socket), grpc::InsecureChannelCredentials(), arguments));
}

void List(benchmark::State& state) {
  std::string folder = "/tmp/sublet-bench-XXXXXX";
  CHECK(::mkdtemp(folder.data()) != nullptr);
  const auto server = PluginServer::Start().value();
  const auto resource = std::make_shared<ServedResource>(std::make_shared<NoAnswers>());
  PluginSocket socket = PluginSocket::Listen(folder, kResource).value();
  const auto stub = Dial(socket.path());
  grpc::ClientContext context;
  std::vector<ListedDevice> devices;
  for (int i = 0; i < state.range(0); ++i) {
    devices.push_back({.id = fmt::format("GPU-594c8c01-9423-403d-81c5-b1bef03932f6::{}", i),
                       .healthy = true,
                       .numa_node = 1});
  }
  std::thread accept([&] {
    pollfd ready{socket.fd(), POLLIN, 0};
    CHECK(::poll(&ready, 1, 10000) == 1);
    server->Serve(
        FileDescriptor(::accept4(socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)),
        resource);
  });
  resource->List(devices);
  auto stream = stub->ListAndWatch(&context, {});
  v1beta1::ListAndWatchResponse message;
  CHECK(stream->Read(&message));
  accept.join();
  std::vector<double> times_ms;
  for (auto _ : state) {
    devices.front().healthy = !devices.front().healthy;
    const std::int64_t begin_ns = MonotonicNanoseconds();
    resource->List(devices);
    CHECK(stream->Read(&message));
    times_ms.push_back(MillisecondsSince(begin_ns));
    CHECK(message.devices_size() == state.range(0));
  }
  const Spread spread = SpreadOf(std::move(times_ms));
  state.counters["ms_p50"] = spread.p50;
  state.counters["ms_max"] = spread.max;
  state.counters["bytes"] = static_cast<double>(message.ByteSizeLong());
  context.TryCancel();
  while (stream->Read(&message)) {
  }
  static_cast<void>(stream->Finish());
  socket.Close();
  std::filesystem::remove_all(folder);
}
BENCHMARK(List)->Arg(10000)->Unit(benchmark::kMillisecond);

// ---- calls -------------------------------------------------------------------------------------

// One caller's call, again and again.
struct Caller {
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1beta1::AllocateResponse>> reader;
  v1beta1::AllocateRequest request;
  v1beta1::AllocateResponse answer;
  grpc::Status status;
  std::int64_t begin_ns = 0;
};

void Call(Caller& caller, v1beta1::DevicePlugin::Stub& stub, grpc::CompletionQueue& queue) {
  caller.begin_ns = MonotonicNanoseconds();
  caller.context = std::make_unique<grpc::ClientContext>();
  caller.reader = stub.AsyncAllocate(caller.context.get(), caller.request, &queue);
  caller.reader->Finish(&caller.answer, &caller.status, &caller);
}

// When calls begin: `at_once` of them each `period_us`, or, with 0, as soon as a caller is free.
struct Pace {
  int at_once = 1;
  int period_us = 0;
};

std::vector<double> CallAll(std::vector<Caller>& callers, v1beta1::DevicePlugin::Stub& stub,
                            int rounds, const Pace& pace) {
  grpc::CompletionQueue queue;
  std::vector<double> times_us;
  const auto calls = callers.size() * static_cast<std::size_t>(rounds);
  std::size_t made = 0;
  const std::int64_t origin_ns = MonotonicNanoseconds();
  const auto due_ns = [&] {
    return origin_ns + static_cast<std::int64_t>(made) / pace.at_once * pace.period_us * 1000;
  };
  std::vector<Caller*> idle;
  for (Caller& caller : callers) idle.push_back(&caller);
  while (times_us.size() < calls) {
    while (made < calls && !idle.empty() && MonotonicNanoseconds() >= due_ns()) {
      Caller* const caller = idle.back();
      idle.pop_back();
      Call(*caller, stub, queue);
      ++made;
    }
    void* tag = nullptr;
    bool ok = false;
    const bool waits = made < calls && !idle.empty();
    const auto until = std::chrono::system_clock::now() +
                       (waits ? std::chrono::nanoseconds(due_ns() - MonotonicNanoseconds())
                              : std::chrono::nanoseconds(std::chrono::seconds(30)));
    if (queue.AsyncNext(&tag, &ok, until) != grpc::CompletionQueue::GOT_EVENT) continue;
    auto* const caller = static_cast<Caller*>(tag);
    times_us.push_back(static_cast<double>(MonotonicNanoseconds() - caller->begin_ns) * 1e-3);
    CHECK(caller->status.ok() && caller->answer.container_responses_size() == 1);
    idle.push_back(caller);
  }
  queue.Shutdown();
  return times_us;
}

void Allocations(benchmark::State& state, const Pace& pace) {
  PluginUnderTest subject;
  subject.Start();
  subject.AwaitAllocatable(kGpus * kReplicas);
  const auto stub = Dial(subject.Socket());
  std::vector<std::string> ids;
  const Kubelet::View view = subject.kubelet().Now();
  for (const auto& [id, healthy] : view.at(kResource).devices) ids.push_back(id);
  std::vector<Caller> callers(static_cast<std::size_t>(state.range(0)));
  for (std::size_t i = 0; i < callers.size(); ++i) {
    callers[i].request.add_container_requests()->add_devices_ids(ids[i % ids.size()]);
  }
  CallAll(callers, *stub, 2, {});
  std::vector<double> times_us;
  for (auto _ : state) {
    times_us = CallAll(callers, *stub, static_cast<int>(state.range(1)), pace);
  }
  state.counters["calls_per_s"] =
      benchmark::Counter(static_cast<double>(times_us.size()), benchmark::Counter::kIsRate);
  const Spread spread = SpreadOf(std::move(times_us));
  state.counters["us_p50"] = spread.p50;
  state.counters["us_p99"] = spread.p99;
  state.counters["us_max"] = spread.max;
}

void AllocateClosedLoop(benchmark::State& state) {
  Allocations(state, {});
}
// A thousand calls a second.
void AllocatePaced(benchmark::State& state) {
  Allocations(state, {.at_once = 1, .period_us = 1000});
}
// All callers in one moment, ten times a second.
void AllocateBurst(benchmark::State& state) {
  Allocations(state, {.at_once = static_cast<int>(state.range(0)), .period_us = 100'000});
}
BENCHMARK(AllocateClosedLoop)
    ->Args({10, 10})
    ->Args({1, 5000})
    ->Args({10, 500})
    ->Args({100, 200})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(AllocatePaced)
    ->Args({10, 10})
    ->Args({100, 100})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(AllocateBurst)
    ->Args({10, 10})
    ->Args({100, 100})
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// ---- events, idleness --------------------------------------------------------------------------

void Health(benchmark::State& state) {
  std::vector<double> times_ms;
  for (auto _ : state) {
    for (int run = 0; run < state.range(0); ++run) {
      PluginUnderTest subject;
      ::setenv("SUBLET_SIM", fmt::format("h100-80gb:{}", kGpus).c_str(), 1);
      ::setenv("SUBLET_SIM_STATE", subject.Simulation().c_str(), 1);
      subject.Start();
      subject.AwaitAllocatable(kGpus * kReplicas);
      ::poll(nullptr, 0, 500);  // It listens to the driver's events by now.
      SimHands driver;
      for (int gpu = 0; gpu < kGpus; ++gpu) {
        const std::int64_t begin_ns = MonotonicNanoseconds();
        driver.Fault(fmt::format("xid={}:79", gpu).c_str());
        subject.AwaitAllocatable((kGpus - gpu - 1) * kReplicas);
        times_ms.push_back(MillisecondsSince(begin_ns));
      }
    }
  }
  ::unsetenv("SUBLET_SIM");
  ::unsetenv("SUBLET_SIM_STATE");
  const Spread spread = SpreadOf(std::move(times_ms));
  state.counters["ms_p50"] = spread.p50;
  state.counters["ms_max"] = spread.max;
}
BENCHMARK(Health)->Arg(1)->Arg(5)->Iterations(1)->Unit(benchmark::kSecond);

// proc(5): words 14 and 15 are utime and stime, in ticks.
double ProcessorSeconds(pid_t pid) {
  const std::string stat = ReadFile(fmt::format("/proc/{}/stat", pid), 1u << 16).value();
  std::string_view rest = std::string_view(stat).substr(stat.rfind(')') + 2);
  double ticks = 0;
  for (int field = 3; field <= 15; ++field) {
    const std::size_t end = rest.find(' ');
    if (field >= 14) ticks += std::strtod(std::string(rest.substr(0, end)).c_str(), nullptr);
    rest.remove_prefix(end + 1);
  }
  return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

double MibOf(pid_t pid, std::string_view name) {
  const std::string text = ReadFile(fmt::format("/proc/{}/smaps_rollup", pid), 1u << 16).value();
  const std::size_t at = text.find(name);
  CHECK(at != std::string::npos);
  return std::strtod(text.c_str() + at + name.size(), nullptr) / 1024;
}

void Idle(benchmark::State& state) {
  PluginUnderTest subject;
  subject.Start();
  subject.AwaitAllocatable(kGpus * kReplicas);
  ::poll(nullptr, 0, 3000);
  for (auto _ : state) {
    const double before_s = ProcessorSeconds(subject.pid());
    const std::int64_t begin_ns = MonotonicNanoseconds();
    ::poll(nullptr, 0, static_cast<int>(state.range(0) * 1000));
    const double passed_s = MillisecondsSince(begin_ns) * 1e-3;
    state.counters["core_percent"] = (ProcessorSeconds(subject.pid()) - before_s) / passed_s * 100;
  }
  state.counters["rss_mib"] = MibOf(subject.pid(), "\nRss:");
  state.counters["pss_mib"] = MibOf(subject.pid(), "\nPss:");
}
BENCHMARK(Idle)->Arg(1)->Arg(120)->Iterations(1)->Unit(benchmark::kSecond);

}  // namespace
}  // namespace sublet::bench

BENCHMARK_MAIN();
