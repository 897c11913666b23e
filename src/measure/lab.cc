#include "measure/lab.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/interrupt.h"
#include "measure/mig_session.h"
#include "measure/trial.h"
#include "measure/workload.h"
#include "mps/mps_daemon.h"

namespace sublet {
namespace {

// MPS on Volta and later serves 48 clients, by newer documents 60: beyond this nobody looks.
constexpr int kClientsProbed = 64;

// Room is kept for a server for each of so many tenants on a GPU; more is rare.
constexpr int kServersExpected = 5;

constexpr double kRecoverySeconds = 10;  // Longer is no recovery.

constexpr Bytes kMemoryLimitSlack = Bytes::FromMib(2);  // The driver's granularity.

// What the driver says to a client too many: by the documents one of the last two, seen was the
// first.
bool IsRefusal(const Error& error) {
  return std::ranges::any_of(
      std::array{"CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
                 "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED"},
      [&](const char* name) { return error.message.find(name) != std::string::npos; });
}

class Lab {
 public:
  Lab(const Inventory& node, const Gpu& gpu, const GpuMeter& meter, const LabOptions& options,
      const std::function<void(const LabProgress&)>& progress)
      : gpu_(gpu),
        meter_(meter),
        options_(options),
        progress_(progress),
        runner_(meter, options.request.effort) {
    seen_.board = gpu.board;
    seen_.gpu_name = gpu.product;
    seen_.gpu_uuid = gpu.uuid;
    seen_.driver_version = node.driver.version;
    seen_.cuda_version = node.driver.cuda_version;
    seen_.sm_count = gpu.sm_count.value_or(0);
    seen_.memory = gpu.memory;
    seen_.cpu_cores = node.host.cpu_cores;
    seen_.effort = options.request.effort == Effort::kFull ? "full" : "quick";
    seen_.seed = options.request.seed;
    seen_.simulated = node.driver.simulated;
  }

  Result<Measurement> Run() {
    const std::int64_t begun_ns = MonotonicNanoseconds();
    Schedule schedule = MakeSchedule(Facts(), options_.request);
    seen_.skipped = std::move(schedule.skipped);
    for (const Act& act : schedule.acts) {
      expected_s_ += act.ExpectedSeconds(options_.request.effort);
    }
    begun_ns_ = begun_ns;
    seen_.before = ConditionsNow();
    for (std::size_t i = 0; i < schedule.acts.size(); ++i) {
      const Act& act = schedule.acts[i];
      const Status status = Perform(act);
      const bool begun = !seen_.runs.empty() || i > 0 || Interrupted();
      if (!status && !begun) return tl::unexpected(status.error());
      if (!status) GiveUp(act, status.error());
      done_s_ += act.ExpectedSeconds(options_.request.effort);
      if (!Interrupted()) continue;
      for (std::size_t rest = i + 1; rest < schedule.acts.size(); ++rest) {
        GiveUp(schedule.acts[rest], {ErrorCode::kUnavailable, "interrupted", ""});
      }
      break;
    }
    seen_.after = ConditionsNow();
    AddDrift();
    if (seen_.simulated) ForgetStartup();
    seen_.duration_s = static_cast<double>(MonotonicNanoseconds() - begun_ns) / 1e9;
    return std::move(seen_);
  }

 private:
  LabFacts Facts() const {
    LabFacts facts;
    facts.memory_free = meter_.MemoryFree();
    facts.tensor_cores = gpu_.compute_capability_major >= 8;
    facts.no_mps = options_.no_mps;
    for (const GpuInstance& instance : gpu_.instances) {
      for (const ComputeInstance& compute : instance.compute_instances) {
        if (compute.uuid.empty()) continue;
        facts.mig_uuids.push_back(compute.uuid);
        facts.mig_profiles.push_back(instance.profile);
      }
    }
    facts.mig = gpu_.mig_enabled;
    facts.may_cut_mig =
        options_.allow_mig_reconfigure && gpu_.mig_capable && facts.mig_uuids.empty();
    if (!gpu_.mig_capable) {
      facts.no_mig = "the board has no MIG";
    } else if (!gpu_.mig_enabled) {
      facts.no_mig = "MIG is off (--allow-mig-reconfigure measures it)";
    } else if (facts.mig_uuids.empty()) {
      facts.no_mig = "MIG is on and there are no instances (--allow-mig-reconfigure makes some)";
    }
    return facts;
  }

  GpuConditions ConditionsNow() const {
    GpuConditions now = meter_.Conditions();
    now.time = options_.now_utc();
    return now;
  }

