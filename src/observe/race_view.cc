#include "observe/race_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/terminal.h"
#include "observe/cells.h"

namespace sublet {
namespace {

using Lines = std::vector<std::string>;

constexpr int kLaneColumnsMin = 36;
constexpr std::string_view kBetween = " │ ";
constexpr int kLabelColumns = 12;

double Part(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

std::string Milliseconds(std::optional<double> ms) {
  if (!ms) return "-";
  return *ms < 10'000 ? fmt::format("{:.0f} ms", *ms) : fmt::format("{:.1f} s", *ms / 1e3);
}

// What is best among the lanes is green; where they are equal, none is.
enum class Rank { kBest, kOther };
std::string Ranked(const Painter& paint, Rank rank, const std::string& text) {
  return rank == Rank::kBest ? paint.Good(text) : text;
}

template <typename Key>
Rank RankOf(const Race& race, const RaceLane& lane, const Key& key) {
  int as_good = 0;
  for (const RaceLane& other : race.lanes) as_good += key(other) >= key(lane) ? 1 : 0;
  return as_good == 1 && race.lanes.size() > 1 ? Rank::kBest : Rank::kOther;
}

// A column a moment, the last ones, from nothing to `most`.
std::string Sparkline(const std::vector<double>& values, double most, int width) {
  static constexpr std::array<std::string_view, 8> kBlocks = {"▁", "▂", "▃", "▄",
                                                              "▅", "▆", "▇", "█"};
  std::string out;
  const auto count = std::min(values.size(), static_cast<std::size_t>(std::max(width, 0)));
  for (std::size_t i = values.size() - count; i < values.size(); ++i) {
    const double part = most > 0 ? std::clamp(values[i] / most, 0.0, 1.0) : 0;
    out += kBlocks[std::min<std::size_t>(static_cast<std::size_t>(part * 8), 7)];
  }
  return out;
}

double HighestOf(const Race& race) {
  double most = 0;
  for (const RaceLane& lane : race.lanes) {
    for (const double ms : lane.ttft_ms_history) most = std::max(most, ms);
  }
  return most;
}

std::string Labelled(const Painter& paint, std::string_view label, const std::string& text) {
  return paint.Dim(PaddedRight(label, kLabelColumns)) + text;
}

std::string ReplicaLine(const RaceReplica& replica, std::int64_t most, int width,
                        const Painter& paint) {
  // Name, its share of a GPU, requests as a bar and a number, what it had in its cache.
  const int bar = std::max(width - 12 - 12 - 6 - 10, 4);
  const std::string share = replica.sm_percent
                                ? fmt::format("GPU {} {:.0f} %", replica.gpu, *replica.sm_percent)
                                : (replica.gpu.empty() ? "" : fmt::format("GPU {}", replica.gpu));
  return Cell(replica.name, 11) + " " + paint.Dim(Cell(share, 11)) + " " +
         PaddedRight(BarText(Part(replica.requests, most), bar), bar) +
         RightCell(fmt::format("{}", replica.requests), 6) +
         RightCell(PercentText(100 * Part(replica.cached_tokens, replica.prompt_tokens)), 10);
}

Lines LaneLines(const Race& race, const RaceLane& lane, double highest_ms, int width,
                const Painter& paint) {
  const double hit = Part(lane.cached_tokens, lane.prompt_tokens);
  const Rank hits = RankOf(
      race, lane, [](const RaceLane& one) { return Part(one.cached_tokens, one.prompt_tokens); });
  const Rank waits =
      RankOf(race, lane, [](const RaceLane& one) { return -one.ttft_ms_p90.value_or(0); });
  const int bar = std::max(width - kLabelColumns - 8, 4);
  Lines lines;
  lines.push_back(paint.Bold(lane.policy));
  lines.push_back(Labelled(paint, "in cache",
                           Ranked(paint, hits, fmt::format("{:>5.1f} % ", 100 * hit)) +
                               Ranked(paint, hits, BarText(hit, bar))));
  lines.push_back(
      Labelled(paint, "first token",
               fmt::format("p50 {}  ", Milliseconds(lane.ttft_ms_p50)) +
                   Ranked(paint, waits, fmt::format("p90 {}", Milliseconds(lane.ttft_ms_p90)))));
  lines.push_back(Labelled(paint, "", fmt::format("p99 {}", Milliseconds(lane.ttft_ms_p99))));
  lines.push_back(Labelled(
      paint, "p90 so far",
      Ranked(paint, waits, Sparkline(lane.ttft_ms_history, highest_ms, width - kLabelColumns))));
  const std::string failed = fmt::format("{} failed", lane.failed);
  lines.push_back(Labelled(paint, "answered",
                           fmt::format("{}   ", lane.served) +
                               (lane.failed > 0 ? paint.Bad(failed) : paint.Dim(failed))));
  lines.push_back("");
  lines.push_back(paint.Dim(PaddedRight("replica", width - 18) + "requests  in cache"));
  std::int64_t most = 0;
  for (const RaceReplica& replica : lane.replicas) most = std::max(most, replica.requests);
  for (const RaceReplica& replica : lane.replicas) {
    lines.push_back(ReplicaLine(replica, most, width, paint));
  }
  return lines;
}

// Columns of text in which colours take none.
int VisibleColumns(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\x1b') {
      plain += text[i];
      continue;
    }
    while (i < text.size() && text[i] != 'm') ++i;
  }
  return ColumnsOf(plain);
}

std::string Filled(const std::string& text, int width) {
  return text +
         std::string(static_cast<std::size_t>(std::max(width - VisibleColumns(text), 0)), ' ');
}

Lines SideBySide(const std::vector<Lines>& lanes, int width, const Painter& paint) {
  std::size_t most = 0;
  for (const Lines& lane : lanes) most = std::max(most, lane.size());
  Lines lines;
  for (std::size_t row = 0; row < most; ++row) {
    std::string line;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      const std::string& cell = row < lanes[i].size() ? lanes[i][row] : "";
      line += (i == 0 ? "" : paint.Dim(kBetween)) + Filled(cell, width);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

Lines Header(const Race& race, int columns, const Painter& paint) {
  const double part = race.total_s > 0 ? std::min(race.elapsed_s / race.total_s, 1.0) : 0;
  const std::string clock = fmt::format("{:.0f} of {:.0f} s", race.elapsed_s, race.total_s);
  constexpr int kBar = 20;
  const int room = columns - kBar - 3 - static_cast<int>(clock.size());
  return {paint.Bold(Cell(race.traffic, room)) + " " + PaddedRight(BarText(part, kBar), kBar) +
              "  " + clock,
          ""};
}

}  // namespace

std::string RaceFrame(const Race& race, const LiveSize& size) {
  const Painter paint(size.colour);
  const int lanes = std::max(static_cast<int>(race.lanes.size()), 1);
  const int columns = std::max(size.columns, lanes * (kLaneColumnsMin + 3) - 3);
  const int width = (columns - 3 * (lanes - 1)) / lanes;
  std::vector<Lines> parts;
  for (const RaceLane& lane : race.lanes) {
    parts.push_back(LaneLines(race, lane, HighestOf(race), width, paint));
  }
  Lines lines = Header(race, columns, paint);
  for (std::string& line : SideBySide(parts, width, paint)) lines.push_back(std::move(line));
  if (size.rows > 0) lines.resize(static_cast<std::size_t>(size.rows));
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace sublet
