#include "proxy/replica_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/clock.h"

namespace sublet {
namespace {

constexpr std::size_t kModelsMax = 1000;           // Base models and adapters of one engine.
constexpr std::size_t kModelNameMax = 256;         // As the route file's reader has it.
constexpr std::size_t kAnswerBytesMax = 8u << 20;  // vLLM's metrics have some 200 KiB.
constexpr std::int64_t kNeverNs = std::numeric_limits<std::int64_t>::max();

std::shared_ptr<const WatchSettings> Prepared(WatchSettings settings) {
  if (settings.trust == nullptr) settings.trust = std::make_shared<FetchTrust>(FetchTls{});
  return std::make_shared<const WatchSettings>(std::move(settings));
}

bool IsWell(int status) {
  return status < 400 || status == 404 || status == 405 || status == 501;
}

}  // namespace

Result<std::vector<std::string>> ModelsIn(std::string_view body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  const auto data = json.is_object() ? json.find("data") : json.end();
  if (!json.is_object() || data == json.end() || !data->is_array()) {
    return Fail(ErrorCode::kInvalid, "not a list of models");
  }
  std::vector<std::string> models;
  for (const auto& item : *data) {
    const auto id = item.is_object() ? item.find("id") : item.end();
    if (!item.is_object() || id == item.end() || !id->is_string()) continue;
    const auto& name = id->get_ref<const std::string&>();
    const bool printable =
        std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f'; });
    if (name.empty() || name.size() > kModelNameMax || !printable) continue;
    models.push_back(name);
    if (models.size() == kModelsMax) break;
  }
  std::sort(models.begin(), models.end());
  models.erase(std::unique(models.begin(), models.end()), models.end());
  return models;
}

struct ReplicaWatch::Watched {
  ReplicaSlot slot = 0;
  ReplicaSpec spec;
  asio::cancellation_signal cancel;
  bool removed = false;      // Nothing is reported any more.
  std::optional<bool> well;  // As it was reported.
  std::string why;
  int failures = 0;  // In a row,
  int successes = 0;
  std::optional<std::vector<std::string>> models;
  // When each is next asked for.
  std::int64_t health_ns = 0;
  std::int64_t metrics_ns = 0;
  std::int64_t models_ns = 0;
};

// The connection, and the settings that it was made by.
struct ReplicaWatch::Asker {
  std::shared_ptr<const WatchSettings> settings;
  std::optional<FetchConnection> connection;
};

ReplicaWatch::ReplicaWatch(asio::io_context& loop, WatchSettings settings, std::uint64_t seed,
                           ReplicaReports reports)
    : loop_(loop),
      settings_(Prepared(std::move(settings))),
      random_(static_cast<std::minstd_rand::result_type>(seed)),
      reports_(std::move(reports)),
      gate_(std::make_shared<ProbeGate>(loop, kAtOnce)) {}

// Coroutines that wait go with the loop, which must not run any more.
ReplicaWatch::~ReplicaWatch() {
  for (const auto& [slot, replica] : watched_) replica->removed = true;
}

void ReplicaWatch::Add(ReplicaSlot slot, const ReplicaSpec& spec) {
  Remove(slot);
  auto replica = std::make_shared<Watched>();
  replica->slot = slot;
  replica->spec = spec;
  replica->models_ns = spec.models.empty() ? 0 : kNeverNs;
  watched_[slot] = replica;
  asio::co_spawn(
      loop_, Follow(*this, replica),
      asio::bind_cancellation_slot(replica->cancel.slot(), [replica](std::exception_ptr exception) {
        EndsTheProgram(exception);
      }));
}

void ReplicaWatch::Remove(ReplicaSlot slot) {
  const auto at = watched_.find(slot);
  if (at == watched_.end()) return;
  const std::shared_ptr<Watched> replica = at->second;
  watched_.erase(at);
  replica->removed = true;
  replica->cancel.emit(asio::cancellation_type::terminal);
}

void ReplicaWatch::Change(WatchSettings settings) {
  // Authorities that are the same are read once.
  const std::shared_ptr<FetchTrust>& before = settings_->trust;
  if (settings.trust != nullptr && settings.trust->tls() == before->tls()) settings.trust = before;
  settings_ = Prepared(std::move(settings));
}

std::int64_t ReplicaWatch::After(double seconds) {
  const double chance = std::uniform_real_distribution<double>(0.95, 1.05)(random_);
  return MonotonicNanoseconds() + static_cast<std::int64_t>(seconds * chance * 1e9);
}

Task<void> ReplicaWatch::Follow(ReplicaWatch& self, std::shared_ptr<Watched> replica) {
  const Result<HttpUrl> url = ParseHttpUrl(replica->spec.url);
  if (!url) {
    self.Report(*replica, false, url.error().message);
    co_return;
  }
  Asker asker;
  asio::steady_timer timer(self.loop_);
  while (!replica->removed) {
    const std::int64_t next_ns =
        std::min({replica->health_ns, replica->metrics_ns, replica->models_ns});
    timer.expires_after(std::chrono::nanoseconds(next_ns - MonotonicNanoseconds()));
    co_await timer.async_wait(asio::use_awaitable);
    const ProbePass pass = co_await ProbeGate::Enter(self.gate_);
    if (asker.settings != self.settings_) {
      asker.settings = self.settings_;
      asker.connection.emplace(self.loop_, FetchTarget::At(*url, asker.settings->trust));
    }
    const std::int64_t now_ns = MonotonicNanoseconds();
    if (replica->health_ns <= now_ns) co_await self.AskHealth(*replica, asker);
    if (replica->models_ns <= now_ns) co_await self.AskModels(*replica, asker);
    if (replica->metrics_ns <= now_ns) co_await self.AskMetrics(*replica, asker);
  }
}

Task<Result<FetchResponse>> ReplicaWatch::Ask(Asker& asker, std::string path, double timeout_s) {
  FetchRequest request;
  request.target = std::move(path);
  request.timeout_s = timeout_s;
  request.bytes_max = kAnswerBytesMax;
  if (!asker.settings->bearer.empty()) {
    request.headers.emplace_back("Authorization", "Bearer " + asker.settings->bearer);
  }
  ++questions_;
  Result<FetchResponse> answer = co_await asker.connection->Send(request);
  if (!answer) ++failures_;
  co_return answer;
}

Task<void> ReplicaWatch::AskHealth(Watched& replica, Asker& asker) {
  const HealthSettings& health = asker.settings->health;
  const Result<FetchResponse> answer = co_await Ask(asker, health.path, health.timeout_s);
  replica.health_ns = After(health.interval_s);
  if (replica.removed) co_return;
  const bool well = answer && IsWell(answer->status);
  replica.failures = well ? 0 : replica.failures + 1;
  replica.successes = well ? replica.successes + 1 : 0;
  if (well && replica.successes >= health.successes) {
    Report(replica, true, "");
  } else if (!well && (replica.failures >= health.failures || !replica.well)) {
    // One that was never well needs no second failure to be known as unwell.
    Report(replica, false,
           answer ? fmt::format("{} answers {}", health.path, answer->status)
                  : answer.error().message);
  }
}

void ReplicaWatch::Report(Watched& replica, bool well, std::string why) {
  if (replica.well == well && replica.why == why) return;
  // What has just come up may serve other models than before.
  if (well && replica.spec.models.empty()) replica.models_ns = 0;
  replica.well = well;
  replica.why = why;
  reports_.health(replica.slot, well ? ReplicaHealth::kHealthy : ReplicaHealth::kUnhealthy,
                  std::move(why));
}

Task<void> ReplicaWatch::AskMetrics(Watched& replica, Asker& asker) {
  const ScrapeSettings& scrape = asker.settings->scrape;
  const bool asked = scrape.interval_s > 0 && replica.well.value_or(false);
  // Looked at again soon: the settings may change, and it may get well.
  replica.metrics_ns =
      After(scrape.interval_s > 0 ? scrape.interval_s : asker.settings->health.interval_s);
  if (!asked) co_return;
  const Result<FetchResponse> answer =
      co_await Ask(asker, scrape.path, asker.settings->health.timeout_s);
  if (replica.removed || !answer) co_return;
  if (answer->status == 200) reports_.metrics(replica.slot, answer->body);
}

Task<void> ReplicaWatch::AskModels(Watched& replica, Asker& asker) {
  if (!replica.well.value_or(false)) {
    replica.models_ns = replica.health_ns;
    co_return;
  }
  const Result<FetchResponse> answer =
      co_await Ask(asker, "/v1/models", asker.settings->health.timeout_s);
  replica.models_ns = After(asker.settings->models_interval_s);
  if (replica.removed) co_return;
  if (!answer || answer->status >= 500) {
    replica.models_ns = After(asker.settings->health.interval_s);
    co_return;
  }
  Result<std::vector<std::string>> models = ModelsIn(answer->body);
  // No list: it may serve anything.
  std::vector<std::string> names =
      answer->status == 200 && models ? std::move(*models) : std::vector<std::string>();
  if (replica.models == names) co_return;
  replica.models = names;
  reports_.models(replica.slot, std::move(names));
}

}  // namespace sublet
