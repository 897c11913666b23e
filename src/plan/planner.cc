#include "plan/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "plan/assemble.h"
#include "plan/explain.h"
#include "plan/refine.h"
#include "plan/solver.h"
#include "plan/verify.h"

namespace sublet {
namespace {

constexpr double kOptimalPercent = 1e-4;  // Less of a gap is the rounding of sums.

// What a plan may use, and which GPUs these are where they exist.
struct Market {
  std::vector<Pool> pools;
  std::vector<GpuSeat> seats;
  std::vector<std::string> warnings;
};

Result<std::shared_ptr<const GeometryTable>> GeometryFor(const Board& board) {
  if (!board.HasMig()) return std::shared_ptr<const GeometryTable>();
  ASSIGN_OR_RETURN(GeometryTable table, GeometryTable::Build(board));
  return std::make_shared<const GeometryTable>(std::move(table));
}

double PriceOf(const Fleet& fleet, const Board& board) {
  for (const GpuPool& pool : fleet.gpus) {
    if (pool.board == board.name && pool.price_usd_hour) return *pool.price_usd_hour;
  }
  return board.price_usd_hour;
}

// Why a GPU that is there can't be planned on; empty where it can.
std::string Occupied(const Gpu& gpu) {
  if (!gpu.problem.empty()) return gpu.problem;
  if (gpu.board.empty()) return fmt::format("unknown board: {}", gpu.product);
  if (!gpu.processes.empty()) {
    return fmt::format("{} process{} on it, the first is {} (pid {})", gpu.processes.size(),
                       gpu.processes.size() == 1 ? " runs" : "es run", gpu.processes[0].name,
                       gpu.processes[0].pid);
  }
  return {};
}

bool RunsOn(const Inventory& node, SharingMode mode, int gpu) {
  for (const ModeCheck& check : node.modes) {
    if (check.mode != mode) continue;
    return std::find(check.gpus.begin(), check.gpus.end(), gpu) != check.gpus.end();
  }
  return false;
}

bool RunsAnything(const Inventory& node, int gpu) {
  return std::any_of(node.modes.begin(), node.modes.end(), [&](const ModeCheck& check) {
    return std::find(check.gpus.begin(), check.gpus.end(), gpu) != check.gpus.end();
  });
}

// Are the processes on this GPU no more than the current plan put there? MPS servers come on top.
bool ProcessesAreOf(const std::map<std::string, int>& running, const Gpu& gpu) {
  const auto it = running.find(gpu.uuid);
  if (it == running.end()) return false;
  const auto processes =
      std::count_if(gpu.processes.begin(), gpu.processes.end(), [](const GpuProcess& process) {
        return process.name.find("nvidia-cuda-mps-server") == std::string::npos;
      });
  return processes <= it->second;
}

Result<Market> MarketOfNode(const PlanRequest& request) {
  Market market;
  std::map<std::string, int> running;  // Replicas of the current plan, by GPU.
  if (request.current != nullptr) {
    for (const PlannedGpu& gpu : request.current->gpus) {
      for (const PlannedPartition& partition : gpu.partitions) {
        running[gpu.uuid] += static_cast<int>(partition.replicas.size());
      }
    }
  }
  if (!request.fleet.gpus.empty()) {
    market.warnings.push_back(
        "the plan is for the GPUs of the node; of the fleet's own 'gpus' only the prices count");
  }
  for (const Gpu& gpu : request.node->gpus) {
    std::string occupied = Occupied(gpu);
    if (ProcessesAreOf(running, gpu)) occupied.clear();
    if (occupied.empty() && !RunsAnything(*request.node, gpu.index)) {
      occupied = "no sharing mode can run on it (sublet inspect says why)";
    }
    if (!occupied.empty()) {
      market.warnings.push_back(fmt::format("GPU {} is left out: {}", gpu.index, occupied));
      continue;
    }
    ASSIGN_OR_RETURN(const Board* board, request.catalogue->Find(gpu.board));
    auto pool = std::find_if(market.pools.begin(), market.pools.end(),
                             [&](const Pool& p) { return p.board == board; });
    if (pool == market.pools.end()) {
      ASSIGN_OR_RETURN(auto geometry, GeometryFor(*board));
      pool = market.pools.insert(
          pool, Pool{board, 0, PriceOf(request.fleet, *board), {}, std::move(geometry)});
    }
    ++pool->count;
    // A mode counts for a board when each of its GPUs here can run it.
    // Where MIG can be changed it can be turned off, and the whole GPU be used.
    pool->modes.exclusive &= RunsOn(*request.node, SharingMode::kExclusive, gpu.index) ||
                             RunsOn(*request.node, SharingMode::kMig, gpu.index);
    pool->modes.mig &= RunsOn(*request.node, SharingMode::kMig, gpu.index);
    pool->modes.mps &= RunsOn(*request.node, SharingMode::kMps, gpu.index);
    pool->modes.mps_servers = pool->modes.mps;
    pool->modes.time_slicing &= RunsOn(*request.node, SharingMode::kTimeSlicing, gpu.index);
    market.seats.push_back({board->name, request.node->host.hostname, gpu.uuid, gpu.index});
  }
  return market;
}

Result<Market> MarketOfFleet(const PlanRequest& request) {
  Market market;
  for (const GpuPool& wanted : request.fleet.gpus) {
    Result<const Board*> board = request.catalogue->Find(wanted.board);
    if (!board) {
      return tl::unexpected<Error>(std::move(board).error().Prefixed("gpus of the fleet"));
    }
    ASSIGN_OR_RETURN(auto geometry, GeometryFor(**board));
    market.pools.push_back({*board,
                            wanted.count.value_or(-1),
                            wanted.price_usd_hour.value_or((*board)->price_usd_hour),
                            {},
                            std::move(geometry)});
  }
  return market;
}

Status CheckCurrent(const PlanRequest& request) {
  if (request.current == nullptr || request.node == nullptr) return {};
  for (const PlannedGpu& gpu : request.current->gpus) {
    if (gpu.uuid.empty() || request.node->FindGpu(gpu.uuid) != nullptr) continue;
    return Fail(
        ErrorCode::kConflict,
        fmt::format("the current plan has replicas on {} ({}), which this node doesn't have",
                    gpu.name, gpu.uuid),
        "the node has changed since that plan: plan without --current, or inspect again");
  }
  return {};
}

Error PoolTooSmall(const PlanRequest& request, const std::vector<Pool>& pools,
                   const Solution& solution) {
  std::vector<std::string> missing;
  for (std::size_t w = 0; w < solution.not_placed.size(); ++w) {
    if (solution.not_placed[w] == 0) continue;
    if (missing.size() == 5) {
      missing.push_back("...");
      break;
    }
    missing.push_back(fmt::format("{} of {} replicas of {}", solution.not_placed[w],
                                  request.fleet.workloads[w].replicas,
                                  request.fleet.workloads[w].name));
  }
  std::vector<Pool> unlimited = pools;
  int there = 0;
  bool more = false;  // Some board is offered without limit, and still doesn't help.
  for (Pool& pool : unlimited) {
    more |= pool.count < 0;
    there += std::max(0, std::exchange(pool.count, -1));
  }
  std::string hint = "offer more GPUs, or relax latency targets or isolation";
  const Result<Problem> problem =
      BuildProblem(request.fleet, unlimited, *request.catalogue, *request.calibration, ModeSet{});
  if (problem) {
    int needed = 0;
    for (const auto& [pattern, copies] :
         Solve(*problem, {.prove = false, .cbc_nodes_max = 0}).chosen) {
      needed += copies;
    }
    hint = fmt::format("{} GPUs of these boards would do", needed);
  }
  return {ErrorCode::kInfeasible,
          fmt::format("the {} GPU{} offered{} can't hold the fleet: {} left over", there,
                      there == 1 ? "" : "s", more ? " in limited number" : "",
                      fmt::join(missing, ", ")),
          hint};
}

void FillBound(double bound_usd_hour, PlanSummary& summary) {
  summary.lower_bound_month_usd = std::min(bound_usd_hour * kHoursPerMonth, summary.cost_month_usd);
  const double over = summary.cost_month_usd - summary.lower_bound_month_usd;
  summary.gap_percent =
      summary.lower_bound_month_usd > 0 ? over / summary.lower_bound_month_usd * 100 : 0;
  if (summary.gap_percent <= kOptimalPercent) {
    summary.gap_percent = 0;
    summary.verdict = "optimal";
  } else {
    // Rounded up: the statement must hold.
    summary.verdict = fmt::format("within {:.1f} %", std::ceil(summary.gap_percent * 10) / 10);
  }
}

void AddWarnings(const PlanRequest& request, const Problem& problem, Plan& plan) {
  std::set<std::string> warned;
  for (const BoardOffers& board : problem.boards) {
    if (!plan.summary.gpus_by_board.contains(board.pool.board->name)) continue;
    if (board.calibration.scaled && warned.insert(board.pool.board->name).second) {
      plan.warnings.push_back(
          fmt::format("nothing was measured on {}: switch costs and contexts are scaled up from {}",
                      board.pool.board->name, request.calibration->board));
    }
  }
  int without_load = 0;
  for (const Workload& workload : request.fleet.workloads) {
    without_load += !workload.load && !workload.compute.measured;
  }
  if (without_load > 0) {
    plan.warnings.push_back(
        fmt::format("{} workload{} no load: assumed busy all the time, and no latency is predicted",
                    without_load, without_load == 1 ? " gives" : "s give"));
  }
  bool unlimited = false;
  for (const PlannedGpu& gpu : plan.gpus) {
    for (const PlannedPartition& partition : gpu.partitions) {
      unlimited |= partition.mode == SharingMode::kTimeSlicing && partition.replicas.size() > 1;
    }
  }
  if (unlimited) {
    plan.warnings.push_back(
        "time-slicing enforces no memory limit: a replica that takes more than planned can make "
        "its neighbours fail");
  }
  if (request.node != nullptr && request.node->host.cpu_cores > 0 &&
      plan.summary.replicas > request.node->host.cpu_cores) {
    plan.warnings.push_back(fmt::format(
        "{} replicas on {} CPU cores: processes that spin while they wait for the GPU will wait "
        "for each other's cores; use blocking synchronisation",
        plan.summary.replicas, request.node->host.cpu_cores));
  }
}

}  // namespace

Result<Plan> MakePlan(const PlanRequest& request) {
  RETURN_IF_ERROR(CheckCurrent(request));
  ASSIGN_OR_RETURN(const Market market,
                   request.node != nullptr ? MarketOfNode(request) : MarketOfFleet(request));
  if (market.pools.empty()) {
    std::string reason = "there are no GPUs to plan for";
    for (const std::string& warning : market.warnings) reason += "; " + warning;
    return Fail(ErrorCode::kInvalid, std::move(reason),
                "name boards under 'gpus:' in the fleet, or give a node");
  }
  ASSIGN_OR_RETURN(const Problem problem,
                   BuildProblem(request.fleet, market.pools, *request.catalogue,
                                *request.calibration, ModeSet{}));
  RETURN_IF_ERROR(CheckEachFitsSomewhere(problem));
  const Solution solution = Solve(problem, {});
  if (!solution.Complete()) {
    return tl::unexpected<Error>(PoolTooSmall(request, market.pools, solution));
  }
  const std::vector<Pattern> gpus = Refine(problem, solution);
  Plan plan = AssemblePlan(problem, gpus, market.seats, request.current);
  FillBound(solution.bound_usd_hour, plan.summary);
  plan.calibration = request.calibration->source;
  plan.warnings = market.warnings;
  AddWarnings(request, problem, plan);
  plan.rejections = RejectionsOf(problem, gpus);
  if (request.compare) {
    ASSIGN_OR_RETURN(plan.strategies, CompareStrategies(request, market.pools, problem, gpus));
  }
  RETURN_IF_ERROR(VerifyPlan(plan, request.fleet, *request.catalogue, *request.calibration));
  return plan;
}

}  // namespace sublet
