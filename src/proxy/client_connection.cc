#include "proxy/client_connection.h"

#include <cstdint>
#include <utility>

#include "base/clock.h"
#include "proxy/exchange.h"

namespace sublet::internal {
namespace {

// For one who was refused to read why, before what he still sends makes the kernel reset the
// connection.
constexpr double kLingerSeconds = 2;
// What a client may send ahead of its answers. Beyond it we stop reading, and no longer see it go.
constexpr std::size_t kAheadBytesMax = 32u << 10;

}  // namespace

ClientConnection::ClientConnection(ProxyLoop& loop, std::unique_ptr<Transport> transport,
                                   std::string address)
    : loop_(loop), transport_(std::move(transport)), address_(std::move(address)) {
  transport_->set_sink(this);
}

ClientConnection::~ClientConnection() {
  transport_->set_sink(nullptr);
}

LoopTask<void> ClientConnection::Run() {
  const std::shared_ptr<ClientConnection> self = shared_from_this();
  while (!last_request_ && !gone_) {
    const bool came = co_await UntilInput();
    if (!came) break;
    const ExchangeEnd end = co_await exchange_->Run(*this);
    if (end == ExchangeEnd::kLinger && !gone_) co_await Linger();
    if (end == ExchangeEnd::kReset) Close(true);
    if (end != ExchangeEnd::kReusable) break;
    if (exchange_->input().empty()) loop_.Recycle(std::move(exchange_));
  }
  Close();
  if (exchange_) loop_.Recycle(std::move(exchange_));
}

// False: the connection is over.
LoopTask<bool> ClientConnection::UntilInput() {
  if (!exchange_) {
    idle_ = true;
    SetLimit(loop_.settings()->options.limits.idle_s, MonotonicNanoseconds());
    while (!may_read_ && !gone_ && !timed_out_) {
      co_await wake_.Wait();
    }
    if (gone_ || timed_out_) co_return false;
    exchange_ = loop_.TakeExchange();
  }
  co_return true;
}

// ---- reading -----------------------------------------------------------------------------------

LoopTask<std::size_t> ClientConnection::ReadInto(char* to, std::size_t size) {
  while (!gone_ && !timed_out_) {
    if (!may_read_) {
      co_await wake_.Wait();
      continue;
    }
    const IoResult got = transport_->Read(to, size);
    may_read_ = got.what == IoResult::What::kDone && !got.drained;
    if (got.what == IoResult::What::kDone) co_return got.bytes;
    if (got.what != IoResult::What::kBlocked) gone_ = true;
  }
  co_return 0;
}

LoopTask<bool> ClientConnection::ReadMore(InputBuffer& input) {
  constexpr std::size_t kReadBytesMin = 4096;
  const std::span<char> room = input.Room(kReadBytesMin);
  const std::size_t got = co_await ReadInto(room.data(), room.size());
  input.Filled(got);
  co_return got > 0;
}

void ClientConnection::Watch() {
  watching_ = true;
  while (may_read_ && !gone_) {
    InputBuffer& input = exchange_->input();
    if (input.size() >= kAheadBytesMax) return;
    const std::span<char> room = input.Room(1024);
    const IoResult got = transport_->Read(room.data(), room.size());
    may_read_ = got.what == IoResult::What::kDone && !got.drained;
    input.Filled(got.bytes);
    gone_ = got.what == IoResult::What::kEnded || got.what == IoResult::What::kFailed;
  }
}

void ClientConnection::OnTransport(bool readable) {
  may_read_ = may_read_ || readable;
  // The coroutine may end, and this with it.
  const std::shared_ptr<ClientConnection> self = shared_from_this();
  if (watching_) Watch();
  wake_.Notify();
}

// ---- writing -----------------------------------------------------------------------------------

bool ClientConnection::WriteNow(OutputParts& parts) {
  while (!parts.empty() && !gone_) {
    const IoResult result = transport_->Write(parts.data(), parts.count());
    parts.Advance(result.bytes);
    if (result.what == IoResult::What::kBlocked) return false;
    if (result.what != IoResult::What::kDone) gone_ = true;
  }
  return parts.empty();
}

LoopTask<bool> ClientConnection::FinishWrite(OutputParts& parts) {
  const double stall_s = loop_.settings()->options.limits.client_stall_s;
  std::size_t left = SIZE_MAX;
  while (!WriteNow(parts) && !gone_) {
    // Only what it takes counts, not what else wakes us.
    if (parts.bytes() < left) SetLimit(stall_s, MonotonicNanoseconds());
    left = parts.bytes();
    co_await wake_.Wait();
    if (timed_out_) gone_ = true;
  }
  ClearLimit();
  co_return !gone_;
}

// ---- limits and ends ---------------------------------------------------------------------------

void ClientConnection::SetLimit(double seconds, std::int64_t from_ns) {
  SetDeadline(from_ns + static_cast<std::int64_t>(seconds * 1e9));
}

void ClientConnection::SetDeadline(std::int64_t at_ns) {
  limit_ns_ = at_ns;
  timed_out_ = false;
}

void ClientConnection::Expire() {
  limit_ns_ = INT64_MAX;
  timed_out_ = true;
  wake_.Notify();
}

void ClientConnection::FinishUp() {
  last_request_ = true;
  if (!idle_) return;
  gone_ = true;
  wake_.Notify();
}

void ClientConnection::Cut() {
  last_request_ = true;
  cut_ = true;
  gone_ = true;
  wake_.Notify();
}

LoopTask<void> ClientConnection::Linger() {
  transport_->ShutdownWrite();
  SetLimit(kLingerSeconds, MonotonicNanoseconds());
  std::array<char, 4096> unwanted;
  std::size_t got = 1;
  while (got > 0) got = co_await ReadInto(unwanted.data(), unwanted.size());
}

void ClientConnection::Close(bool reset) {
  gone_ = true;
  ClearLimit();
  transport_->Close(reset);
}

}  // namespace sublet::internal
