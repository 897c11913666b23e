// One try at one replica: a connection, the request over it, the beginning of the answer.

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "proxy/exchange.h"

namespace sublet::internal {
namespace {

// Replicas that are asked to say 100 Continue and early hints say each once.
constexpr int kInterimAnswersMax = 16;
constexpr std::size_t kAnswerRoomMin = 4096;
constexpr std::size_t kAnswerRoomMax = 64u << 10;  // For an answer that fills all that it is given.

std::string ErrnoText(int error) {
  return error == 0 ? std::string() : std::string(std::strerror(error));
}

}  // namespace

// Whoever waits for the replica waits for the client, too: all events wake the one coroutine.
void Exchange::OnTransport(bool readable) {
  upstream_may_read_ = upstream_may_read_ || readable;
  client_->Wake();
}

void Exchange::DropUpstream() {
  if (!upstream_) return;
  upstream_->set_sink(nullptr);
  upstream_->Close();
  upstream_.reset();
}

Exchange::TryEnd Exchange::Failed(std::string_view why) {
  failure_ = fmt::format("{}: {}", lease_->decision().replica, why);
  return TryEnd::kFailed;
}

// The connection was lost. One of the pool may have been closed before the request got there.
Exchange::TryEnd Exchange::Lost(std::string_view why) {
  if (record_.reused && !answer_began_) return TryEnd::kStale;
  return Failed(upstream_->tls_error().empty() ? why : upstream_->tls_error());
}

Exchange::TryEnd Exchange::Silent(std::string_view what) {
  failure_status_ = 504;
  return Failed(fmt::format("took too long {}", what));
}

void Exchange::LimitTry(double seconds) {
  std::int64_t at_ns = MonotonicNanoseconds() + static_cast<std::int64_t>(seconds * 1e9);
  if (deadline_ns_) at_ns = std::min(at_ns, *deadline_ns_);
  client_->SetDeadline(at_ns);
}

// `fresh`: over a connection of its own.
LoopTask<Exchange::TryEnd> Exchange::Try(bool fresh) {
  const std::int64_t begin_ns = MonotonicNanoseconds();
  DropUpstream();
  failure_status_ = 502;
  answer_.Clear();
  answer_end_.Reset();
  answer_room_ = kAnswerRoomMin;
  answer_began_ = upstream_may_read_ = request_begun_ = request_sent_ = false;
  endpoint_ = loop_.pool().Find(lease_->decision().slot, lease_->url(), begin_ns);
  if (!endpoint_->url) co_return Failed(endpoint_->url.error().message);
  if (!fresh) upstream_ = loop_.pool().TakeIdle(*endpoint_);
  record_.reused = upstream_ != nullptr;
  TryEnd end = TryEnd::kAnswered;
  if (upstream_) {
    upstream_->set_sink(this);
    loop_.tallies().reused.Add(1);
  } else {
    end = co_await Connect();
    record_.connect_ns += MonotonicNanoseconds() - begin_ns;
    if (end == TryEnd::kFailed) loop_.tallies().connects_failed.Add(1);
  }
  LimitTry(settings_->options.limits.first_byte_s);
  if (end == TryEnd::kAnswered) end = co_await SendRequest();
  lease_->OnSent();
  if (end == TryEnd::kAnswered) end = co_await ReadAnswerHead();
  client_->ClearLimit();
  if (end == TryEnd::kAnswered) {
    record_.upstream_status = answer_reader_.head().status;
    record_.first_byte_ns = SinceStart(MonotonicNanoseconds());
  }
  co_return end;
}

// ---- connecting --------------------------------------------------------------------------------

LoopTask<Exchange::TryEnd> Exchange::Connect() {
  loop_.tallies().connects.Add(1);
  LimitTry(settings_->options.limits.connect_s);
  TryEnd end = co_await Resolve();
  // A copy: another request may resolve the name anew meanwhile.
  const std::vector<asio::ip::tcp::endpoint> addresses = endpoint_->addresses;
  for (std::size_t i = 0; i < addresses.size() && end != TryEnd::kGone; ++i) {
    end = co_await ConnectTo(addresses[i]);
    if (end == TryEnd::kAnswered || client_->TimedOut()) break;
  }
  co_return end;
}

LoopTask<Exchange::TryEnd> Exchange::Resolve() {
  const ReplicaUrl& url = *endpoint_->url;
  const auto fresh_ns = static_cast<std::int64_t>(settings_->options.limits.resolve_s * 1e9);
  const std::int64_t now_ns = MonotonicNanoseconds();
  const bool known = !endpoint_->addresses.empty();
  if (known && (endpoint_->numeric || now_ns - endpoint_->resolved_ns < fresh_ns)) {
    co_return TryEnd::kAnswered;
  }
  boost::system::error_code not_numeric;
  const auto address = asio::ip::make_address(url.host, not_numeric);
  if (!not_numeric) {
    endpoint_->numeric = true;
    endpoint_->addresses = {asio::ip::tcp::endpoint(address, url.port)};
    co_return TryEnd::kAnswered;
  }
  endpoint_->waiting.push_back(client_->shared_from_this());
  if (endpoint_->waiting.size() == 1) {
    loop_.resolver().async_resolve(
        url.host, fmt::format_int(url.port).str(), asio::ip::tcp::resolver::numeric_service,
        [endpoint = endpoint_](const boost::system::error_code& error, const auto& results) {
          endpoint->resolve_error = error ? error.message() : "";
          if (!error) {
            endpoint->addresses.clear();
            for (const auto& entry : results) endpoint->addresses.push_back(entry.endpoint());
            endpoint->resolved_ns = MonotonicNanoseconds();
          }
          ++endpoint->resolutions;
          for (const auto& client : std::exchange(endpoint->waiting, {})) client->Wake();
        });
  }
  const std::int64_t before = endpoint_->resolutions;
  while (endpoint_->resolutions == before) {
    co_await client_->Changed();
    if (Gone()) co_return TryEnd::kGone;
    if (client_->TimedOut()) co_return Silent("to find its address");
  }
  // An old address may still be right.
  if (!endpoint_->addresses.empty()) co_return TryEnd::kAnswered;
  co_return Failed("its host has no address: " + endpoint_->resolve_error);
}

LoopTask<Exchange::TryEnd> Exchange::ConnectTo(asio::ip::tcp::endpoint address) {
  FileDescriptor socket(::socket(address.protocol().family(),
                                 SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!socket.valid()) co_return Failed("no socket: " + ErrnoText(errno));
  SslSession ssl;
  if (endpoint_->url->tls) {
    const TlsContext* const context = settings_->client_tls.Get();
    if (context != nullptr) ssl = context->Connect(endpoint_->url->host);
    if (!ssl) co_return Failed("no TLS session");
  }
  upstream_ = std::make_unique<Transport>(loop_.events(), std::move(socket), std::move(ssl));
  upstream_->set_sink(this);
  int failed = upstream_->BeginConnect(address);
  while (failed == EINPROGRESS) {
    co_await client_->Changed();
    if (Gone()) co_return TryEnd::kGone;
    if (client_->TimedOut()) co_return Silent("to connect");
    failed = upstream_->ConnectOutcome();
  }
  upstream_may_read_ = false;
  if (failed != 0) co_return Failed("can't connect: " + ErrnoText(failed));
  co_return TryEnd::kAnswered;
}

// ---- sending -----------------------------------------------------------------------------------

// The whole request, unless the replica answers before it has read it.
LoopTask<Exchange::TryEnd> Exchange::SendRequest() {
  const ProxyOptions& options = settings_->options;
  upstream_head_.clear();
  WriteRequestHead(
      request_.head(),
      {.url = &*endpoint_->url,
       .body_bytes = body_.size(),
       .request_id = request_id_,
       .pass_authorization = options.api_keys.empty() && options.upstream_api_key.empty(),
       .bearer = options.upstream_api_key,
       .pass_trace = options.trust_trace_headers},
      upstream_head_);
  parts_.Clear();
  parts_.Add(upstream_head_);
  parts_.Add(body_);
  while (!parts_.empty()) {
    const IoResult result = upstream_->Write(parts_.data(), parts_.count());
    parts_.Advance(result.bytes);
    request_begun_ = request_begun_ || result.bytes > 0;
    if (result.what == IoResult::What::kDone) continue;
    if (result.what != IoResult::What::kBlocked) {
      // It may have said why before it closed.
      if (ReadAnswerNow() == More::kData) co_return TryEnd::kAnswered;
      co_return Lost("took no request: " + ErrnoText(result.error));
    }
    co_await client_->Changed();
    if (Gone()) co_return TryEnd::kGone;
    if (client_->TimedOut()) co_return Silent("to take the request");
    if (!upstream_may_read_) continue;
    const std::optional<More> more = ReadAnswerNow();
    if (more == More::kData) co_return TryEnd::kAnswered;
    if (more) co_return Lost("closed before it had read the request");
  }
  request_sent_ = true;
  co_return TryEnd::kAnswered;
}

// ---- the answer's beginning --------------------------------------------------------------------

// What the kernel has, without waiting; none: nothing.
std::optional<Exchange::More> Exchange::ReadAnswerNow() {
  const std::span<char> room = answer_.Room(answer_room_);
  const IoResult got = upstream_->Read(room.data(), room.size());
  upstream_may_read_ = got.what == IoResult::What::kDone && !got.drained;
  switch (got.what) {
    case IoResult::What::kBlocked:
      return std::nullopt;
    case IoResult::What::kEnded:
      return More::kEnd;
    case IoResult::What::kFailed:
      return More::kFailed;
    case IoResult::What::kDone:
      break;
  }
  answer_.Filled(got.bytes);
  answer_began_ = true;
  if (got.bytes == room.size()) answer_room_ = kAnswerRoomMax;
  return More::kData;
}

LoopTask<Exchange::More> Exchange::ReadAnswer() {
  while (true) {
    if (upstream_may_read_) {
      const std::optional<More> more = ReadAnswerNow();
      if (more) co_return *more;
    }
    co_await client_->Changed();
    if (Gone()) co_return More::kGone;
    if (client_->TimedOut()) co_return More::kSilent;
  }
}

LoopTask<Exchange::TryEnd> Exchange::ReadAnswerHead() {
  const ProxyLimits& limits = settings_->options.limits;
  const bool bodiless = request_.head().verb == boost::beast::http::verb::head;
  for (int interim = 0; interim <= kInterimAnswersMax;) {
    const HeadEnd::Look look =
        answer_end_.At(answer_.text(), limits.header_bytes_max, limits.header_count_max);
    if (look == HeadEnd::Look::kMore) {
      const More more = co_await ReadAnswer();
      if (more == More::kGone) co_return TryEnd::kGone;
      if (more == More::kSilent) co_return Silent("to answer");
      if (more == More::kEnd) co_return Lost("closed without an answer");
      if (more == More::kFailed) co_return Lost("reset the connection");
      continue;
    }
    if (look != HeadEnd::Look::kWhole) co_return Failed("answered what isn't HTTP/1.1");
    answer_head_text_.assign(answer_.text().substr(0, answer_end_.size()));
    answer_.Use(answer_end_.size());
    answer_end_.Reset();
    const Status read = answer_reader_.ReadHead(answer_head_text_, bodiless);
    if (!read) co_return Failed("answered what isn't HTTP/1.1: " + read.error().message);
    const int status = answer_reader_.head().status;
    if (status == 101) co_return Failed("switches to a protocol that nobody asked for");
    if (status < 200) {
      ++interim;
      continue;
    }
    const TryEnd held = co_await HoldForBody();
    co_return held;
  }
  co_return Failed("answered with too many interim answers");
}

// An engine says 200 when it takes a request, long before it has computed anything. As long as no
// byte of the answer itself has come, another replica can still do it.
LoopTask<Exchange::TryEnd> Exchange::HoldForBody() {
  pieces_.clear();
  while (true) {
    const Result<std::size_t> used = answer_reader_.Decode(answer_.text(), pieces_);
    if (!used) co_return Failed("sent a broken body: " + used.error().message);
    answer_.Use(*used);
    if (!pieces_.empty() || answer_reader_.done() || record_.kind == RequestKind::kOther) {
      co_return TryEnd::kAnswered;
    }
    const More more = co_await ReadAnswer();
    if (more == More::kGone) co_return TryEnd::kGone;
    if (more == More::kSilent) co_return Silent("to begin its answer");
    if (more == More::kData) continue;
    if (more == More::kEnd && answer_reader_.EndOfInput()) co_return TryEnd::kAnswered;
    co_return Failed("closed before its answer began");
  }
}

}  // namespace sublet::internal
