#include "model/route_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "model/document.h"
#include "model/http_url.h"
#include "model/name.h"

namespace sublet {
namespace {

constexpr std::size_t kSocketPathMax = 107;  // sun_path of a UNIX socket, without its end.
constexpr std::size_t kReplicaNameMax = 128;
constexpr std::size_t kModelNameMax = 256;  // Hugging Face has 96 for each half of "owner/name".
constexpr std::size_t kTextMax = 1024;      // Of paths, selectors, topics.
constexpr std::size_t kReplicasMax = 4096;  // FleetCache::kSlotsMax: a router takes no more.
constexpr std::size_t kModelsMax = 256;     // Of one replica: adapters are models, too.
constexpr std::size_t kAliasesMax = 4096;

constexpr Range kPort{.min = 1, .max = 65535};
constexpr Range kPortOrAny{.min = 0, .max = 65535};
// An hour is longer than any engine takes for a prompt; a millisecond is shorter than any wait.
constexpr Range kSeconds{.min = 0.001, .max = 3600};
constexpr Range kSecondsOrNever{.min = 0, .max = 3600};
constexpr Range kPercent{.min = 0, .max = 100};
constexpr Range kCount{.min = 1, .max = 1'000'000};

// Printable ASCII without a space: such a text is safe in a header, a log and a label.
bool IsWord(std::string_view text, std::size_t bytes_max) {
  return !text.empty() && text.size() <= bytes_max &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

Result<std::string> ReadReplicaName(const Node& node) {
  ASSIGN_OR_RETURN(std::string name, ReadString(node));
  if (IsWord(name, kReplicaNameMax) && name.find_first_of("\"\\,;?#%") == std::string::npos) {
    return name;
  }
  return FailAt(
      node, fmt::format("not a replica's name: '{}'", name.substr(0, 64)),
      fmt::format("letters, digits and -._/:@ only, at most {}: chat/0", kReplicaNameMax));
}

Result<std::string> ReadModelName(const Node& node) {
  ASSIGN_OR_RETURN(std::string name, ReadString(node));
  if (IsWord(name, kModelNameMax)) return name;
  return FailAt(node, fmt::format("not a model's name: '{}'", name.substr(0, 64)));
}

Result<std::string> ReadText(const Node& node) {
  ASSIGN_OR_RETURN(std::string text, ReadString(node));
  const bool clean = std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) >= ' ' && c != '\x7f';
  });
  if (!text.empty() && text.size() <= kTextMax && clean) return text;
  return FailAt(node, fmt::format("a text of 1 to {} characters is expected here", kTextMax));
}

// "/health" of a URL.
Result<std::string> ReadUrlPath(const Node& node) {
  ASSIGN_OR_RETURN(std::string path, ReadString(node));
  if (path.starts_with('/') && IsWord(path, kTextMax)) return path;
  return FailAt(node, fmt::format("not the path of a URL: '{}'", path.substr(0, 64)),
                "begin it with /");
}

Result<std::string> ReadUrl(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  Result<HttpUrl> url = ParseHttpUrl(text);
  if (url) return url->Text();
  return FailAt(node, url.error().message, url.error().hint);
}

Result<std::string> ReadEndpoint(const Node& node) {
  ASSIGN_OR_RETURN(std::string endpoint, ReadString(node));
  const bool known = endpoint.starts_with("tcp://") || endpoint.starts_with("ipc://");
  const bool port = endpoint.starts_with("ipc://") || endpoint.rfind(':') > 5;
  if (known && port && IsWord(endpoint, kTextMax) && endpoint.find('*') == std::string::npos) {
    return endpoint;
  }
  return FailAt(node, fmt::format("not where KV events come from: '{}'", endpoint.substr(0, 64)),
                "write it like tcp://10.0.0.7:5557, with the host's name or address instead of *");
}

Result<std::string> ReadSocketPath(const Node& node) {
  ASSIGN_OR_RETURN(std::string path, ReadText(node));
  if (path.size() <= kSocketPathMax) return path;
  return FailAt(node, fmt::format("longer than the {} bytes that a socket's path may have: {}",
                                  kSocketPathMax, path.size()));
}

