// proxy/head_writer.h
//
// The heads that the proxy sends, made anew from those that it has read.
//
//   out.clear();
//   WriteRequestHead(client_head, {.url = &url, .body_bytes = body.size()}, out);
//
// What belongs to one connection stays with it (RFC 9110, 7.6.1): Connection and what it names,
// framing, upgrades, proxy credentials. Everything else goes on in its order. Headers that are ours
// (x-sublet-...) don't: a replica has no use for them, and an answer's are made here.
//
// Thread safety: pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "proxy/message_head.h"
#include "proxy/replica_url.h"
#include "route/router.h"

namespace sublet::internal {

struct RequestHeadOptions {
  const ReplicaUrl* url = nullptr;
  std::uint64_t body_bytes = 0;
  std::string_view request_id = {};
  bool pass_authorization = true;
  std::string_view bearer = {};  // Sent instead of the client's; empty: none.
  bool pass_trace = true;        // traceparent and tracestate.
};
void WriteRequestHead(const MessageHead& client, const RequestHeadOptions& options,
                      std::string& out);

struct AnswerHeadOptions {
  // How the client will see the body's end. kNone: no body, whatever the length says.
  BodyFraming framing = BodyFraming::kNone;
  std::optional<std::uint64_t> length;
  bool close = false;
  bool old_client = false;  // HTTP/1.0: it must be told that the connection stays.
  std::string_view request_id = {};
  std::string_view replica = {};   // Empty: not told.
  std::string_view decision = {};  // As JSON; empty: not told.
};
void WriteAnswerHead(const MessageHead& replica, const AnswerHeadOptions& options,
                     std::string& out);

// The head of an answer of our own. `headers`: whole lines, each with its CRLF.
void WriteOwnHead(int status, std::string_view content_type, std::string_view headers,
                  const AnswerHeadOptions& options, std::string& out);

// A decision for a header's value: compact JSON in visible ASCII, at most kDecisionBytesMax. The
// candidates that don't fit are left out, the dearest first.
std::string DecisionJson(const Decision& decision);
inline constexpr std::size_t kDecisionBytesMax = 4096;  // nginx in front takes 4 or 8 KiB of head.

}  // namespace sublet::internal
