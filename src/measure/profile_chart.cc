#include "measure/profile_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/terminal.h"

namespace sublet {
namespace {

constexpr int kColumns = 60;  // Of the plot, 0 to 100 % from left to right.
constexpr int kRows = 13;     // Odd, so that one is half of the most.
constexpr int kMargin = 11;   // Left of the axis, for the rates.

std::string Utf8(unsigned code) {
  return {static_cast<char>(0xE0 | (code >> 12)), static_cast<char>(0x80 | ((code >> 6) & 0x3F)),
          static_cast<char>(0x80 | (code & 0x3F))};
}

// Dots finer than characters: a braille character has two columns and four rows of them.
class Canvas {
 public:
  Canvas() : cells_(kRows * kColumns, 0), marks_(kRows * kColumns, '\0') {}

  static constexpr int kWidth = kColumns * 2;
  static constexpr int kHeight = kRows * 4;

  void Dot(int x, int y) {
    // The bits of the dots, by row and column, as Unicode numbers them.
    static constexpr unsigned kBits[4][2] = {
        {0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    x = std::clamp(x, 0, kWidth - 1);
    y = std::clamp(y, 0, kHeight - 1);
    cells_[Cell(x, y)] |= kBits[y % 4][x % 2];
  }

  void Mark(int x, int y, char mark) {
    marks_[Cell(std::clamp(x, 0, kWidth - 1), std::clamp(y, 0, kHeight - 1))] = mark;
  }

  std::string Row(int row, const ChartStyle& style) const {
    const Painter paint(style.colour);
    std::string text;
    for (int column = 0; column < kColumns; ++column) {
      const auto at = static_cast<std::size_t>(row * kColumns + column);
      const char mark = marks_[at];
      if (mark == 'K') {
        text += paint.Good(style.unicode ? "◆" : "#");
      } else if (mark == 'P') {
        text += style.unicode ? "●" : "o";
      } else if (cells_[at] == 0) {
        text += ' ';
      } else {
        text += paint.Dim(style.unicode ? Utf8(0x2800 + cells_[at]) : ".");
      }
    }
    return text;
  }

 private:
  static std::size_t Cell(int x, int y) {
    return static_cast<std::size_t>(y / 4 * kColumns + x / 2);
  }

  std::vector<unsigned> cells_;
  std::vector<char> marks_;
};

struct Dots {
  int x;
  int y;
};

Dots PlaceOf(double percent, double rate, double rate_max) {
  return {static_cast<int>(std::lround(percent / 100 * (Canvas::kWidth - 1))),
          static_cast<int>(std::lround((1 - rate / rate_max) * (Canvas::kHeight - 1)))};
}

void Line(Canvas& canvas, Dots a, Dots b) {
  const int steps = std::max({std::abs(b.x - a.x), std::abs(b.y - a.y), 1});
  for (int i = 0; i <= steps; ++i) {
    const double part = static_cast<double>(i) / steps;
    canvas.Dot(static_cast<int>(std::lround(a.x + part * (b.x - a.x))),
               static_cast<int>(std::lround(a.y + part * (b.y - a.y))));
  }
}

// The scale below the plot: a number under each measured cap, where there is room.
std::string Scale(const WorkloadProfile& profile) {
  std::string line(kColumns + 4, ' ');
  int free_from = 0;
  for (const ProfilePoint& point : profile.points) {
    const std::string text = std::to_string(point.sm_percent);
    const int middle = PlaceOf(point.sm_percent, 0, 1).x / 2;
    const int at = std::max(0, middle - static_cast<int>(text.size()) / 2);
    if (at < free_from || at + text.size() > line.size()) continue;
    line.replace(static_cast<std::size_t>(at), text.size(), text);
    free_from = at + static_cast<int>(text.size()) + 1;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

std::string RateText(double per_s) {
  if (per_s >= 1000) return Grouped(per_s);
  if (per_s >= 100) return fmt::format("{:.0f}", per_s);
  if (per_s >= 10) return fmt::format("{:.1f}", per_s);
  return fmt::format("{:.3g}", per_s);
}

std::string ProfileChart(const WorkloadProfile& profile, const ChartStyle& style) {
  double rate_max = 0;
  for (const ProfilePoint& point : profile.points) {
    rate_max = std::max(rate_max, point.alone_per_s);
  }
  if (rate_max <= 0) return {};
  const int knee = profile.Knee();
  Canvas canvas;
  Dots before = PlaceOf(0, 0, rate_max);
  for (const ProfilePoint& point : profile.points) {
    const Dots here = PlaceOf(point.sm_percent, point.alone_per_s, rate_max);
    Line(canvas, before, here);
    before = here;
  }
  for (const ProfilePoint& point : profile.points) {
    const Dots here = PlaceOf(point.sm_percent, point.alone_per_s, rate_max);
    canvas.Mark(here.x, here.y, point.sm_percent == knee ? 'K' : 'P');
  }
  std::string text =
      Painter(style.colour)
          .Bold(fmt::format("{:>{}} units of work a second of one copy, over % of the SMs\n", "",
                            kMargin));
  const std::string_view axis = style.unicode ? "│" : "|";
  for (int row = 0; row < kRows; ++row) {
    const bool labelled = row == 0 || row == kRows / 2 || row == kRows - 1;
    const double rate = rate_max * (1 - static_cast<double>(row) / (kRows - 1));
    std::string line = fmt::format("{:>{}} {}{}", labelled ? RateText(rate) : "", kMargin - 1, axis,
                                   canvas.Row(row, style));
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  std::string floor;
  for (int i = 0; i < kColumns; ++i) floor += style.unicode ? "─" : "-";
  text += fmt::format("{:>{}} {}{}\n", "", kMargin - 1, style.unicode ? "└" : "+", floor);
  text += fmt::format("{:>{}} {}\n", "", kMargin, Scale(profile));
  return text;
}

std::string ProfileTable(const WorkloadProfile& profile, const ChartStyle& style) {
  const bool crowd = profile.crowd > 0;
  const int knee = profile.Knee();
  std::string heading = fmt::format("{:>6}{:>12}{:>8}{:>11}{:>11}{:>12}", "SM %", "alone/s",
                                    "speed", "p50 ms", "p99 ms", "context MiB");
  if (crowd) heading += fmt::format("{:>12}", fmt::format("{} copies/s", profile.crowd));
  const Painter paint(style.colour);
  std::string text = paint.Bold(heading) + "\n";
  const std::vector<double> speeds = profile.Speeds();
  for (std::size_t i = 0; i < profile.points.size(); ++i) {
    const ProfilePoint& point = profile.points[i];
    std::string row = fmt::format("{:>6}{:>12}{:>6.0f} %{:>11.3f}{:>11.3f}{:>12}", point.sm_percent,
                                  RateText(point.alone_per_s), speeds[i] * 100,
                                  point.latency_ms_p50, point.latency_ms_p99, point.context.mib());
    if (crowd) {
      row += fmt::format("{:>12}", point.crowd_per_s ? RateText(*point.crowd_per_s) : "-");
    }
    if (point.sm_percent == knee) {
      row = paint.Good(row + (style.unicode ? "  ◆ knee" : "  # knee"));
    }
    text += row + "\n";
  }
  return text;
}

}  // namespace sublet