Result<std::string> ReadAddress(const Node& node) {
  ASSIGN_OR_RETURN(std::string address, ReadString(node));
  const bool numeric = !address.empty() && address.size() < 64 &&
                       address.find_first_of(".:") != std::string::npos &&
                       address.find_first_not_of("0123456789abcdefABCDEF.:") == std::string::npos;
  if (numeric) return address;
  return FailAt(node, fmt::format("not an address of this machine: '{}'", address.substr(0, 64)),
                "127.0.0.1: this machine only; 0.0.0.0: all of its addresses");
}

Result<std::int64_t> ReadByteCount(const Node& node) {
  ASSIGN_OR_RETURN(const Bytes bytes, ReadBytes(node));
  if (bytes >= Bytes{1024} && bytes <= 1024_GiB) return bytes.count;
  return FailAt(node, fmt::format("not an amount that is meant: {}", FormatBytes(bytes)),
                "a number without unit counts bytes; write it like 64MiB");
}

// A map whose keys are words and whose values are read by `read`.
template <typename T, typename Read>
Result<std::map<std::string, T>> ReadMap(const Node& node, std::size_t entries_max,
                                         const Read& read) {
  if (node.kind != Node::Kind::kMap) return FailAt(node, "a map is expected here");
  std::map<std::string, T> map;
  for (const auto& [key, value] : node.fields) {
    if (!IsWord(key, kModelNameMax)) {
      return FailAt(value, fmt::format("not a name: '{}'", key.substr(0, 64)));
    }
    ASSIGN_OR_RETURN(map[key], read(value));
  }
  if (map.size() > entries_max) {
    return FailAt(node, fmt::format("more than {} entries: {}", entries_max, map.size()));
  }
  return map;
}

Result<TlsSettings> ReadTls(const Node& node) {
  TlsSettings tls;
  ObjectReader in(node, "tls");
  in.Required("certificate", tls.certificate, ReadText);
  in.Required("key", tls.key, ReadText);
  RETURN_IF_ERROR(in.Finish());
  return tls;
}

Result<ListenSettings> ReadListen(const Node& node) {
  ListenSettings listen;
  ObjectReader in(node, "listen");
  in.Optional("address", listen.address, ReadAddress);
  in.Optional("port", listen.port, kPortOrAny);
  in.Optional("tls", listen.tls, ReadTls);
  RETURN_IF_ERROR(in.Finish());
  return listen;
}

