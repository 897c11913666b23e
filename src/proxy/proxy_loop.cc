#include "proxy/proxy_loop.h"

#include <fcntl.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <chrono>
#include <exception>

#include "base/clock.h"
#include "proxy/client_connection.h"
#include "proxy/exchange.h"

namespace sublet::internal {
namespace {

// Enough for a burst; each has some 40 KiB of buffers.
constexpr std::size_t kSpareExchanges = 64;
// What is known of a replica's address is kept so long after the last request there.
constexpr std::int64_t kEndpointKeptNs = 600'000'000'000;

RetryBudget MakeBudget(const ProxyOptions& options) {
  const double threads = std::max(options.threads, 1);
  RetryBudgetOptions budget;
  budget.part = options.limits.retry_ratio;
  budget.a_second = options.limits.retry_burst / budget.kept_s / threads;
  return RetryBudget(budget);
}

// A limit is kept to a quarter of itself, or a quarter of a second.
std::chrono::nanoseconds SweepPeriod(const ProxyLimits& limits) {
  const double shortest =
      std::min({limits.idle_s, limits.header_s, limits.body_s, limits.client_stall_s,
                limits.connect_s, limits.first_byte_s, limits.stall_s, limits.pool_idle_s, 1.0});
  return std::chrono::nanoseconds(static_cast<std::int64_t>(shortest / 4 * 1e9));
}

}  // namespace

ProxyLoop::ProxyLoop(ProxyShared& shared, std::shared_ptr<const ProxySettings> settings,
                     bool sweeps_gate, std::uint64_t seed)
    : events_(io_),
      shared_(shared),
      settings_(std::move(settings)),
      sweeps_gate_(sweeps_gate),
      retry_budget_(MakeBudget(settings_->options)),
      resolver_(io_),
      sweep_(io_),
      random_(seed) {
  events_.Start();
  ScheduleSweep();
}

ProxyLoop::~ProxyLoop() = default;

void ProxyLoop::Use(std::shared_ptr<const ProxySettings> settings) {
  settings_ = std::move(settings);
  retry_budget_ = MakeBudget(settings_->options);
}

void ProxyLoop::Adopt(FileDescriptor socket, std::string address) {
  SslSession ssl;
  if (settings_->server_tls) ssl = settings_->server_tls->Accept();
  if (stopping_ || (settings_->server_tls && !ssl)) {
    ForgetClient();
    return;
  }
  tallies_.accepted.Add(1);
  auto client = std::make_shared<ClientConnection>(
      *this, std::make_unique<Transport>(events_, std::move(socket), std::move(ssl)),
      std::move(address));
  const auto at = clients_.insert(clients_.end(), client);
  asio::co_spawn(io_, client->Run(), [this, at](std::exception_ptr exception) {
    clients_.erase(at);
    ForgetClient();
    if (cut_ && clients_.empty()) events_.Stop();
    if (exception) std::rethrow_exception(exception);
  });
}

void ProxyLoop::ForgetClient() {
  AddClients(-1);
  shared_.connections.fetch_sub(1, std::memory_order_relaxed);
}

void ProxyLoop::FinishUp() {
  stopping_ = true;
  expired_.assign(clients_.begin(), clients_.end());
  for (const auto& client : expired_) client->FinishUp();
  expired_.clear();
  pool_.CloseAll();
}

void ProxyLoop::Cut() {
  stopping_ = true;
  expired_.assign(clients_.begin(), clients_.end());
  for (const auto& client : expired_) client->Cut();
  expired_.clear();
  pool_.CloseAll();
  sweep_.cancel();
  resolver_.cancel();
  cut_ = true;
  if (clients_.empty()) events_.Stop();
}

void ProxyLoop::ScheduleSweep() {
  sweep_.expires_after(SweepPeriod(settings_->options.limits));
  sweep_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    Sweep();
    ScheduleSweep();
  });
}

void ProxyLoop::Sweep() {
  const std::int64_t now_ns = MonotonicNanoseconds();
  // Apart, because a client that ends leaves the list.
  for (const auto& client : clients_) {
    if (client->Overdue(now_ns)) expired_.push_back(client);
  }
  for (const auto& client : expired_) client->Expire();
  expired_.clear();
  const auto idle_ns = static_cast<std::int64_t>(settings_->options.limits.pool_idle_s * 1e9);
  pool_.Sweep(now_ns - idle_ns, now_ns - kEndpointKeptNs);
  tallies_.idle.Add(pool_.idle_count() - tallies_.idle.value());
  if (sweeps_gate_) shared_.gate.Sweep(now_ns);
}

std::unique_ptr<Exchange> ProxyLoop::TakeExchange() {
  if (spare_.empty()) return std::make_unique<Exchange>(*this);
  std::unique_ptr<Exchange> exchange = std::move(spare_.back());
  spare_.pop_back();
  return exchange;
}

void ProxyLoop::Recycle(std::unique_ptr<Exchange> exchange) {
  exchange->Reset();
  if (spare_.size() < kSpareExchanges) spare_.push_back(std::move(exchange));
}

void ProxyLoop::MakeRequestId(std::array<char, 32>& id) {
  constexpr char kDigits[] = "0123456789abcdef";
  for (std::size_t half = 0; half < 2; ++half) {
    std::uint64_t bits = random_();
    for (std::size_t i = 0; i < 16; ++i, bits >>= 4) id[half * 16 + i] = kDigits[bits & 15];
  }
}

}  // namespace sublet::internal
