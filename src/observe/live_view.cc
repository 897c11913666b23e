#include "observe/live_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/terminal.h"
#include "observe/cells.h"

namespace sublet {
namespace {

using Lines = std::vector<std::string>;
using Shares = std::vector<const ShareStatus*>;

constexpr int kColumnsMin = 60;
constexpr int kHeaderLines = 4;  // With a blank one, and the titles of the shares' columns.
constexpr int kFooterLines = 1;
constexpr std::string_view kLetters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

// What stands for a share in the bar and in front of its line. More shares than letters on a GPU
// begin at 'a' again.
std::string LetterOf(std::size_t index) {
  return std::string(1, kLetters[index % kLetters.size()]);
}

std::string Repeated(std::string_view piece, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += piece;
  return out;
}

std::string GibText(Bytes bytes) {
  return bytes >= 100_GiB ? fmt::format("{:.0f}", bytes.gib()) : fmt::format("{:.1f}", bytes.gib());
}

// `text` in front, `right` at the end of a line of `width` columns; `right` goes where there is no
// room for both.
std::string Spread(const std::string& text, const std::string& right, int width) {
  const int left = width - ColumnsOf(right);
  if (right.empty() || ColumnsOf(text) + 2 > left) return CutText(text, width);
  return PaddedRight(text, left) + right;
}

Shares SharesOn(const NodeStatus& status, const std::string& gpu_uuid, LiveSort sort) {
  Shares shares;
  for (const ShareStatus& share : status.shares) {
    if (share.share.gpu_uuid == gpu_uuid) shares.push_back(&share);
  }
  // What is equal stays in its place, so that lines don't jump.
  const auto by = [&](const auto& key) { std::ranges::stable_sort(shares, {}, key); };
  using One = const ShareStatus*;
  switch (sort) {
    case LiveSort::kPlace:
      break;
    case LiveSort::kMemory:
      by([](One one) { return -one->memory_used.value_or(Bytes{}).count; });
      break;
    case LiveSort::kSm:
      by([](One one) { return -one->sm_used_percent.value_or(-1); });
      break;
    case LiveSort::kTenant:
      by([](One one) { return std::string_view(one->share.tenant); });
      break;
    case LiveSort::kUptime:
      by([](One one) { return one->uptime_s.value_or(1e18); });
      break;
  }
  return shares;
}

// --- The bar ------------------------------------------------------------------------------------

// A part of the bar: columns `first` to `last`, the last not included.
struct Segment {
  int first = 0;
  int last = 0;
  double filled = 0;  // Part of it that is used.
};

// As wide as booked, at least a column each as long as there are enough, and never past the end.
std::vector<Segment> Segments(const GpuStatus& gpu, const Shares& shares, int width) {
  std::vector<Segment> segments;
  const double total = std::max(1.0, static_cast<double>(gpu.memory.count));
  double booked = 0;
  int column = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const auto memory = static_cast<double>(shares[i]->share.memory.count);
    booked += memory;
    const int later = static_cast<int>(shares.size() - i - 1);
    const int ideal = static_cast<int>(std::lround(booked / total * width));
    // Those behind it need their columns, too.
    int last = std::max(ideal, column + 1);
    last = std::min(last, std::max(width - later, column));
    last = std::min(last, width);
    const double used = static_cast<double>(shares[i]->memory_used.value_or(Bytes{}).count);
    segments.push_back({.first = column,
                        .last = last,
                        .filled = memory > 0 ? std::clamp(used / memory, 0.0, 1.0) : 0});
    column = last;
  }
  return segments;
}

// Without colours, neighbours differ in their shade.
std::string SegmentText(const Segment& segment, std::size_t index, bool colour,
                        const Painter& paint) {
  const int width = segment.last - segment.first;
  if (!colour) {
    const int full = static_cast<int>(std::lround(segment.filled * width));
    return Repeated(index % 2 == 0 ? "█" : "▓", full) + Repeated("░", width - full);
  }
  const std::string bar = BarText(segment.filled, width);
  const int rest = width - ColumnsOf(bar);
  return paint.Series(index, bar + Repeated("░", rest));
}

// The bar, and below it each share's letter where its part begins.
Lines BarLines(const GpuStatus& gpu, const Shares& shares, const LiveSize& size, int width) {
  const Painter paint(size.colour);
  const std::vector<Segment> segments = Segments(gpu, shares, width);
  std::string bar;
  std::string letters;
  int column = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    bar += SegmentText(segments[i], i, size.colour, paint);
    if (segments[i].last > segments[i].first) {
      letters += Cell(LetterOf(i), segments[i].last - segments[i].first);
    }
    column = segments[i].last;
  }
  Bytes foreign;
  for (const ForeignProcess& process : gpu.foreign) foreign += process.memory.value_or(Bytes{});
  const double part = gpu.memory.count > 0 ? static_cast<double>(foreign.count) /
                                                 static_cast<double>(gpu.memory.count)
                                           : 0;
  const int others =
      foreign.count == 0
          ? 0
          : std::min(std::max(1, static_cast<int>(std::lround(part * width))), width - column);
  bar += paint.Bad(Repeated("▒", others));
  bar += paint.Dim(Repeated("·", width - column - others));
  Lines lines{"  " + bar};
  if (!segments.empty()) lines.push_back("  " + paint.Dim(Cell(letters, width)));
  return lines;
}

