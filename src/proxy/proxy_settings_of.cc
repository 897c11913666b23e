#include "proxy/proxy_settings_of.h"

#include <algorithm>
#include <thread>

#include "proxy/key_file.h"

namespace sublet {
namespace {

// More threads than that serve no faster than eight do: the engines are slower.
constexpr unsigned kThreadsMax = 8;

int ThreadsOf(int asked) {
  if (asked > 0) return asked;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsMax));
}

ProxyLimits LimitsOf(const RouteConfig& config) {
  ProxyLimits limits;
  limits.body_bytes_max = static_cast<std::size_t>(config.limits.body_bytes_max);
  limits.bodies_bytes_max = static_cast<std::size_t>(config.limits.bodies_bytes_max);
  limits.header_bytes_max = static_cast<std::size_t>(config.limits.header_bytes_max);
  limits.connections_max = static_cast<std::size_t>(config.limits.connections_max);
  limits.idle_s = config.timeouts.idle_s;
  limits.header_s = config.timeouts.header_s;
  limits.body_s = config.timeouts.body_s;
  limits.client_stall_s = config.timeouts.client_stall_s;
  limits.connect_s = config.timeouts.connect_s;
  limits.first_byte_s = config.timeouts.first_byte_s;
  limits.stall_s = config.timeouts.stall_s;
  limits.pool_idle_s = config.timeouts.pool_idle_s;
  limits.tries_max = config.retries.tries_max;
  limits.retry_ratio = config.retries.budget_percent / 100;
  limits.retry_burst = config.retries.burst;
  return limits;
}

}  // namespace

Result<RouteSecrets> ReadSecrets(const RouteConfig& config) {
  RouteSecrets secrets;
  if (!config.keys_file.empty()) {
    ASSIGN_OR_RETURN(secrets.keys, ReadKeyFile(config.keys_file));
  }
  if (!config.upstream.key_file.empty()) {
    ASSIGN_OR_RETURN(secrets.upstream, ReadSecretFile(config.upstream.key_file));
  }
  return secrets;
}

ProxyOptions ProxyOptionsOf(const RouteConfig& config, const RouteSecrets& secrets,
                            KeyRateBook& rates) {
  ProxyOptions options;
  options.threads = ThreadsOf(config.threads);
  options.limits = LimitsOf(config);
  options.admission.waiting_max = static_cast<std::size_t>(config.queue.waiting_max);
  options.admission.waiting_max_a_tenant =
      static_cast<std::size_t>(config.queue.waiting_max_a_tenant);
  options.admission.wait_s_max = config.queue.wait_s_max;
  options.admission.starvation_s = config.queue.starvation_s;
  options.admission.weights = config.queue.weights;
  if (config.listen.tls) {
    options.tls = {.certificate_chain = config.listen.tls->certificate,
                   .private_key = config.listen.tls->key};
  }
  options.api_keys = ApiKeysOf(secrets.keys, rates);
  options.upstream_api_key = secrets.upstream;
  options.upstream_ca_file = config.upstream.ca_file;
  options.upstream_tls_verify = config.upstream.verify;
  options.trust_trace_headers = config.trust.trace_headers;
  options.trust_tenant_header = config.trust.tenant_header;
  options.trust_priority_header = config.trust.priority_header;
  options.reveal_replica = config.reveal_replica;
  options.aliases.insert(config.aliases.begin(), config.aliases.end());
  return options;
}

RouterOptions RouterOptionsOf(const RouteConfig& config) {
  RouterOptions options;
  options.policy = config.policy;
  options.seed = config.seed;
  options.breaker.failures_in_a_row = config.breaker.failures;
  options.breaker.pause_s = config.breaker.open_s;
  options.breaker.pause_s_max = config.breaker.open_s_max;
  return options;
}

WatchSettings WatchSettingsOf(const RouteConfig& config, const RouteSecrets& secrets) {
  WatchSettings settings;
  settings.health = config.health;
  settings.scrape = config.scrape;
  settings.trust = std::make_shared<FetchTrust>(
      FetchTls{.ca_file = config.upstream.ca_file, .verify = config.upstream.verify});
  settings.bearer = secrets.upstream;
  return settings;
}

}  // namespace sublet
