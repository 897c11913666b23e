#include "exe/route_replay.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "base/terminal.h"
#include "exe/program.h"
#include "exe/progress_bar.h"
#include "replay/ceiling.h"
#include "replay/replay.h"
#include "replay/replay_fleet.h"
#include "replay/replay_report.h"
#include "replay/trace_reader.h"
#include "replay/traffic.h"
#include "route/policy.h"

namespace sublet {
namespace {

// Traces whose hashes have no size of their own are cut into blocks of this: four of vLLM's, so
// that a long replay takes a quarter of the time and finds the same but for a part of a block.
constexpr int kBlockTokens = 64;
// What 1,600 blocks of 512 tokens hold: some 100 GB of KV cache of an 8B model.
constexpr std::int64_t kCacheTokens = 1600 * 512;

Result<Trace> LoadTrace(const std::string& name) {
  if (name.starts_with(kTrafficPrefix)) return GenerateTraffic(name);
  ASSIGN_OR_RETURN(const std::string text, ReadFile(name, kTraceBytesMax));
  return ParseTrace(text, name);
}

Result<std::vector<std::string>> PoliciesOf(const std::string& words) {
  const std::vector<std::string> all = PolicyNames();
  if (words == "all") return all;
  std::vector<std::string> chosen;
  for (std::size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = words.find(',', begin);
    ASSIGN_OR_RETURN(const Policy policy,
                     FindPolicy(words.substr(begin, end == std::string::npos ? end : end - begin)));
    chosen.emplace_back(policy.name);
  }
  return chosen;
}

Result<ReplayOptions> OptionsOf(const RouteReplayFlags& flags, const Trace& trace) {
  ReplayOptions options;
  options.block_tokens = flags.block_tokens.value_or(trace.block_tokens.value_or(kBlockTokens));
  const ReplayGpu gpu{
      .prefill_tokens_per_second = flags.prefill_rate,
      .kv_blocks = flags.blocks.value_or(kCacheTokens / std::max(1, options.block_tokens))};
  const std::string shape =
      flags.fleet.empty() ? fmt::format("{}*100", flags.workers) : flags.fleet;
  ASSIGN_OR_RETURN(options.fleet, ParseReplayFleet(shape, gpu));
  if (flags.events != "exact" && flags.events != "none") {
    return Fail(ErrorCode::kUsage, fmt::format("--events: '{}'", flags.events), "exact or none");
  }
  options.events = flags.events == "exact";
  options.event_delay_ms = flags.event_delay_ms;
  options.load = flags.load;
  options.objective_ttft_ms = flags.objective_ms;
  options.seed = flags.seed;
  options.wall_ns = MonotonicNanoseconds;
  return options;
}

std::int64_t BlocksOf(const ReplayOptions& options) {
  std::int64_t blocks = 0;
  for (const ReplayReplica& replica : options.fleet) blocks += replica.kv_blocks;
  return blocks;
}

int TerminalColumns() {
  winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 120;
}

}  // namespace

void AddRouteReplayFlags(CLI::App& verb, RouteReplayFlags& flags) {
  std::string kinds;
  for (const TrafficKind& kind : TrafficKinds()) {
    kinds += fmt::format("\n  gen:{}  {}", kind.name, kind.meaning);
    for (const TrafficParameter& parameter : kind.parameters) {
      kinds += fmt::format("\n      {}={}  {}", parameter.name, parameter.value, parameter.meaning);
    }
  }
  verb.footer("Traffic for --replay, as gen:KIND or gen:KIND,name=value,...:" + kinds);
  const auto option = [&](const char* name, auto& value, const char* meaning) {
    return verb.add_option(name, value, meaning)->group("Replay");
  };
  option("--replay", flags.trace,
         "Send a trace (Mooncake, Qwen-Bailian, Azure, BurstGPT) or generated traffic (below) "
         "through policies and simulated engines, in virtual time")
      ->type_name("FILE|gen:KIND");
  option("--workers", flags.workers, "Replicas, each with a GPU of its own")
      ->check(CLI::Range(1, kReplayReplicasMax));
  option("--fleet", flags.fleet,
         "Instead of --workers: GPUs and their shares, as in 2*60/25/15+100, or uneven")
      ->type_name("SHARES");
  option("--blocks", flags.blocks, "KV blocks of a whole GPU (default: 819,200 tokens' worth)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  option("--block-tokens", flags.block_tokens, "Tokens of a block (default: the trace's, else 64)")
      ->check(CLI::Range(1, 65'536));
  option("--prefill-rate", flags.prefill_rate, "Tokens a second that a whole GPU prefills")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e9));
  option("--load", flags.load, "Requests come so many times as fast")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 1e6));
  option("--events", flags.events, "exact: engines tell what they cache; none: it is predicted")
      ->capture_default_str();
  option("--event-delay-ms", flags.event_delay_ms, "From an engine to the router")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 60'000.0));
  option("--objective-ms", flags.objective_ms, "A first token within this is in time")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e9));
  option("--seed", flags.seed, "Of policies that draw")->capture_default_str();
}

Result<int> ReplayRoute(const RouteReplayFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<std::string> policies, PoliciesOf(flags.policies));
  ASSIGN_OR_RETURN(const Trace trace, LoadTrace(flags.trace));
  ASSIGN_OR_RETURN(const ReplayOptions options, OptionsOf(flags, trace));
  ReplayReport report{.trace = SummaryOf(trace),
                      .options = options,
                      .ceiling = CeilingHitRatio(trace, options.block_tokens),
                      .pooled = PooledHitRatio(trace, options.block_tokens, BlocksOf(options)),
                      .policies = {}};
  ProgressBar line;
  const std::int64_t begin_ns = MonotonicNanoseconds();
  const auto all = static_cast<double>(policies.size());
  for (std::size_t i = 0; i < policies.size(); ++i) {
    const auto show = [&](double part) {
      const double done = (static_cast<double>(i) + part) / all;
      const double taken_s = static_cast<double>(MonotonicNanoseconds() - begin_ns) / 1e9;
      line.Show(done, done > 0 ? taken_s * (1 - done) / done : 0, policies[i]);
    };
    ASSIGN_OR_RETURN(PolicyOutcome outcome, ReplayPolicy(trace, options, policies[i], show));
    report.policies.push_back(std::move(outcome));
  }
  line.Clear();
  if (flags.json) {
    fmt::print("{}\n", ReplayToJson(report).dump(2));
  } else {
    fmt::print("{}", ReplayText(report, Painter(WantsColour()), TerminalColumns()));
  }
  return 0;
}

}  // namespace sublet