Result<ReplicaShare> ReadReplicaShare(const Node& node) {
  ReplicaShare share;
  ObjectReader in(node, "share");
  in.Optional("gpu", share.gpu, ReadText);
  in.Optional("sm_percent", share.sm_percent, Range{.min = 1, .max = 100});
  in.Optional("prefill_tokens_per_second", share.prefill_tokens_per_second,
              Range{.min = 1, .max = 1e9});
  in.Optional("decode_step_ms", share.decode_step_ms, Range{.min = 0.01, .max = 100'000});
  in.Optional("kv_blocks", share.kv_blocks, Range{.min = 1, .max = 1e9});
  in.Optional("kv_block_tokens", share.kv_block_tokens, Range{.min = 1, .max = 65536});
  RETURN_IF_ERROR(in.Finish());
  return share;
}

Result<KvEventSource> ReadKvEvents(const Node& node) {
  KvEventSource source;
  ObjectReader in(node, "kv_events");
  in.Required("endpoint", source.endpoint, ReadEndpoint);
  in.Optional("replay_endpoint", source.replay_endpoint, ReadEndpoint);
  in.Optional("topic", source.topic, ReadText);
  in.Optional("ranks", source.ranks, Range{.min = 1, .max = 256});
  RETURN_IF_ERROR(in.Finish());
  return source;
}

Result<SimulatedEngine> ReadSimulated(const Node& node) {
  SimulatedEngine engine;
  ObjectReader in(node, "simulate");
  in.Optional("prefill_tokens_per_second", engine.prefill_tokens_per_second,
              Range{.min = 1, .max = 1e9});
  in.Optional("decode_step_ms", engine.decode_step_ms, Range{.min = 0.01, .max = 100'000});
  in.Optional("kv_blocks", engine.kv_blocks, Range{.min = 1, .max = 10e6});
  in.Optional("kv_block_tokens", engine.kv_block_tokens, Range{.min = 1, .max = 65536});
  in.Optional("kv_events", engine.kv_events);
  RETURN_IF_ERROR(in.Finish());
  return engine;
}

Result<RouteReplica> ReadRouteReplica(const Node& node) {
  RouteReplica replica;
  ReplicaSpec& spec = replica.spec;
  ObjectReader in(node, "replica");
  in.Optional("name", spec.name, ReadReplicaName);
  in.Optional("url", spec.url, ReadUrl);
  in.Optional("simulate", replica.simulate, ReadSimulated);
  in.OptionalList("models", spec.models, ReadModelName);
  in.Optional("tenant", spec.tenant, ReadName);
  in.Optional("share", spec.share, ReadReplicaShare);
  in.Optional("kv_events", spec.kv_events, ReadKvEvents);
  in.Optional("in_flight_max", spec.in_flight_max, kCount);
  if (spec.models.size() > kModelsMax) {
    in.Reject("models", fmt::format("more than {} models: {}", kModelsMax, spec.models.size()));
  }
  if (!in.Has("url") && !in.Has("simulate")) {
    in.RejectMissing("a replica has a 'url' or is to 'simulate'", "url: http://127.0.0.1:8000");
  }
  if (replica.simulate && !spec.url.empty()) {
    in.Reject("simulate", "a replica with a url isn't simulated", "leave one of the two out");
  }
  if (replica.simulate && spec.kv_events) {
    in.Reject("kv_events", "a simulated replica finds an endpoint by itself",
              "simulate: {kv_events: false} switches it off");
  }
  if (replica.simulate && spec.name.empty()) {
    in.RejectMissing("a simulated replica needs a 'name'", "name: demo/0");
  }
  RETURN_IF_ERROR(in.Finish());
  if (spec.name.empty()) spec.name = NameOfUrl(spec.url);
  if (replica.simulate && spec.models.empty()) spec.models = {"demo"};
  return replica;
}

Result<FoundKvEvents> ReadFoundKvEvents(const Node& node) {
  FoundKvEvents found;
  ObjectReader in(node, "found kv_events");
  in.Required("port", found.port, kPort);
  in.Optional("replay_port", found.replay_port, kPort);
  in.Optional("topic", found.topic, ReadText);
  RETURN_IF_ERROR(in.Finish());
  return found;
}

Result<NodeDiscovery> ReadNodeDiscovery(const Node& node) {
  constexpr Range kOffset{.min = -65534, .max = 65534};
  NodeDiscovery found;
  ObjectReader in(node, "node discovery");
  in.Optional("socket", found.socket, ReadSocketPath);
  in.OptionalList("workloads", found.workloads, ReadName);
  in.Optional("interval_s", found.interval_s, kSeconds);
  in.Optional("kv_events_port_offset", found.kv_events_port_offset, kOffset);
  in.Optional("kv_replay_port_offset", found.kv_replay_port_offset, kOffset);
  RETURN_IF_ERROR(in.Finish());
  return found;
}

Result<KubernetesDiscovery> ReadKubernetes(const Node& node) {
  KubernetesDiscovery found;
  ObjectReader in(node, "kubernetes");
  in.Optional("namespace", found.name_space, ReadName);
  in.Optional("service", found.service, ReadName);
  in.Optional("selector", found.selector, ReadText);
  in.Optional("port", found.port, ReadText);
  in.Optional("tls", found.tls);
  in.Optional("tenant", found.tenant, ReadName);
  in.OptionalList("models", found.models, ReadModelName);
  in.Optional("kv_events", found.kv_events, ReadFoundKvEvents);
  in.Optional("api_server", found.api_server, ReadUrl);
  in.Optional("token_file", found.token_file, ReadText);
  in.Optional("ca_file", found.ca_file, ReadText);
  if (found.service.empty() && found.selector.empty()) {
    in.RejectMissing("a 'service' or a 'selector' says whose endpoints they are");
  }
  if (!found.service.empty() && !found.selector.empty()) {
    in.Reject("selector", "both a service and a selector are given", "leave one of the two out");
  }
  RETURN_IF_ERROR(in.Finish());
  return found;
}

Result<QueueSettings> ReadQueue(const Node& node) {
  QueueSettings queue;
  ObjectReader in(node, "queue");
  in.Optional("waiting_max", queue.waiting_max, Range{.min = 0, .max = 1'000'000});
  in.Optional("waiting_max_a_tenant", queue.waiting_max_a_tenant, kCount);
  in.Optional("wait_s_max", queue.wait_s_max, kSeconds);
  in.Optional("starvation_s", queue.starvation_s, kSeconds);
  in.Optional("weights", queue.weights, [](const Node& map) {
    return ReadMap<double>(map, kAliasesMax, [](const Node& weight) {
      return ReadNumber(weight, Range{.min = 0.01, .max = 1000});
    });
  });
  RETURN_IF_ERROR(in.Finish());
  return queue;
}

Result<LimitSettings> ReadLimits(const Node& node) {
  LimitSettings limits;
  ObjectReader in(node, "limits");
  in.Optional("body_bytes_max", limits.body_bytes_max, ReadByteCount);
  in.Optional("bodies_bytes_max", limits.bodies_bytes_max, ReadByteCount);
  in.Optional("header_bytes_max", limits.header_bytes_max, ReadByteCount);
  in.Optional("connections_max", limits.connections_max, kCount);
  if (limits.body_bytes_max > (1_GiB).count) in.Reject("body_bytes_max", "more than 1GiB");
  if (limits.header_bytes_max > (1_MiB).count) in.Reject("header_bytes_max", "more than 1MiB");
  if (limits.bodies_bytes_max < limits.body_bytes_max) {
    in.Reject("bodies_bytes_max", "less than one body may have, body_bytes_max");
  }
  RETURN_IF_ERROR(in.Finish());
  return limits;
}

Result<TimeoutSettings> ReadTimeouts(const Node& node) {
  TimeoutSettings timeouts;
  ObjectReader in(node, "timeouts");
  in.Optional("idle_s", timeouts.idle_s, kSeconds);
  in.Optional("header_s", timeouts.header_s, kSeconds);
  in.Optional("body_s", timeouts.body_s, kSeconds);
  in.Optional("client_stall_s", timeouts.client_stall_s, kSeconds);
  in.Optional("connect_s", timeouts.connect_s, kSeconds);
  in.Optional("first_byte_s", timeouts.first_byte_s, kSeconds);
  in.Optional("stall_s", timeouts.stall_s, kSeconds);
  in.Optional("pool_idle_s", timeouts.pool_idle_s, kSeconds);
  in.Optional("drain_s", timeouts.drain_s, kSecondsOrNever);
  RETURN_IF_ERROR(in.Finish());
  return timeouts;
}

Result<RetrySettings> ReadRetries(const Node& node) {
  RetrySettings retries;
  ObjectReader in(node, "retries");
  in.Optional("tries_max", retries.tries_max, Range{.min = 1, .max = 16});
  in.Optional("budget_percent", retries.budget_percent, kPercent);
  in.Optional("burst", retries.burst, Range{.min = 0, .max = 100'000});
  RETURN_IF_ERROR(in.Finish());
  return retries;
}

Result<TrustSettings> ReadTrust(const Node& node) {
  TrustSettings trust;
  ObjectReader in(node, "trust");
  in.Optional("trace_headers", trust.trace_headers);
  in.Optional("tenant_header", trust.tenant_header);
  in.Optional("priority_header", trust.priority_header);
  RETURN_IF_ERROR(in.Finish());
  return trust;
}

Result<BreakerSettings> ReadBreaker(const Node& node) {
  BreakerSettings breaker;
  ObjectReader in(node, "breaker");
  in.Optional("failures", breaker.failures, Range{.min = 1, .max = 1000});
  in.Optional("open_s", breaker.open_s, kSeconds);
  in.Optional("open_s_max", breaker.open_s_max, kSeconds);
  if (breaker.open_s_max < breaker.open_s) {
    in.Reject("open_s_max",
              fmt::format("less than open_s, {}: {}", breaker.open_s, breaker.open_s_max));
  }
  RETURN_IF_ERROR(in.Finish());
  return breaker;
}

Result<HealthSettings> ReadHealth(const Node& node) {
  HealthSettings health;
  ObjectReader in(node, "health");
  in.Optional("path", health.path, ReadUrlPath);
  in.Optional("interval_s", health.interval_s, kSeconds);
  in.Optional("timeout_s", health.timeout_s, kSeconds);
  in.Optional("failures", health.failures, Range{.min = 1, .max = 1000});
  in.Optional("successes", health.successes, Range{.min = 1, .max = 1000});
  RETURN_IF_ERROR(in.Finish());
  return health;
}

Result<ScrapeSettings> ReadScrape(const Node& node) {
  ScrapeSettings scrape;
  ObjectReader in(node, "scrape");
  in.Optional("path", scrape.path, ReadUrlPath);
  in.Optional("interval_s", scrape.interval_s, kSecondsOrNever);
  RETURN_IF_ERROR(in.Finish());
  return scrape;
}

Result<UpstreamSettings> ReadUpstream(const Node& node) {
  UpstreamSettings upstream;
  ObjectReader in(node, "upstream");
  in.Optional("ca_file", upstream.ca_file, ReadText);
  in.Optional("verify", upstream.verify);
  in.Optional("key_file", upstream.key_file, ReadText);
  if (!upstream.verify && !upstream.ca_file.empty()) {
    in.Reject("verify", "a ca_file is given, and nothing is to be verified by it",
              "leave one of the two out");
  }
  RETURN_IF_ERROR(in.Finish());
  return upstream;
}

Result<AccessLogSettings> ReadAccessLog(const Node& node) {
  AccessLogSettings log;
  ObjectReader in(node, "access_log");
  in.Required("path", log.path, ReadText);
  in.Optional("waiting_max", log.waiting_max, Range{.min = 16, .max = 1'000'000});
  RETURN_IF_ERROR(in.Finish());
  return log;
}

Result<std::string> ReadPolicyName(const Node& node) {
  ASSIGN_OR_RETURN(std::string name, ReadString(node));
  const auto& known = RoutePolicyWords();
  if (std::find(known.begin(), known.end(), name) != known.end()) return name;
  return FailAt(node, fmt::format("unknown policy: '{}'", name.substr(0, 64)),
                SuggestFor(name, known));
}

Result<bool> ReadPolicy(const Node& node, RouteConfig& config) {
  if (node.kind == Node::Kind::kScalar) {
    ASSIGN_OR_RETURN(config.policy, ReadPolicyName(node));
    return true;
  }
  std::int64_t seed = 1;
  ObjectReader in(node, "policy");
  in.Required("name", config.policy, ReadPolicyName);
  in.Optional("seed", seed, Range{.min = 0, .max = 9e15});
  RETURN_IF_ERROR(in.Finish());
  config.seed = static_cast<std::uint64_t>(seed);
  return true;
}

Result<bool> ReadDiscovery(const Node& node, RouteConfig& config) {
  ObjectReader in(node, "discovery");
  in.Optional("node", config.node, ReadNodeDiscovery);
  in.Optional("kubernetes", config.kubernetes, ReadKubernetes);
  RETURN_IF_ERROR(in.Finish());
  return true;
}

Result<bool> ReadCache(const Node& node, RouteConfig& config) {
  ObjectReader in(node, "cache");
  in.Optional("bytes_max", config.cache_bytes_max, ReadByteCount);
  in.Optional("silence_s", config.cache_silence_s, kSeconds);
  if (config.cache_bytes_max < (4_MiB).count || config.cache_bytes_max > (8_GiB).count) {
    in.Reject("bytes_max", "not from 4MiB to 8GiB");
  }
  RETURN_IF_ERROR(in.Finish());
  return true;
}

void CheckNames(const RouteConfig& config, ObjectReader& in) {
  std::set<std::string_view> names;
  for (const RouteReplica& replica : config.replicas) {
    if (!names.insert(replica.spec.name).second) {
      in.Reject("replicas", fmt::format("two replicas of one name: '{}'", replica.spec.name),
                "give each a name of its own");
    }
  }
  if (config.replicas.size() > kReplicasMax) {
    in.Reject("replicas",
              fmt::format("more than {} replicas: {}", kReplicasMax, config.replicas.size()));
  }
}

void CheckAliases(const RouteConfig& config, ObjectReader& in) {
  for (const auto& [alias, model] : config.aliases) {
    // One step only: a chain could be a circle.
    if (config.aliases.contains(model)) {
      in.Reject("aliases", fmt::format("an alias of an alias: '{}' of '{}'", alias, model));
    }
  }
}

Result<RouteConfig> ReadRouteConfig(const Node& node) {
  RouteConfig config;
  bool read = false;  // Where the values have been stored already.
  const auto part = [&config](Result<bool> (*reader)(const Node&, RouteConfig&)) {
    return [&config, reader](const Node& field) { return reader(field, config); };
  };
  ObjectReader in(node, "route");
  in.Version(kRouteConfigVersion);
  in.Optional("listen", config.listen, ReadListen);
  in.Optional("keys_file", config.keys_file, ReadText);
  in.Optional("policy", read, part(ReadPolicy));
  in.OptionalList("replicas", config.replicas, ReadRouteReplica);
  in.Optional("discovery", read, part(ReadDiscovery));
  in.Optional("aliases", config.aliases, [](const Node& map) {
    return ReadMap<std::string>(map, kAliasesMax, ReadModelName);
  });
  in.Optional("queue", config.queue, ReadQueue);
  in.Optional("limits", config.limits, ReadLimits);
  in.Optional("timeouts", config.timeouts, ReadTimeouts);
  in.Optional("retries", config.retries, ReadRetries);
  in.Optional("breaker", config.breaker, ReadBreaker);
  in.Optional("trust", config.trust, ReadTrust);
  in.Optional("reveal_replica", config.reveal_replica);
  in.Optional("health", config.health, ReadHealth);
  in.Optional("scrape", config.scrape, ReadScrape);
  in.Optional("upstream", config.upstream, ReadUpstream);
  in.Optional("cache", read, part(ReadCache));
  in.Optional("access_log", config.access_log, ReadAccessLog);
  in.Optional("threads", config.threads, Range{.min = 0, .max = 256});
  CheckNames(config, in);
  CheckAliases(config, in);
  RETURN_IF_ERROR(in.Finish());
  return config;
}

}  // namespace

const std::vector<std::string_view>& RoutePolicyWords() {
  static const std::vector<std::string_view> kWords{"cost",       "cache-aware",  "consistent-hash",
                                                    "least-load", "power-of-two", "round-robin",
                                                    "session"};
  return kWords;
}

std::string NameOfUrl(std::string_view url) {
  const Result<HttpUrl> parsed = ParseHttpUrl(url);
  return parsed ? parsed->Authority() + parsed->path : std::string(url);
}

void ResolvePaths(RouteConfig& config, const std::string& folder) {
  const auto resolve = [&folder](std::string& path) {
    if (!path.empty() && path != "-" && !path.starts_with('/')) path = folder + "/" + path;
  };
  resolve(config.keys_file);
  resolve(config.upstream.ca_file);
  resolve(config.upstream.key_file);
  resolve(config.access_log.path);
  if (config.listen.tls) resolve(config.listen.tls->certificate);
  if (config.listen.tls) resolve(config.listen.tls->key);
  if (config.node) resolve(config.node->socket);
  if (config.kubernetes) resolve(config.kubernetes->token_file);
  if (config.kubernetes) resolve(config.kubernetes->ca_file);
}

Result<RouteConfig> ParseRouteConfig(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadRouteConfig);
}

Result<RouteReplica> ParseRouteReplica(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadRouteReplica);
}

}  // namespace sublet
