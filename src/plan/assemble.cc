#include "plan/assemble.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>

#include "base/check.h"
#include "plan/explain.h"
#include "plan/outlook.h"
#include "plan/solver.h"

namespace sublet {
namespace {

using ReplicaIds = std::vector<std::string>;

// Which replicas of each workload run on a GPU now.
using Residents = std::map<std::string, ReplicaIds>;

Residents ResidentsOf(const PlannedGpu& gpu) {
  Residents residents;
  for (const PlannedPartition& partition : gpu.partitions) {
    for (const PlannedReplica& replica : partition.replicas) {
      residents[replica.workload].push_back(replica.id);
    }
  }
  return residents;
}

// Puts patterns on GPUs so that many replicas stay.
class Seating {
 public:
  Seating(const Problem& problem, const std::vector<Pattern>& gpus,
          const std::vector<GpuSeat>& seats, const Plan* current)
      : problem_(problem), gpus_(gpus), seat_of_(gpus.size(), -1) {
    seats_ = seats;
    std::map<std::string, const PlannedGpu*> now_by_uuid;
    if (current != nullptr) {
      for (const PlannedGpu& gpu : current->gpus) {
        if (seats.empty()) {
          seats_.push_back({gpu.board, gpu.node, gpu.uuid, gpu.index});
          now_.push_back(&gpu);
        } else if (!gpu.uuid.empty()) {
          now_by_uuid[gpu.uuid] = &gpu;
        }
      }
    }
    if (now_.empty()) {
      for (const GpuSeat& seat : seats_) {
        const auto it = now_by_uuid.find(seat.uuid);
        now_.push_back(it == now_by_uuid.end() ? nullptr : it->second);
      }
    }
    MatchResidents();
    FillFreeSeats();
  }

  // The seat's index, or -1 for a GPU that is only planned.
  int SeatOf(std::size_t gpu) const { return seat_of_[gpu]; }
  const GpuSeat& At(int seat) const { return seats_[static_cast<std::size_t>(seat)]; }
  const PlannedGpu* NowAt(int seat) const {
    return seat < 0 ? nullptr : now_[static_cast<std::size_t>(seat)];
  }

 private:
  const std::string& BoardOf(std::size_t gpu) const {
    return problem_.boards[static_cast<std::size_t>(gpus_[gpu].board)].pool.board->name;
  }

  // GPUs that hold exactly what they would hold keep it; each of the others takes the free seat on
  // which most of its replicas run.
  void MatchResidents() {
    std::vector<Residents> residents;
    std::map<std::string, std::vector<std::size_t>> alike;
    for (std::size_t s = 0; s < seats_.size(); ++s) {
      residents.push_back(now_[s] == nullptr ? Residents{} : ResidentsOf(*now_[s]));
      std::string signature = seats_[s].board;
      for (const auto& [name, ids] : residents[s]) {
        signature += fmt::format("|{}:{}", name, ids.size());
      }
      if (now_[s] != nullptr) alike[signature].push_back(s);
    }
    for (auto& [signature, seats] : alike) std::reverse(seats.begin(), seats.end());
    for (std::size_t g = 0; g < gpus_.size(); ++g) {
      std::map<std::string, int> counts;
      for (const auto& [w, n] : gpus_[g].counts) counts[WorkloadAt(w).name] = n;
      std::string signature = BoardOf(g);
      for (const auto& [name, n] : counts) signature += fmt::format("|{}:{}", name, n);
      const auto it = alike.find(signature);
      if (it == alike.end() || it->second.empty()) continue;
      Take(g, it->second.back());
      it->second.pop_back();
    }
    std::vector<std::size_t> open;
    for (std::size_t s = 0; s < seats_.size(); ++s) {
      if (now_[s] != nullptr && !taken_.contains(s)) open.push_back(s);
    }
    for (std::size_t g = 0; g < gpus_.size(); ++g) {
      if (seat_of_[g] < 0) TakeBest(g, residents, open);
    }
  }

