#include "proxy/head_writer.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "proxy/openai_error.h"

namespace sublet::internal {
namespace {

namespace http = boost::beast::http;

void AppendNumber(std::uint64_t value, std::string& out) {
  std::array<char, 20> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  out.append(digits.data(), end);
}

void AppendField(std::string_view name, std::string_view value, std::string& out) {
  out += name;
  out += ": ";
  out += value;
  out += "\r\n";
}

bool IsOurs(std::string_view name) {
  constexpr std::string_view kPrefix = "x-sublet-";
  return name.size() > kPrefix.size() && (name[0] == 'x' || name[0] == 'X') &&
         EqualsIgnoringCase(name.substr(0, kPrefix.size()), kPrefix);
}

// Of one connection, or said anew by us in every message.
bool BelongsToConnection(const HeadField& field) {
  switch (field.id) {
    case http::field::connection:
    case http::field::keep_alive:
    case http::field::proxy_connection:
    case http::field::proxy_authenticate:
    case http::field::proxy_authorization:
    case http::field::te:
    case http::field::trailer:
    case http::field::transfer_encoding:
    case http::field::content_length:
    case http::field::upgrade:
    case http::field::http2_settings:
    case http::field::expect:
      return true;
    default:
      return false;
  }
}

// Whether the head's Connection names more than the usual two words. Hardly any does.
bool NamesFields(const MessageHead& head) {
  for (const HeadField& field : head.fields) {
    if (field.id == http::field::connection && !EqualsIgnoringCase(field.value, "keep-alive") &&
        !EqualsIgnoringCase(field.value, "close")) {
      return true;
    }
  }
  return false;
}

bool IsNamed(const MessageHead& head, std::string_view name) {
  for (const HeadField& field : head.fields) {
    if (field.id == http::field::connection && ListHas(field.value, name)) return true;
  }
  return false;
}

bool IsTrace(std::string_view name) {
  return EqualsIgnoringCase(name, "traceparent") || EqualsIgnoringCase(name, "tracestate");
}

bool HasBody(const MessageHead& client, std::uint64_t body_bytes) {
  return body_bytes > 0 || client.stated || client.framing == BodyFraming::kChunked ||
         client.verb == http::verb::post || client.verb == http::verb::put ||
         client.verb == http::verb::patch;
}

void AppendEnd(const AnswerHeadOptions& options, std::string& out) {
  if (options.framing == BodyFraming::kChunked) {
    out += "transfer-encoding: chunked\r\n";
  } else if (options.length && options.framing != BodyFraming::kUntilClose) {
    out += "content-length: ";
    AppendNumber(*options.length, out);
    out += "\r\n";
  }
  if (options.close) {
    out += "connection: close\r\n";
  } else if (options.old_client) {
    out += "connection: keep-alive\r\n";
  }
  if (!options.request_id.empty()) AppendField("x-request-id", options.request_id, out);
  if (!options.replica.empty()) AppendField("x-sublet-replica", options.replica, out);
  if (!options.decision.empty()) AppendField("x-sublet-decision", options.decision, out);
  out += "\r\n";
}

void AppendStatusLine(int status, std::string_view reason, std::string& out) {
  out += "HTTP/1.1 ";
  AppendNumber(static_cast<std::uint64_t>(status), out);
  out += ' ';
  out += reason;
  out += "\r\n";
}

}  // namespace

void WriteRequestHead(const MessageHead& client, const RequestHeadOptions& options,
                      std::string& out) {
  out += client.method;
  out += ' ';
  out += options.url->prefix;
  out += client.target;
  out += " HTTP/1.1\r\n";
  AppendField("host", options.url->authority, out);
  const bool names_fields = NamesFields(client);
  for (const HeadField& field : client.fields) {
    if (field.id == http::field::host || BelongsToConnection(field) || IsOurs(field.name)) continue;
    if (field.id == http::field::authorization && !options.pass_authorization) continue;
    if (EqualsIgnoringCase(field.name, "x-request-id")) continue;
    if (!options.pass_trace && IsTrace(field.name)) continue;
    if (names_fields && IsNamed(client, field.name)) continue;
    AppendField(field.name, field.value, out);
  }
  if (HasBody(client, options.body_bytes)) {
    out += "content-length: ";
    AppendNumber(options.body_bytes, out);
    out += "\r\n";
  }
  if (!options.bearer.empty()) {
    out += "authorization: Bearer ";
    out += options.bearer;
    out += "\r\n";
  }
  if (!options.request_id.empty()) AppendField("x-request-id", options.request_id, out);
  out += "\r\n";
}

void WriteAnswerHead(const MessageHead& replica, const AnswerHeadOptions& options,
                     std::string& out) {
  AppendStatusLine(replica.status, replica.reason, out);
  const bool names_fields = NamesFields(replica);
  for (const HeadField& field : replica.fields) {
    if (BelongsToConnection(field) || IsOurs(field.name)) continue;
    if (EqualsIgnoringCase(field.name, "x-request-id")) continue;
    if (names_fields && IsNamed(replica, field.name)) continue;
    AppendField(field.name, field.value, out);
  }
  AppendEnd(options, out);
}

void WriteOwnHead(int status, std::string_view content_type, std::string_view headers,
                  const AnswerHeadOptions& options, std::string& out) {
  AppendStatusLine(status, StatusPhrase(status), out);
  if (!content_type.empty()) AppendField("content-type", content_type, out);
  out += headers;
  AppendEnd(options, out);
}

std::string DecisionJson(const Decision& decision) {
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  const auto rounded = [](double ms) {
    return static_cast<double>(static_cast<std::int64_t>(ms * 1000)) / 1000;
  };
  nlohmann::ordered_json json = {{"replica", decision.replica},
                                 {"policy", decision.policy},
                                 {"reason", decision.reason.substr(0, 512)},
                                 {"prompt_tokens", decision.prompt_tokens},
                                 {"cached_tokens", decision.cached_tokens}};
  std::string text = json.dump(-1, ' ', true, kReplace);
  std::string candidates;
  for (const CandidateCost& cost : decision.candidates) {
    const nlohmann::ordered_json one = {{"replica", cost.replica},
                                        {"cost_ms", rounded(cost.cost_ms)},
                                        {"queue_ms", rounded(cost.queue_ms)},
                                        {"prefill_ms", rounded(cost.prefill_ms)},
                                        {"pressure_ms", rounded(cost.pressure_ms)},
                                        {"cotenant_ms", rounded(cost.cotenant_ms)},
                                        {"decode_ms", rounded(cost.decode_ms)},
                                        {"cached_tokens", cost.cached_tokens},
                                        {"uncached_tokens", cost.uncached_tokens},
                                        {"knowledge", CacheKnowledgeName(cost.knowledge)}};
    const std::string next = one.dump(-1, ' ', true, kReplace);
    if (text.size() + candidates.size() + next.size() + 20 > kDecisionBytesMax) break;
    candidates += (candidates.empty() ? "" : ",") + next;
  }
  if (!candidates.empty()) {
    text.pop_back();
    text += ",\"candidates\":[" + candidates + "]}";
  }
  return text;
}

}  // namespace sublet::internal