// --- Lines of shares ----------------------------------------------------------------------------

// The widths of the columns behind the name, 0 for those that there is no room for.
struct ShareColumns {
  int name = 12;
  int tenant = 0;
  int mode = 0;
  int cap = 0;
  int busy = 5;
  int memory = 15;
  int state = 11;
  int uptime = 0;
  int restarts = 0;
  int bar = 0;  // Of memory used.
  int why = 0;
};

ShareColumns ColumnsFor(int columns) {
  ShareColumns out;
  if (columns >= 80) {
    out.tenant = 8;
    out.mode = 5;
    out.cap = 5;
  }
  if (columns >= 110) out.mode = 12;
  if (columns >= 96) out.uptime = 7;
  if (columns >= 110) out.restarts = 4;
  if (columns >= 130) out.bar = 16;
  const auto taken = [&out] {
    int sum = 4 + out.name;  // "  a " in front.
    for (const int width : {out.tenant, out.mode, out.cap, out.busy, out.memory, out.state,
                            out.uptime, out.restarts, out.bar}) {
      if (width > 0) sum += width + 2;
    }
    return sum;
  };
  const int spare = std::max(columns - taken(), 0);
  const int for_names = std::min(spare, columns >= 150 ? 20 : 16);
  out.name += for_names / (out.tenant > 0 ? 2 : 1);
  if (out.tenant > 0) out.tenant += for_names - for_names / 2;
  const int left = columns - taken();
  if (left >= 22) out.why = left - 2;
  return out;
}

std::string CapText(const Share& share) {
  if (!share.sm_percent) return "-";
  return fmt::format("{}%{}", *share.sm_percent, IsEnforced(share, "sm") ? "" : "!");
}

// "time-slicing", or its first words where there is no room for more.
std::string_view ModeText(SharingMode mode, int width) {
  const std::string_view name = SharingModeName(mode);
  if (ColumnsOf(name) <= width) return name;
  return mode == SharingMode::kTimeSlicing ? "time" : name.substr(0, 4);
}

std::string StateText(const Painter& paint, const ShareStatus& status, int width) {
  const std::string text = Cell(ShareStateName(status.state), width);
  switch (status.state) {
    case ShareState::kReady:
    case ShareState::kRunning:
      return paint.Good(text);
    case ShareState::kBackingOff:
    case ShareState::kStopped:
      return paint.Bad(text);
    case ShareState::kWaiting:
    case ShareState::kStarting:
    case ShareState::kEnding:
      break;
  }
  return text;
}

std::string ShareHeader(const ShareColumns& widths, const Painter& paint) {
  std::string line = "    " + Cell("NAME", widths.name);
  const auto add = [&](std::string_view title, int width, bool right) {
    if (width > 0) line += "  " + (right ? RightCell(title, width) : Cell(title, width));
  };
  add("TENANT", widths.tenant, false);
  add("MODE", widths.mode, false);
  add("CAP", widths.cap, true);
  add("SM", widths.busy, true);
  add("MEMORY", widths.memory, true);
  add("", widths.bar, false);
  add("STATE", widths.state, false);
  add("UP", widths.uptime, true);
  add("RST", widths.restarts, true);
  return paint.Dim(line);
}

