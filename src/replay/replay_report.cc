#include "replay/replay_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

// Figures in JSON have as many digits as mean something, so that two runs are easily compared.
double Rounded(double value, double per_unit) {
  return std::round(value * per_unit) / per_unit;
}

Json ReplicasToJson(const PolicyOutcome& outcome) {
  Json json = Json::array();
  for (const ReplicaOutcome& replica : outcome.replicas) {
    const double blocks = static_cast<double>(std::max<std::int64_t>(1, replica.prompt_blocks));
    json.push_back({{"name", replica.name},
                    {"requests", replica.requests},
                    {"hit_ratio", Rounded(static_cast<double>(replica.hit_blocks) / blocks, 1e4)},
                    {"computed_tokens", replica.computed_tokens},
                    {"work_s", Rounded(replica.work_s, 1e3)}});
  }
  return json;
}

Json OutcomeToJson(const PolicyOutcome& outcome) {
  Json json{{"policy", outcome.policy},
            {"hit_ratio", Rounded(outcome.hit_ratio, 1e4)},
            {"ttft_ms_mean", Rounded(outcome.ttft_ms_mean, 10)},
            {"ttft_ms_p50", Rounded(outcome.ttft_ms_p50, 10)},
            {"ttft_ms_p90", Rounded(outcome.ttft_ms_p90, 10)},
            {"ttft_ms_p99", Rounded(outcome.ttft_ms_p99, 10)},
            {"tpot_ms_p50", Rounded(outcome.tpot_ms_p50, 100)},
            {"tpot_ms_p90", Rounded(outcome.tpot_ms_p90, 100)},
            {"requests", outcome.requests},
            {"served", outcome.served},
            {"rejected", outcome.rejected},
            {"queued", outcome.queued},
            {"in_time", Rounded(outcome.in_time, 1e4)},
            {"goodput_per_second", Rounded(outcome.goodput_per_second, 1e3)},
            {"output_tokens_per_second", Rounded(outcome.output_tokens_per_second, 10)},
            {"duration_s", Rounded(outcome.duration_s, 1e3)},
            {"imbalance", Rounded(outcome.imbalance, 1e3)},
            {"preemptions", outcome.preemptions},
            {"replicas", ReplicasToJson(outcome)}};
  if (outcome.decisions_per_second > 0) {
    json["decisions_per_second"] = std::round(outcome.decisions_per_second);
  }
  return json;
}

Json FleetToJson(const std::vector<ReplayReplica>& fleet) {
  Json json = Json::array();
  for (const ReplayReplica& replica : fleet) {
    json.push_back({{"name", replica.name},
                    {"gpu", replica.gpu},
                    {"sm_percent", replica.sm_percent},
                    {"prefill_tokens_per_second", replica.prefill_tokens_per_second},
                    {"kv_blocks", replica.kv_blocks}});
  }
  return json;
}

std::string Percent(double part) {
  return fmt::format("{:.1f} %", part * 100);
}

// "8 replicas on 8 GPUs, 1,600 blocks of 512 tokens each".
std::string FleetText(const ReplayOptions& options) {
  std::set<std::string> gpus;
  std::int64_t least = options.fleet.front().kv_blocks;
  std::int64_t most = least;
  for (const ReplayReplica& replica : options.fleet) {
    gpus.insert(replica.gpu);
    least = std::min(least, replica.kv_blocks);
    most = std::max(most, replica.kv_blocks);
  }
  const auto grouped = [](std::int64_t n) { return Grouped(static_cast<double>(n)); };
  const std::string blocks =
      least == most ? grouped(most) : fmt::format("{} to {}", grouped(least), grouped(most));
  return fmt::format("{} replicas on {} GPUs, {} blocks of {} tokens each", options.fleet.size(),
                     gpus.size(), blocks, options.block_tokens);
}

std::string TraceText(const ReplayReport& report) {
  const TraceSummary& trace = report.trace;
  const auto requests = static_cast<double>(trace.requests);
  return fmt::format(
      "{} requests{} over {}{}, {} tokens in and {} out each", Grouped(requests),
      trace.closed_loop ? " (each turn after the answer before)" : "",
      TimeText(trace.seconds * 1e3 / report.options.load),
      report.options.load == 1 ? "" : fmt::format(" ({}x as fast)", report.options.load),
      Grouped(static_cast<double>(trace.prompt_tokens) / requests),
      Grouped(static_cast<double>(trace.output_tokens) / requests));
}

