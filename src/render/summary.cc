#include "render/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include "base/terminal.h"

namespace sublet {
namespace {

constexpr int kBarWidth = 48;
constexpr int kTextWidth = 96;

std::string Milliseconds(const std::optional<double>& ms) {
  if (!ms) return "-";
  if (*ms >= 1000) return fmt::format("{:.2f} s", *ms / 1000);
  return fmt::format("{:.{}f} ms", *ms, *ms < 10 ? 2 : 0);
}

// "25,589/s", "6.4/s"; "-" where there is none.
std::string PerSecond(const std::optional<double>& rate) {
  if (!rate) return "-";
  return (*rate < 10 ? fmt::format("{:.2g}", *rate) : Grouped(*rate)) + "/s";
}

// What makes two GPUs look the same: their layout without names.
std::string LayoutKey(const PlannedGpu& gpu) {
  std::string key = fmt::format("{}${}", gpu.board, gpu.price_usd_hour);
  for (const PlannedPartition& partition : gpu.partitions) {
    key += fmt::format("|{}@{}:{}:{}", partition.profile, partition.start,
                       SharingModeName(partition.mode), partition.servers.size());
    for (const PlannedReplica& replica : partition.replicas) {
      key += fmt::format(",{}/{}", replica.workload, replica.sm_percent.value_or(0));
    }
  }
  return key;
}

std::string ModeOf(const PlannedGpu& gpu) {
  if (gpu.mig) return "mig";
  const PlannedPartition& whole = gpu.partitions[0];
  std::string mode(SharingModeName(whole.mode));
  if (whole.servers.size() > 1) mode += fmt::format(", {} servers", whole.servers.size());
  return mode;
}

class Summary {
 public:
  Summary(const Plan& plan, const SummaryStyle& style) : plan_(plan), paint_(style.colour) {
    for (const PlannedWorkload& workload : plan.workloads) workloads_[workload.name] = &workload;
  }

