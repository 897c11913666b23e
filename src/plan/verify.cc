#include "plan/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "plan/latency.h"
#include "plan/problem.h"
#include "plan/verify_busy.h"

namespace sublet {
namespace {

constexpr double kTolerance = 1e-6;

template <typename... Args>
tl::unexpected<Error> Broken(fmt::format_string<Args...> format, Args&&... args) {
  return Fail(ErrorCode::kInternal,
              "the plan breaks a promise: " + fmt::format(format, std::forward<Args>(args)...));
}

class Verifier {
 public:
  Verifier(const Plan& plan, const Fleet& fleet, const BoardCatalogue& catalogue,
           const Calibration& calibration)
      : plan_(plan), fleet_(fleet), catalogue_(catalogue), calibration_(calibration) {
    for (const Workload& workload : fleet.workloads) workloads_[workload.name] = &workload;
  }

  Status Run() {
    std::set<std::string> uuids;
    for (const PlannedGpu& gpu : plan_.gpus) {
      RETURN_IF_ERROR(CheckGpu(gpu));
      if (!gpu.uuid.empty() && !uuids.insert(gpu.uuid).second) {
        return Broken("two GPUs are {}", gpu.uuid);
      }
    }
    RETURN_IF_ERROR(CheckReplicaCounts());
    return CheckSummary();
  }

 private:
  // What the instances of a GPU have taken so far.
  struct Cut {
    int covered_until = 0;
    std::map<std::string, int> instances;
    EngineCounts engines;
  };

  Status CheckGpu(const PlannedGpu& gpu) {
    ASSIGN_OR_RETURN(const Board* board, catalogue_.Find(gpu.board));
    const Calibration calibration = ForBoard(calibration_, *board);
    if (gpu.partitions.empty()) return Broken("{} does nothing", gpu.name);
    int clients = 0;
    Cut cut;
    for (const PlannedPartition& partition : gpu.partitions) {
      if (partition.profile.empty()) {
        if (gpu.mig || gpu.partitions.size() != 1) {
          return Broken("{} is whole and cut at once", gpu.name);
        }
        RETURN_IF_ERROR(
            CheckSize(partition, board->memory - calibration.device_reserve, board->sm_count));
      } else {
        RETURN_IF_ERROR(CheckInstance(gpu, partition, *board, cut));
      }
      RETURN_IF_ERROR(CheckPartition(partition, *board, calibration));
      if (partition.mode == SharingMode::kMps) {
        clients += static_cast<int>(partition.replicas.size());
      }
    }
    if (clients > calibration.mps_clients_max) {
      return Broken("{} has {} MPS clients of at most {}", gpu.name, clients,
                    calibration.mps_clients_max);
    }
    if (!Within(cut.engines, board->engines)) return Broken("{} has not the engines", gpu.name);
    return {};
  }

  static Status CheckInstance(const PlannedGpu& gpu, const PlannedPartition& partition,
                              const Board& board, Cut& cut) {
    const MigProfile* profile = board.FindProfile(partition.profile);
    if (!gpu.mig || profile == nullptr || profile->id != partition.profile_id ||
        profile->size != partition.size) {
      return Broken("{} has no profile {}", gpu.name, partition.profile);
    }
    const auto& starts = profile->starts;
    if (std::find(starts.begin(), starts.end(), partition.start) == starts.end() ||
        partition.start < cut.covered_until) {
      return Broken("{} can't lie at {} of {}", partition.profile, partition.start, gpu.name);
    }
    cut.covered_until = partition.start + partition.size;
    if (cut.covered_until > board.memory_units) {
      return Broken("{} is cut beyond its end", gpu.name);
    }
    if (++cut.instances[profile->name] > profile->max_instances) {
      return Broken("{} has too many {}", gpu.name, profile->name);
    }
    Add(cut.engines, profile->engines);
    return CheckSize(partition, profile->memory, profile->sm_count);
  }

  static Status CheckSize(const PlannedPartition& partition, Bytes memory, int sm_count) {
    if (partition.memory > memory) return Broken("{} is too large", partition.name);
    if (partition.sm_count != sm_count) {
      return Broken("{} has {} SMs, not {}", partition.name, sm_count, partition.sm_count);
    }
    return {};
  }