std::string ShareLine(const ShareStatus& status, std::size_t index, const ShareColumns& widths,
                      const Painter& paint) {
  const Share& share = status.share;
  // With the CUDA context, as what is used has it, too.
  const std::optional<Bytes> limit = share.memory;
  const bool over = status.memory_used && *status.memory_used > share.memory;
  const bool open = share.memory_limit && !IsEnforced(share, "memory");
  std::string memory = RightCell(MemoryText(status.memory_used, limit), widths.memory);
  if (over || open) memory = paint.Bad(memory);
  std::string line = "  " + paint.Series(index, LetterOf(index)) + " ";
  line += Cell(share.name, widths.name);
  if (widths.tenant > 0) line += "  " + Cell(share.tenant, widths.tenant);
  if (widths.mode > 0) line += "  " + Cell(ModeText(share.mode, widths.mode), widths.mode);
  if (widths.cap > 0) line += "  " + RightCell(CapText(share), widths.cap);
  line += "  " + RightCell(PercentText(status.sm_used_percent), widths.busy);
  line += "  " + memory;
  if (widths.bar > 0) {
    const double part =
        limit->count > 0 && status.memory_used
            ? static_cast<double>(status.memory_used->count) / static_cast<double>(limit->count)
            : 0;
    line += "  " + paint.Series(index, PaddedRight(BarText(part, widths.bar), widths.bar));
  }
  line += "  " + StateText(paint, status, widths.state);
  if (widths.uptime > 0) line += "  " + RightCell(DurationText(status.uptime_s), widths.uptime);
  if (widths.restarts > 0) {
    line += "  " + RightCell(std::to_string(status.restarts), widths.restarts);
  }
  if (widths.why > 0 && !status.why.empty()) {
    line += "  " + paint.Bad(CutText(status.why, widths.why));
  }
  return line;
}

// --- The body -----------------------------------------------------------------------------------

std::string GpuTitle(const GpuStatus& gpu, int columns, const Painter& paint) {
  const std::string name =
      fmt::format("GPU {}  {}{}", gpu.index, Printable(gpu.product), gpu.mig ? "  MIG" : "");
  std::string figures = fmt::format("{} of {} GiB booked, {} used", GibText(gpu.memory_booked),
                                    GibText(gpu.memory), GibText(gpu.memory_used));
  if (ColumnsOf(name) + ColumnsOf(figures) + 14 > columns) {
    figures = fmt::format("{}/{} GiB booked", GibText(gpu.memory_booked), GibText(gpu.memory));
  }
  if (gpu.utilisation_percent) figures += fmt::format(", busy {} %", *gpu.utilisation_percent);
  const std::string line = Spread(name, figures, columns);
  return gpu.healthy ? paint.Bold(line) : paint.Bad(line);
}

std::string DomainLine(const DomainStatus& status, const LiveSize& size, const Painter& paint) {
  std::string text = fmt::format("  MPS {}  {}  {} client{}", Cell(status.domain.name, 20),
                                 Cell(DomainStateName(status.state), 8), status.clients,
                                 status.clients == 1 ? "" : "s");
  if (status.sm_used_percent) text += fmt::format(", busy {}", PercentText(status.sm_used_percent));
  if (status.restarts > 0) {
    text += fmt::format(", {} restart{}", status.restarts, status.restarts == 1 ? "" : "s");
  }
  const bool ready = status.state == DomainState::kReady;
  if (ready && !status.limits_confirmed) text += ", limits not confirmed";
  if (!status.why.empty()) text += ": " + status.why;
  text = CutText(text, size.columns);
  return ready && status.limits_confirmed ? text : paint.Bad(text);
}