  void TakeBest(std::size_t g, const std::vector<Residents>& residents,
                std::vector<std::size_t>& open) {
    double most = 0;
    std::size_t best = open.size();
    for (std::size_t o = 0; o < open.size(); ++o) {
      if (seats_[open[o]].board != BoardOf(g)) continue;
      double common = 0;  // Replicas that would stay, those of high priority counting for more.
      for (const auto& [w, n] : gpus_[g].counts) {
        const auto it = residents[open[o]].find(WorkloadAt(w).name);
        if (it == residents[open[o]].end()) continue;
        common += PriorityWeight(WorkloadAt(w).priority) *
                  std::min(n, static_cast<int>(it->second.size()));
      }
      if (common <= most) continue;
      most = common;
      best = o;
    }
    if (best == open.size()) return;
    Take(g, open[best]);
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(best));
  }

  void Take(std::size_t gpu, std::size_t seat) {
    seat_of_[gpu] = static_cast<int>(seat);
    taken_.insert(seat);
  }

  const Workload& WorkloadAt(int workload) const {
    return problem_.fleet->workloads[static_cast<std::size_t>(workload)];
  }

  void FillFreeSeats() {
    std::map<std::string, std::vector<std::size_t>> free;  // By board, the first last.
    for (std::size_t s = seats_.size(); s-- > 0;) {
      if (!taken_.contains(s)) free[seats_[s].board].push_back(s);
    }
    for (std::size_t g = 0; g < gpus_.size(); ++g) {
      auto& seats = free[BoardOf(g)];
      if (seat_of_[g] >= 0 || seats.empty()) continue;
      Take(g, seats.back());
      seats.pop_back();
    }
  }

  const Problem& problem_;
  const std::vector<Pattern>& gpus_;
  std::vector<GpuSeat> seats_;
  std::vector<const PlannedGpu*> now_;  // By seat.
  std::set<std::size_t> taken_;
  std::vector<int> seat_of_;
};

// Hands out replica ids: those that run on the GPU already stay, the rest take free numbers.
class Numbering {
 public:
  Numbering(const Problem& problem, const std::vector<Pattern>& gpus, const Seating& seating) {
    for (const Workload& workload : problem.fleet->workloads) {
      for (int r = 0; r < workload.replicas; ++r) {
        free_[workload.name].insert(Number(workload.name, r));
      }
    }
    kept_.resize(gpus.size());
    for (std::size_t g = 0; g < gpus.size(); ++g) {
      const PlannedGpu* now = seating.NowAt(seating.SeatOf(g));
      if (now == nullptr) continue;
      Residents residents = ResidentsOf(*now);
      for (const auto& [w, n] : gpus[g].counts) {
        const std::string& name = problem.fleet->workloads[static_cast<std::size_t>(w)].name;
        for (const std::string& id : residents[name]) {
          const auto number = NumberOf(id);
          if (static_cast<int>(kept_[g][name].size()) == n || free_[name].erase(number) == 0)
            continue;
          kept_[g][name].push_back(id);
        }
        std::reverse(kept_[g][name].begin(), kept_[g][name].end());
      }
    }
  }

  std::string Next(std::size_t gpu, const std::string& workload) {
    ReplicaIds& kept = kept_[gpu][workload];
    if (!kept.empty()) {
      std::string id = std::move(kept.back());
      kept.pop_back();
      return id;
    }
    auto& free = free_[workload];
    CHECK(!free.empty());
    return free.extract(free.begin()).value().second;
  }

 private:
  // Ordered by number, not by text: "chat/2" before "chat/10".
  using NumberedId = std::pair<int, std::string>;
  static NumberedId Number(const std::string& workload, int r) {
    return {r, fmt::format("{}/{}", workload, r)};
  }
  static NumberedId NumberOf(const std::string& id) {
    const std::size_t slash = id.rfind('/');
    return {slash == std::string::npos ? -1 : std::atoi(id.c_str() + slash + 1), id};
  }

  std::map<std::string, std::set<NumberedId>> free_;
  std::vector<std::map<std::string, ReplicaIds>> kept_;
};

class Assembly {
 public:
  Assembly(const Problem& problem, const std::vector<Pattern>& gpus,
           const std::vector<GpuSeat>& seats, const Plan* current)
      : problem_(problem),
        gpus_(gpus),
        seating_(problem, gpus, seats, current),
        numbering_(problem, gpus, seating_) {}

  Plan Run(const Plan* current) {
    plan_.fleet = problem_.fleet->name;
    for (const Workload& workload : problem_.fleet->workloads) AddWorkload(workload);
    for (std::size_t g : InOrder()) AddGpu(g);
    Summarise();
    if (current != nullptr) Compare(*current);
    return std::move(plan_);
  }