  static void Add(EngineCounts& sum, const EngineCounts& more) {
    sum.decoder += more.decoder;
    sum.encoder += more.encoder;
    sum.jpeg += more.jpeg;
    sum.ofa += more.ofa;
  }
  static bool Within(const EngineCounts& need, const EngineCounts& have) {
    return need.decoder <= have.decoder && need.encoder <= have.encoder && need.jpeg <= have.jpeg &&
           need.ofa <= have.ofa;
  }

  Status CheckPartition(const PlannedPartition& partition, const Board& board,
                        const Calibration& calibration) {
    Bytes memory;
    EngineCounts engines;
    std::set<std::string> tenants;
    for (const PlannedReplica& replica : partition.replicas) {
      const auto it = workloads_.find(replica.workload);
      if (it == workloads_.end()) return Broken("{} is of no workload", replica.id);
      if (!seen_.insert(replica.id).second) return Broken("{} is placed twice", replica.id);
      ++placed_[replica.workload];
      const Workload& workload = *it->second;
      if (replica.tenant != workload.tenant) return Broken("{} has another tenant", replica.id);
      if (replica.memory < workload.memory + replica.context) {
        return Broken("{} has too little memory", replica.id);
      }
      memory += replica.memory;
      tenants.insert(replica.tenant);
      Add(engines, workload.engines);
      RETURN_IF_ERROR(CheckReplica(partition, replica, workload, board, calibration));
    }
    if (partition.replicas.empty()) return Broken("{} is empty", partition.name);
    if (memory > partition.memory) {
      return Broken("{} holds {} of {}", partition.name, FormatBytes(memory),
                    FormatBytes(partition.memory));
    }
    const EngineCounts have =
        partition.profile.empty() ? board.engines : board.FindProfile(partition.profile)->engines;
    if (!Within(engines, have)) return Broken("{} has not the engines", partition.name);
    if (partition.mode == SharingMode::kExclusive && partition.replicas.size() != 1) {
      return Broken("{} is exclusive to {} replicas", partition.name, partition.replicas.size());
    }
    if (tenants.size() > 1) RETURN_IF_ERROR(CheckIsolation(partition));
    RETURN_IF_ERROR(CheckBusy(partition, board, calibration));
    return CheckLatency(partition, board);
  }

  Status CheckReplica(const PlannedPartition& partition, const PlannedReplica& replica,
                      const Workload& workload, const Board& board,
                      const Calibration& calibration) const {
    const bool mps = partition.mode == SharingMode::kMps;
    if (workload.load &&
        replica.prediction.service_ms < FullServiceMs(workload, board) * (1 - kTolerance)) {
      return Broken("{} is served faster than alone on the whole board", replica.id);
    }
    if (mps != replica.sm_percent.has_value() || mps != replica.server.has_value() ||
        mps != replica.memory_limit.has_value()) {
      return Broken("{} has limits of another mode", replica.id);
    }
    const double sm_percent =
        100.0 * partition.sm_count / board.sm_count * replica.sm_percent.value_or(100) / 100;
    if (replica.context + Bytes{1 << 20} < calibration.ContextAt(sm_percent)) {
      return Broken("{} has too little memory for its CUDA context", replica.id);
    }
    if (!mps) return {};
    if (*replica.sm_percent < 1 || *replica.sm_percent > 100) {
      return Broken("{} has a cap of {} %", replica.id, *replica.sm_percent);
    }
    if (*replica.memory_limit < workload.memory ||
        *replica.memory_limit + replica.context > replica.memory + Bytes{1 << 20}) {
      return Broken("{} has a limit of {}", replica.id, FormatBytes(*replica.memory_limit));
    }
    if (*replica.server < 0 || *replica.server >= static_cast<int>(partition.servers.size())) {
      return Broken("{} has no server {}", replica.id, *replica.server);
    }
    const PlannedServer& server = partition.servers[static_cast<std::size_t>(*replica.server)];
    if (!server.tenant.empty() && server.tenant != replica.tenant) {
      return Broken("{} is in the server of {}", replica.id, server.tenant);
    }
    return {};
  }

