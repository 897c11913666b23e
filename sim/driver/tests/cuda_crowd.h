// sim/driver/tests/cuda_crowd.h
//
// Real processes that work on the simulated card together, for tests.
//
//   const CudaCrowd crowd("h200");            // a node and a state of its own
//   const std::vector<Figures> figures = crowd.Run({{.work = "small"}, {.work = "small"}});
//
// Each is a child of the test that loads libcuda.so.1 as any program would, waits until all have a
// context, and then launches and waits in a closed loop for a window of the simulated clock.
#pragma once

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "measure/cuda_api.h"

namespace sublet::sim {

inline constexpr const char* kCudaLibrary = SUBLET_BINARY_DIR "/lib/sublet-sim/libcuda.so.1";

// The functions by short name, and those of sublet_sim_cuda.h.
struct SimCuda {
#define SUBLET_SIM_MEMBER(member, name, parameters) cuda::Return(*member) parameters = nullptr;
  // The parameter lists are written in the names of that namespace.
  using Device = cuda::Device;
  using Context = cuda::Context;
  using Module = cuda::Module;
  using Function = cuda::Function;
  using Stream = cuda::Stream;
  using Graph = cuda::Graph;
  using GraphExec = cuda::GraphExec;
  using DevicePointer = cuda::DevicePointer;
  using Uuid = cuda::Uuid;
  SUBLET_CUDA_REQUIRED(SUBLET_SIM_MEMBER)
#undef SUBLET_SIM_MEMBER
  unsigned long long (*now)() = nullptr;
  void (*hold)() = nullptr;
  void (*let_go)() = nullptr;
  void* library = nullptr;

  template <typename F>
  void Load(F& function, const char* name) {
    function = reinterpret_cast<F>(::dlsym(library, name));
    if (function == nullptr) std::abort();
  }
  SimCuda() {
    library = ::dlopen(kCudaLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) std::abort();
#define SUBLET_SIM_LOAD(member, name, parameters) Load(member, name);
    SUBLET_CUDA_REQUIRED(SUBLET_SIM_LOAD)
#undef SUBLET_SIM_LOAD
    Load(now, "subletSimNow");
    Load(hold, "subletSimHold");
    Load(let_go, "subletSimLetGo");
  }
};

struct Member {
  std::string work = "small";
  int streams = 1;
  std::map<std::string, std::string> variables = {};
  int poke_at_ms = -1;  // Illegal access.
  int die_at_ms = -1;   // SIGKILL by its own hand.
  bool keeps_time = true;
};

struct Figures {
  std::atomic<int> state;  // 1: has a context. 2: is done.
  int error;               // CUDA's, that ended it.
  int sm_count;
  long units;
  double rate;    // Units a second.
  double max_ms;  // The longest unit.
  double now_ms;  // Of the simulated clock, at the end.
};

inline constexpr std::string_view kTestPtx =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry sublet_spin(.param .u64 a, .param .u32 b) {}\n"
    ".visible .entry sublet_stream(.param .u64 a) {}\n.visible .entry sublet_poke() {}\n"
    ".visible .entry sublet_gemm() {}\n.visible .entry sublet_embed() {}\n.visible .entry "
    "sublet_layer_norm() {}\n"
    ".visible .entry sublet_project_32() {}\n.visible .entry sublet_project_64() {}\n"
    ".visible .entry sublet_project_add() {}\n.visible .entry sublet_attention() {}\n"
    ".visible .entry mystery() {}\n";

// What one member does; everything in its child.
class CrowdMember {
 public:
  CrowdMember(const Member& member, Figures& figures) : member_(member), figures_(figures) {}