  void Tell(const std::string& what) const {
    const double spent = static_cast<double>(MonotonicNanoseconds() - begun_ns_) / 1e9;
    const double done = expected_s_ > 0 ? std::min(done_s_ / expected_s_, 1.0) : 0;
    // Believe the guess at first, then more and more what it took so far.
    const double guess = expected_s_ - done_s_;
    const double pace = done > 0 ? spent * (1 - done) / done : guess;
    progress_({.done = done,
               .seconds_left = std::max(0.0, guess * (1 - done) + pace * done),
               .now = what});
  }

  static std::string ReasonOf(const Error& error) {
    return error.hint.empty() ? error.message : fmt::format("{} ({})", error.message, error.hint);
  }

  // Everything of an act that hasn't been seen, with the reason.
  void GiveUp(const Act& act, const Error& error) {
    const std::string reason = ReasonOf(error);
    seen_.partial = true;
    if (act.kind != ActKind::kTrials) seen_.skipped.push_back({act.name, reason});
    for (const Trial& trial : act.trials) {
      if (seen_.Find(trial.id) == nullptr) seen_.skipped.push_back({trial.id, reason});
    }
  }

  // The environment of one act: its daemons, and where each worker goes.
  struct Stage {
    std::vector<std::unique_ptr<MpsDaemon>> servers;
    std::vector<WorkerPlace> places;
  };

  Result<Stage> Prepare(const Act& act) {
    Stage stage;
    for (int i = 0; i < act.servers; ++i) {
      // A daemon that didn't come up won't the next time, and each try takes its patience.
      if (no_mps_) return tl::unexpected(*no_mps_);
      Result<std::unique_ptr<MpsDaemon>> server = MpsDaemon::Start({.gpu_uuid = gpu_.uuid});
      if (!server) {
        if (!Interrupted()) no_mps_ = server.error();
        return tl::unexpected(server.error());
      }
      stage.servers.push_back(*std::move(server));
    }
    for (int i = 0; i < act.workers; ++i) stage.places.push_back(PlaceOf(act, stage, i));
    return stage;
  }

  WorkerPlace PlaceOf(const Act& act, const Stage& stage, int worker) const {
    const auto at = static_cast<std::size_t>(worker);
    WorkerPlace place{.gpu_uuid = act.mig_uuids.empty() ? gpu_.uuid : act.mig_uuids[at],
                      .sm_percent = act.sm_percent,
                      .memory_limit = act.memory_limit};
    if (!stage.servers.empty()) {
      place.mps_pipe_directory = stage.servers[at % stage.servers.size()]->pipe_directory();
    }
    return place;
  }

  Status Perform(const Act& act) {
    if (act.kind == ActKind::kFaults) return Misbehave(act);
    if (act.kind == ActKind::kCutMig) return MeasureInNewInstances(act);
    Tell(act.name);
    ASSIGN_OR_RETURN(const Stage stage, Prepare(act));
    ASSIGN_OR_RETURN(const auto crew, Crew::Start(options_.crew, stage.places));
    RETURN_IF_ERROR(ConfirmConfined(act, stage, *crew));
    RETURN_IF_ERROR(WeighServers(stage));
    if (act.kind == ActKind::kQuota) return CheckQuota(act, *crew);
    if (act.kind == ActKind::kClients) return CountClients(act, stage, crew->size());
    const double act_s = act.ExpectedSeconds(options_.request.effort);
    const double before_s = done_s_;
    for (std::size_t i = 0; i < act.trials.size(); ++i) {
      const Trial& trial = act.trials[i];
      if (Interrupted()) return Fail(ErrorCode::kUnavailable, "interrupted");
      done_s_ = before_s +
                act_s * (static_cast<double>(i) + 1) / (static_cast<double>(act.trials.size()) + 1);
      Tell(fmt::format("{}: {}", act.name, trial.id.substr(trial.id.find('/') + 1)));
      ASSIGN_OR_RETURN(sublet::Run run, runner_.Measure(*crew, act, trial));
      seen_.runs.push_back(std::move(run));
    }
    done_s_ = before_s;
    return {};
  }