  // REQUIRES: the partition has replicas of several tenants.
  Status CheckIsolation(const PlannedPartition& partition) const {
    for (const PlannedReplica& replica : partition.replicas) {
      const Isolation isolation = workloads_.at(replica.workload)->isolation;
      const bool own_server =
          replica.server &&
          !partition.servers[static_cast<std::size_t>(*replica.server)].tenant.empty();
      const bool kept =
          isolation == Isolation::kNone ||
          (isolation == Isolation::kMemory && partition.mode == SharingMode::kMps) ||
          (isolation == Isolation::kFault && partition.mode == SharingMode::kMps && own_server);
      if (!kept) {
        return Broken("{} is not isolated ({}) in {}", replica.id, IsolationName(isolation),
                      partition.name);
      }
    }
    return {};
  }

  // Latency from what the plan itself states: each replica's service time, share and neighbours.
  Status CheckLatency(const PlannedPartition& partition, const Board& board) const {
    const bool turns = partition.mode == SharingMode::kTimeSlicing || partition.servers.size() > 1;
    const double bandwidth_part =
        partition.profile.empty() ? 1 : static_cast<double>(partition.size) / board.memory_units;
    double share_sum = 0;
    double load_sum = 0;
    int slots = kSlotsMax;
    std::vector<double> loads;
    for (const PlannedReplica& replica : partition.replicas) {
      const Workload& workload = *workloads_.at(replica.workload);
      const double cap = replica.sm_percent.value_or(100) / 100.0;
      double busy = 1;
      double bandwidth = std::min(1.0, workload.compute.bandwidth_percent / 100 / bandwidth_part);
      if (workload.load) {
        const double service_ms = replica.prediction.service_ms;
        busy = workload.load->requests_per_second / workload.replicas * service_ms / 1000;
        // A share that makes it slower also lowers the rate at which it reads memory.
        bandwidth *= std::min(1.0, FullServiceMs(workload, board) / service_ms);
      } else {
        bandwidth *= PaceWithoutLoad(workload, board, cap * partition.sm_count / board.sm_count,
                                     bandwidth_part);
      }
      const double share = turns || partition.mode != SharingMode::kMps
                               ? 1
                               : std::min(1.0, std::max(cap, bandwidth));
      share_sum += share;
      load_sum += share * busy;
      loads.push_back(share * busy);
      slots = std::min(slots, std::clamp(static_cast<int>(1 / share + 1e-6), 1, kSlotsMax));
    }
    const bool alone =
        partition.mode == SharingMode::kExclusive || (!turns && share_sum <= 1 + kTolerance);
    for (std::size_t r = 0; r < partition.replicas.size(); ++r) {
      const PlannedReplica& replica = partition.replicas[r];
      const Workload& workload = *workloads_.at(replica.workload);
      if (!workload.load) continue;
      const Slowdown slowdown =
          alone ? Slowdown{}
                : SlowdownBy({.others_load = std::max(0.0, load_sum - loads[r] - kTolerance),
                              .own_load = loads[r],
                              .slots = slots});
      const Latency latency =
          PredictLatency({.rate_per_s = workload.load->requests_per_second / workload.replicas,
                          .service_ms = replica.prediction.service_ms,
                          .service_variability = workload.load->service_variability,
                          .burstiness = workload.load->burstiness},
                         slowdown);
      if (!latency.stable) return Broken("{} is overloaded in {}", replica.id, partition.name);
      if (latency.p99_ms > workload.latency.p99_ms.value_or(latency.p99_ms) * (1 + kTolerance) ||
          latency.p50_ms > workload.latency.p50_ms.value_or(latency.p50_ms) * (1 + kTolerance)) {
        return Broken("{} misses its latency target in {}: p99 {:.2f} ms", replica.id,
                      partition.name, latency.p99_ms);
      }
      // What is worked out here rounds in the replica's favour, so the plan may not say less.
      const Prediction& stated = replica.prediction;
      if (stated.latency_ms_p50.value_or(0) < latency.p50_ms * (1 - kTolerance) ||
          stated.latency_ms_p99.value_or(0) < latency.p99_ms * (1 - kTolerance)) {
        return Broken("{} predicts a better latency than a p99 of {:.2f} ms", replica.id,
                      latency.p99_ms);
      }
    }
    return {};
  }

