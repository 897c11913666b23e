// What the planner pays for geometry. Build() happens once for each board; everything else is a
// query and has a budget of 10 us.
//
//   geometry_bench --benchmark_filter=Reach
#include <benchmark/benchmark.h>

#include <vector>

#include "base/check.h"
#include "plan/geometry.h"

namespace sublet {
namespace {

const Board& BoardNamed(const char* name) {
  return **BuiltInBoards().Find(name);
}

GeometryTable TableOf(const char* name) {
  return std::move(*GeometryTable::Build(BoardNamed(name)));
}

void Build(benchmark::State& state, const char* board) {
  for (auto _ : state) benchmark::DoNotOptimize(GeometryTable::Build(BoardNamed(board)));
  state.counters["geometries"] = static_cast<double>(TableOf(board).GeometryCount());
}
BENCHMARK_CAPTURE(Build, h200, "h200")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(Build, rtx_pro_6000, "rtx-pro-6000")->Unit(benchmark::kMicrosecond);

// All placeable multisets in turn.
void Place(benchmark::State& state, const char* board) {
  const GeometryTable table = TableOf(board);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(table.Place(table.Multisets()[i]));
    i = (i + 1) % table.Multisets().size();
  }
}
BENCHMARK_CAPTURE(Place, h200, "h200");
BENCHMARK_CAPTURE(Place, rtx_pro_6000, "rtx-pro-6000");

void Room(benchmark::State& state, const char* board) {
  const GeometryTable table = TableOf(board);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(table.Room(*table.Place(table.Multisets()[i])));
    i = (i + 1) % table.Multisets().size();
  }
}
BENCHMARK_CAPTURE(Room, h200, "h200");
BENCHMARK_CAPTURE(Room, rtx_pro_6000, "rtx-pro-6000");

// From every canonical geometry, its first instance in use, to every multiset: a third is reached,
// the rest is refused with a reason.
void Reach(benchmark::State& state, const char* board) {
  const GeometryTable table = TableOf(board);
  const std::size_t count = table.Multisets().size();
  std::vector<std::vector<CurrentInstance>> states;
  for (const ProfileCounts& counts : table.Multisets()) {
    std::vector<CurrentInstance> current;
    for (const PlacedInstance& where : *table.Place(counts)) {
      current.push_back({where, current.empty()});
    }
    states.push_back(current);
  }
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(table.Reach(states[i / count % count], table.Multisets()[i % count]));
    ++i;
  }
}
BENCHMARK_CAPTURE(Reach, h200, "h200");
BENCHMARK_CAPTURE(Reach, rtx_pro_6000, "rtx-pro-6000");

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