void AddGpu(const NodeStatus& status, const GpuStatus& gpu, const LiveView& view,
            const LiveSize& size, Lines& lines) {
  const Painter paint(size.colour);
  lines.push_back(GpuTitle(gpu, size.columns, paint));
  if (!gpu.healthy) {
    lines.push_back("  " + paint.Bad(CutText("unhealthy: " + gpu.why, size.columns - 2)));
  }
  const Shares shares = SharesOn(status, gpu.uuid, view.sort);
  for (std::string& line : BarLines(gpu, shares, size, size.columns - 4)) {
    lines.push_back(std::move(line));
  }
  const ShareColumns widths = ColumnsFor(size.columns);
  for (std::size_t i = 0; i < shares.size(); ++i) {
    lines.push_back(ShareLine(*shares[i], i, widths, paint));
    if (widths.why == 0 && !shares[i]->why.empty()) {
      lines.push_back("    " + paint.Bad(CutText(shares[i]->why, size.columns - 4)));
    }
  }
  for (const DomainStatus& domain : status.domains) {
    if (domain.domain.gpu_uuid == gpu.uuid) lines.push_back(DomainLine(domain, size, paint));
  }
  for (const ForeignProcess& process : gpu.foreign) {
    const std::string text =
        fmt::format("▒ not Sublet's: {} (pid {})  {}", process.name.empty() ? "?" : process.name,
                    process.pid, MemoryText(process.memory, std::nullopt));
    lines.push_back("  " + paint.Bad(CutText(text, size.columns - 2)));
  }
  lines.emplace_back();
}

Lines Body(const NodeStatus& status, const LiveView& view, const LiveSize& size) {
  Lines lines;
  for (const GpuStatus& gpu : status.gpus) AddGpu(status, gpu, view, size, lines);
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

Lines Header(const NodeStatus& status, const LiveSize& size) {
  const Painter paint(size.colour);
  std::string left = Printable(status.hostname);
  if (!status.plan.empty()) left += fmt::format("   plan {}", Printable(status.plan));
  if (status.simulated) left += "   simulated";
  // "2026-11-21T10:00:12Z": of the time the clock is enough.
  const std::size_t t = status.time.find('T');
  const std::string time =
      t == std::string::npos ? status.time : status.time.substr(t + 1, 8) + " UTC";
  const auto up = std::ranges::count_if(status.shares, [](const ShareStatus& one) {
    return one.state == ShareState::kRunning || one.state == ShareState::kReady;
  });
  const auto ill = std::ranges::count(status.gpus, false, &GpuStatus::healthy);
  std::string sums = fmt::format("{} GPU{}, {} share{}, {} running", status.gpus.size(),
                                 status.gpus.size() == 1 ? "" : "s", status.shares.size(),
                                 status.shares.size() == 1 ? "" : "s", up);
  if (!status.operation.empty()) sums += "   " + Printable(status.operation);
  const std::string warning = ill > 0 ? fmt::format("{} unhealthy", ill) : "";
  const int room = size.columns - (warning.empty() ? 0 : ColumnsOf(warning) + 2);
  return {paint.Bold(Spread(left, time, size.columns)),
          Cell(sums, room) + (warning.empty() ? "" : "  " + paint.Bad(warning)), "",
          ShareHeader(ColumnsFor(size.columns), paint)};
}

std::string_view SortName(LiveSort sort) {
  switch (sort) {
    case LiveSort::kPlace:
      return "name";
    case LiveSort::kMemory:
      return "memory";
    case LiveSort::kSm:
      return "SM use";
    case LiveSort::kTenant:
      return "tenant";
    case LiveSort::kUptime:
      return "uptime";
  }
  return "";
}

std::string Footer(const LiveView& view, const LiveSize& size, int hidden_below) {
  const Painter paint(size.colour);
  const std::string keys =
      size.columns >= 100 ? "q quit  ↑↓ scroll  sort by n name  m memory  s SM  t tenant  u uptime"
                          : "q quit  ↑↓ scroll  sort: n m s t u";
  const std::string place = hidden_below > 0 ? fmt::format("{} more below", hidden_below)
                                             : fmt::format("by {}", SortName(view.sort));
  return paint.Dim(Spread(keys, place, size.columns));
}

LiveSize AtLeast(LiveSize size) {
  size.columns = std::max(size.columns, kColumnsMin);
  return size;
}

int RoomFor(const LiveSize& size) {
  return std::max(size.rows - kHeaderLines - kFooterLines, 1);
}

}  // namespace

