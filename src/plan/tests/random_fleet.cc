#include "plan/tests/random_fleet.h"

#include <fmt/format.h>

#include <algorithm>

namespace sublet {
namespace {

ComputeNeed RandomCompute(Dice& dice) {
  ComputeNeed compute;
  compute.sm_percent = dice.Of(std::vector<double>{3, 10, 20, 35, 60, 100});
  compute.bandwidth_percent = std::min(100.0, compute.sm_percent * dice.Real(0.3, 1.4));
  if (dice.Chance(0.5)) compute.measured_on = "a100-80gb";
  if (dice.Chance(0.2)) {
    const double knee = dice.Of(std::vector<double>{15, 30, 50});
    compute.profile = {{knee / 2, dice.Real(0.3, 0.7)}, {knee, dice.Real(0.8, 0.98)}, {100, 1}};
    compute.sm_percent = 100;
  }
  return compute;
}

Load RandomLoad(int replicas, Dice& dice) {
  Load load;
  load.service_ms = dice.Of(std::vector<double>{2, 10, 40, 200}) * dice.Real(0.7, 1.4);
  load.requests_per_second = dice.Real(0.01, 0.4) / load.service_ms * 1000 * replicas;
  load.service_variability = dice.Of(std::vector<double>{0, 0, 0.3, 1});
  load.steps = dice.Of(std::vector<int>{1, 4, 12});
  load.burstiness = dice.Of(std::vector<double>{0.2, 1, 1, 3});
  return load;
}

}  // namespace

Fleet RandomFleet(const FleetTaste& taste, Dice& dice) {
  Fleet fleet;
  fleet.name = "random";
  for (const std::string& board : taste.boards) {
    GpuPool pool;
    pool.board = board;
    if (taste.pool_max > 0) pool.count = dice.Int(1, taste.pool_max);
    if (dice.Chance(0.3)) pool.price_usd_hour = dice.Int(50, 600) / 100.0;
    fleet.gpus.push_back(pool);
  }
  const int level_max = static_cast<int>(taste.isolation_max);
  for (int t = 0; t < taste.tenants; ++t) {
    fleet.tenants.push_back({fmt::format("tenant{}", t), Isolation::kNone});
  }
  int left = dice.Int(1, taste.replicas_max);
  for (int w = 0; w < taste.workloads_max && left > 0; ++w) {
    Workload workload;
    workload.name = fmt::format("w{}", w);
    workload.tenant = dice.Of(fleet.tenants).name;
    workload.replicas = w + 1 == taste.workloads_max ? left : dice.Int(1, left);
    left -= workload.replicas;
    const double gib = taste.memory_gib_max * dice.Real(0.02, 1) * dice.Real(0.1, 1);
    workload.memory = Bytes::FromMib(static_cast<std::int64_t>(gib * 1024));
    workload.memory_how = "given";
    workload.compute = RandomCompute(dice);
    workload.isolation = static_cast<Isolation>(dice.Int(0, level_max));
    if (dice.Chance(taste.load_chance)) {
      workload.load = RandomLoad(workload.replicas, dice);
      const double ms = workload.load->service_ms;
      if (dice.Chance(taste.target_chance)) workload.latency.p99_ms = ms * dice.Real(1.3, 25);
      if (dice.Chance(taste.target_chance / 4)) workload.latency.p50_ms = ms * dice.Real(1.1, 5);
    }
    if (dice.Chance(taste.engine_chance)) workload.engines.decoder = dice.Int(1, 3);
    fleet.workloads.push_back(std::move(workload));
  }
  return fleet;
}

}  // namespace sublet
