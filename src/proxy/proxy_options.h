// proxy/proxy_options.h
//
// What an operator can set of the proxy, as one value. The defaults serve a router in front of vLLM
// engines; each limit says why it is what it is.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proxy/key_rate.h"
#include "proxy/model_alias.h"
#include "route/admission_queue.h"

namespace sublet {

// A client's key, of which only the SHA-256 is kept.
struct ApiKey {
  std::array<unsigned char, 32> sha256 = {};
  std::string tenant;
  bool admin = false;  // May change the set of replicas.
  // Of its requests, unless they ask for a lower one; absent: as they ask.
  std::optional<PriorityClass> priority = {};
  std::shared_ptr<KeyRates> rates = {};  // Null: no limit. Kept over a Reload() by who makes keys.

  friend bool operator==(const ApiKey&, const ApiKey&) = default;
};
ApiKey MakeApiKey(std::string_view secret, std::string tenant, bool admin = false);
// From 64 hexadecimal digits, as `sha256sum` prints them. Fails with kInvalid.
Result<ApiKey> MakeApiKeyFromHash(std::string_view sha256_hex, std::string tenant,
                                  bool admin = false);

// Files in PEM. Both empty: no TLS.
struct TlsFiles {
  std::string certificate_chain;
  std::string private_key;

  friend bool operator==(const TlsFiles&, const TlsFiles&) = default;
};

struct ProxyLimits {
  // A prompt of 128,000 tokens has 0.5 MiB; ten images inline some 50 MiB.
  std::size_t body_bytes_max = 64u << 20;
  // Of all requests together that are being read, wait or are tried. Beyond it: 503.
  std::size_t bodies_bytes_max = 1u << 30;
  std::size_t control_body_bytes_max = 1u << 20;  // 1,000 workers at once have 300 KiB.
  std::size_t header_bytes_max = 32u << 10;       // Of a request or of a replica's answer.
  int header_count_max = 100;                     // nginx and Envoy have 100, too.
  std::size_t connections_max = 20'000;           // Of clients; one more is told 503 and closed.

  double idle_s = 75;    // Of a client's connection between requests; nginx's.
  double header_s = 15;  // From a request's first byte to the end of its head.
  double body_s = 300;   // To the end of its body: 64 MiB at 2 Mbit/s.
  // A client that takes nothing of its answer for so long is cut.
  double client_stall_s = 60;

  double connect_s = 3;       // To a replica, name resolution and TLS included.
  double first_byte_s = 600;  // Of an answer that isn't streamed all of it is computed first.
  double stall_s = 300;       // Between two pieces of an answer.

  // Clean connections kept for each replica and thread, and for how long. The engines (uvicorn)
  // close after 5 s; ours must be the first to.
  std::size_t pool_idle_max = 128;
  double pool_idle_s = 4;
  double resolve_s = 10;  // A replica's name is looked up again after so long.

  int tries_max = 3;  // Replicas asked for one request.
  // Retries for each request served, and how many may be saved up: an outage of all replicas then
  // costs them a fifth more load, not three times as much.
  double retry_ratio = 0.2;
  int retry_burst = 100;

  friend bool operator==(const ProxyLimits&, const ProxyLimits&) = default;
};

struct ProxyOptions {
  int threads = 1;
  ProxyLimits limits;
  AdmissionOptions admission;
  TlsFiles tls;
  // None: everybody may ask, and `Authorization` is passed on to the replica. Otherwise one of
  // these is asked for, and never passed on.
  std::vector<ApiKey> api_keys;
  std::string upstream_api_key;  // Sent to all replicas as a bearer token; empty: none.
  // Replicas over https: whose certificates are believed. Empty: the system's.
  std::string upstream_ca_file;
  bool upstream_tls_verify = true;
  // A client's own x-request-id and traceparent are used and passed on. Off for clients who could
  // confuse others' traces.
  bool trust_trace_headers = true;
  // Without keys, a client's x-sublet-tenant is believed: there is a gateway in front that sets it.
  bool trust_tenant_header = false;
  bool trust_priority_header = true;  // x-sublet-priority: interactive, normal, batch.
  bool reveal_replica = true;         // x-sublet-replica, and why where a client asks.
  ModelAliases aliases = {};          // As a client says → as the replicas do.
};

}  // namespace sublet