std::string LiveFrame(const NodeStatus& status, const LiveView& view, const LiveSize& asked) {
  const LiveSize size = AtLeast(asked);
  Lines lines = Header(status, size);
  Lines body = Body(status, view, size);
  if (body.empty()) body.emplace_back("no GPU is seen");
  if (size.rows == 0) {
    lines.insert(lines.end(), body.begin(), body.end());
  } else {
    const int room = RoomFor(size);
    const int last_first = std::max(static_cast<int>(body.size()) - room, 0);
    const int first = std::clamp(view.first, 0, last_first);
    for (int i = first; i < first + room; ++i) {
      const auto at = static_cast<std::size_t>(i);
      lines.push_back(at < body.size() ? body[at] : "");
    }
    lines.push_back(Footer(view, size, static_cast<int>(body.size()) - first - room));
    lines.resize(static_cast<std::size_t>(size.rows));
  }
  std::string frame;
  for (const std::string& line : lines) frame += (frame.empty() ? "" : "\n") + line;
  return frame;
}

LiveView AfterKey(LiveView view, LiveKey key, const NodeStatus& status, const LiveSize& asked) {
  const LiveSize size = AtLeast(asked);
  const int room = RoomFor(size);
  switch (key) {
    case LiveKey::kUp:
      --view.first;
      break;
    case LiveKey::kDown:
      ++view.first;
      break;
    case LiveKey::kPageUp:
      view.first -= room;
      break;
    case LiveKey::kPageDown:
      view.first += room;
      break;
    case LiveKey::kHome:
      view.first = 0;
      break;
    case LiveKey::kSortPlace:
      view.sort = LiveSort::kPlace;
      break;
    case LiveKey::kSortMemory:
      view.sort = LiveSort::kMemory;
      break;
    case LiveKey::kSortSm:
      view.sort = LiveSort::kSm;
      break;
    case LiveKey::kSortTenant:
      view.sort = LiveSort::kTenant;
      break;
    case LiveKey::kSortUptime:
      view.sort = LiveSort::kUptime;
      break;
  }
  const int lines = static_cast<int>(Body(status, view, size).size());
  view.first = std::clamp(view.first, 0, std::max(lines - room, 0));
  return view;
}

LiveInput ParseLiveInput(std::string_view bytes) {
  struct Word {
    std::string_view bytes;
    LiveKey key;
  };
  // The escape sequences first: their letters mean nothing by themselves.
  static constexpr Word kWords[] = {
      {"\x1b[A", LiveKey::kUp},   {"\x1bOA", LiveKey::kUp},      {"\x1b[B", LiveKey::kDown},
      {"\x1bOB", LiveKey::kDown}, {"\x1b[5~", LiveKey::kPageUp}, {"\x1b[6~", LiveKey::kPageDown},
      {"\x1b[H", LiveKey::kHome}, {"\x1b[1~", LiveKey::kHome},   {"k", LiveKey::kUp},
      {"j", LiveKey::kDown},      {"b", LiveKey::kPageUp},       {" ", LiveKey::kPageDown},
      {"g", LiveKey::kHome},      {"n", LiveKey::kSortPlace},    {"m", LiveKey::kSortMemory},
      {"s", LiveKey::kSortSm},    {"t", LiveKey::kSortTenant},   {"u", LiveKey::kSortUptime},
  };
  LiveInput input;
  while (!bytes.empty()) {
    const auto word =
        std::ranges::find_if(kWords, [&](const Word& one) { return bytes.starts_with(one.bytes); });
    if (word != std::end(kWords)) {
      input.keys.push_back(word->key);
      bytes.remove_prefix(word->bytes.size());
      continue;
    }
    if (bytes.front() == 'q' || bytes.front() == 'Q') input.quit = true;
    std::size_t length = 1;
    // Another key's sequence ends with a letter or '~'.
    if (bytes.starts_with("\x1b[") || bytes.starts_with("\x1bO")) {
      length = 2;
      while (length < bytes.size() && (bytes[length] < '@' || bytes[length] > '~')) ++length;
      length = std::min(length + 1, bytes.size());
    }
    bytes.remove_prefix(length);
  }
  return input;
}

}  // namespace sublet
