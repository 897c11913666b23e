// proxy/access_record.h
//
// Everything about one request that is worth keeping when it is over: what an access log and
// metrics are made from. Never a prompt, an answer's text or a key.
//
// Thread safety: a value whose texts belong to the request; it is good only during the call that
// hands it over (ProxyHooks::on_finished).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "kvcache/request_prefix.h"
#include "route/admission_queue.h"

namespace sublet {

// How a request ended, seen from the client. Each is one label value of a counter.
enum class RequestOutcome {
  kServed,       // A replica answered in full, below 400.
  kControl,      // We answered: a path of ours.
  kMalformed,    // Not HTTP, or not what we take: 400, 408, 413, 431, 501. By us.
  kDenied,       // No key, a wrong one, or not an administrator's: 401, 403. By us.
  kNoModel,      // Nobody serves that model: 404. By us.
  kClientError,  // A replica answered 4xx.
  kRejected,     // Too many wait already, or it waited too long: 429. By us.
  kUnavailable,  // No replica is up, or memory for bodies is used up: 503. By us.
  kFailed,       // All tries failed: a replica's 5xx, or our 502 or 504.
  kBroken,       // The replica failed while its answer was under way.
  kClientGone,   // The client left before its answer was complete.
  kDrained,      // We cut it: the drain's deadline had passed.
};
std::string_view RequestOutcomeName(RequestOutcome outcome);  // "served", "no-model", ...
inline constexpr int kRequestOutcomes = 12;

struct AccessRecord {
  RequestOutcome outcome = RequestOutcome::kServed;
  int status = 0;           // Sent to the client; 0: nothing was.
  int upstream_status = 0;  // Of the last replica that answered; 0: none did.
  std::string_view error;   // In our words, where we or a replica failed; empty otherwise.

  std::string_view method;
  std::string_view path;    // Without the query, which may hold a secret.
  std::string_view client;  // Its address, without the port.
  std::string_view request_id;
  std::string_view traceparent;  // As it came; empty: none.

  RequestKind kind = RequestKind::kOther;
  std::string_view model;   // As the client wrote it; empty: none was found.
  std::string_view tenant;  // Of its key; empty: none.
  std::string_view session;
  PriorityClass priority = PriorityClass::kNormal;
  bool stream = false;  // The answer came as server-sent events.

  // The decision of the last try; empty where none was taken.
  std::string_view replica;
  std::string_view policy;
  std::string_view reason;
  int tries = 0;    // Replicas that it was sent to; 1: the first one answered.
  int retries = 0;  // Tries after a failure, of the retry budget.
  bool queued = false;
  bool reused = false;  // The last try's connection was one of the pool.

  std::int64_t bytes_in = 0;   // Of the body.
  std::int64_t bytes_out = 0;  // Of the answer's body.

  // Tokens: expected when it was decided, and as the answer's usage said.
  std::uint32_t prompt_tokens_expected = 0;
  std::uint32_t cached_tokens_expected = 0;
  std::optional<std::uint32_t> prompt_tokens;
  std::optional<std::uint32_t> cached_tokens;
  std::optional<std::uint32_t> output_tokens;
  std::int64_t events = 0;  // Of a stream.

  // Durations. Those with an end are from the request's first byte to that end.
  std::int64_t total_ns = 0;
  std::int64_t read_ns = 0;                   // Until its last byte had come.
  std::int64_t decide_ns = 0;                 // Scanning the body and choosing, all tries together.
  std::int64_t waited_ns = 0;                 // In the admission queue, all tries together.
  std::int64_t connect_ns = 0;                // Connecting to replicas, all tries together.
  std::optional<std::int64_t> first_byte_ns;  // Until the answer's first byte came.
  std::optional<std::int64_t> first_token_ns;  // Until its first token did; of streams only.
};

}  // namespace sublet
