// The request comes in: its head, the key, its body.

#include <algorithm>
#include <charconv>

#include "base/clock.h"
#include "proxy/exchange.h"

namespace sublet::internal {
namespace {

namespace http = boost::beast::http;

constexpr std::size_t kRequestIdBytesMax = 128;
constexpr std::size_t kTraceParentBytesMax = 128;  // Version 00 has 55.
constexpr std::size_t kSessionBytesMax = 256;
// Memory for a body grows as it comes: what a client only says that it will send costs nothing.
constexpr std::size_t kBodyStepBytes = 256u << 10;

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

std::optional<PriorityClass> ParsePriority(std::string_view text) {
  if (EqualsIgnoringCase(text, "interactive")) return PriorityClass::kInteractive;
  if (EqualsIgnoringCase(text, "normal")) return PriorityClass::kNormal;
  if (EqualsIgnoringCase(text, "batch")) return PriorityClass::kBatch;
  return std::nullopt;
}

}  // namespace

LoopTask<Exchange::Step> Exchange::ReadRequestHead() {
  const ProxyLimits& limits = settings_->options.limits;
  if (input_.empty()) {
    const bool came = co_await client_->ReadMore(input_);
    if (!came) co_return Step::kGone;
  }
  client_->BeginRequest();
  started_ns_ = MonotonicNanoseconds();
  head_end_.Reset();
  bool waited = false;
  while (true) {
    // One empty line in front is allowed: old clients put it behind a body.
    if (input_.text().starts_with("\r\n")) input_.Use(2);
    const HeadEnd::Look look =
        head_end_.At(input_.text(), limits.header_bytes_max, limits.header_count_max);
    if (look == HeadEnd::Look::kWhole) break;
    if (look == HeadEnd::Look::kBad) {
      co_return RefuseWith(RequestOutcome::kMalformed, 400, "bad_request",
                           "not an HTTP/1.1 request: a line that is folded or doesn't end in CR LF",
                           true);
    }
    if (look == HeadEnd::Look::kTooLong) {
      co_return RefuseWith(RequestOutcome::kMalformed, 431, "headers_too_large",
                           "the head of the request is too long, or has too many fields", true);
    }
    if (!waited) client_->SetLimit(limits.header_s, started_ns_);
    waited = true;
    const bool came = co_await client_->ReadMore(input_);
    if (came) continue;
    if (!client_->TimedOut()) co_return Step::kGone;
    co_return RefuseWith(RequestOutcome::kMalformed, 408, "request_timeout",
                         "the head of the request took too long", true);
  }
  if (waited) client_->ClearLimit();
  head_text_.assign(input_.text().substr(0, head_end_.size()));
  input_.Use(head_end_.size());
  const Status read = request_.ReadHead(head_text_);
  if (!read) {
    co_return RefuseWith(RequestOutcome::kMalformed, 400, "bad_request",
                         "not an HTTP/1.1 request: " + read.error().message, true);
  }
  head_read_ = true;
  co_return CheckRequest();
}

Exchange::Step Exchange::CheckRequest() {
  const MessageHead& head = request_.head();
  record_.method = head.method;
  if (!head.keep_alive) client_->MakeLast();
  const bool asterisk = head.verb == http::verb::options && head.target == "*";
  if (!asterisk && !IsPlainTarget(head.target)) {
    return RefuseWith(RequestOutcome::kMalformed, 400, "bad_request",
                      "the target must be a path without dot segments", true);
  }
  const std::size_t question = std::min(head.target.find('?'), head.target.size());
  path_ = head.target.substr(0, question);
  query_ = head.target.substr(std::min(question + 1, head.target.size()));
  record_.path = path_;
  NoteFields();
  if (refusal_.error.status != 0) return Step::kRefused;
  if (head.verb == http::verb::connect || head.verb == http::verb::trace) {
    return RefuseWith(RequestOutcome::kMalformed, 405, "method_not_allowed",
                      "this method isn't passed on", true);
  }
  access_ = PathAccess::kReplicas;
  const ProxyHooks& hooks = loop_.shared().hooks;
  if (hooks.access) access_ = hooks.access(head.method, path_);
  record_.kind = access_ == PathAccess::kReplicas && head.verb == http::verb::post
                     ? RequestKindOf(path_)
                     : RequestKind::kOther;
  return CheckKey();
}

void Exchange::NoteFields() {
  authorization_ = session_ = pinned_ = tenant_ = accept_ = request_id_ = {};
  explain_ = expects_continue_ = false;
  deadline_ns_.reset();
  for (const HeadField& field : request_.head().fields) NoteField(field);
  if (request_id_.empty()) {
    loop_.MakeRequestId(made_id_);
    request_id_ = {made_id_.data(), made_id_.size()};
  }
  record_.request_id = request_id_;
}

void Exchange::NoteField(const HeadField& field) {
  const ProxyOptions& options = settings_->options;
  switch (field.id) {
    case http::field::authorization:
      authorization_ = field.value;
      return;
    case http::field::accept:
      accept_ = field.value;
      return;
    case http::field::expect:
      expects_continue_ = EqualsIgnoringCase(field.value, "100-continue");
      if (!expects_continue_) {
        RefuseWith(RequestOutcome::kMalformed, 417, "expectation_failed",
                   "the only expectation known is 100-continue", true);
      }
      return;
    case http::field::upgrade:
      // Whoever offers HTTP/2 in passing (curl --http2) goes on without; a WebSocket can't.
      if (!EqualsIgnoringCase(field.value, "h2c")) {
        RefuseWith(RequestOutcome::kMalformed, 501, "upgrade_not_supported",
                   "connections can't be upgraded here (WebSocket and others)", true);
      }
      return;
    case http::field::unknown:
      break;
    default:
      return;
  }
  const std::string_view name = field.name;
  const std::string_view value = field.value;
  const auto is = [&](std::string_view wanted) { return EqualsIgnoringCase(name, wanted); };
  if (is("traceparent")) {
    if (options.trust_trace_headers) record_.traceparent = value.substr(0, kTraceParentBytesMax);
    return;
  }
  if (name.size() < 3 || (name[0] != 'x' && name[0] != 'X') || name[1] != '-') return;
  if (is("x-request-id")) {
    const bool sound = !value.empty() && value.size() <= kRequestIdBytesMax && IsVisible(value);
    if (options.trust_trace_headers && sound) request_id_ = value;
  } else if (is("x-sublet-session") ||
             (session_.empty() &&
              (is("x-session-id") || is("x-dynamo-session-id") || is("x-smg-routing-key")))) {
    session_ = value.substr(0, kSessionBytesMax);
  } else if (is("x-sublet-explain")) {
    explain_ = options.reveal_replica && value == "1";
  } else if (is("x-sublet-replica")) {
    if (options.reveal_replica) pinned_ = value;
  } else if (is("x-sublet-tenant")) {
    if (options.trust_tenant_header && options.api_keys.empty()) tenant_ = value;
  } else if (is("x-sublet-priority")) {
    const auto priority = ParsePriority(value);
    if (options.trust_priority_header && priority) record_.priority = *priority;
  } else if (is("x-request-timeout-ms")) {
    std::uint32_t ms = 0;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), ms);
    if (parsed.ec == std::errc() && parsed.ptr == value.data() + value.size() && ms > 0) {
      deadline_ns_ = started_ns_ + std::int64_t{ms} * 1'000'000;
    }
  }
}