  // Always-busy replicas: the rates that follow from the profiles and from where the plan puts
  // them.
  Status CheckBusy(const PlannedPartition& partition, const Board& board,
                   const Calibration& calibration) const {
    std::vector<VerifiedClient> clients;
    double other_load = 0;
    bool known = true;  // Of all: how long a turn takes.
    for (const PlannedReplica& replica : partition.replicas) {
      const Workload& workload = *workloads_.at(replica.workload);
      if (!workload.load && workload.compute.measured) {
        clients.push_back(ClientOf(partition, replica, workload, board));
        continue;
      }
      known = false;
      const double busy = workload.load ? workload.load->requests_per_second / workload.replicas *
                                              replica.prediction.service_ms / 1000
                                        : 1;
      other_load += busy * replica.sm_percent.value_or(100) / 100;
    }
    const bool turns = partition.mode == SharingMode::kTimeSlicing || partition.servers.size() > 1;
    const bool mps = partition.mode == SharingMode::kMps;
    std::vector<double> units_ms;  // Of the clients; empty where they don't follow from profiles.
    if (!turns) {
      units_ms = mps ? UnitMsBeside(clients, std::min(1.0, other_load)) : UnitMsInTurns(clients, 0);
    } else if (known) {
      units_ms = mps ? UnitMsByServer(clients, calibration.switch_ms)
                     : UnitMsInTurns(clients, calibration.switch_ms);
    }
    std::size_t next = 0;
    for (const PlannedReplica& replica : partition.replicas) {
      const Workload& workload = *workloads_.at(replica.workload);
      const auto& stated = replica.prediction.throughput_per_s;
      const bool busy = !workload.load && workload.compute.measured && !units_ms.empty();
      if (busy != stated.has_value()) {
        return Broken("{} {} a throughput", replica.id, busy ? "doesn't predict" : "predicts");
      }
      if (!busy) continue;
      const double unit_ms = units_ms[next++];
      if (*stated > 1000 / unit_ms * (1 + kTolerance) ||
          replica.prediction.latency_ms_p50.value_or(0) < unit_ms * (1 - kTolerance)) {
        return Broken("{} predicts {:.2f} units/s in {}, {:.2f} follow from its profile",
                      replica.id, *stated, partition.name, 1000 / unit_ms);
      }
    }
    return {};
  }

  // From the profile's own figures, not from the speeds that the search works with.
  VerifiedClient ClientOf(const PlannedPartition& partition, const PlannedReplica& replica,
                          const Workload& workload, const Board& board) const {
    const WorkloadProfile& profile = *workload.compute.measured;
    const double sm_fraction = static_cast<double>(partition.sm_count) / board.sm_count;
    const double bandwidth_part =
        partition.profile.empty() ? 1 : static_cast<double>(partition.size) / board.memory_units;
    double scale = 1;  // Of the board's SMs, against the one measured on.
    if (const auto reference = catalogue_.Find(profile.board)) {
      scale = std::min(1.0, static_cast<double>(board.sm_count) / (*reference)->sm_count);
    }
    const double full = BoardStretch(profile.board, board);
    const double cap = replica.sm_percent.value_or(100) / 100.0;
    const double sm_percent = 100 * cap * sm_fraction * scale;
    const double bandwidth = workload.compute.bandwidth_percent / 100 / bandwidth_part;
    const double stretch = full * std::max({1.0, 1 / profile.SpeedAt(sm_percent), bandwidth});
    if (partition.mode != SharingMode::kMps) {
      return {.alone_ms = profile.service_ms * stretch, .steps = profile.steps};
    }
    const double whole = full * std::max(1.0, 1 / profile.SpeedAt(100 * scale));
    VerifiedClient client = ClientUnderMps(
        profile, {.sm_percent = sm_percent,
                  .stretch = stretch,
                  .capacity = std::min(sm_fraction, bandwidth_part) / whole,
                  .share = std::min(1.0, std::max(cap, bandwidth * whole / stretch))});
    client.server = *replica.server;
    return client;
  }

