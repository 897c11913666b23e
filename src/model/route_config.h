// model/route_config.h
//
// What `sublet route` is told: where it listens, which replicas it has and where to look for more,
// how it decides, waits, tries again and writes down what it did. docs/formats/route.md describes
// the file, of which four lines are enough:
//
//   version: sublet.route/v1
//   replicas:
//     - url: http://127.0.0.1:8001
//     - url: http://127.0.0.1:8002
//
//   ASSIGN_OR_RETURN(const RouteConfig config, ParseRouteConfig(text, "route.yaml"));
//
// Who may use the router stands in a file of its own, model/route_keys.h, because it is a secret.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/replica_spec.h"

namespace sublet {

inline constexpr std::string_view kRouteConfigVersion = "sublet.route/v1";

// What route/policy.h has; a test in proxy/ compares.
const std::vector<std::string_view>& RoutePolicyWords();

struct TlsSettings {
  std::string certificate;  // Files in PEM; the chain, the server's own first.
  std::string key;
  friend bool operator==(const TlsSettings&, const TlsSettings&) = default;
};

struct ListenSettings {
  std::string address = "127.0.0.1";  // Numeric.
  int port = 8080;                    // 0: any free one, which is logged.
  std::optional<TlsSettings> tls;
  friend bool operator==(const ListenSettings&, const ListenSettings&) = default;
};

// An engine without a model, in this process, for who wants to see the router before he has a GPU.
// What isn't here is in the replica's share: rates, blocks.
struct SimulatedEngine {
  double prefill_tokens_per_second = 8000;
  double decode_step_ms = 15;
  std::int64_t kv_blocks = 4096;
  int kv_block_tokens = 16;
  bool kv_events = true;  // Off: the router must do without, as with llama.cpp.
  friend bool operator==(const SimulatedEngine&, const SimulatedEngine&) = default;
};

struct RouteReplica {
  ReplicaSpec spec;                         // Without a URL where it is simulated.
  std::optional<SimulatedEngine> simulate;  // spec.url is known once it listens.
  friend bool operator==(const RouteReplica&, const RouteReplica&) = default;
};

// Where the engines that somebody finds announce their caches.
struct FoundKvEvents {
  int port = 0;         // On the replica's host; 0: it tells nothing.
  int replay_port = 0;  // 0: gaps can't be filled.
  std::string topic;
  friend bool operator==(const FoundKvEvents&, const FoundKvEvents&) = default;
};

// The replicas of a plan that is up on this machine, from its daemon.
struct NodeDiscovery {
  std::string socket;                  // Of the daemon.
  std::vector<std::string> workloads;  // Which of the plan's; empty: all that have a port.
  double interval_s = 2;
  // Port of a replica's KV events = its port + this; 0: it tells nothing. Replicas of one node
  // can't share a port.
  int kv_events_port_offset = 0;
  int kv_replay_port_offset = 0;
  friend bool operator==(const NodeDiscovery&, const NodeDiscovery&) = default;
};

// The endpoints of a service, by EndpointSlices.
struct KubernetesDiscovery {
  std::string name_space;  // Empty: the pod's own.
  std::string service;     // Exactly one of these two is given.
  std::string selector;    // Of labels, as kubectl -l has it.
  std::string port;        // Its name or number; empty: the slice's only one.
  bool tls = false;        // The replicas speak HTTPS.
  std::string tenant;      // Of all of them.
  std::vector<std::string> models;
  FoundKvEvents kv_events;
  std::string api_server;  // "https://10.0.0.1:443"; empty: the pod's variables say.
  std::string token_file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
  std::string ca_file = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
  friend bool operator==(const KubernetesDiscovery&, const KubernetesDiscovery&) = default;
};

struct QueueSettings {  // route/admission_queue.h
  std::int64_t waiting_max = 1024;
  std::int64_t waiting_max_a_tenant = 512;
  double wait_s_max = 60;
  double starvation_s = 30;
  std::map<std::string, double> weights;  // Of tenants.
  friend bool operator==(const QueueSettings&, const QueueSettings&) = default;
};

// proxy/proxy_options.h says why these are what they are; the names are the same.
struct LimitSettings {
  std::int64_t body_bytes_max = 64ll << 20;
  std::int64_t bodies_bytes_max = 1ll << 30;  // Of all requests together.
  std::int64_t header_bytes_max = 32ll << 10;
  std::int64_t connections_max = 20'000;
  friend bool operator==(const LimitSettings&, const LimitSettings&) = default;
};

struct TimeoutSettings {
  double idle_s = 75;          // Of a client's connection between requests.
  double header_s = 15;        // From a request's first byte to the end of its head,
  double body_s = 300;         // and of its body.
  double client_stall_s = 60;  // A client that takes nothing of its answer.
  double connect_s = 3;        // To a replica.
  double first_byte_s = 600;   // Of a replica's answer.
  double stall_s = 300;        // Between two pieces of it.
  double pool_idle_s = 4;      // An idle connection to a replica.
  double drain_s = 30;         // At the end, for answers under way.
  friend bool operator==(const TimeoutSettings&, const TimeoutSettings&) = default;
};

struct RetrySettings {
  int tries_max = 3;           // Replicas asked for one request.
  double budget_percent = 20;  // Retries, of the requests served.
  int burst = 100;             // How many may be saved up.
  friend bool operator==(const RetrySettings&, const RetrySettings&) = default;
};

// What a client's headers are believed.
struct TrustSettings {
  bool trace_headers = true;    // x-request-id and traceparent.
  bool tenant_header = false;   // x-sublet-tenant, where there are no keys.
  bool priority_header = true;  // x-sublet-priority.
  friend bool operator==(const TrustSettings&, const TrustSettings&) = default;
};

struct BreakerSettings {
  int failures = 5;   // In a row, until a replica gets nothing.
  double open_s = 1;  // Until one request may try it; doubles each time it fails.
  double open_s_max = 30;
  friend bool operator==(const BreakerSettings&, const BreakerSettings&) = default;
};

struct HealthSettings {
  std::string path = "/health";
  double interval_s = 5;
  double timeout_s = 2;
  int failures = 3;   // In a row, until it is unhealthy.
  int successes = 1;  // In a row, until it is healthy again.
  friend bool operator==(const HealthSettings&, const HealthSettings&) = default;
};

struct ScrapeSettings {
  std::string path = "/metrics";
  double interval_s = 2;  // 0: never.
  friend bool operator==(const ScrapeSettings&, const ScrapeSettings&) = default;
};

// To the replicas, for all of them.
struct UpstreamSettings {
  std::string ca_file;  // PEM; empty: the system's.
  bool verify = true;   // Off: whoever answers is believed.
  std::string
      key_file;  // "Authorization: Bearer" of its content; empty: the client's is passed on.
  friend bool operator==(const UpstreamSettings&, const UpstreamSettings&) = default;
};

struct AccessLogSettings {
  std::string path;                 // "-": standard output; empty: none is written.
  std::int64_t waiting_max = 8192;  // Lines that the disk hasn't taken yet; more are dropped.
  friend bool operator==(const AccessLogSettings&, const AccessLogSettings&) = default;
};

struct RouteConfig {
  ListenSettings listen;
  std::string keys_file;  // model/route_keys.h; empty: everybody may use it.
  std::string policy = "cost";
  std::uint64_t seed = 1;              // Of what a policy draws at random.
  std::vector<RouteReplica> replicas;  // Each name once.
  std::optional<NodeDiscovery> node;
  std::optional<KubernetesDiscovery> kubernetes;
  std::map<std::string, std::string> aliases;  // Model as clients say → as the replicas do.
  QueueSettings queue;
  LimitSettings limits;
  TimeoutSettings timeouts;
  RetrySettings retries;
  TrustSettings trust;
  bool reveal_replica = true;  // x-sublet-replica, and why where a client asks.
  BreakerSettings breaker;
  HealthSettings health;
  ScrapeSettings scrape;
  UpstreamSettings upstream;
  std::int64_t cache_bytes_max = 256ll << 20;
  // Without an event while a replica computes prompts: its KV events aren't believed any more.
  double cache_silence_s = 10;
  AccessLogSettings access_log;
  int threads = 0;  // 0: one a core, eight at most.

  friend bool operator==(const RouteConfig&, const RouteConfig&) = default;
};

// Strict, as every reader here. Paths are as written.
Result<RouteConfig> ParseRouteConfig(std::string_view text, std::string_view source);

// A replica as POST /workers gives it: an entry of `replicas`.
Result<RouteReplica> ParseRouteReplica(std::string_view text, std::string_view source);

// The name of a replica without one: "10.0.0.7:8000".
std::string NameOfUrl(std::string_view url);

// Relative paths made relative to `folder`, which is the file's.
void ResolvePaths(RouteConfig& config, const std::string& folder);

}  // namespace sublet
