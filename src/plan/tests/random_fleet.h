// plan/tests/random_fleet.h
//
// Fleets at random, as small and as odd as a test wants them. The same seed gives the same fleet.
//
//   Dice dice(42);
//   const Fleet fleet = RandomFleet({.boards = {"a100-80gb", "l4"}, .tenants = 3}, dice);
//
// What comes out is what ParseFleet() would give: names unique, every default filled in.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "model/fleet.h"

namespace sublet {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}

  int Int(int lowest, int highest) {
    return lowest + static_cast<int>(engine_() % static_cast<std::uint64_t>(highest - lowest + 1));
  }
  double Real(double lowest, double highest) {
    return lowest + (highest - lowest) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  bool Chance(double probability) { return Real(0, 1) < probability; }
  template <typename T>
  const T& Of(const std::vector<T>& values) {
    return values[engine_() % values.size()];
  }

 private:
  std::mt19937_64 engine_;
};

struct FleetTaste {
  std::vector<std::string> boards = {"a100-80gb"};
  int pool_max = 0;  // Above 0: each board has 1 to so many GPUs; else as many as it takes.
  int replicas_max = 8;
  int workloads_max = 5;
  int tenants = 1;
  Isolation isolation_max = Isolation::kNone;
  double memory_gib_max = 30;
  double load_chance = 0.8;    // Of a workload, to give a load.
  double target_chance = 0.7;  // Of a workload with load, to have a latency target.
  double engine_chance = 0;    // Of a workload, to need decoders.
};

Fleet RandomFleet(const FleetTaste& taste, Dice& dice);

}  // namespace sublet
