// `sublet profile`: how fast the user's own program is with a part of a GPU.
#include "measure/profile.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "base/interrupt.h"
#include "exe/chosen_gpu.h"
#include "exe/program.h"
#include "exe/progress_bar.h"
#include "exe/this_node.h"
#include "inventory/nvml_library.h"
#include "measure/gpu_meter.h"
#include "measure/profile_chart.h"
#include "mps/mps_daemon.h"

namespace sublet {
namespace {

struct Flags {
  std::vector<std::string> command;
  std::string sm = "5,10,15,25,50,100";
  int copies = 0;
  double seconds = 4;
  double timeout_s = 300;
  std::string name;
  std::string unit;
  int steps = 1;
  std::string gpu;
  std::string load;
  std::string ready;
  std::string output;
  std::string sim;
  std::string nvml;
  std::string cuda;
  bool force = false;
  bool json = false;
};

constexpr std::string_view kBurst = "burst of launches";

// The library beside this program: bin/sublet, lib/libsublet-guard.so.
Result<std::string> GuardLibrary() {
  std::error_code error;
  const std::filesystem::path program = OwnProgramPath();
  const std::filesystem::path library =
      program.parent_path().parent_path() / "lib" / "libsublet-guard.so";
  if (!std::filesystem::exists(library, error)) {
    return Fail(ErrorCode::kUnavailable,
                fmt::format("the library that watches programs is missing: {}", library.string()),
                "it is installed beside this program: ../lib/libsublet-guard.so");
  }
  // The loader takes a space or a colon in LD_PRELOAD for the end of a name.
  if (library.string().find_first_of(" :") != std::string::npos) {
    return Fail(
        ErrorCode::kUnsupported,
        fmt::format("a path with a space or colon can't be preloaded: {}", library.string()),
        "move this program to a folder without them");
  }
  return library.string();
}

// What can be said to be wrong before anything is looked at.
Result<ProfileRequest> RequestOf(const Flags& flags) {
  ProfileRequest request;
  request.program.argv = flags.command;
  ASSIGN_OR_RETURN(request.sm_percents, ParseSmPercents(flags.sm));
  if (flags.load.empty() != flags.ready.empty()) {
    return Fail(ErrorCode::kUsage, "--load and --ready go together",
                "the load starts when the server is ready: --ready http://localhost:8000/health");
  }
  if (!flags.load.empty() && flags.copies > 0) {
    return Fail(ErrorCode::kUsage, "--copies is for programs that need no load",
                "copies of a server would share its port");
  }
  if (flags.copies != 0 && (flags.copies < 2 || flags.copies > kCopiesMax)) {
    return Fail(ErrorCode::kUsage,
                fmt::format("--copies: not 2 to {}: {}", kCopiesMax, flags.copies));
  }
  if (!flags.ready.empty()) {
    ASSIGN_OR_RETURN(request.ready, ReadyCheck::Parse(flags.ready));
  }
  request.load = flags.load;
  request.copies = flags.copies;
  request.window_s = flags.seconds;
  request.timeout_s = flags.timeout_s;
  request.steps = flags.steps;
  request.name = flags.name.empty() ? NameOfProgram(flags.command) : flags.name;
  request.unit = flags.unit.empty() ? std::string(kBurst) : flags.unit;
  ASSIGN_OR_RETURN(request.program.guard_library, GuardLibrary());
  return request;
}

// A process that doesn't reach the daemon runs on the whole GPU, silently.
Status ConfirmClients(MpsDaemon& mps, const std::vector<int>& pids) {
  ASSIGN_OR_RETURN(const std::set<int> clients, mps.AllClients());
  for (const int pid : pids) {
    if (clients.contains(pid)) continue;
    return Fail(
        ErrorCode::kConflict,
        fmt::format("the program ran without MPS, although it was told to: process {}", pid),
        "it must keep CUDA_MPS_PIPE_DIRECTORY, and run as this user, in this pid namespace");
  }
  return {};
}

// What was seen, and whether what was started for it has ended. A daemon that doesn't go takes
// nothing from figures that were taken before.
Result<ProfileOutcome> Ending(Result<ProfileOutcome> seen, const Status& stopped) {
  if (seen) {
    if (!stopped) seen->notes.push_back("MPS didn't end: " + stopped.error().message);
    return seen;
  }
  Error& error = seen.error();
  if (!stopped) {
    error.message += "; and MPS didn't end: " + stopped.error().message;
  } else if (Interrupted()) {
    error.message += "; everything that was started has ended";
  }
  return seen;
}

Result<ProfileOutcome> Profile(const Flags& flags) {
  ASSIGN_OR_RETURN(ProfileRequest request, RequestOf(flags));
  ASSIGN_OR_RETURN(const Inventory node, TakeThisNode({.nvml = flags.nvml}));
  ASSIGN_OR_RETURN(const Gpu* const gpu, ChooseGpu(node, flags.gpu));
  if (gpu->mig_enabled) {
    return Fail(ErrorCode::kUnsupported, fmt::format("GPU {} is in MIG mode", gpu->index),
                "profiles are of whole GPUs: choose another with --gpu");
  }
  const std::vector<std::string> others = OthersOn(*gpu);
  RETURN_IF_ERROR(CheckIdle(others, flags.force));
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(NvmlPath(flags.nvml)));
  ASSIGN_OR_RETURN(const GpuMeter meter, GpuMeter::Open(nvml, gpu->uuid));
  // A profile has the name of its board, also where the catalogue doesn't know it.
  request.board = gpu->board.empty() ? gpu->product : gpu->board;
  request.cpu_cores = node.host.cpu_cores;
  request.source = fmt::format("{}, driver {}{}, {}{}", gpu->product, node.driver.version,
                               node.driver.simulated ? ", simulated" : "",
                               UtcNow().substr(0, sizeof "2026-11-21" - 1),
                               others.empty() ? "" : ", beside other processes");
  request.program.place.gpu_uuid = gpu->uuid;
  const std::filesystem::path cuda = CudaPath(flags.cuda);
  if (cuda.has_parent_path()) request.program.driver_folder = cuda.parent_path().string();
  request.no_mps = WhyNoMps(node, *gpu);
  std::unique_ptr<MpsDaemon> mps;
  if (request.no_mps.empty()) {
    ASSIGN_OR_RETURN(mps, MpsDaemon::Start({.gpu_uuid = gpu->uuid}));
    request.mps_pipe_directory = mps->pipe_directory();
    request.confirm_clients = [&mps](const std::vector<int>& pids) {
      return ConfirmClients(*mps, pids);
    };
  }
  ProgressBar line;
  const std::int64_t begun_ns = MonotonicNanoseconds();
  Result<ProfileOutcome> seen =
      ProfileProgram(meter, request, [&](double done, const std::string& now) {
        const double spent_s = static_cast<double>(MonotonicNanoseconds() - begun_ns) / 1e9;
        line.Show(done, done > 0 ? spent_s * (1 - done) / done : 0, now);
      });
  line.Clear();
  const Status stopped = mps == nullptr ? Status() : mps->Stop();
  return Ending(std::move(seen), stopped);
}

void Print(const ProfileOutcome& seen, const Flags& flags) {
  const WorkloadProfile& profile = seen.profile;
  const ChartStyle style{.colour = WantsColour(), .unicode = true};
  fmt::print("{}  ({})\n\n", profile.name, profile.source);
  fmt::print("{}\n{}\n", ProfileChart(profile, style), ProfileTable(profile, style));
  fmt::print("a unit of work   {}{}\n", profile.unit,
             profile.steps > 1 ? fmt::format(", {} bursts each", profile.steps) : "");
  fmt::print("without MPS      {:.3f} ms each\n", profile.service_ms);
  fmt::print("memory           {} beside the context\n", FormatBytes(profile.memory));
  fmt::print("copies           {:.1f} MiB/s to the GPU, {:.1f} MiB/s from it\n",
             profile.copy_to_device_mib_s, profile.copy_from_device_mib_s);
  const int knee = profile.Knee();
  fmt::print("knee             {} % of the SMs keep {:.0f} % of its speed\n", knee,
             profile.SpeedAt(knee) * 100);
  for (const std::string& note : seen.notes) fmt::print("note: {}\n", note);
  if (!flags.output.empty()) fmt::print("profile: {}\n", flags.output);
}

Result<int> ProfileAndWrite(const Flags& flags) {
  // Before the simulation, which has a folder to remove.
  const InterruptScope interrupts;
  std::optional<SimulatedNode> simulation;
  if (!flags.sim.empty()) {
    ASSIGN_OR_RETURN(simulation, SimulatedNode::Start(flags.sim));
  }
  Result<ProfileOutcome> seen = Profile(flags);
  if (!seen && Interrupted()) {
    fmt::print(stderr, "sublet: {}\n", seen.error().message);
    return 128 + InterruptSignal();
  }
  if (!seen) return tl::unexpected<Error>(std::move(seen).error());
  const std::string file = WorkloadProfileToJson(seen->profile).dump(2) + "\n";
  if (!flags.output.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.output, file));
  if (flags.json) {
    fmt::print("{}", file);
    for (const std::string& note : seen->notes) fmt::print(stderr, "note: {}\n", note);
  } else {
    Print(*seen, flags);
  }
  return Interrupted() ? 128 + InterruptSignal() : 0;
}

}  // namespace

void AddProfileVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "profile", "Measure how fast a program of yours is with a part of a GPU");
  verb->add_option("command", flags->command, "The program and its arguments, after --")
      ->required();
  verb->add_option("--sm", flags->sm, "SM caps to try, in percent; 100 is always among them")
      ->type_name("LIST")
      ->capture_default_str();
  verb->add_option("--copies", flags->copies, "Also run a crowd of N copies under each cap")
      ->type_name("N");
  verb->add_option("--seconds", flags->seconds, "To measure for, once the program is steady")
      ->check(CLI::Range(0.5, 600.0))
      ->capture_default_str();
  verb->add_option("--timeout", flags->timeout_s, "Seconds that it may take to become steady")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  verb->add_option("--name", flags->name, "Of the profile (default: the program's)");
  verb->add_option("--unit", flags->unit, "What a unit of work is called")->type_name("WORD");
  verb->add_option("--steps", flags->steps, "Bursts of launches in a unit of work")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  verb->add_option("--load", flags->load, "Shell command that gives a server its work");
  verb->add_option("--ready", flags->ready,
                   "When the load may start: http://HOST:PORT/PATH, tcp:HOST:PORT or a command");
  verb->add_option("--gpu", flags->gpu, "The GPU's UUID or index (default: the first)")
      ->type_name("GPU");
  verb->add_flag("--force", flags->force, "Measure although other processes use the GPU");
  verb->add_option("-o,--output", flags->output, "Write the profile to FILE")->type_name("FILE");
  verb->add_flag("--json", flags->json, "Print the profile instead of a plot and a table");
  verb->add_option("--sim", flags->sim, "Run on a simulated GPU, as h200")->type_name("PRESET");
  verb->add_option("--nvml", flags->nvml,
                   "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb->add_option("--cuda", flags->cuda,
                   "The CUDA driver library (also SUBLET_CUDA; default libcuda.so.1)")
      ->type_name("PATH");
  verb->callback(
      [&program, flags] { program.chosen = [flags] { return ProfileAndWrite(*flags); }; });
}

}  // namespace sublet