  void Prepare() {
    Check(cuda_.init(0));
    Check(cuda_.context_retain(&context_, 0));
    if (figures_.error != 0) return;
    Check(cuda_.context_set_current(context_));
    Check(cuda_.device_attribute(&figures_.sm_count, cuda::kMultiprocessorCount, 0));
    Check(cuda_.module_load(&module_, kTestPtx.data()));
    streams_.resize(static_cast<std::size_t>(member_.streams));
    for (cuda::Stream& stream : streams_) {
      Check(cuda_.stream_create(&stream, cuda::kStreamNonBlocking));
    }
    if (member_.work == "transformer") RecordTransformer();
  }

  void Work(double window_ms) {
    const double begin = Now();
    double last = begin;
    std::size_t stream = 0;
    for (const cuda::Stream one : streams_) Launch(one);
    while (figures_.error == 0) {
      Check(cuda_.stream_synchronize(streams_[stream]));
      const double now = Now();
      if (now - begin > window_ms || figures_.error != 0) break;
      figures_.max_ms = std::max(figures_.max_ms, now - last);
      last = now;
      ++figures_.units;
      if (member_.die_at_ms >= 0 && now - begin > member_.die_at_ms) ::raise(SIGKILL);
      if (member_.poke_at_ms >= 0 && now - begin > member_.poke_at_ms) Poke();
      Launch(streams_[stream]);
      stream = (stream + 1) % streams_.size();
    }
    figures_.now_ms = Now();
    figures_.rate = static_cast<double>(figures_.units) / window_ms * 1000;
    if (member_.keeps_time) cuda_.let_go();
  }

  double Now() {
    if (member_.keeps_time) return static_cast<double>(cuda_.now()) * 1e-6;
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
  }
  void Hold() {
    if (member_.keeps_time) cuda_.hold();
  }

 private:
  void Check(cuda::Return code) {
    if (code != cuda::kSuccess && figures_.error == 0) figures_.error = code;
  }
  cuda::Function Find(const char* name) {
    cuda::Function function = nullptr;
    Check(cuda_.module_function(&function, module_, name));
    return function;
  }
  void Line(const char* name, unsigned blocks, unsigned z, unsigned threads, unsigned shared,
            cuda::Stream stream, std::vector<unsigned long long> values) {
    std::vector<void*> parameters;
    for (unsigned long long& value : values) parameters.push_back(&value);
    Check(cuda_.launch(Find(name), blocks, 1, z, threads, 1, 1, shared, stream, parameters.data(),
                       nullptr));
  }
  void Poke() {
    Line("sublet_poke", 1, 1, 1, 0, streams_[0], {16});
    Check(cuda_.context_synchronize());
  }

  void Launch(cuda::Stream stream) {
    constexpr unsigned long long kIterations = 46'000;  // 0.093 ms, as the lab's.
    const auto sms = static_cast<unsigned>(figures_.sm_count);
    if (member_.work == "small") Line("sublet_spin", 16, 1, 256, 0, stream, {0, kIterations});
    if (member_.work == "big") Line("sublet_spin", 8 * sms, 1, 256, 0, stream, {0, kIterations});
    if (member_.work == "mem") Line("sublet_stream", 8 * sms, 1, 256, 0, stream, {0, 1 << 24});
    if (member_.work == "transformer") Check(cuda_.graph_launch(graph_, stream));
  }

