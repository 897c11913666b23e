#include "proxy/workers_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "model/json_fields.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

std::string_view HealthName(ReplicaHealth health) {
  switch (health) {
    case ReplicaHealth::kHealthy:
      return "healthy";
    case ReplicaHealth::kUnhealthy:
      return "unhealthy";
    case ReplicaHealth::kUnknown:
      break;
  }
  return "unknown";
}

// For people to read: three digits behind the point are enough.
double Rounded(double value) {
  return std::round(value * 1000) / 1000;
}

Json ShareToJson(const ReplicaShare& share) {
  Json json = Json::object();
  PutField(json, "gpu", share.gpu);
  PutField(json, "sm_percent", share.sm_percent);
  PutField(json, "prefill_tokens_per_second", share.prefill_tokens_per_second);
  PutField(json, "decode_step_ms", share.decode_step_ms);
  PutField(json, "kv_blocks", share.kv_blocks);
  PutField(json, "kv_block_tokens", share.kv_block_tokens);
  return json;
}

Json LoadToJson(const ReplicaStatus& status) {
  Json json{{"in_flight", status.in_flight},
            {"decoding", status.decoding},
            {"prefill_tokens_queued", Rounded(status.prefill_tokens_queued)},
            {"prefill_tokens_per_second", Rounded(status.prefill_tokens_per_second)},
            {"rate_learnt", status.rate_learnt},
            {"decode_step_ms", Rounded(status.decode_step_ms)},
            {"slow_start", Rounded(status.slow_start)}};
  return json;
}

Json EngineToJson(const EngineLoad& load, const std::optional<double>& age_s) {
  Json json = Json::object();
  if (age_s) json["age_s"] = Rounded(*age_s);
  PutField(json, "waiting", load.waiting);
  PutField(json, "running", load.running);
  PutField(json, "kv_used", load.kv_used);
  PutField(json, "block_tokens", load.block_tokens);
  PutField(json, "blocks", load.blocks);
  return json;
}

Json CacheToJson(const ReplicaCacheStatus& cache) {
  Json json{{"knowledge", CacheKnowledgeName(cache.knowledge)}};
  PutField(json, "why", cache.why);
  json["blocks_held"] = cache.blocks_held;
  json["blocks_predicted"] = cache.blocks_predicted;
  PutField(json, "blocks_capacity", cache.blocks_capacity);
  json["block_tokens"] = cache.block_tokens;
  json["events_applied"] = cache.events_applied;
  json["gaps"] = cache.gaps;
  json["restarts"] = cache.restarts;
  if (cache.tail_age_s) json["tail_age_s"] = Rounded(*cache.tail_age_s);
  return json;
}

void PutSource(const KvSourceStatus& source, Json& json) {
  json["ranks"] = source.ranks;
  json["connected"] = source.connected;
  json["batches"] = source.batches;
  json["replays"] = source.replays;
  json["unreadable"] = source.bad_frames + source.bad_batches;
  json["unknown_events"] = source.unknown_events;
  PutField(json, "last_error", source.last_error);
}

}  // namespace

const KvSourceStatus* SourceOf(const RouteView& view, std::string_view replica) {
  const auto at = view.kv_sources.find(replica);
  return at == view.kv_sources.end() ? nullptr : &at->second;
}

Json WorkerToJson(const ReplicaStatus& status, const KvSourceStatus* source, bool simulated) {
  const ReplicaSpec& spec = status.spec;
  Json json{{"name", spec.name}, {"url", spec.url}, {"source", spec.source}};
  if (simulated) json["simulated"] = true;
  json["models"] = spec.models;
  PutField(json, "tenant", spec.tenant);
  json["health"] = HealthName(status.health);
  json["breaker"] = status.breaker;
  PutField(json, "why", status.why);
  json["draining"] = status.draining;
  json["in_flight_max"] = spec.in_flight_max;
  json["share"] = ShareToJson(spec.share);
  json["load"] = LoadToJson(status);
  if (status.scraped) json["engine"] = EngineToJson(*status.scraped, status.scraped_age_s);
  json["cache"] = CacheToJson(status.cache);
  if (spec.kv_events) {
    Json events{{"endpoint", spec.kv_events->endpoint}};
    PutField(events, "replay_endpoint", spec.kv_events->replay_endpoint);
    PutField(events, "topic", spec.kv_events->topic);
    if (source != nullptr) PutSource(*source, events);
    json["kv_events"] = std::move(events);
  }
  json["totals"] = Json{{"chosen", status.chosen},
                        {"served", status.served},
                        {"failed", status.failed},
                        {"prompt_tokens", status.prompt_tokens},
                        {"cached_tokens", status.cached_tokens}};
  return json;
}

Json WorkersToJson(const RouteView& view, const std::vector<RefusedReplica>& refused,
                   const std::set<std::string, std::less<>>& simulated,
                   const std::string& config_error) {
  Json workers = Json::array();
  for (const ReplicaStatus& status : view.replicas) {
    const std::string& name = status.spec.name;
    workers.push_back(WorkerToJson(status, SourceOf(view, name), simulated.contains(name)));
  }
  Json left_out = Json::array();
  for (const RefusedReplica& each : refused) {
    left_out.push_back(Json{{"name", each.spec.name},
                            {"url", each.spec.url},
                            {"source", each.spec.source},
                            {"why", each.why}});
  }
  Json sources = Json::array();
  for (const SourceView& source : view.sources) {
    Json json{{"name", source.name}, {"ok", source.ok}, {"replicas", source.replicas}};
    PutField(json, "why", source.why);
    sources.push_back(std::move(json));
  }
  Json config{{"ok", view.config_ok}};
  PutField(config, "why", config_error);
  return Json{{"policy", view.policy},
              {"config", std::move(config)},
              {"sources", std::move(sources)},
              {"workers", std::move(workers)},
              {"left_out", std::move(left_out)}};
}

Json ModelsToJson(const std::vector<std::string>& models,
                  const std::map<std::string, std::string>& aliases, std::int64_t created) {
  Json data = Json::array();
  const auto add = [&](const std::string& id, const std::string& root) {
    Json model{{"id", id}, {"object", "model"}, {"created", created}, {"owned_by", "sublet"}};
    // As vLLM names the model behind an adapter.
    if (root != id) model["root"] = root;
    data.push_back(std::move(model));
  };
  for (const std::string& model : models) add(model, model);
  for (const auto& [alias, model] : aliases) {
    const bool served = std::binary_search(models.begin(), models.end(), model);
    const bool shadowed = std::binary_search(models.begin(), models.end(), alias);
    if (served && !shadowed) add(alias, model);
  }
  return Json{{"object", "list"}, {"data", std::move(data)}};
}

std::string WhyNotReady(const std::vector<ReplicaStatus>& replicas) {
  if (replicas.empty()) return "there are no replicas";
  std::size_t unhealthy = 0;
  std::size_t unknown = 0;
  std::size_t draining = 0;
  std::size_t broken = 0;
  for (const ReplicaStatus& status : replicas) {
    if (status.draining) {
      ++draining;
    } else if (status.health == ReplicaHealth::kUnhealthy) {
      ++unhealthy;
    } else if (status.health == ReplicaHealth::kUnknown) {
      ++unknown;
    } else if (status.breaker == "open") {
      ++broken;
    } else {
      return "";
    }
  }
  return fmt::format(
      "of {} replicas none is usable: {} unhealthy, {} not asked yet, {} draining, "
      "{} behind an open breaker",
      replicas.size(), unhealthy, unknown, draining, broken);
}

}  // namespace sublet