 private:
  const BoardOffers& OffersOf(const Pattern& pattern) const {
    return problem_.boards[static_cast<std::size_t>(pattern.board)];
  }

  // Real GPUs by index, then the planned ones, as the solver gave them.
  std::vector<std::size_t> InOrder() const {
    std::vector<std::size_t> order(gpus_.size());
    for (std::size_t g = 0; g < gpus_.size(); ++g) order[g] = g;
    const auto rank = [&](std::size_t g) {
      const int seat = seating_.SeatOf(g);
      return seat < 0 ? std::numeric_limits<int>::max() : seat;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
    return order;
  }

  void AddWorkload(const Workload& workload) {
    PlannedWorkload out;
    out.name = workload.name;
    out.tenant = workload.tenant;
    out.replicas = workload.replicas;
    out.isolation = workload.isolation;
    out.priority = workload.priority;
    out.command = workload.command;
    out.image = workload.image;
    out.env = workload.env;
    out.memory = Bytes::FromMib(workload.memory.mib_rounded_up());
    out.memory_how = workload.memory_how;
    out.latency_ms_p50_target = workload.latency.p50_ms;
    out.latency_ms_p99_target = workload.latency.p99_ms;
    out.port = workload.port;
    out.ready = workload.ready;
    out.restart = workload.restart;
    out.stop_timeout_s = workload.stop_timeout_s;
    plan_.workloads.push_back(std::move(out));
  }

  void AddGpu(std::size_t g) {
    const Pattern& pattern = gpus_[g];
    const BoardOffers& offers = OffersOf(pattern);
    const Board& board = *offers.pool.board;
    PlannedGpu gpu;
    gpu.name = fmt::format("gpu{}", plan_.gpus.size());
    gpu.board = board.name;
    if (const int seat = seating_.SeatOf(g); seat >= 0) {
      gpu.node = seating_.At(seat).node;
      gpu.uuid = seating_.At(seat).uuid;
      gpu.index = seating_.At(seat).index;
    }
    gpu.mig = pattern.partitions[0].offer != 0;
    gpu.memory = board.memory;
    gpu.sm_count = board.sm_count;
    gpu.memory_units = board.memory_units;
    gpu.price_usd_hour = offers.pool.price_usd_hour;
    std::vector<int> starts = StartsOf(pattern);
    std::vector<std::size_t> order(pattern.partitions.size());
    for (std::size_t p = 0; p < order.size(); ++p) order[p] = p;
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return starts[a] < starts[b]; });
    for (const std::size_t p : order) AddPartition(g, pattern.partitions[p], starts[p], gpu);
    gpu.reason = GpuReason(pattern, board);
    plan_.gpus.push_back(std::move(gpu));
    sources_.push_back(g);
  }

  // Where each partition's instance lies; 0 for a whole GPU.
  std::vector<int> StartsOf(const Pattern& pattern) const {
    if (pattern.partitions[0].offer == 0) return {0};
    const BoardOffers& offers = OffersOf(pattern);
    ProfileCounts counts(offers.pool.board->profiles.size(), 0);
    for (const PartitionChoice& partition : pattern.partitions) {
      ++counts[static_cast<std::size_t>(partition.offer - 1)];
    }
    const Geometry* geometry = offers.geometry->Place(counts);
    CHECK(geometry != nullptr);
    std::vector<bool> used(geometry->size(), false);
    std::vector<int> starts;
    for (const PartitionChoice& partition : pattern.partitions) {
      for (std::size_t i = 0; i < geometry->size(); ++i) {
        if (used[i] || (*geometry)[i].profile != partition.offer - 1) continue;
        used[i] = true;
        starts.push_back((*geometry)[i].start);
        break;
      }
    }
    CHECK(starts.size() == pattern.partitions.size());
    return starts;
  }

