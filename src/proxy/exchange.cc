#include "proxy/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <exception>

#include "base/clock.h"
#include "http/http_message.h"

namespace sublet::internal {
namespace {

// What an ordinary request needs is kept for the next one; the rest goes back to the heap.
constexpr std::size_t kBufferBytesKept = 64u << 10;
}  // namespace

Outcome OutcomeOf(int status) {
  if (status == 429 || status == 503) return Outcome::kOverloaded;
  if (status >= 500) return Outcome::kFailed;
  return status >= 400 ? Outcome::kClientError : Outcome::kServed;
}

Exchange::Exchange(ProxyLoop& loop) : loop_(loop) {}

Exchange::~Exchange() {
  DropUpstream();
  ReleaseBody();
}

void Exchange::Reset() {
  DropUpstream();
  ReleaseBody();
  client_ = nullptr;
  settings_.reset();
  lease_.reset();
  lease_open_ = false;
  endpoint_.reset();
  input_.Clear();
  input_.Trim(kBufferBytesKept);
  answer_.Clear();
  answer_.Trim(kBufferBytesKept);
  if (body_.capacity() > kBufferBytesKept) body_ = std::string();
}

LoopTask<ExchangeEnd> Exchange::Run(ClientConnection& client) {
  client_ = &client;
  settings_ = loop_.settings();
  record_ = AccessRecord{};
  record_.client = client.address();
  refusal_ = Refusal{};
  request_id_ = {};
  head_read_ = false;
  body_.clear();
  loop_.tallies().running.Add(1);
  ExchangeEnd end = ExchangeEnd::kClose;
  const Step head = co_await ReadRequestHead();
  if (head == Step::kOk) {
    end = co_await Serve();
  } else if (head == Step::kRefused) {
    end = co_await Refuse();
  }
  client.Unwatch();
  loop_.tallies().running.Add(-1);
  if (head != Step::kGone) Tell();
  DropUpstream();
  ReleaseBody();
  if (client.gone() && end == ExchangeEnd::kReusable) end = ExchangeEnd::kClose;
  co_return end;
}

// The head was read, and is in order.
LoopTask<ExchangeEnd> Exchange::Serve() {
  if (path_ == "*") {
    record_.outcome = RequestOutcome::kControl;
    const ExchangeEnd end = co_await AnswerOurselves(204, "", "", "");
    co_return request_.done() ? end : ExchangeEnd::kLinger;
  }
  Step step = Step::kOk;
  if (!request_.done()) step = co_await ReadBody();
  record_.read_ns = SinceStart(MonotonicNanoseconds());
  if (step == Step::kOk) {
    client_->Watch();
    if (access_ != PathAccess::kReplicas) {
      co_await AskControl();
      if (Gone()) step = Step::kGone;
    } else {
      step = ScanBody();
    }
  }
  if (step == Step::kGone) {
    record_.outcome = client_->cut() ? RequestOutcome::kDrained : RequestOutcome::kClientGone;
    co_return ExchangeEnd::kClose;
  }
  if (step == Step::kRefused) {
    const ExchangeEnd end = co_await Refuse();
    co_return end;
  }
  if (access_ == PathAccess::kReplicas) {
    const ExchangeEnd end = co_await Forward();
    co_return end;
  }
  record_.outcome = RequestOutcome::kControl;
  std::string headers;
  for (const auto& [name, value] : control_answer_->headers) {
    headers += fmt::format("{}: {}\r\n", name, value);
  }
  const ExchangeEnd end = co_await AnswerOurselves(
      control_answer_->status, control_answer_->content_type, headers, control_answer_->body);
  control_answer_.reset();
  co_return end;
}

// ---- ours --------------------------------------------------------------------------------------

LoopTask<void> Exchange::AskControl() {
  ControlRequest request{.method = std::string(record_.method),
                         .path = std::string(path_),
                         .query = std::string(query_),
                         .body = body_,
                         .accept = std::string(accept_),
                         .tenant = std::string(tenant_),
                         .client = std::string(record_.client)};
  // Shared, since the hook goes on where the client doesn't wait for it.
  struct Pending {
    bool done = false;
    ControlAnswer answer;
  };
  const auto pending = std::make_shared<Pending>();
  const std::shared_ptr<ClientConnection> client = client_->shared_from_this();
  const auto finish = [pending, client](std::exception_ptr exception, ControlAnswer answer) {
    if (exception) {
      answer.status = 500;
      answer.body = OpenAiErrorBody({500, "internal_error", "the router failed to answer"});
    }
    pending->answer = std::move(answer);
    pending->done = true;
    client->Wake();
  };
  asio::co_spawn(loop_.io(), loop_.shared().hooks.control(std::move(request)), finish);
  while (!pending->done && !Gone()) co_await client_->Changed();
  control_answer_ = std::move(pending->answer);
}

// Watched or not, what is written here is small.
LoopTask<ExchangeEnd> Exchange::AnswerOurselves(int status, std::string_view content_type,
                                                std::string_view headers, std::string_view body) {
  record_.status = status;
  const bool head_only = head_read_ && request_.head().verb == boost::beast::http::verb::head;
  AnswerHeadOptions options;
  options.framing = BodyFraming::kLength;
  if (status != 204 && status != 304) options.length = body.size();
  options.close = client_->last_request();
  options.old_client = head_read_ && request_.head().minor_version == 0;
  options.request_id = request_id_;
  client_head_.clear();
  WriteOwnHead(status, content_type, headers, options, client_head_);
  parts_.Clear();
  parts_.Add(client_head_);
  if (!head_only) parts_.Add(body);
  record_.bytes_out = head_only ? 0 : static_cast<std::int64_t>(body.size());
  if (!client_->WriteNow(parts_)) {
    const bool written = co_await client_->FinishWrite(parts_);
    if (!written) co_return ExchangeEnd::kClose;
  }
  co_return client_->last_request() ? ExchangeEnd::kClose : ExchangeEnd::kReusable;
}

Exchange::Step Exchange::RefuseWith(RequestOutcome outcome, int status, std::string_view code,
                                    std::string message, bool close) {
  refusal_.outcome = outcome;
  refusal_.error = {.status = status, .code = code, .message = std::move(message)};
  refusal_.close = close;
  return Step::kRefused;
}

LoopTask<ExchangeEnd> Exchange::Refuse() {
  record_.outcome = refusal_.outcome;
  record_.error = refusal_.error.message;
  if (refusal_.close) client_->MakeLast();
  if (request_id_.empty()) {  // The head couldn't be read.
    loop_.MakeRequestId(made_id_);
    record_.request_id = request_id_ = {made_id_.data(), made_id_.size()};
  }
  std::string headers;
  if (refusal_.error.status == 401) headers += "www-authenticate: Bearer\r\n";
  if (refusal_.retry_after_s > 0) {
    headers += fmt::format("retry-after: {}\r\n", refusal_.retry_after_s);
  }
  const std::string body = OpenAiErrorBody(refusal_.error);
  const ExchangeEnd end = co_await AnswerOurselves(refusal_.error.status, kJsonType, headers, body);
  co_return refusal_.close ? ExchangeEnd::kLinger : end;
}

// ---- the replicas' -----------------------------------------------------------------------------

Exchange::Step Exchange::ScanBody() {
  const std::int64_t begin_ns = MonotonicNanoseconds();
  prefix_ = RequestPrefix{};
  if (record_.kind != RequestKind::kOther) {
    ApplyAliases(settings_->options.aliases, body_);
    Result<RequestPrefix> scanned = loop_.scanner().Scan(record_.kind, body_);
    if (!scanned) {
      return RefuseWith(RequestOutcome::kMalformed, 400, "invalid_json",
                        "the body can't be read: " + scanned.error().message);
    }
    prefix_ = std::move(*scanned);
  }
  if (session_.empty()) session_ = prefix_.session;
  if (prefix_.priority && settings_->options.trust_priority_header &&
      record_.priority == PriorityClass::kNormal) {
    // vLLM's: what is smaller goes first.
    if (*prefix_.priority < 0) record_.priority = PriorityClass::kInteractive;
    if (*prefix_.priority > 0) record_.priority = PriorityClass::kBatch;
  }
  if (key_ != nullptr && key_->priority) {
    record_.priority = std::max(record_.priority, *key_->priority);
  }
  record_.model = prefix_.model;
  record_.session = session_;
  record_.decide_ns += MonotonicNanoseconds() - begin_ns;
  if (key_ == nullptr || key_->rates == nullptr) return Step::kOk;
  return ChargeKey(key_->rates->tokens.get(), static_cast<double>(prefix_.PromptTokens()), false);
}

LoopTask<ExchangeEnd> Exchange::Forward() {
  tried_.clear();
  retried_answer_ = false;
  failure_.clear();
  failure_status_ = 502;
  loop_.retry_budget().OnRequest(MonotonicNanoseconds());
  Step step = co_await Choose();
  while (step == Step::kOk) {
    ++record_.tries;
    tried_.push_back(lease_->decision().slot);
    TryEnd end = co_await Try(false);
    if (end == TryEnd::kStale) {
      loop_.tallies().stale.Add(1);
      end = co_await Try(true);
    }
    if (end == TryEnd::kGone) {
      step = Step::kGone;
    } else if (end == TryEnd::kAnswered && !WorthAnother()) {
      const ExchangeEnd relayed = co_await Relay();
      co_return relayed;
    } else if (end != TryEnd::kAnswered) {
      DropUpstream();
      EndLease(Outcome::kFailed);
      step = Step::kRefused;
      const bool again = Repeatable() || !request_begun_;
      if (again && MayRetry(MonotonicNanoseconds())) step = co_await Choose();
      if (step == Step::kRefused) RefuseFailed();
    }
  }
  if (step == Step::kGone) {
    DropUpstream();
    EndLease(Outcome::kCancelled);
    record_.outcome = client_->cut() ? RequestOutcome::kDrained : RequestOutcome::kClientGone;
    co_return ExchangeEnd::kClose;
  }
  const ExchangeEnd end = co_await Refuse();
  co_return end;
}

// Whether doing it twice is as good as doing it once. What engines compute from a prompt is; what
// else is behind a path, nobody knows, and HTTP says which methods promise it.
bool Exchange::Repeatable() const {
  namespace http = boost::beast::http;
  if (record_.kind != RequestKind::kOther) return true;
  switch (request_.head().verb) {
    case http::verb::get:
    case http::verb::head:
    case http::verb::options:
    case http::verb::put:
    case http::verb::delete_:
      return true;
    default:
      return false;
  }
}

bool Exchange::MayRetry(std::int64_t now_ns) {
  if (record_.tries >= settings_->options.limits.tries_max) return false;
  if (deadline_ns_ && now_ns >= *deadline_ns_) return false;
  if (!loop_.retry_budget().Take(now_ns)) {
    loop_.tallies().retries_unaffordable.Add(1);
    return false;
  }
  loop_.tallies().retries.Add(1);
  ++record_.retries;
  return true;
}

// A replica has answered that it can't. Whether there is another one to ask instead, once; then
// lease_ is of that one. Otherwise its answer is the answer.
bool Exchange::WorthAnother() {
  const int status = answer_reader_.head().status;
  record_.upstream_status = status;
  const bool refused_it = status == 429 || status == 503;
  const bool broke = status == 500 || status == 502 || status == 504;
  const bool cannot = refused_it || (broke && Repeatable());
  if (!cannot || retried_answer_) return false;
  const std::int64_t now_ns = MonotonicNanoseconds();
  if (!MayRetry(now_ns)) return false;
  retried_answer_ = true;
  std::optional<Lease> refused = std::move(lease_);
  lease_.reset();
  bool full = false;
  if (ChooseNow(now_ns, full) != Step::kOk) {
    lease_ = std::move(refused);
    refusal_ = Refusal{};
    loop_.tallies().retries.Add(-1);
    --record_.retries;
    return false;
  }
  failure_ = fmt::format("{} answered {}", refused->decision().replica, status);
  refused->Finish({.outcome = OutcomeOf(status)}, now_ns);
  DropUpstream();
  loop_.shared().gate.Freed(now_ns);
  return true;
}

// Nobody is left to try, or it isn't allowed: the last failure is what the client should know.
void Exchange::RefuseFailed() {
  if (failure_.empty()) return;
  refusal_ = Refusal{};
  RefuseWith(RequestOutcome::kFailed, failure_status_,
             failure_status_ == 504 ? "upstream_timeout" : "upstream_failed", ShownFailure());
}

std::string Exchange::ShownFailure() const {
  return settings_->options.reveal_replica ? "the request failed on " + failure_
                                           : "the request failed on its replica";
}

void Exchange::Tell() {
  const std::int64_t now_ns = MonotonicNanoseconds();
  record_.total_ns = SinceStart(now_ns);
  loop_.tallies().requests.Add(1);
  if (lease_) {
    const Decision& decision = lease_->decision();
    record_.replica = decision.replica;
    record_.policy = decision.policy;
    record_.reason = decision.reason;
    record_.prompt_tokens_expected = decision.prompt_tokens;
    record_.cached_tokens_expected = decision.cached_tokens;
  }
  if (loop_.shared().hooks.on_finished) loop_.shared().hooks.on_finished(record_);
  lease_.reset();
  lease_open_ = false;
}

}  // namespace sublet::internal
