#include "exe/route_demo.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/interrupt.h"
#include "exe/demo_load.h"
#include "exe/live_screen.h"
#include "exe/program.h"
#include "exe/simulated_engines.h"
#include "model/document.h"
#include "model/route_config.h"
#include "observe/race_view.h"
#include "proxy/route_service.h"

namespace sublet {
namespace {

// Two GPUs, each shared by two replicas, unequally. Their caches hold all conversations once, and
// not twice: whoever sends a conversation here and there keeps neither.
constexpr std::string_view kRoute = R"(
version: sublet.route/v1
listen: {{address: 127.0.0.1, port: 0}}
policy: {}
replicas:
  - name: demo/0
    simulate: {{prefill_tokens_per_second: 9000, decode_step_ms: 12, kv_blocks: 2400}}
    share: {{gpu: "0", sm_percent: 75}}
  - name: demo/1
    simulate: {{prefill_tokens_per_second: 3500, decode_step_ms: 20, kv_blocks: 800}}
    share: {{gpu: "0", sm_percent: 25}}
  - name: demo/2
    simulate: {{prefill_tokens_per_second: 9000, decode_step_ms: 12, kv_blocks: 2400}}
    share: {{gpu: "1", sm_percent: 75}}
  - name: demo/3
    simulate: {{prefill_tokens_per_second: 3500, decode_step_ms: 20, kv_blocks: 800}}
    share: {{gpu: "1", sm_percent: 25}}
)";

constexpr LoadOptions kLoad = {.conversations = 32,
                               .turns = 8,
                               .context_words = 500,
                               .turn_words = 50,
                               .answer_tokens = 16,
                               .think_s = 0.8};
constexpr double kFrameSeconds = 0.25;
constexpr double kMomentSeconds = 0.5;  // A column of a lane's plot.
constexpr std::size_t kRecent = 40;     // Answers that a column is of.
constexpr int kLinesColumns = 110;      // Of what stays on the terminal, or in a file.

double Percentile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<std::size_t>(part * static_cast<double>(values.size()));
  return values[std::min(rank, values.size() - 1)];
}

// One policy: engines, a router, and those who talk through it.
class Lane {
 public:
  explicit Lane(std::string policy) : policy_(std::move(policy)) {}

  ~Lane() {
    load_.reset();
    if (service_) service_->Stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Start() {
    engines_ = MakeSimulatedEngines();
    RouteServiceHooks hooks;
    hooks.load = [text = fmt::format(kRoute, policy_)] {
      return ParseRouteConfig(text, "the demo's route file");
    };
    hooks.engines = engines_.get();
    hooks.signals = false;
    hooks.version = SUBLET_VERSION;
    ASSIGN_OR_RETURN(service_, RouteService::Open(std::move(hooks)));
    RETURN_IF_ERROR(service_->Start());
    thread_ = std::thread([this] { service_->Run(); });
    load_ = std::make_unique<DemoLoad>(service_->port(), "demo", kLoad);
    load_->Start();
    return {};
  }

  // What has come of it so far; a column of its plot more where `moment` says so.
  RaceLane Look(bool moment) {
    const LoadTally tally = load_->Look();
    RaceLane lane{.policy = policy_,
                  .served = tally.served,
                  .failed = tally.failed,
                  .prompt_tokens = tally.prompt_tokens,
                  .cached_tokens = tally.cached_tokens};
    if (!tally.ttft_ms.empty()) {
      lane.ttft_ms_p50 = Percentile(tally.ttft_ms, 0.5);
      lane.ttft_ms_p90 = Percentile(tally.ttft_ms, 0.9);
      lane.ttft_ms_p99 = Percentile(tally.ttft_ms, 0.99);
      const std::size_t recent = std::min(tally.ttft_ms.size(), kRecent);
      if (moment) {
        history_.push_back(Percentile(
            {tally.ttft_ms.end() - static_cast<std::ptrdiff_t>(recent), tally.ttft_ms.end()}, 0.9));
      }
    }
    lane.ttft_ms_history = history_;
    for (const RouteReplica& replica : service_->config().replicas) {
      const auto seen = tally.replicas.find(replica.spec.name);
      RaceReplica row{.name = replica.spec.name,
                      .gpu = replica.spec.share.gpu,
                      .sm_percent = replica.spec.share.sm_percent};
      if (seen != tally.replicas.end()) {
        row.requests = seen->second.requests;
        row.prompt_tokens = seen->second.prompt_tokens;
        row.cached_tokens = seen->second.cached_tokens;
      }
      lane.replicas.push_back(std::move(row));
    }
    return lane;
  }

 private:
  const std::string policy_;
  std::unique_ptr<SimulatedEngines> engines_;
  std::unique_ptr<RouteService> service_;
  std::thread thread_;
  std::unique_ptr<DemoLoad> load_;
  std::vector<double> history_;
};

Result<std::vector<std::string>> PoliciesOf(const std::string& text) {
  if (text.empty()) return std::vector<std::string>{"cost", "round-robin"};
  std::vector<std::string> policies;
  std::istringstream in(text);
  const std::vector<std::string_view>& known = RoutePolicyWords();
  for (std::string name; std::getline(in, name, ',');) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return Fail(ErrorCode::kUsage, "no such policy: " + name, SuggestFor(name, known));
    }
    policies.push_back(name);
  }
  if (policies.empty() || policies.size() > 3) {
    return Fail(ErrorCode::kUsage, "--demo shows one to three policies side by side");
  }
  return policies;
}