  void AddPartition(std::size_t g, const PartitionChoice& choice, int start, PlannedGpu& gpu) {
    const BoardOffers& offers = OffersOf(gpus_[g]);
    const Offer& offer = offers.offers[static_cast<std::size_t>(choice.offer)];
    PlannedPartition partition;
    partition.name = gpu.name;
    if (offer.profile >= 0) {
      const MigProfile& profile =
          offers.pool.board->profiles[static_cast<std::size_t>(offer.profile)];
      partition.name = fmt::format("{}-{}-{}", gpu.name, profile.name, start);
      partition.profile = profile.name;
      partition.profile_id = profile.id;
      partition.start = start;
      partition.size = profile.size;
    }
    partition.memory = offer.memory;
    partition.sm_count = offer.sm_count;
    partition.mode = choice.mode;
    const Occupancy occupancy = OccupancyOf(choice);
    for (const auto& [variant, count] : choice.contents) {
      for (int n = 0; n < count; ++n) AddReplica(g, choice, occupancy, *variant, partition);
    }
    gpu.partitions.push_back(std::move(partition));
  }

  void AddReplica(std::size_t g, const PartitionChoice& choice, const Occupancy& occupancy,
                  const Variant& variant, PlannedPartition& partition) {
    const Workload& workload =
        problem_.fleet->workloads[static_cast<std::size_t>(variant.workload)];
    PlannedReplica replica;
    replica.id = numbering_.Next(g, workload.name);
    replica.workload = workload.name;
    replica.tenant = workload.tenant;
    replica.memory = variant.memory;
    replica.context = variant.context;
    if (choice.mode == SharingMode::kMps) {
      replica.memory_limit = Bytes::FromMib(workload.memory.mib_rounded_up());
      replica.sm_percent = variant.sm_percent;
      replica.server = ServerFor(choice, workload.tenant, partition);
    }
    replica.prediction = PredictIn(problem_, gpus_[g].board, choice, occupancy, variant);
    replica.enforcement = EnforcementOf(problem_, choice, variant);
    replica.reason = ReasonFor(problem_, gpus_[g].board, choice, variant);
    partition.replicas.push_back(std::move(replica));
  }

  // One server for all, named after its tenant where it has just one; or one for each tenant.
  int ServerFor(const PartitionChoice& choice, const std::string& tenant,
                PlannedPartition& partition) const {
    std::set<int> tenants;
    for (const auto& [variant, count] : choice.contents) {
      tenants.insert(problem_.tenant_of[static_cast<std::size_t>(variant->workload)]);
    }
    const bool shared = !choice.servers && tenants.size() > 1;
    const std::string owner = shared ? "" : tenant;
    for (std::size_t s = 0; s < partition.servers.size(); ++s) {
      if (partition.servers[s].tenant == owner) return static_cast<int>(s);
    }
    partition.servers.push_back(
        {fmt::format("{}-{}", partition.name, shared ? "shared" : tenant), owner});
    return static_cast<int>(partition.servers.size()) - 1;
  }

  std::string GpuReason(const Pattern& pattern, const Board& board) const {
    int replicas = 0;
    for (const auto& [w, n] : pattern.counts) replicas += n;
    if (pattern.partitions[0].offer != 0) {
      return fmt::format("{} cut into {} MIG instance{} for {} replica{}", board.name,
                         pattern.partitions.size(), pattern.partitions.size() == 1 ? "" : "s",
                         replicas, replicas == 1 ? "" : "s");
    }
    const PartitionChoice& whole = pattern.partitions[0];
    if (whole.mode == SharingMode::kExclusive) {
      return fmt::format("{} for one replica alone", board.name);
    }
    return fmt::format("{} shared by {} replicas through {}{}", board.name, replicas,
                       whole.mode == SharingMode::kMps ? "MPS" : "time-slicing",
                       whole.servers ? ", one server a tenant" : "");
  }

  void Summarise() {
    PlanSummary& summary = plan_.summary;
    summary.gpus = static_cast<int>(plan_.gpus.size());
    summary.headroom_percent_min = 100;
    for (const PlannedGpu& gpu : plan_.gpus) {
      ++summary.gpus_by_board[gpu.board];
      summary.cost_hour_usd += gpu.price_usd_hour;
      for (const PlannedPartition& partition : gpu.partitions) {
        summary.replicas += static_cast<int>(partition.replicas.size());
        for (const PlannedReplica& replica : partition.replicas) {
          summary.headroom_percent_min = std::min(
              summary.headroom_percent_min, replica.prediction.headroom_percent.value_or(100));
          if (const auto& per_s = replica.prediction.throughput_per_s) {
            summary.throughput_per_s = summary.throughput_per_s.value_or(0) + *per_s;
          }
        }
      }
    }
    summary.cost_month_usd = summary.cost_hour_usd * kHoursPerMonth;
  }