  // Instances that are there for this act alone. Its crew has ended when they are taken back.
  Status MeasureInNewInstances(const Act& act) {
    Tell(fmt::format("{}: making them", act.name));
    Result<MigSession> session = MigSession::Start(meter_.api(), gpu_.uuid, {});
    if (!session) {
      if (session.error().code == ErrorCode::kUnavailable) return tl::unexpected(session.error());
      // Refused, and nothing has changed: a mode that can't be run here.
      seen_.skipped.push_back({"mig", ReasonOf(session.error())});
      return {};
    }
    LabFacts facts = Facts();
    for (const MigInstance& instance : session->instances()) {
      facts.mig_uuids.push_back(instance.uuid);
      facts.mig_profiles.push_back(instance.profile);
    }
    const Act inside = MigAct(facts, options_.request);
    if (const Status measured = Perform(inside); !measured) GiveUp(inside, measured.error());
    Tell(fmt::format("{}: putting back what was there", act.name));
    return session->Restore();
  }

  // A process that can't reach its MPS daemon runs on the whole GPU without a word, and what it did
  // there would pass for MPS.
  Status ConfirmConfined(const Act& act, const Stage& stage, const Crew& crew) const {
    std::vector<std::set<int>> clients;
    for (const std::unique_ptr<MpsDaemon>& daemon : stage.servers) {
      ASSIGN_OR_RETURN(clients.emplace_back(), daemon->AllClients());
    }
    for (int i = 0; i < crew.size(); ++i) {
      const WorkerInfo& worker = crew.info(i);
      if (!clients.empty() &&
          !clients[static_cast<std::size_t>(i) % clients.size()].contains(worker.pid)) {
        return Fail(ErrorCode::kUnavailable,
                    fmt::format("worker {} (pid {}) is no client of its mps server", i, worker.pid),
                    "it may not enter the pipe directory, or has another pid namespace");
      }
      if (act.sm_percent && gpu_.sm_count && worker.sm_count >= *gpu_.sm_count) {
        return Fail(ErrorCode::kUnavailable,
                    fmt::format("a cap of {} % of the SMs has no effect: worker {} sees all {}",
                                *act.sm_percent, i, worker.sm_count));
      }
    }
    return {};
  }

  // An MPS server has memory of its own, which no tenant gets.
  Status WeighServers(const Stage& stage) {
    const std::map<int, Bytes> memory = meter_.ProcessMemory();
    for (const std::unique_ptr<MpsDaemon>& daemon : stage.servers) {
      ASSIGN_OR_RETURN(const std::vector<int> servers, daemon->Servers());
      for (const int server : servers) {
        const auto it = memory.find(server);
        if (it == memory.end()) continue;
        seen_.device_reserve =
            std::max(seen_.device_reserve, meter_.DriverReserve() + it->second * kServersExpected);
      }
    }
    return {};
  }

  Status CheckQuota(const Act& act, Crew& crew) {
    RETURN_IF_ERROR(crew.PrepareAll({0}, "small", 1));
    // A context and nothing else yet: `small` has no buffers.
    const auto memory = meter_.ProcessMemory();
    const auto own = memory.find(crew.info(0).pid);
    if (own == memory.end()) {
      seen_.skipped.push_back({act.name, "the driver doesn't show how much memory a process has"});
      return {};
    }
    ASSIGN_OR_RETURN(const AllocationReply reply, crew.AllocateToTheWall(0));
    QuotaCheck check;
    check.mode = act.mode;
    check.how = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";
    check.limit = *act.memory_limit;
    check.allocated = reply.allocated;
    if (act.sm_percent) check.how += fmt::format(", {} % of the SMs", *act.sm_percent);
    check.context = own->second;
    const Bytes had = check.allocated + check.context;
    check.error_percent = 100 * static_cast<double>(had.count - check.limit.count) /
                          static_cast<double>(check.limit.count);
    check.enforced = had <= check.limit + kMemoryLimitSlack;
    seen_.quotas.push_back(std::move(check));
    return {};
  }

  // Adds clients one by one to those that are there until the server takes no more.
  Status CountClients(const Act& act, const Stage& stage, int clients) {
    std::vector<std::unique_ptr<Crew>> more;
    while (clients < kClientsProbed && !Interrupted()) {
      Result<std::unique_ptr<Crew>> one = Crew::Start(options_.crew, {PlaceOf(act, stage, 0)});
      if (!one && !Interrupted() && !IsRefusal(one.error())) return tl::unexpected(one.error());
      if (!one) break;
      more.push_back(*std::move(one));
      ++clients;
    }
    if (Interrupted()) return Fail(ErrorCode::kUnavailable, "interrupted");
    if (clients == kClientsProbed) {
      seen_.skipped.push_back({act.name, fmt::format("{} and more were served", clients)});
      return {};
    }
    seen_.mps_clients_max = clients;
    return {};
  }

