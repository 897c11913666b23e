// `sublet measure`: what sharing costs on this very card.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/interrupt.h"
#include "exe/chosen_gpu.h"
#include "exe/program.h"
#include "exe/progress_bar.h"
#include "exe/this_node.h"
#include "inventory/nvml_library.h"
#include "measure/calibrate.h"
#include "measure/lab.h"
#include "measure/lessons.h"
#include "measure/method.h"
#include "measure/report.h"
#include "measure/summary.h"
#include "model/document.h"
#include "plan/forecast.h"

namespace sublet {
namespace {

struct Flags {
  bool quick = false;
  bool full = false;
  bool check = false;
  bool faults = false;
  bool force = false;
  bool json = false;
  bool allow_mig_reconfigure = false;
  std::string gpu;
  std::vector<std::string> only;
  std::uint64_t seed = 1;
  std::string output;
  std::string report;
  std::string from;
  std::string sim;
  std::string nvml;
  std::string cuda;
};

Result<LabRequest> RequestOf(const Flags& flags) {
  LabRequest request{.effort = flags.full ? Effort::kFull : Effort::kQuick,
                     .only = {},
                     .faults = flags.faults,
                     .seed = flags.seed};
  for (const std::string& word : flags.only) {
    std::vector<std::string_view> known;
    const auto& words = LabPartWords();
    const auto it = std::ranges::find(words, word, &EnumWords<LabPart>::value_type::first);
    if (it != words.end()) {
      request.only.push_back(it->second);
      continue;
    }
    for (const auto& [name, part] : words) known.push_back(name);
    return Fail(ErrorCode::kUsage, fmt::format("--only: no such part: '{}'", word),
                SuggestFor(word, known));
  }
  return request;
}

Result<Measurement> Measure(const Flags& flags) {
  ASSIGN_OR_RETURN(const LabRequest request, RequestOf(flags));
  ASSIGN_OR_RETURN(const Inventory node, TakeThisNode({.nvml = flags.nvml}));
  ASSIGN_OR_RETURN(const Gpu* const gpu, ChooseGpu(node, flags.gpu));
  const std::vector<std::string> others = OthersOn(*gpu);
  RETURN_IF_ERROR(CheckIdle(others, flags.force));
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(NvmlPath(flags.nvml)));
  ASSIGN_OR_RETURN(const GpuMeter meter, GpuMeter::Open(nvml, gpu->uuid));
  LabOptions options;
  options.request = request;
  options.crew.cuda_library = CudaPath(flags.cuda);
  options.crew.gpu_sm_count = gpu->sm_count.value_or(0);
  options.no_mps = WhyNoMps(node, *gpu);
  options.allow_mig_reconfigure = flags.allow_mig_reconfigure;
  options.now_utc = UtcNow;
  ProgressBar line;
  ASSIGN_OR_RETURN(Measurement seen,
                   RunLab(node, *gpu, meter, options, [&](const LabProgress& progress) {
                     line.Show(progress.done, progress.seconds_left, progress.now);
                   }));
  line.Clear();
  seen.disturbed = !others.empty();
  seen.disturbed_by = others;
  return seen;
}

Result<Measurement> Load(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDocumentBytesMax));
  return ParseMeasurement(text, path);
}

// Whether a file could be written there, as far as can be told without writing it.
Status CheckFolderOf(const std::string& path) {
  if (path.empty() || path == "-") return {};
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  if (::access(folder.c_str(), W_OK | X_OK) == 0) return {};
  return FailFromErrno(errno, fmt::format("writing to {}", folder.string()));
}