class Show {
 public:
  explicit Show(double seconds) : seconds_(seconds) {
    if (LiveScreen::Available()) screen_ = std::make_unique<LiveScreen>();
  }

  Race Run(std::vector<std::unique_ptr<Lane>>& lanes) {
    const InterruptScope scope;
    const std::int64_t began_ns = MonotonicNanoseconds();
    Deadline moment = Deadline::In(kMomentSeconds);
    Race race;
    race.traffic = fmt::format("{} conversations of {} turns; 4 SIMULATED engines on 2 GPUs",
                               kLoad.conversations, kLoad.turns);
    race.total_s = seconds_;
    while (race.elapsed_s < seconds_) {
      if (!Wait()) break;
      race.elapsed_s = static_cast<double>(MonotonicNanoseconds() - began_ns) / 1e9;
      race.lanes.clear();
      for (const auto& lane : lanes) race.lanes.push_back(lane->Look(moment.Passed()));
      if (moment.Passed()) moment = Deadline::In(kMomentSeconds);
      Draw(race);
    }
    return race;
  }

 private:
  // Until the next frame; false: the user has seen enough.
  bool Wait() {
    if (!screen_) {
      pollfd interrupt = {InterruptFd(), POLLIN, 0};
      return ::poll(&interrupt, 1, static_cast<int>(kFrameSeconds * 1000)) == 0;
    }
    const LiveScreen::Event event = screen_->Wait(kFrameSeconds);
    return !event.closed && !ParseLiveInput(event.bytes).quit;
  }

  void Draw(const Race& race) {
    if (!screen_) return;
    const LiveScreen::Size size = screen_->size();
    screen_->Draw(RaceFrame(race, {size.columns, size.rows, WantsColour()}));
  }

  const double seconds_;
  std::unique_ptr<LiveScreen> screen_;
};

}  // namespace

void AddRouteDemoFlags(CLI::App& verb, RouteDemoFlags& flags) {
  verb.add_flag("--demo", flags.demo,
                "Show two policies side by side, live, with simulated engines and a load");
  verb.add_option("--seconds", flags.seconds, "With --demo: for how long (30)")
      ->check(CLI::Range(1.0, 3600.0));
}

Result<int> DemoRoute(const RouteDemoFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<std::string> policies, PoliciesOf(flags.policies));
  // What routers would log belongs to people who run one.
  spdlog::set_level(spdlog::level::err);
  std::vector<std::unique_ptr<Lane>> lanes;
  for (const std::string& policy : policies) {
    lanes.push_back(std::make_unique<Lane>(policy));
    RETURN_IF_ERROR(lanes.back()->Start());
  }
  const Race race = Show(flags.seconds).Run(lanes);
  fmt::print("{}\n", RaceFrame(race, {kLinesColumns, 0, WantsColour()}));
  const bool well = std::all_of(race.lanes.begin(), race.lanes.end(), [](const RaceLane& lane) {
    return lane.served > 0 && lane.failed == 0;
  });
  return well ? 0 : 1;
}

}  // namespace sublet
