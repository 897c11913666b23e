#include "exe/kube_mig_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "base/child_process.h"
#include "base/files.h"
#include "exe/mig_request.h"
#include "exe/this_node.h"
#include "inventory/nvml_library.h"
#include "kube/mig_step_file.h"
#include "mig/mig_apply.h"
#include "mig/mig_gpu.h"
#include "model/document.h"

namespace sublet {
namespace {

// A process that has just been told to end is often gone a moment later; clients were waited for.
constexpr MigPatience kPatience{.in_use_s = 10};
constexpr double kRebootCommandSeconds = 60;
constexpr std::size_t kFactBytesMax = 4096;
constexpr const char* kHangHint =
    "a call into it hangs: see the kernel's log for NVRM and Xid lines";

std::string FirstLine(const std::string& path) {
  const std::string text = ReadFile(path, kFactBytesMax).value_or("");
  return text.substr(0, text.find('\n'));
}

Result<MigConfigLabel> LoadLabel(const KubeMigOptions& options, std::string_view label) {
  MigFlags flags;
  flags.config = options.config;
  flags.label = label;
  return LoadMigLabel(flags);
}

Result<Inventory> TakeNode(const KubeMigOptions& options) {
  return TakeThisNode({.nvml = options.nvml, .timeout_s = options.timeout_s});
}

}  // namespace

class KubeMigWork::Changer {
 public:
  explicit Changer(KubeMigOptions options)
      : options_(std::move(options)),
        journal_(options_.state_folder.empty() ? "" : options_.state_folder + "/mig-steps.json") {}

  Result<Outcome> Apply(std::string_view label);
  Status Keep() { return journal_.Clear(); }
  Status TakeBack();

  // Whose turn it is.
  struct Turn {
    std::mutex mutex;
    bool busy = false;       // Somebody works.
    bool abandoned = false;  // Nobody waits for it.
  };
  Turn turn;

 private:
  Result<bool> ModesWaitForBoot(const nvml::Api& api, const std::vector<MigStep>& steps);

  KubeMigOptions options_;
  MigStepFile journal_;
};

Result<MigWork::Outcome> KubeMigWork::Changer::Apply(std::string_view label) {
  // Steps that a former run had begun stay in the file, before those of this one. A file that can't
  // be read is replaced by the first step.
  if (const auto left = journal_.Left(); !left) fmt::print(stderr, "{}\n", left.error().message);
  ASSIGN_OR_RETURN(const MigConfigLabel found, LoadLabel(options_, label));
  ASSIGN_OR_RETURN(const Inventory node, TakeNode(options_));
  NodeMigUse use;
  for (const Gpu& gpu : node.gpus) use[gpu.uuid] = UseByProcesses(gpu);
  ASSIGN_OR_RETURN(const MigChange change, PlanMigChange(node, found, use, {}));
  if (change.steps.empty()) return Outcome::kDone;
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(NvmlPath(options_.nvml)));
  Status done =
      ApplyTargets(nvml.api(), change.steps, change.layout.Targets(), journal_, kPatience);
  if (done) return Outcome::kDone;
  if (options_.may_reboot) {
    ASSIGN_OR_RETURN(const bool waits, ModesWaitForBoot(nvml.api(), change.steps));
    if (waits) return Outcome::kNeedsReboot;
  }
  return tl::unexpected<Error>(std::move(done).error());
}

Status KubeMigWork::Changer::TakeBack() {
  ASSIGN_OR_RETURN(const std::vector<MigStep> left, journal_.Left());
  if (left.empty()) return {};
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(NvmlPath(options_.nvml)));
  RETURN_IF_ERROR(UndoSteps(nvml.api(), left, kPatience));
  return journal_.Clear();
}

// Asks for the modes once more, and leaves the requests where they wait for a reset. False where
// there are none that do.
Result<bool> KubeMigWork::Changer::ModesWaitForBoot(const nvml::Api& api,
                                                    const std::vector<MigStep>& steps) {
  bool waits = false;
  for (const MigStep& step : steps) {
    const bool on = step.kind == MigStep::Kind::kEnableMode;
    if (!on && step.kind != MigStep::Kind::kDisableMode) continue;
    // So that it is taken back where another GPU's mode doesn't wait.
    RETURN_IF_ERROR(journal_.WillDo(step));
    ASSIGN_OR_RETURN(MigGpu gpu, MigGpu::Open(api, step.gpu_uuid));
    // That it waits is an error here, so the state says more than the answer.
    static_cast<void>(gpu.SetMode(on, Deadline::In(0)));
    ASSIGN_OR_RETURN(const MigState state, gpu.Read());
    if (state.pending != on) return false;
    waits |= state.on != on;
  }
  return waits;
}