// What was seen, as the file has it: the calibration with its evidence inside.
std::string FileOf(const Measurement& seen, const Calibration& calibration) {
  nlohmann::ordered_json file = CalibrationToJson(calibration);
  file["measurement"] = MeasurementToJson(seen);
  // Names of other processes are bytes to the kernel; JSON is text.
  return file.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string PageOf(const Measurement& seen, const Calibration& calibration,
                   const std::vector<Lesson>& lessons) {
  return MeasurementReport({{"measurement", MeasurementToJson(seen)},
                            {"calibration", CalibrationToJson(calibration)},
                            {"method", DescribeMethod(seen)},
                            {"predictions", ForecastsToJson(ForecastRuns(seen, calibration))},
                            {"lessons", LessonsToJson(lessons)}});
}

// 0; 1 where a lesson that was to be checked failed or the lab didn't reach its end; where somebody
// interrupted it, what a program ended by that signal has.
int StatusOf(const Flags& flags, const Measurement& seen, const std::vector<Lesson>& lessons) {
  if (InterruptSignal() != 0) return 128 + InterruptSignal();
  const bool failed = std::ranges::any_of(lessons, [](const Lesson& l) { return !l.passed; });
  return seen.partial || (flags.check && failed) ? 1 : 0;
}

Result<int> MeasureAndWrite(const Flags& flags) {
  // Before the simulation, which has a folder to remove.
  const InterruptScope interrupts;
  std::optional<SimulatedNode> simulation;
  if (!flags.sim.empty()) {
    ASSIGN_OR_RETURN(simulation, SimulatedNode::Start(flags.sim));
  }
  // A minute of measuring isn't lost to a mistyped folder.
  for (const std::string& path : {flags.output, flags.report}) {
    RETURN_IF_ERROR(CheckFolderOf(path));
  }
  ASSIGN_OR_RETURN(const Measurement seen, flags.from.empty() ? Measure(flags) : Load(flags.from));
  const Calibration calibration = Calibrate(seen);
  const std::vector<Lesson> lessons = GradeLessons(seen);
  const std::string file = FileOf(seen, calibration);
  // Everything is ready before anything is written.
  const std::string page =
      flags.report.empty() ? std::string() : PageOf(seen, calibration, lessons);
  if (!flags.output.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.output, file));
  if (!flags.report.empty()) RETURN_IF_ERROR(WriteFileAtomically(flags.report, page));
  if (flags.json) {
    fmt::print("{}", file);
    return StatusOf(flags, seen, lessons);
  }
  fmt::print("{}", MeasurementSummary(seen, ForecastRuns(seen, calibration), lessons,
                                      {.colour = WantsColour()}));
  for (const auto& [what, path] :
       {std::pair{"calibration", flags.output}, {"report", flags.report}}) {
    if (!path.empty()) fmt::print("\n{}: {}", what, path);
  }
  fmt::print("\n");
  return StatusOf(flags, seen, lessons);
}

}  // namespace

void AddMeasureVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "measure", "Measure what each sharing mode costs on a GPU of this node");
  CLI::Option* quick = verb->add_flag("--quick", flags->quick, "About a minute (the default)");
  verb->add_flag("--full", flags->full, "Every workload, size and cap: about ten minutes")
      ->excludes(quick);
  verb->add_flag("--check", flags->check,
                 "Exit with 1 where the figures are not as sharing is known to behave");
  verb->add_option("--only", flags->only,
                   "Only these parts: streams, time-slicing, mps, sm-sweep, servers, mig, pairs, "
                   "quota, faults")
      ->type_name("PART")
      ->delimiter(',');
  verb->add_flag("--faults", flags->faults,
                 "Also let processes misbehave, to see whom it harms (only those of the lab)");
  verb->add_flag("--allow-mig-reconfigure", flags->allow_mig_reconfigure,
                 "Cut a GPU without MIG instances into some, measure in them, and put back what "
                 "was there (needs root and an idle GPU)");
  verb->add_option("--gpu", flags->gpu, "The GPU's UUID or index (default: the first)")
      ->type_name("GPU");
  verb->add_flag("--force", flags->force, "Measure although other processes use the GPU");
  verb->add_option("--seed", flags->seed, "Of the order of the modes")->capture_default_str();
  verb->add_option("-o,--output", flags->output, "Write the calibration, figures included, to FILE")
      ->type_name("FILE");
  verb->add_option("--report", flags->report, "Write a web page for people to FILE")
      ->type_name("FILE");
  verb->add_flag("--json", flags->json, "Print the calibration file instead of tables");
  CLI::Option* from =
      verb->add_option("--from", flags->from, "Show an earlier calibration file instead")
          ->type_name("FILE");
  verb->add_option("--sim", flags->sim, "Measure a simulated GPU, as h200")
      ->type_name("PRESET")
      ->excludes(from);
  verb->add_option("--nvml", flags->nvml,
                   "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb->add_option("--cuda", flags->cuda,
                   "The CUDA driver library (also SUBLET_CUDA; default libcuda.so.1)")
      ->type_name("PATH");
  verb->callback(
      [&program, flags] { program.chosen = [flags] { return MeasureAndWrite(*flags); }; });
}

}  // namespace sublet