// The bar of `part` of the width, then what is left of it up to the ceiling as a dim line.
std::string HitBar(double part, const Painter& paint, int width, bool best) {
  const std::string bar = BarText(std::clamp(part, 0.0, 1.0), width);
  const int left = width - ColumnsOf(bar);
  std::string rest;
  for (int i = 0; i < left; ++i) rest += "·";
  return (best ? paint.Good(bar) : bar) + paint.Dim(rest) + paint.Dim("▏");
}

// A figure beside the bars.
struct FigureColumn {
  std::string_view head;
  int width = 0;
  std::string (*text)(const PolicyOutcome&) = nullptr;
  bool (*bad)(const PolicyOutcome&) = [](const PolicyOutcome&) { return false; };
};

constexpr int kNameWidth = 15;
constexpr int kBarFigureWidth = 11;  // A bar's own figure, and the gaps beside it.
constexpr int kBarWidthMin = 6;
constexpr int kBarWidthMax = 28;

// In the order in which they stand; fewer on a narrow terminal.
std::vector<FigureColumn> FiguresWithin(int columns) {
  std::vector<FigureColumn> figures = {
      {"p50", 7, [](const PolicyOutcome& o) { return TimeText(o.ttft_ms_p50); }},
      {"p99", 7, [](const PolicyOutcome& o) { return TimeText(o.ttft_ms_p99); }},
      {"a token", 7, [](const PolicyOutcome& o) { return TimeText(o.tpot_ms_p50); }},
      {"in time", 7, [](const PolicyOutcome& o) { return Percent(o.in_time); }},
      {"rejected", 8,
       [](const PolicyOutcome& o) { return Grouped(static_cast<double>(o.rejected)); },
       [](const PolicyOutcome& o) { return o.rejected > 0; }},
      {"imbalance", 9, [](const PolicyOutcome& o) { return fmt::format("{:.2f}", o.imbalance); }}};
  int needed = kNameWidth + 2 * (kBarFigureWidth + kBarWidthMin);
  for (const FigureColumn& figure : figures) needed += figure.width + 2;
  // Least missed first.
  for (const std::string_view head : {"a token", "p99", "imbalance", "in time"}) {
    if (needed <= columns) break;
    const auto it = std::ranges::find(figures, head, &FigureColumn::head);
    needed -= it->width + 2;
    figures.erase(it);
  }
  return figures;
}

struct Best {
  double hit_ratio = 0;
  double fastest_ms = 0;
  double slowest_ms = 1;
};

Best BestOf(const std::vector<PolicyOutcome>& policies) {
  Best best{.fastest_ms = policies.front().ttft_ms_p90};
  for (const PolicyOutcome& outcome : policies) {
    best.hit_ratio = std::max(best.hit_ratio, outcome.hit_ratio);
    best.fastest_ms = std::min(best.fastest_ms, outcome.ttft_ms_p90);
    best.slowest_ms = std::max(best.slowest_ms, outcome.ttft_ms_p90);
  }
  return best;
}

std::string TimeBar(double part, const Painter& paint, int width, bool best) {
  const std::string bar = BarText(std::clamp(part, 0.0, 1.0), width);
  const std::string padded = PaddedRight(bar.empty() ? "▏" : bar, width);
  return best ? paint.Good(padded) : padded;
}

}  // namespace

