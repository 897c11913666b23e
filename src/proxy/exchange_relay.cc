// The answer goes to the client, piece by piece.

#include <fmt/format.h>

#include <charconv>

#include "base/clock.h"
#include "proxy/exchange.h"

namespace sublet::internal {
namespace {

namespace http = boost::beast::http;

// Beyond it a body isn't held for as long as its answer takes.
constexpr std::size_t kBodyBytesHeld = 64u << 10;

std::string_view ContentType(const MessageHead& head) {
  for (const HeadField& field : head.fields) {
    if (field.id == http::field::content_type) return field.value;
  }
  return {};
}

}  // namespace

LoopTask<ExchangeEnd> Exchange::Relay() {
  const double stall_s = settings_->options.limits.stall_s;
  BeginAnswer();
  while (true) {
    TakePieces();
    if (!client_->WriteNow(parts_)) {
      const bool written = co_await client_->FinishWrite(parts_);
      if (!written) break;
    }
    if (answer_reader_.done()) {
      FinishUpstream();
      co_return client_framing_ == BodyFraming::kUntilClose || client_->last_request()
          ? ExchangeEnd::kClose
          : ExchangeEnd::kReusable;
    }
    pieces_.clear();
    parts_.Clear();
    client_->SetLimit(stall_s, MonotonicNanoseconds());
    const More more = co_await ReadAnswer();
    client_->ClearLimit();
    if (more == More::kGone) break;
    if (more == More::kEnd && answer_reader_.EndOfInput()) continue;
    if (more != More::kData) {
      const ExchangeEnd end = co_await Break(more == More::kSilent ? "said nothing for too long"
                                                                   : "closed in the middle");
      co_return end;
    }
    const Result<std::size_t> used = answer_reader_.Decode(answer_.text(), pieces_);
    if (!used) {
      const ExchangeEnd end = co_await Break("sent a broken body: " + used.error().message);
      co_return end;
    }
    answer_.Use(*used);
  }
  // The client has gone, or takes nothing.
  DropUpstream();
  EndLease(Outcome::kCancelled);
  record_.outcome = client_->cut() ? RequestOutcome::kDrained : RequestOutcome::kClientGone;
  co_return ExchangeEnd::kReset;
}

// The head for the client, and how it will see the end of the body.
void Exchange::BeginAnswer() {
  const MessageHead& head = answer_reader_.head();
  const ProxyOptions& options = settings_->options;
  const bool old_client = request_.head().minor_version == 0;
  record_.status = head.status;
  record_.stream = ContentType(head).starts_with("text/event-stream");
  scan_.Begin(record_.kind, record_.stream);
  AnswerHeadOptions out;
  out.length = head.stated;
  client_framing_ = head.framing;
  if (head.framing == BodyFraming::kChunked || head.framing == BodyFraming::kUntilClose) {
    client_framing_ = old_client ? BodyFraming::kUntilClose : BodyFraming::kChunked;
    out.length.reset();
  } else if (head.framing == BodyFraming::kNone && request_.head().verb != http::verb::head) {
    const bool bodiless = head.status == 204 || head.status == 304;
    if (bodiless) out.length.reset();
  }
  if (client_framing_ == BodyFraming::kUntilClose) client_->MakeLast();
  out.framing = client_framing_;
  out.close = client_->last_request();
  out.old_client = old_client;
  out.request_id = request_id_;
  if (options.reveal_replica) {
    replica_name_ = lease_->decision().replica;
    std::replace_if(
        replica_name_.begin(), replica_name_.end(), [](char c) { return c < 0x20 || c > 0x7e; },
        '?');
    out.replica = replica_name_;
  }
  if (explain_) {
    decision_json_ = DecisionJson(lease_->decision());
    out.decision = decision_json_;
  }
  client_head_.clear();
  WriteAnswerHead(head, out, client_head_);
  parts_.Clear();
  parts_.Add(client_head_);
  // No other replica will be asked from here on.
  if (charged_ > kBodyBytesHeld) {
    body_ = std::string();
    ReleaseBody();
  }
}

// What was read of the body, framed for the client; and what it tells us.
void Exchange::TakePieces() {
  std::size_t bytes = 0;
  for (const std::string_view piece : pieces_) bytes += piece.size();
  const bool chunked = client_framing_ == BodyFraming::kChunked;
  if (bytes > 0) {
    if (chunked) {
      char* const begin = chunk_head_.data();
      char* end = std::to_chars(begin, begin + 16, bytes, 16).ptr;
      *end++ = '\r';
      *end++ = '\n';
      parts_.Add({begin, static_cast<std::size_t>(end - begin)});
    }
    for (const std::string_view piece : pieces_) parts_.Add(piece);
    record_.bytes_out += static_cast<std::int64_t>(bytes);
    const std::int64_t events_before = scan_.events();
    for (const std::string_view piece : pieces_) scan_.Take(piece);
    const std::int64_t now_ns = MonotonicNanoseconds();
    // Where nothing is streamed, the first token was long ago, and nobody saw when.
    if (record_.stream && scan_.first_token() && !record_.first_token_ns && record_.status < 400) {
      record_.first_token_ns = SinceStart(now_ns);
      lease_->OnFirstToken(now_ns);
    }
    const std::int64_t events = scan_.events() - events_before;
    if (events > 0 && scan_.first_token()) lease_->OnTokens(static_cast<int>(events), now_ns);
  }
  if (!chunked) return;
  if (answer_reader_.done()) {
    parts_.Add(bytes > 0 ? "\r\n0\r\n\r\n" : "0\r\n\r\n");
  } else if (bytes > 0) {
    parts_.Add("\r\n");
  }
}

// The answer has gone out in full.
void Exchange::FinishUpstream() {
  const int status = answer_reader_.head().status;
  record_.events = scan_.events();
  if (status < 400) {
    const TokenUsage usage = scan_.FindUsage();
    record_.prompt_tokens = usage.prompt_tokens;
    record_.cached_tokens = usage.cached_tokens;
    record_.output_tokens = usage.output_tokens;
  }
  record_.outcome = status >= 500   ? RequestOutcome::kFailed
                    : status >= 400 ? RequestOutcome::kClientError
                                    : RequestOutcome::kServed;
  // Nothing may stand behind the answer, not even an end.
  const bool clean = request_sent_ && answer_reader_.head().keep_alive && answer_.empty() &&
                     (!upstream_may_read_ || !ReadAnswerNow());
  if (clean) {
    upstream_->set_sink(nullptr);
    loop_.pool().GiveBack(*endpoint_, std::move(upstream_), settings_->options.limits.pool_idle_max,
                          MonotonicNanoseconds());
    upstream_.reset();
  } else {
    DropUpstream();
  }
  EndLease(OutcomeOf(status));
}

// The replica failed when a part of its answer was with the client already.
LoopTask<ExchangeEnd> Exchange::Break(std::string why) {
  Failed(why);
  DropUpstream();
  EndLease(Outcome::kFailed);
  record_.outcome = RequestOutcome::kBroken;
  record_.error = failure_;
  record_.events = scan_.events();
  if (!record_.stream || client_framing_ != BodyFraming::kChunked) co_return ExchangeEnd::kReset;
  OpenAiError error{502, "upstream_failed", "the answer broke off: " + ShownFailure()};
  const std::string events = OpenAiErrorEvents(record_.kind, error, !scan_.at_event_end());
  const std::string chunk = fmt::format("{:x}\r\n{}\r\n0\r\n\r\n", events.size(), events);
  parts_.Clear();
  parts_.Add(chunk);
  const bool written = client_->WriteNow(parts_) || co_await client_->FinishWrite(parts_);
  if (!written) co_return ExchangeEnd::kReset;
  co_return client_->last_request() ? ExchangeEnd::kClose : ExchangeEnd::kReusable;
}

}  // namespace sublet::internal