  std::string Run() {
    AddHeadline();
    AddGpus();
    AddStrategies();
    AddChanges();
    AddWarnings();
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void Add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  void AddHeadline() {
    const PlanSummary& s = plan_.summary;
    std::string boards;
    for (const auto& [board, count] : s.gpus_by_board) {
      boards += fmt::format("{}{} x {}", boards.empty() ? "" : ", ", count, board);
    }
    const std::string verdict = s.gap_percent == 0 ? "optimal: nothing cheaper exists"
                                                   : fmt::format("{} of a proven bound", s.verdict);
    Add("\n{}  {} replica{} on {} GPU{} ({})\n", paint_.Bold(plan_.fleet), s.replicas,
        s.replicas == 1 ? "" : "s", s.gpus, s.gpus == 1 ? "" : "s", boards);
    Add("{}  {}\n", paint_.Bold(fmt::format("${} a month", Grouped(s.cost_month_usd))),
        paint_.Good(verdict));
    if (s.throughput_per_s) {
      Add("{} from the replicas that are always busy\n", PerSecond(s.throughput_per_s));
    }
    if (s.headroom_percent_min < 100) {
      Add("tightest latency target: {:.0f} % left\n", s.headroom_percent_min);
    }
  }

  void AddGpus() {
    std::vector<std::pair<const PlannedGpu*, int>> layouts;
    std::map<std::string, std::size_t> known;
    for (const PlannedGpu& gpu : plan_.gpus) {
      const auto [it, added] = known.emplace(LayoutKey(gpu), layouts.size());
      if (added) layouts.emplace_back(&gpu, 0);
      ++layouts[it->second].second;
    }
    std::stable_sort(layouts.begin(), layouts.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    int gpus_left = plan_.summary.gpus;
    for (std::size_t l = 0; l < layouts.size(); ++l) {
      if (l == kSummaryLayoutsMax) {
        Add("\n  ... and {} more layouts on {} GPUs\n", layouts.size() - l, gpus_left);
        break;
      }
      AddGpu(*layouts[l].first, layouts[l].second);
      gpus_left -= layouts[l].second;
    }
  }

  void AddGpu(const PlannedGpu& gpu, int copies) {
    const std::string name =
        copies == 1 ? gpu.name : fmt::format("{} and {} like it", gpu.name, copies - 1);
    const std::string where = gpu.uuid.empty() ? "" : fmt::format("  GPU {}", gpu.index);
    Add("\n{}  {}  {}{}  ${:.2f}/h\n", paint_.Bold(name), gpu.board, ModeOf(gpu), where,
        gpu.price_usd_hour);
    for (const PlannedPartition& partition : gpu.partitions) AddPartition(partition);
  }

  void AddPartition(const PlannedPartition& partition) {
    Bytes used;
    std::string bar;
    int drawn = 0;
    for (std::size_t r = 0; r < partition.replicas.size(); ++r) {
      used += partition.replicas[r].memory;
      const int until =
          static_cast<int>(std::lround(kBarWidth * used.gib() / partition.memory.gib()));
      std::string cells;
      for (; drawn < until; ++drawn) cells += r % 2 == 0 ? "█" : "▓";
      bar += paint_.Series(r, cells);
    }
    std::string rest;
    for (; drawn < kBarWidth; ++drawn) rest += "░";
    bar += paint_.Dim(rest);
    const std::string label = partition.profile.empty()
                                  ? ""
                                  : fmt::format("{} at {}, {}  ", partition.profile,
                                                partition.start, SharingModeName(partition.mode));
    Add("  {}  {}{} of {}\n", bar, label, FormatBytes(used), FormatBytes(partition.memory));
    const int shown =
        std::min<int>(kSummaryReplicasMax, static_cast<int>(partition.replicas.size()));
    for (int r = 0; r < shown; ++r) AddReplica(partition.replicas[static_cast<std::size_t>(r)]);
    if (static_cast<int>(partition.replicas.size()) > shown) {
      Add("    ... and {} more\n", partition.replicas.size() - static_cast<std::size_t>(shown));
    }
  }

  void AddReplica(const PlannedReplica& replica) {
    const PlannedWorkload& workload = *workloads_.at(replica.workload);
    const std::string cap =
        replica.sm_percent ? fmt::format("SM {:>3} %", *replica.sm_percent) : "        ";
    std::string latency;
    if (replica.prediction.latency_ms_p99) {
      latency = "p99 " + Milliseconds(replica.prediction.latency_ms_p99);
      if (workload.latency_ms_p99_target) {
        latency += " of " + Milliseconds(workload.latency_ms_p99_target);
      }
    }
    if (const auto& rate = replica.prediction.throughput_per_s) {
      latency = PerSecond(rate) + ", p50 " + Milliseconds(replica.prediction.latency_ms_p50);
    }
    Add("    {:<24} {:>9}  {}  {}\n", replica.id, FormatBytes(replica.memory), cap, latency);
  }

  void AddStrategies() {
    if (plan_.strategies.empty()) return;
    Add("\n{}\n", paint_.Bold("Beside each mode alone"));
    const bool busy = std::any_of(plan_.strategies.begin(), plan_.strategies.end(),
                                  [](const Strategy& s) { return s.throughput_per_s.has_value(); });
    Add("  {:<13} {:>5} {:>9}  {:<9} {:>9} {:>9} {:>6}{}\n", "", "GPUs", "$/month", "isolation",
        "p50", "p99", "holds", busy ? fmt::format(" {:>10}", "busy") : "");
    for (const Strategy& s : plan_.strategies) {
      const std::string name = s.name == "chosen" ? "this plan" : s.name;
      std::string line =
          fmt::format("  {:<13} {:>5} {:>9}  {:<9} {:>9} {:>9} {:>6}", name,
                      s.feasible ? std::to_string(s.gpus) : "-",
                      s.feasible ? Grouped(s.cost_month_usd) : "-", s.feasible ? s.isolation : "-",
                      Milliseconds(s.latency_ms_p50), Milliseconds(s.latency_ms_p99), s.holds);
      if (busy) line += fmt::format(" {:>10}", PerSecond(s.throughput_per_s));
      Add("{}\n", s.name == "chosen" ? paint_.Bold(line) : line);
      for (const std::string& broken : s.breaks) {
        Add("                {}\n", paint_.Bad(WrappedText(broken, 16, kTextWidth)));
      }
    }
    Add("{}\n", paint_.Dim("  holds: replicas that the plan's own GPUs would hold in that mode"));
    if (busy)
      Add("{}\n", paint_.Dim("  busy: units a second of the always-busy replicas together"));
  }

  void AddChanges() {
    if (plan_.changes.empty()) return;
    std::map<Change::Kind, int> counts;
    for (const Change& change : plan_.changes) ++counts[change.kind];
    Add("\n{}\n ", paint_.Bold("Against what runs now"));
    for (const auto& [kind, count] : counts) Add(" {} {}", ChangeKindName(kind), count);
    Add("\n");
    int shown = 0;
    for (const Change& change : plan_.changes) {
      if (change.kind == Change::Kind::kKeep || ++shown > kSummaryReplicasMax) continue;
      Add("  {:<6} {:<24} {} -> {}\n", ChangeKindName(change.kind), change.replica,
          change.from.empty() ? "-" : change.from, change.to.empty() ? "-" : change.to);
    }
    if (shown > kSummaryReplicasMax) Add("  ... and {} more\n", shown - kSummaryReplicasMax);
  }

  void AddWarnings() {
    if (plan_.warnings.empty()) return;
    Add("\n{}\n", paint_.Bold("To know"));
    for (const std::string& warning : plan_.warnings) {
      Add("  {} {}\n", paint_.Bad("!"), WrappedText(warning, 4, kTextWidth));
    }
  }

  const Plan& plan_;
  Painter paint_;
  std::map<std::string, const PlannedWorkload*> workloads_;
  std::string out_;
};

}  // namespace

std::string PlanSummaryText(const Plan& plan, const SummaryStyle& style) {
  return Summary(plan, style).Run();
}

}  // namespace sublet