  void Compare(const Plan& current) {
    std::map<std::string, std::string> before;  // Replica -> where.
    std::map<std::string, std::string> after;
    const auto collect = [](const Plan& plan, std::map<std::string, std::string>& where) {
      for (const PlannedGpu& gpu : plan.gpus) {
        for (const PlannedPartition& partition : gpu.partitions) {
          for (const PlannedReplica& replica : partition.replicas) {
            where[replica.id] = partition.name;
          }
        }
      }
    };
    collect(current, before);
    collect(plan_, after);
    const Settings settings_before = SettingsOf(current);
    const Settings settings_after = SettingsOf(plan_);
    std::set<std::string> staying;
    for (std::size_t p = 0; p < plan_.gpus.size(); ++p) {
      const PlannedGpu* now = seating_.NowAt(seating_.SeatOf(sources_[p]));
      if (now != nullptr)
        NoteStaying(*now, settings_before, plan_.gpus[p], settings_after, staying);
    }
    for (const auto& [id, to] : after) {
      const auto from = before.find(id);
      if (from == before.end()) {
        plan_.changes.push_back({Change::Kind::kAdd, id, "", to});
      } else {
        const auto kind = staying.contains(id) ? Change::Kind::kKeep : Change::Kind::kMove;
        plan_.changes.push_back({kind, id, from->second, to});
      }
    }
    for (const auto& [id, from] : before) {
      if (!after.contains(id)) plan_.changes.push_back({Change::Kind::kRemove, id, from, ""});
    }
  }

  // A replica stays when it is on the same GPU in a partition of the same shape and mode, with the
  // same limits: then its process needn't be touched.
  // What the processes of each workload are started with.
  using Settings = std::map<std::string, std::string>;
  static Settings SettingsOf(const Plan& plan) {
    Settings settings;
    for (const PlannedWorkload& workload : plan.workloads) {
      std::string& all = settings[workload.name];
      all = fmt::format("{}:{}:{}:{}", workload.tenant, workload.memory.mib(), workload.image,
                        fmt::join(workload.command, "\n"));
      for (const auto& [name, value] : workload.env) all += fmt::format("\n{}={}", name, value);
      // How it is watched and ended can change without a new process; its port can't.
      if (workload.port) all += fmt::format("\nport {}", *workload.port);
    }
    return settings;
  }

  // A difference in any of this means a new process.
  static std::string ShareOf(const Settings& settings, const PlannedPartition& partition,
                             const PlannedReplica& replica) {
    std::string share = fmt::format("{}:{}:{}:{}:{}", partition.profile, partition.start,
                                    SharingModeName(partition.mode), replica.sm_percent.value_or(0),
                                    replica.memory_limit.value_or(Bytes{}).count);
    if (replica.server) {
      const auto& servers = partition.servers;
      share += fmt::format(":{}:{}", servers.size() > 1,
                           servers[static_cast<std::size_t>(*replica.server)].tenant);
    }
    return share + ":" + settings.at(replica.workload);
  }

  static void NoteStaying(const PlannedGpu& now, const Settings& before, const PlannedGpu& then,
                          const Settings& after, std::set<std::string>& staying) {
    std::map<std::string, std::string> shares;
    for (const PlannedPartition& partition : now.partitions) {
      for (const PlannedReplica& replica : partition.replicas) {
        shares[replica.id] = ShareOf(before, partition, replica);
      }
    }
    for (const PlannedPartition& partition : then.partitions) {
      for (const PlannedReplica& replica : partition.replicas) {
        const auto it = shares.find(replica.id);
        if (it != shares.end() && it->second == ShareOf(after, partition, replica)) {
          staying.insert(replica.id);
        }
      }
    }
  }

  const Problem& problem_;
  const std::vector<Pattern>& gpus_;
  Seating seating_;
  Numbering numbering_;
  Plan plan_;
  std::vector<std::size_t> sources_;  // The pattern of each of plan_.gpus.
};

}  // namespace

Plan AssemblePlan(const Problem& problem, const std::vector<Pattern>& gpus,
                  const std::vector<GpuSeat>& seats, const Plan* current) {
  return Assembly(problem, gpus, seats, current).Run(current);
}

}  // namespace sublet