  // Speed in this part of the board over that on all of it. The plan states no service time to read
  // it off where the fleet gives no load.
  double PaceWithoutLoad(const Workload& workload, const Board& board, double sm_part,
                         double bandwidth_part) const {
    const Board* reference = nullptr;
    if (const auto found = catalogue_.Find(workload.compute.measured_on)) reference = *found;
    return ServiceStretch(workload.compute, board, reference, 100, 1) /
           ServiceStretch(workload.compute, board, reference, 100 * sm_part, bandwidth_part);
  }

  // One request, alone on the whole board; at least as long as where it was measured.
  double FullServiceMs(const Workload& workload, const Board& board) const {
    return workload.load->service_ms * BoardStretch(workload.compute.measured_on, board);
  }

  // How much longer a unit takes on this board than on the one it was measured on; at least 1.
  double BoardStretch(const std::string& measured_on, const Board& board) const {
    if (measured_on.empty() || measured_on == board.name) return 1;
    const auto reference = catalogue_.Find(measured_on);
    if (!reference) return 1;
    return std::max({1.0, (*reference)->dense_bf16_tflops / board.dense_bf16_tflops,
                     (*reference)->memory_bandwidth_gbps / board.memory_bandwidth_gbps});
  }

  Status CheckReplicaCounts() const {
    for (const Workload& workload : fleet_.workloads) {
      const auto it = placed_.find(workload.name);
      const int placed = it == placed_.end() ? 0 : it->second;
      if (placed != workload.replicas) {
        return Broken("{} of {} replicas of {} are placed", placed, workload.replicas,
                      workload.name);
      }
    }
    return {};
  }

  Status CheckSummary() const {
    double cost = 0;
    int replicas = 0;
    std::map<std::string, int> boards;
    for (const PlannedGpu& gpu : plan_.gpus) {
      cost += gpu.price_usd_hour * kHoursPerMonth;
      ++boards[gpu.board];
    }
    for (const Workload& workload : fleet_.workloads) replicas += workload.replicas;
    const PlanSummary& summary = plan_.summary;
    if (summary.gpus != static_cast<int>(plan_.gpus.size()) || summary.gpus_by_board != boards ||
        summary.replicas != replicas) {
      return Broken("its summary counts {} replicas on {} GPUs", summary.replicas, summary.gpus);
    }
    if (std::abs(cost - summary.cost_month_usd) > kTolerance * (1 + cost)) {
      return Broken("its cost is {:.2f}, not {:.2f}", cost, summary.cost_month_usd);
    }
    double throughput = 0;
    for (const PlannedGpu& gpu : plan_.gpus) {
      for (const PlannedPartition& partition : gpu.partitions) {
        for (const PlannedReplica& replica : partition.replicas) {
          throughput += replica.prediction.throughput_per_s.value_or(0);
        }
      }
    }
    if (std::abs(throughput - summary.throughput_per_s.value_or(0)) >
        kTolerance * (1 + throughput)) {
      return Broken("its throughput is {:.2f}, not {:.2f}", throughput,
                    summary.throughput_per_s.value_or(0));
    }
    if (summary.lower_bound_month_usd > summary.cost_month_usd * (1 + kTolerance)) {
      return Broken("it costs less than its lower bound");
    }
    return {};
  }

  const Plan& plan_;
  const Fleet& fleet_;
  const BoardCatalogue& catalogue_;
  const Calibration& calibration_;
  std::map<std::string, const Workload*> workloads_;
  std::set<std::string> seen_;
  std::map<std::string, int> placed_;
};

}  // namespace

Status VerifyPlan(const Plan& plan, const Fleet& fleet, const BoardCatalogue& catalogue,
                  const Calibration& calibration) {
  return Verifier(plan, fleet, catalogue, calibration).Run();
}

}  // namespace sublet
