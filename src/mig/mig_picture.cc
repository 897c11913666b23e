#include "mig/mig_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <functional>

namespace sublet {
namespace {

int MemoryUnits(const Gpu& gpu, const MigTarget& target) {
  int units = 1;
  for (const ReportedProfile& profile : gpu.profiles) {
    for (const Placement& place : profile.placements) {
      units = std::max(units, place.start + place.size);
    }
  }
  for (const MigSeat& seat : target.instances) units = std::max(units, seat.start + seat.size);
  return units;
}

// Columns for a unit, with the bar at its left: the longest name must fit its instance.
int UnitWidth(const std::vector<MigSeat>& before, const std::vector<MigSeat>& after) {
  int width = 4;
  for (const std::vector<MigSeat>* const seats : {&before, &after}) {
    for (const MigSeat& seat : *seats) {
      const int size = std::max(seat.size, 1);
      width = std::max(width, (static_cast<int>(seat.profile.size()) + 1 + size - 1) / size);
    }
  }
  return width;
}

std::string Ruler(int units, int width) {
  std::string ruler;
  for (int unit = 0; unit < units; ++unit) ruler += fmt::format("{:<{}}", unit, width);
  ruler.erase(ruler.find_last_not_of(' ') + 1);
  return ruler;
}

using PaintSeat = std::function<std::string(const MigSeat& seat, std::string text)>;

std::string Bar(const std::vector<MigSeat>& seats, int units, int width, const Painter& paint,
                const PaintSeat& paint_seat) {
  std::string bar;
  const auto free = [&] { bar += "|" + paint.Dim(fmt::format("{:<{}}", " -", width - 1)); };
  int unit = 0;
  for (const MigSeat& seat : seats) {
    for (; unit < seat.start; ++unit) free();
    bar += "|" + paint_seat(seat, fmt::format("{:<{}}", seat.profile, width * seat.size - 1));
    unit = seat.start + seat.size;
  }
  for (; unit < units; ++unit) free();
  return bar + "|";
}

bool IsIn(const std::vector<MigStep>& steps, MigStep::Kind kind, const MigSeat& seat) {
  return std::ranges::any_of(steps, [&](const MigStep& step) {
    return step.kind == kind && step.seat.start == seat.start &&
           step.seat.profile_id == seat.profile_id;
  });
}

std::string BarsText(const Gpu& now, const MigTarget& current, const MigTarget& target,
                     const std::vector<MigStep>& steps, const Painter& paint) {
  const int units = MemoryUnits(now, target);
  const int width = UnitWidth(current.instances, target.instances);
  const auto bar = [&](const MigTarget& state, const PaintSeat& paint_seat) {
    if (!state.mig) return paint.Dim("MIG mode is off");
    return Bar(state.instances, units, width, paint, paint_seat);
  };
  std::string text;
  if (current.mig || target.mig) {
    text += fmt::format("  unit    {}\n", paint.Dim(Ruler(units, width)));
  }
  const bool changes = !steps.empty();
  text += fmt::format("  {} {}\n", changes ? "before" : "now   ",
                      bar(current, [&](const MigSeat& seat, const std::string& name) {
                        const bool goes = IsIn(steps, MigStep::Kind::kDestroy, seat);
                        return goes ? paint.Bad(name) : name;
                      }));
  if (!changes) return text;
  return text + fmt::format("  after  {}\n",
                            bar(target, [&](const MigSeat& seat, const std::string& name) {
                              const bool comes = IsIn(steps, MigStep::Kind::kCreate, seat);
                              return comes ? paint.Good(name) : name;
                            }));
}

}  // namespace

std::string MigChangeText(const Gpu& now, const MigTarget& target, std::span<const MigStep> steps,
                          const std::vector<std::string>& reasons, const Painter& paint) {
  std::vector<MigStep> own;
  std::ranges::copy_if(steps, std::back_inserter(own),
                       [&](const MigStep& step) { return step.gpu_uuid == now.uuid; });
  std::string text = fmt::format("{}  {}  {}\n", paint.Bold(fmt::format("GPU {}", now.index)),
                                 now.product, paint.Dim(now.uuid));
  if (const auto current = CurrentTarget(now)) {
    text += BarsText(now, *current, target, own, paint);
  }
  if (own.empty()) text += "    nothing to do\n";
  for (std::size_t i = 0; i < own.size(); ++i) {
    text += fmt::format("    {:>2}  {}\n", i + 1, Describe(own[i]));
  }
  std::size_t widest = 0;
  for (const MigSeat& seat : target.instances) widest = std::max(widest, DescribeSeat(seat).size());
  for (std::size_t i = 0; i < std::min(reasons.size(), target.instances.size()); ++i) {
    text += fmt::format("  {:<{}}  {}\n", DescribeSeat(target.instances[i]), widest,
                        paint.Dim(reasons[i]));
  }
  return text;
}

}  // namespace sublet