KubeMigWork::KubeMigWork(KubeMigOptions options)
    : options_(std::move(options)), changer_(std::make_shared<Changer>(options_)) {}
KubeMigWork::~KubeMigWork() = default;

// In a thread of its own, which is left behind where it takes too long.
template <typename T>
Result<T> KubeMigWork::InTime(std::function<Result<T>(Changer&)> work) {
  Changer::Turn& turn = changer_->turn;
  {
    const std::lock_guard lock(turn.mutex);
    if (turn.busy) {
      return Fail(ErrorCode::kUnavailable, "the driver still hangs in a change that was given up",
                  kHangHint);
    }
    turn.busy = true;
    turn.abandoned = false;
  }
  std::promise<Result<T>> promise;
  std::future<Result<T>> answer = promise.get_future();
  std::thread worker([changer = changer_, promise = std::move(promise), work]() mutable {
    Result<T> result = work(*changer);
    std::unique_lock lock(changer->turn.mutex);
    if (changer->turn.abandoned) {
      // It was said to have failed. What it began is undone, or found by who comes next.
      lock.unlock();
      static_cast<void>(changer->TakeBack());
      lock.lock();
    }
    changer->turn.busy = false;
    promise.set_value(std::move(result));
  });
  answer.wait_for(std::chrono::duration<double>(options_.change_s));
  bool late = false;
  {
    const std::lock_guard lock(turn.mutex);
    late = turn.abandoned = turn.busy;
  }
  if (!late) {
    worker.join();
    return answer.get();
  }
  worker.detach();
  return Fail(ErrorCode::kUnavailable,
              fmt::format("the driver did not answer within {} s", options_.change_s), kHangHint);
}

Result<std::string> KubeMigWork::Fingerprint(std::string_view label) {
  ASSIGN_OR_RETURN(const MigConfigLabel found, LoadLabel(options_, label));
  return MigConfigToYaml({.labels = {found}});
}

Result<int> KubeMigWork::Plan(std::string_view label) {
  ASSIGN_OR_RETURN(const MigConfigLabel found, LoadLabel(options_, label));
  ASSIGN_OR_RETURN(const Inventory node, TakeNode(options_));
  ASSIGN_OR_RETURN(const MigChange change, PlanMigChange(node, found, {}, {}));
  return static_cast<int>(change.steps.size());
}

Result<MigWork::Outcome> KubeMigWork::Apply(std::string_view label) {
  return InTime<Outcome>(
      [label = std::string(label)](Changer& changer) { return changer.Apply(label); });
}

Status KubeMigWork::Keep() {
  return InTime<void>([](Changer& changer) { return changer.Keep(); });
}

Status KubeMigWork::TakeBack() {
  return InTime<void>([](Changer& changer) { return changer.TakeBack(); });
}

Status KubeMigWork::Reboot() {
  if (!options_.reboot_command.empty()) {
    ASSIGN_OR_RETURN(
        const CommandOutcome outcome,
        RunCommand({.argv = options_.reboot_command}, "", {.timeout_s = kRebootCommandSeconds}));
    if (outcome.end.Succeeded()) return {};
    return Fail(ErrorCode::kUnavailable,
                fmt::format("{} {}", options_.reboot_command[0], DescribeEnd(outcome.end)));
  }
  if (FirstLine("/proc/1/comm") != "systemd") {
    return Fail(ErrorCode::kUnsupported, "process 1 isn't the host's systemd",
                "run the pod with hostPID, or give --reboot-command");
  }
  // systemd(1), "Signals": SIGRTMIN+5 starts reboot.target.
  if (::kill(1, SIGRTMIN + 5) != 0) return FailFromErrno(errno, "asking systemd to reboot");
  return {};
}

std::string KubeMigWork::BootId() {
  return FirstLine("/proc/sys/kernel/random/boot_id");
}

}  // namespace sublet
