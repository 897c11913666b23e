#include "proxy/route_metrics.h"

namespace sublet {
namespace {

template <typename T>
void GaugeIf(MetricFamilies& out, const char* name, const char* help, const MetricLabels& labels,
             const std::optional<T>& value) {
  if (value) out.Gauge(name, help, labels, static_cast<double>(*value));
}

void WriteRouter(const RouteView& view, MetricFamilies& out) {
  out.Gauge("sublet_route_build_info", "The program's version, and the policy.",
            {{"version", view.version}, {"policy", view.policy}}, 1);
  out.Gauge("sublet_route_uptime_seconds", "Since the router started.", {}, view.uptime_s);
  out.Gauge("sublet_route_config_ok", "0 where the file that is there can't be used.", {},
            view.config_ok ? 1 : 0);
  out.Counter("sublet_route_config_loads_total", "Times that the configuration was read.", {},
              view.config_loads);
  out.Counter("sublet_route_config_failures_total", "Of those, where it was wrong.", {},
              view.config_failures);
  for (const SourceView& source : view.sources) {
    out.Gauge("sublet_route_source_up", "1 where who tells of replicas is heard.",
              {{"source", source.name}}, source.ok ? 1 : 0);
  }
  for (const SourceView& source : view.sources) {
    out.Gauge("sublet_route_source_replicas", "How many it tells of.", {{"source", source.name}},
              static_cast<double>(source.replicas));
  }
  out.Counter("sublet_route_access_log_dropped_total", "Lines that the disk didn't take in time.",
              {}, view.access_log_dropped);
  out.Counter("sublet_route_probes_total", "Questions to replicas: health, metrics, models.", {},
              view.probes);
  out.Counter("sublet_route_probes_failed_total", "Of those, without a usable answer.", {},
              view.probes_failed);
}

void WriteProxy(const ProxyCounters& proxy, MetricFamilies& out) {
  out.Gauge("sublet_route_connections", "Of clients, open.", {},
            static_cast<double>(proxy.connections_open));
  out.Counter("sublet_route_connections_total", "Of clients, accepted.", {},
              proxy.connections_accepted);
  out.Counter("sublet_route_connections_refused_total", "Beyond the limit.", {},
              proxy.connections_refused);
  out.Gauge("sublet_route_requests_running", "Those that wait included.", {},
            static_cast<double>(proxy.requests_running));
  out.Gauge("sublet_route_queue_depth", "Requests that wait for a replica.", {},
            static_cast<double>(proxy.requests_waiting));
  out.Gauge("sublet_route_bodies_bytes", "Of requests that are held.", {},
            static_cast<double>(proxy.bodies_bytes));
  out.Counter("sublet_route_retries_total", "After a failure, on another replica.", {},
              proxy.retries);
  out.Counter("sublet_route_retries_unaffordable_total", "The retry budget had none left.", {},
              proxy.retries_unaffordable);
  out.Counter("sublet_route_upstream_connects_total", "To replicas.", {}, proxy.upstream_connects);
  out.Counter("sublet_route_upstream_connects_failed_total", "To replicas.", {},
              proxy.upstream_connects_failed);
  out.Counter("sublet_route_upstream_reused_total", "Requests over a connection that was kept.", {},
              proxy.upstream_reused);
  out.Gauge("sublet_route_upstream_idle", "Connections to replicas that are kept.", {},
            static_cast<double>(proxy.upstream_idle));
}

void WriteIndex(const FleetCacheStatus& cache, MetricFamilies& out) {
  out.Gauge("sublet_route_index_bytes", "Of the memory for what is known of KV caches.", {},
            static_cast<double>(cache.bytes));
  out.Gauge("sublet_route_index_blocks", "Distinct blocks known.", {},
            static_cast<double>(cache.blocks));
  out.Gauge("sublet_route_index_holdings", "Pairs of a block and a replica.", {},
            static_cast<double>(cache.holdings));
  out.Counter("sublet_route_index_forgotten_total", "Blocks forgotten for want of memory.", {},
              cache.forgotten);
  out.Gauge("sublet_route_index_texts", "Texts whose tokens were learnt.", {},
            static_cast<double>(cache.texts_learnt));
}

int BreakerNumber(const std::string& state) {
  return state == "open" ? 1 : state == "half-open" ? 2 : 0;
}

void WriteLoad(const ReplicaStatus& replica, const MetricLabels& labels, MetricFamilies& out) {
  out.Gauge("sublet_route_replica_healthy", "1 where its health is good.", labels,
            replica.health == ReplicaHealth::kHealthy ? 1 : 0);
  out.Gauge("sublet_route_replica_draining", "1 where it takes no new requests.", labels,
            replica.draining ? 1 : 0);
  out.Gauge("sublet_route_replica_breaker_state", "0 closed, 1 open, 2 half-open.", labels,
            BreakerNumber(replica.breaker));
  out.Gauge("sublet_route_replica_slow_start_ratio", "The part of its due that it gets.", labels,
            replica.slow_start);
  out.Gauge("sublet_route_replica_in_flight", "Requests there.", labels, replica.in_flight);
  out.Gauge("sublet_route_replica_decoding", "Of those, past their first token.", labels,
            replica.decoding);
  out.Gauge("sublet_route_replica_prefill_tokens_queued", "Still to be computed there.", labels,
            replica.prefill_tokens_queued);
  out.Gauge("sublet_route_replica_prefill_tokens_per_second", "Told, learnt or assumed.", labels,
            replica.prefill_tokens_per_second);
  out.Gauge("sublet_route_replica_decode_step_seconds", "Told, learnt or assumed.", labels,
            replica.decode_step_ms / 1e3);
  if (replica.scraped) {
    GaugeIf(out, "sublet_route_engine_waiting", "By its own metrics.", labels,
            replica.scraped->waiting);
    GaugeIf(out, "sublet_route_engine_running", "By its own metrics.", labels,
            replica.scraped->running);
    GaugeIf(out, "sublet_route_engine_kv_used_ratio", "By its own metrics.", labels,
            replica.scraped->kv_used);
  }
  GaugeIf(out, "sublet_route_engine_metrics_age_seconds", "Since they were read.", labels,
          replica.scraped_age_s);
  out.Counter("sublet_route_replica_chosen_total", "Requests decided for it.", labels,
              replica.chosen);
  out.Counter("sublet_route_replica_served_total", "Answered in full.", labels, replica.served);
  out.Counter("sublet_route_replica_failed_total", "Refused, reset, late, 5xx, garbage.", labels,
              replica.failed);
  out.Counter("sublet_route_replica_prompt_tokens_total", "Of requests decided for it.", labels,
              replica.prompt_tokens);
  out.Counter("sublet_route_replica_cached_tokens_total",
              "Of those, found in its cache, as it said, else as was expected.", labels,
              replica.cached_tokens);
}

void WriteKnowledge(const ReplicaStatus& replica, const MetricLabels& labels, MetricFamilies& out) {
  const ReplicaCacheStatus& cache = replica.cache;
  for (const CacheKnowledge knowledge :
       {CacheKnowledge::kExact, CacheKnowledge::kStale, CacheKnowledge::kApprox}) {
    MetricLabels with_state = labels;
    with_state.emplace_back("state", CacheKnowledgeName(knowledge));
    out.Gauge("sublet_route_replica_cache_knowledge", "1 for the state in which it is.", with_state,
              cache.knowledge == knowledge ? 1 : 0);
  }
  out.Gauge("sublet_route_replica_cache_blocks_held", "Announced by it.", labels,
            static_cast<double>(cache.blocks_held));
  out.Gauge("sublet_route_replica_cache_blocks_predicted", "Taken to be there.", labels,
            static_cast<double>(cache.blocks_predicted));
  GaugeIf(out, "sublet_route_replica_cache_blocks_capacity", "Absent: not known.", labels,
          cache.blocks_capacity);
  out.Counter("sublet_route_kv_events_total", "Applied.", labels, cache.events_applied);
  out.Counter("sublet_route_kv_event_gaps_total", "In the numbers of its batches.", labels,
              cache.gaps);
  out.Counter("sublet_route_kv_event_restarts_total", "Its numbers began anew.", labels,
              cache.restarts);
}

void WriteSource(const KvSourceStatus& source, const MetricLabels& labels, MetricFamilies& out) {
  out.Gauge("sublet_route_kv_source_connected_ratio", "Of its ranks, those that are heard.", labels,
            source.ranks > 0 ? static_cast<double>(source.connected) / source.ranks : 0);
  out.Counter("sublet_route_kv_batches_total", "Batches of events applied.", labels,
              source.batches);
  out.Counter("sublet_route_kv_bytes_total", "Received.", labels, source.bytes);
  out.Counter("sublet_route_kv_replays_total", "Asked for.", labels, source.replays);
  out.Counter("sublet_route_kv_unreadable_total", "Messages and batches that nobody can read.",
              labels, source.bad_frames + source.bad_batches);
}

}  // namespace

std::string RouteMetricsText(const RouteMetrics& metrics, const RouteView& view) {
  MetricFamilies out;
  WriteRouter(view, out);
  WriteProxy(view.proxy, out);
  metrics.Write(out);
  WriteIndex(view.cache, out);
  const std::size_t shown = std::min(view.replicas.size(), kReplicaSeriesMax);
  for (std::size_t i = 0; i < shown; ++i) {
    const MetricLabels labels{{"replica", view.replicas[i].spec.name}};
    WriteLoad(view.replicas[i], labels, out);
    WriteKnowledge(view.replicas[i], labels, out);
    const auto source = view.kv_sources.find(view.replicas[i].spec.name);
    if (source != view.kv_sources.end()) WriteSource(source->second, labels, out);
  }
  out.Gauge("sublet_route_replicas", "That there are.", {},
            static_cast<double>(view.replicas.size()));
  out.Gauge("sublet_route_replicas_omitted", "Without series of their own, past a limit.", {},
            static_cast<double>(view.replicas.size() - shown));
  return out.Text();
}

}  // namespace sublet