  // Each misdeed with a crew of its own, because nobody knows what state it leaves behind.
  Status Misbehave(const Act& act) {
    for (const bool kill : {false, true}) {
      Tell(fmt::format("{}: {}", act.name, kill ? "SIGKILL" : "illegal access"));
      ASSIGN_OR_RETURN(const Stage stage, Prepare(act));
      ASSIGN_OR_RETURN(auto crew, Crew::Start(options_.crew, stage.places));
      // With two servers workers take turns on them: 1 and 3 are in the other one.
      const std::vector<int> workers =
          act.servers == 2 ? std::vector{0, 1, 3} : std::vector{0, 1, 2, 3};
      RETURN_IF_ERROR(crew->PrepareAll(workers, "small", 1));
      const RoundOptions round{.warmup_ms = 100, .window_ms = 1500};
      const std::vector<WorkerOutcome> outcomes =
          kill ? crew->RunRoundWithSignal(workers, 0, SIGKILL, round)
               : crew->RunRoundWithMisdeed(workers, 0, Misdeed::kIllegalAccess, round);
      if (Interrupted()) return Fail(ErrorCode::kUnavailable, "interrupted");
      FaultCheck check;
      check.mode = act.mode;
      check.servers = std::max(act.servers, 1);
      check.fault = kill ? "SIGKILL" : "illegal access";
      check.neighbours = static_cast<int>(workers.size()) - 1;
      for (std::size_t i = 1; i < outcomes.size(); ++i) Judge(outcomes[i], check);
      // A server that saw a fault takes nobody new until those it hit are gone, as whoever watches
      // over them would see to.
      crew.reset();
      AddRecovery(act, stage, check);
      seen_.faults.push_back(std::move(check));
    }
    return {};
  }

  static void Judge(const WorkerOutcome& outcome, FaultCheck& check) {
    if (outcome.error) {
      check.note = "neighbours: " + outcome.error->message;
      return;
    }
    ++check.survivors;
    for (const StreamFigures& stream : outcome.streams) {
      check.pause_ms_max = std::max(check.pause_ms_max, stream.gap_ms_max);
    }
  }

  // How long until a new process works where the culprit was. A server may refuse it at first.
  void AddRecovery(const Act& act, const Stage& stage, FaultCheck& check) const {
    const std::int64_t begun_ns = MonotonicNanoseconds();
    const Deadline deadline = Deadline::In(kRecoverySeconds);
    for (;;) {
      const double waited_ms = static_cast<double>(MonotonicNanoseconds() - begun_ns) / 1e6;
      Result<std::unique_ptr<Crew>> fresh = Crew::Start(options_.crew, {PlaceOf(act, stage, 0)});
      if (fresh && (*fresh)->PrepareAll({0}, "small", 1)) {
        check.recovery_ms = waited_ms + (*fresh)->info(0).first_unit_ms;
        return;
      }
      if (deadline.Passed() || Interrupted()) {
        const std::string why = fresh ? "it does no work" : fresh.error().message;
        check.note += (check.note.empty() ? "" : "; ") + ("a new process: " + why);
        return;
      }
    }
  }

  // Starting a process takes the machine's time, of which a simulated clock knows nothing.
  void ForgetStartup() {
    for (sublet::Run& run : seen_.runs) {
      for (TenantFigures& tenant : run.tenants) tenant.startup_ms.reset();
    }
    for (FaultCheck& fault : seen_.faults) fault.recovery_ms.reset();
  }

  void AddDrift() {
    for (const sublet::Run& run : seen_.runs) {
      if (run.series != "drift") continue;
      const double alone = runner_.AloneRate(run.tenants[0].workload);
      if (alone <= 0) continue;
      const double slower = 100 * (1 - run.total_per_s.value / alone);
      if (std::abs(slower) >= std::abs(seen_.drift_percent.value_or(0))) {
        seen_.drift_percent = slower;
      }
    }
  }

  const Gpu& gpu_;
  const GpuMeter& meter_;
  const LabOptions& options_;
  const std::function<void(const LabProgress&)>& progress_;
  TrialRunner runner_;
  Measurement seen_;
  std::int64_t begun_ns_ = 0;
  std::optional<Error> no_mps_;  // Why no daemon comes up, once one didn't.
  double expected_s_ = 0;
  double done_s_ = 0;
};

}  // namespace

Result<Measurement> RunLab(const Inventory& node, const Gpu& gpu, const GpuMeter& meter,
                           const LabOptions& options,
                           const std::function<void(const LabProgress&)>& progress) {
  return Lab(node, gpu, meter, options, progress).Run();
}

}  // namespace sublet
