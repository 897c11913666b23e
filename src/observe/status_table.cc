#include "observe/status_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/terminal.h"
#include "observe/cells.h"

namespace sublet {
namespace {

constexpr int kGap = 2;       // Columns between two cells.
constexpr int kNameMin = 12;  // A name is cut to this before another column goes.

// A column of the table. Of those that there is no room for, the least important go first.
struct Column {
  std::string title;
  int importance = 0;
  bool right = false;  // Numbers.
  std::vector<std::string> cells;
  int width = 0;
};

enum class Mood { kPlain, kGood, kBad, kDim };

Mood MoodOf(ShareState state) {
  switch (state) {
    case ShareState::kRunning:
    case ShareState::kReady:
      return Mood::kGood;
    case ShareState::kBackingOff:
    case ShareState::kStopped:
      return Mood::kBad;
    case ShareState::kWaiting:
    case ShareState::kStarting:
    case ShareState::kEnding:
      break;
  }
  return Mood::kPlain;
}

std::string Painted(const Painter& paint, Mood mood, const std::string& text) {
  if (mood == Mood::kGood) return paint.Good(text);
  if (mood == Mood::kBad) return paint.Bad(text);
  return mood == Mood::kDim ? paint.Dim(text) : text;
}

// A limit that nobody enforces has a mark; the notes say it in words.
constexpr std::string_view kOpen = "!";

bool IsOpen(const Share& share, std::string_view what) {
  const bool limited =
      what == "memory" ? share.memory_limit.has_value() : share.sm_percent.has_value();
  return limited && !IsEnforced(share, what);
}

std::string MemoryCell(const ShareStatus& status) {
  const std::string text =
      MemoryText(status.memory_used,
                 status.share.memory_limit ? std::optional(status.share.memory) : std::nullopt);
  return IsOpen(status.share, "memory") ? fmt::format("{}{}", text, kOpen) : text;
}

std::string SmCell(const Share& share) {
  if (!share.sm_percent) return "-";
  return fmt::format("{} %{}", *share.sm_percent, IsOpen(share, "sm") ? kOpen : "");
}

std::vector<Column> Columns(const NodeStatus& status) {
  std::map<std::string, std::string> places;  // Index of each GPU, by UUID.
  for (const GpuStatus& gpu : status.gpus) places[gpu.uuid] = std::to_string(gpu.index);
  Column tenant{.title = "TENANT", .importance = 6, .cells = {}};
  Column name{.title = "NAME", .importance = 9, .cells = {}};
  Column id{.title = "ID", .importance = 4, .cells = {}};
  Column mode{.title = "MODE", .importance = 7, .cells = {}};
  Column gpu{.title = "GPU", .importance = 5, .cells = {}};
  Column memory{.title = "MEMORY", .importance = 8, .right = true, .cells = {}};
  Column sm{.title = "SM CAP", .importance = 3, .right = true, .cells = {}};
  Column state{.title = "STATE", .importance = 10, .cells = {}};
  Column uptime{.title = "UPTIME", .importance = 2, .right = true, .cells = {}};
  Column restarts{.title = "RESTARTS", .importance = 1, .right = true, .cells = {}};
  for (const ShareStatus& one : status.shares) {
    const Share& share = one.share;
    tenant.cells.push_back(Printable(share.tenant));
    name.cells.push_back(Printable(share.name));
    id.cells.push_back(Printable(share.id));
    mode.cells.emplace_back(SharingModeName(share.mode));
    const auto place = places.find(share.gpu_uuid);
    gpu.cells.push_back((place == places.end() ? "?" : place->second) +
                        (share.mig_uuid.empty() ? "" : " MIG"));
    memory.cells.push_back(MemoryCell(one));
    sm.cells.push_back(SmCell(share));
    state.cells.emplace_back(ShareStateName(one.state));
    uptime.cells.push_back(DurationText(one.uptime_s));
    restarts.cells.push_back(std::to_string(one.restarts));
  }
  return {tenant, name, id, mode, gpu, memory, sm, state, uptime, restarts};
}

int WidthOf(const std::vector<Column>& columns) {
  int width = -kGap;
  for (const Column& column : columns) width += column.width + kGap;
  return width;
}

// Takes columns away, and cuts names, until the rest fits.
void Fit(std::vector<Column>& columns, int width) {
  for (Column& column : columns) {
    column.width = ColumnsOf(column.title);
    for (const std::string& cell : column.cells) {
      column.width = std::max(column.width, ColumnsOf(cell));
    }
  }
  if (width <= 0) return;
  while (WidthOf(columns) > width) {
    const int excess = WidthOf(columns) - width;
    const auto name = std::ranges::find(columns, "NAME", &Column::title);
    if (name->width - excess >= kNameMin) {
      name->width -= excess;
      return;
    }
    const auto least = std::ranges::min_element(columns, {}, &Column::importance);
    if (columns.size() <= 3) return;  // What is left says too little to lose more.
    columns.erase(least);
  }
}

std::string Row(const std::vector<Column>& columns, std::size_t index, const Painter& paint,
                Mood mood) {
  std::string line;
  for (const Column& column : columns) {
    const bool last = &column == &columns.back();
    const std::string& text = column.cells[index];
    std::string cell = column.right ? RightCell(text, column.width)
                       : last       ? CutText(text, column.width)
                                    : Cell(text, column.width);
    if (column.title == "STATE") cell = Painted(paint, mood, cell);
    if (text.ends_with(kOpen) && column.right) cell = paint.Bad(cell);
    line += cell + (last ? "" : std::string(kGap, ' '));
  }
  return line + "\n";
}

std::string Header(const std::vector<Column>& columns, const Painter& paint) {
  std::string line;
  for (const Column& column : columns) {
    const bool last = &column == &columns.back();
    line += column.right ? RightCell(column.title, column.width)
            : last       ? CutText(column.title, column.width)
                         : Cell(column.title, column.width);
    if (!last) line += std::string(kGap, ' ');
  }
  return paint.Dim(line) + "\n";
}

std::string Note(const std::string& subject, const std::string& text, int width) {
  const std::string line = fmt::format("{}: {}", Printable(subject), Printable(text));
  return WrappedText(line, 0, width > 0 ? width : 100);
}

std::string ForeignText(const GpuStatus& gpu) {
  Bytes memory;
  for (const ForeignProcess& process : gpu.foreign) memory += process.memory.value_or(Bytes{});
  const ForeignProcess& first = gpu.foreign.front();
  const bool one = gpu.foreign.size() == 1;
  return fmt::format("{} of others with {}: {} (pid {}){}",
                     one ? "a process" : fmt::format("{} processes", gpu.foreign.size()),
                     FormatBytes(memory), first.name.empty() ? "?" : first.name, first.pid,
                     one ? "" : " and more");
}

std::string OpenText(const Share& share) {
  const bool memory = IsOpen(share, "memory");
  const bool sm = IsOpen(share, "sm");
  if (memory && sm) return "its memory limit and its SM cap are not enforced";
  if (memory) return "its memory limit is not enforced";
  return sm ? "its SM cap is not enforced" : "";
}

// A line for whatever isn't as it should be.
std::string Notes(const NodeStatus& status, int width, const Painter& paint) {
  std::string notes;
  const auto plain = [&](const std::string& subject, const std::string& text) {
    notes += Note(subject, text, width) + "\n";
  };
  const auto bad = [&](const std::string& subject, const std::string& text) {
    notes += paint.Bad(Note(subject, text, width)) + "\n";
  };
  if (!status.operation.empty()) plain("under way", status.operation);
  for (const GpuStatus& gpu : status.gpus) {
    if (!gpu.healthy) bad(fmt::format("GPU {} is unhealthy", gpu.index), gpu.why);
    if (!gpu.foreign.empty()) plain(fmt::format("GPU {}", gpu.index), ForeignText(gpu));
  }
  for (const DomainStatus& domain : status.domains) {
    if (domain.state == DomainState::kReady) continue;
    bad(fmt::format("MPS server {} is {}", domain.domain.name, DomainStateName(domain.state)),
        domain.why.empty() ? "it takes no clients" : domain.why);
  }
  for (const ShareStatus& share : status.shares) {
    if (!share.why.empty()) bad(share.share.name, share.why);
    if (const std::string open = OpenText(share.share); !open.empty()) {
      bad(share.share.name, open);
    }
  }
  return notes;
}

}  // namespace

std::string StatusTable(const NodeStatus& status, const StatusTableStyle& style) {
  const Painter paint(style.colour);
  std::string out;
  if (status.shares.empty()) {
    out = "no shares: `sublet run` takes one, `sublet up` brings a fleet up\n";
  } else {
    std::vector<Column> columns = Columns(status);
    Fit(columns, style.columns);
    out = Header(columns, paint);
    for (std::size_t i = 0; i < status.shares.size(); ++i) {
      out += Row(columns, i, paint, MoodOf(status.shares[i].state));
    }
  }
  const std::string notes = Notes(status, style.columns, paint);
  return notes.empty() ? out : out + "\n" + notes;
}

}  // namespace sublet