  // As src/measure/transformer.h has it: narrow tiles and sums in parts on a whole GPU.
  void RecordTransformer() {
    const bool whole = figures_.sm_count >= 96;
    const char* const project = whole ? "sublet_project_32" : "sublet_project_64";
    const unsigned tile = whole ? 32 : 64;
    const auto parts = [&](unsigned depth) {
      unsigned best = 1;
      for (const unsigned n : {2U, 3U, 4U, 6U, 8U}) {
        const bool fits = n * 12 <= static_cast<unsigned>(figures_.sm_count);
        if (depth / 64 % n == 0 && fits) best = n;
      }
      return best;
    };
    constexpr unsigned kShared = 48 << 10;
    const cuda::Stream stream = streams_[0];
    Check(cuda_.capture_begin(stream, cuda::kCaptureThreadLocal));
    Line("sublet_embed", 192, 1, 256, 0, stream, {0, 0, 64 * 768});
    for (int layer = 0; layer < 6; ++layer) {
      Line("sublet_layer_norm", 8, 1, 256, 0, stream, {0, 0});
      Line(project, 2304 / tile, 1, 128, kShared, stream, {0, 0, 0, 2304, 768});
      Line("sublet_attention", 12, 1, 128, 24 << 10, stream, {0, 0});
      Line("sublet_project_add", 12, parts(768), 128, kShared, stream, {0, 0, 0, 768, 768});
      Line("sublet_layer_norm", 8, 1, 256, 0, stream, {0, 0});
      Line(project, 3072 / tile, 1, 128, kShared, stream, {0, 0, 0, 3072, 768});
      Line("sublet_project_add", 12, parts(3072), 128, kShared, stream, {0, 0, 0, 768, 3072});
    }
    Line("sublet_layer_norm", 8, 1, 256, 0, stream, {0, 0});
    cuda::Graph graph = nullptr;
    Check(cuda_.capture_end(stream, &graph));
    Check(cuda_.graph_instantiate(&graph_, graph, 0));
  }

  const Member& member_;
  Figures& figures_;
  SimCuda cuda_;
  cuda::Context context_ = nullptr;
  cuda::Module module_ = nullptr;
  std::vector<cuda::Stream> streams_;
  cuda::GraphExec graph_ = nullptr;
};

class CudaCrowd {
 public:
  explicit CudaCrowd(std::string preset) : preset_(std::move(preset)) {
    std::string path = std::filesystem::temp_directory_path() / "sublet-cuda-XXXXXX";
    folder_ = ::mkdtemp(path.data());
  }
  ~CudaCrowd() { std::filesystem::remove_all(folder_); }
  CudaCrowd(const CudaCrowd&) = delete;
  CudaCrowd& operator=(const CudaCrowd&) = delete;

  const std::string& folder() const { return folder_; }

  // A child of this process with the simulation's variables; its exit status is what `body` says.
  int Start(const std::map<std::string, std::string>& variables,
            const std::function<int()>& body) const {
    const int pid = ::fork();
    if (pid != 0) return pid;
    ::setenv("SUBLET_SIM", preset_.c_str(), 1);
    ::setenv("SUBLET_SIM_STATE", folder_.c_str(), 1);
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    ::_exit(body());
  }

  // One Figures for each member, in their order; `window_ms` is of the simulated clock.
  std::vector<Figures*> Run(const std::vector<Member>& members, double window_ms = 200) {
    const std::size_t bytes = members.size() * sizeof(Figures) + sizeof(std::atomic<int>);
    void* const shared =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    auto* const figures = static_cast<Figures*>(shared);
    auto& go = *reinterpret_cast<std::atomic<int>*>(figures + members.size());
    std::vector<int> pids;
    for (std::size_t i = 0; i < members.size(); ++i) {
      pids.push_back(Start(members[i].variables, [&] {
        CrowdMember member(members[i], figures[i]);
        member.Prepare();
        member.Hold();
        figures[i].state = 1;
        while (go == 0) ::sched_yield();
        if (figures[i].error == 0) member.Work(window_ms);
        figures[i].state = 2;
        return 0;
      }));
      // One after the other, so that each test has the same places at the table.
      while (figures[i].state == 0 && ::waitpid(pids.back(), nullptr, WNOHANG) == 0) {
        ::sched_yield();
      }
    }
    go = 1;
    for (const int pid : pids) ::waitpid(pid, nullptr, 0);
    std::vector<Figures*> out;
    for (std::size_t i = 0; i < members.size(); ++i) out.push_back(figures + i);
    return out;  // The mapping stays until the test ends.
  }

 private:
  std::string preset_;
  std::string folder_;
};

}  // namespace sublet::sim