Exchange::Step Exchange::ChargeKey(KeyRate* rate, double amount, bool unread) {
  if (rate == nullptr) return Step::kOk;
  const std::int64_t wait_ns = rate->Take(amount, MonotonicNanoseconds());
  if (wait_ns == 0) return Step::kOk;
  refusal_.retry_after_s = static_cast<int>(wait_ns / 1'000'000'000) + 1;
  return RefuseWith(RequestOutcome::kRejected, 429, "rate_limit_exceeded",
                    "this API key has asked for more than it may in a minute", unread);
}

Exchange::Step Exchange::CheckKey() {
  record_.tenant = tenant_;
  key_ = nullptr;
  if (settings_->keys.empty() || access_ == PathAccess::kOpen) return Step::kOk;
  // A browser asks beforehand, without the key, whether it may send it.
  const bool preflight = request_.head().verb == http::verb::options;
  if (access_ == PathAccess::kReplicas && preflight) return Step::kOk;
  const bool unread = !request_.done();
  const ApiKey* key = settings_->keys.Find(authorization_);
  if (key == nullptr) {
    return RefuseWith(RequestOutcome::kDenied, 401, "invalid_api_key",
                      authorization_.empty() ? "no API key; send \"Authorization: Bearer KEY\""
                                             : "the API key isn't known",
                      unread);
  }
  record_.tenant = tenant_ = key->tenant;
  if (access_ == PathAccess::kAdmin && !key->admin) {
    return RefuseWith(RequestOutcome::kDenied, 403, "not_an_administrator",
                      "this takes an administrator's key", unread);
  }
  if (access_ != PathAccess::kReplicas) return Step::kOk;
  key_ = key;
  const bool as_ordinary = record_.priority == PriorityClass::kNormal;
  if (key->priority && (as_ordinary || record_.priority < *key->priority)) {
    record_.priority = *key->priority;
  }
  return ChargeKey(key->rates ? key->rates->requests.get() : nullptr, 1, unread);
}

// ---- the body ----------------------------------------------------------------------------------

LoopTask<Exchange::Step> Exchange::ReadBody() {
  const ProxyLimits& limits = settings_->options.limits;
  const std::size_t bytes_max =
      access_ == PathAccess::kReplicas
          ? limits.body_bytes_max
          : std::min(limits.body_bytes_max, limits.control_body_bytes_max);
  const MessageHead& head = request_.head();
  if (head.framing == BodyFraming::kLength && head.length > bytes_max) {
    co_return RefuseWith(RequestOutcome::kMalformed, 413, "request_too_large",
                         "the body is larger than what is taken", true);
  }
  if (expects_continue_ && head.minor_version == 1 && input_.empty()) {
    const bool told = co_await PermitBody();
    if (!told) co_return Step::kGone;
  }
  Step step = Step::kOk;
  if (head.framing == BodyFraming::kLength) {
    step = co_await ReadCountedBody(head.length);
  } else {
    step = co_await ReadChunkedBody(bytes_max);
  }
  client_->ClearLimit();
  record_.bytes_in = static_cast<std::int64_t>(body_.size());
  co_return step;
}

LoopTask<bool> Exchange::PermitBody() {
  parts_.Clear();
  parts_.Add("HTTP/1.1 100 Continue\r\n\r\n");
  const bool written = client_->WriteNow(parts_) || co_await client_->FinishWrite(parts_);
  co_return written;
}

// What is there already is copied; the rest is read to where it belongs.
LoopTask<Exchange::Step> Exchange::ReadCountedBody(std::uint64_t length) {
  const auto size = static_cast<std::size_t>(length);
  std::size_t have = std::min(size, input_.size());
  Step charged = ChargeBody(std::min(size, have + kBodyStepBytes));
  if (charged != Step::kOk) co_return charged;
  body_.reserve(std::min(size, have + kBodyStepBytes) + kScanPadding);
  body_.assign(input_.text().substr(0, have));
  input_.Use(have);
  if (have < size) client_->SetLimit(settings_->options.limits.body_s, started_ns_);
  while (have < size) {
    // Doubling: each byte is moved once on average, and at most half of the memory is unused.
    const std::size_t target = std::min(size, std::max(have + kBodyStepBytes, 2 * have));
    charged = ChargeBody(target);
    if (charged != Step::kOk) co_return charged;
    body_.reserve(target + kScanPadding);
    body_.resize(target);
    while (have < target) {
      const std::size_t got = co_await client_->ReadInto(body_.data() + have, target - have);
      if (got == 0) co_return BodyMissing();
      have += got;
    }
  }
  co_return Step::kOk;
}

LoopTask<Exchange::Step> Exchange::ReadChunkedBody(std::size_t bytes_max) {
  client_->SetLimit(settings_->options.limits.body_s, started_ns_);
  while (true) {
    pieces_.clear();
    const Result<std::size_t> used = request_.Decode(input_.text(), pieces_);
    if (!used) {
      co_return RefuseWith(RequestOutcome::kMalformed, 400, "bad_request",
                           "the chunks of the body are broken: " + used.error().message, true);
    }
    std::size_t bytes = body_.size();
    for (const std::string_view piece : pieces_) bytes += piece.size();
    if (bytes > bytes_max) {
      co_return RefuseWith(RequestOutcome::kMalformed, 413, "request_too_large",
                           "the body is larger than what is taken", true);
    }
    const Step charged = ChargeBody(bytes);
    if (charged != Step::kOk) co_return charged;
    for (const std::string_view piece : pieces_) body_.append(piece);
    input_.Use(*used);
    if (request_.done()) break;
    const bool came = co_await client_->ReadMore(input_);
    if (!came) co_return BodyMissing();
  }
  body_.reserve(body_.size() + kScanPadding);
  co_return Step::kOk;
}

Exchange::Step Exchange::BodyMissing() {
  if (!client_->TimedOut()) return Step::kGone;
  return RefuseWith(RequestOutcome::kMalformed, 408, "request_timeout",
                    "the body of the request took too long", true);
}

// `bytes`: of the whole body, as far as there is memory for it.
Exchange::Step Exchange::ChargeBody(std::size_t bytes) {
  if (bytes <= charged_) return Step::kOk;
  const auto more = static_cast<std::int64_t>(bytes - charged_);
  std::atomic<std::int64_t>& all = loop_.shared().bodies_bytes;
  const std::int64_t before = all.fetch_add(more, std::memory_order_relaxed);
  charged_ = bytes;
  if (static_cast<std::size_t>(before + more) <= settings_->options.limits.bodies_bytes_max) {
    return Step::kOk;
  }
  refusal_.retry_after_s = 1;
  return RefuseWith(RequestOutcome::kUnavailable, 503, "overloaded",
                    "the router holds as many request bodies as it may", true);
}

void Exchange::ReleaseBody() {
  if (charged_ == 0) return;
  loop_.shared().bodies_bytes.fetch_sub(static_cast<std::int64_t>(charged_),
                                        std::memory_order_relaxed);
  charged_ = 0;
}

}  // namespace sublet::internal