std::string TimeText(double ms) {
  if (ms < 1000) return fmt::format("{:.0f} ms", ms);
  if (ms < 100'000) return fmt::format("{} s", ThreeDigits(ms / 1000));
  if (ms < 600'000) return fmt::format("{:.0f} s", ms / 1000);
  return fmt::format("{:.0f} min", ms / 60'000);
}

TraceSummary SummaryOf(const Trace& trace) {
  TraceSummary out{.name = trace.name,
                   .requests = static_cast<std::int64_t>(trace.requests.size())};
  for (const TraceRequest& request : trace.requests) {
    out.prompt_tokens += request.prompt_tokens;
    out.output_tokens += request.output_tokens;
    if (request.after) out.closed_loop = true;
    if (!request.after) {
      out.seconds = std::max(out.seconds, static_cast<double>(request.at_ns) / 1e9);
    }
  }
  return out;
}

Json ReplayToJson(const ReplayReport& report) {
  const ReplayOptions& options = report.options;
  Json json{{"version", kReplayVersion},
            {"trace",
             {{"name", report.trace.name},
              {"requests", report.trace.requests},
              {"prompt_tokens", report.trace.prompt_tokens},
              {"output_tokens", report.trace.output_tokens},
              {"seconds", Rounded(report.trace.seconds, 1e3)},
              {"closed_loop", report.trace.closed_loop}}},
            {"fleet", FleetToJson(options.fleet)},
            {"block_tokens", options.block_tokens},
            {"events", options.events},
            {"event_delay_ms", options.event_delay_ms},
            {"load", options.load},
            {"objective_ttft_ms", options.objective_ttft_ms},
            {"seed", options.seed},
            {"ceiling", Rounded(report.ceiling, 1e4)}};
  if (report.pooled) json["ceiling_same_memory"] = Rounded(*report.pooled, 1e4);
  json["policies"] = Json::array();
  for (const PolicyOutcome& outcome : report.policies) {
    json["policies"].push_back(OutcomeToJson(outcome));
  }
  return json;
}

std::string ReplayText(const ReplayReport& report, const Painter& paint, int columns) {
  std::string out = fmt::format(
      "{}\n{}\n{}; {}\n\n", paint.Bold(report.trace.name), TraceText(report),
      FleetText(report.options),
      report.options.events ? fmt::format("events {} late", TimeText(report.options.event_delay_ms))
                            : "no events: caches are predicted");
  if (report.policies.empty()) return out;
  const Best best = BestOf(report.policies);
  const std::vector<FigureColumn> figures = FiguresWithin(columns);
  int rest = columns - kNameWidth - 2 * kBarFigureWidth;
  for (const FigureColumn& figure : figures) rest -= figure.width + 2;
  const int width = std::clamp(rest / 2, kBarWidthMin, kBarWidthMax);
  std::string head = fmt::format("{}  {}  {}", PaddedRight("policy", kNameWidth),
                                 PaddedRight("blocks found", width + kBarFigureWidth - 2),
                                 PaddedRight("first token p90", width + kBarFigureWidth - 2));
  for (const FigureColumn& figure : figures) head += "  " + PaddedLeft(figure.head, figure.width);
  out += paint.Dim(head) + "\n";
  for (const PolicyOutcome& outcome : report.policies) {
    const double of_ceiling = report.ceiling > 0 ? outcome.hit_ratio / report.ceiling : 0;
    out += fmt::format("{}  {} {}  {} {}", PaddedRight(outcome.policy, kNameWidth),
                       HitBar(of_ceiling, paint, width, outcome.hit_ratio >= best.hit_ratio),
                       PaddedLeft(Percent(outcome.hit_ratio), 7),
                       TimeBar(outcome.ttft_ms_p90 / best.slowest_ms, paint, width,
                               outcome.ttft_ms_p90 <= best.fastest_ms),
                       PaddedLeft(TimeText(outcome.ttft_ms_p90), 8));
    for (const FigureColumn& figure : figures) {
      const std::string text = PaddedLeft(figure.text(outcome), figure.width);
      out += "  " + (figure.bad(outcome) ? paint.Bad(text) : text);
    }
    out += "\n";
  }
  const std::string pooled =
      report.pooled ? fmt::format(" One of the fleet's size: {}.", Percent(*report.pooled)) : "";
  const std::string legend = fmt::format(
      "Bars of blocks found end at {}: one cache without bounds, shared by all.{} In time: first "
      "token within {}.",
      Percent(report.ceiling), pooled, TimeText(report.options.objective_ttft_ms));
  return out + "\n" + paint.Dim(WrappedText(legend, 0, columns)) + "\n";
}

}  // namespace sublet
