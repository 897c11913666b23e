// proxy/proxy_loop.h
//
// One thread of the proxy: its event loop, its clients, its connections to replicas, and what its
// requests use again and again. Nothing here has a lock; what loops share is in ProxyShared.
//
//   loop.Adopt(std::move(socket), address);      // A client; on the loop's thread.
//   std::unique_ptr<Exchange> exchange = loop.TakeExchange();
//
// One timer looks at all clients and idle connections now and then. A timer for each wait would
// cost more than the waiting, and no limit of seconds needs to be kept to the millisecond.
//
// Thread safety: the loop's thread, apart from Post() and Counters().
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "kvcache/request_prefix.h"
#include "proxy/admission_gate.h"
#include "proxy/api_key_ring.h"
#include "proxy/proxy_server.h"
#include "proxy/tls_context.h"
#include "proxy/upstream_pool.h"
#include "route/retry_budget.h"

namespace sublet::internal {

class ClientConnection;
class Exchange;

// What Reload() replaces as a whole.
struct ProxySettings {
  ProxyOptions options;
  ApiKeyRing keys{{}};
  std::optional<TlsContext> server_tls;  // Absent: clients speak plain HTTP.
  ClientTls client_tls;
};

struct ProxyShared {
  ProxyShared(ProxyHooks hooks_in, const AdmissionOptions& admission)
      : hooks(std::move(hooks_in)), gate(admission) {}

  const ProxyHooks hooks;
  AdmissionGate gate;
  std::atomic<std::int64_t> bodies_bytes = 0;
  std::atomic<std::int64_t> connections = 0;
};

// A figure that one thread writes and others read.
class Tally {
 public:
  void Add(std::int64_t n) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  std::int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_ = 0;
};

struct LoopTallies {
  Tally accepted, requests, running, retries, retries_unaffordable, connects, connects_failed,
      reused, stale, idle;
};

class ProxyLoop {
 public:
  // `seed`: of the request ids, which must differ between loops and processes.
  ProxyLoop(ProxyShared& shared, std::shared_ptr<const ProxySettings> settings, bool sweeps_gate,
            std::uint64_t seed);
  ~ProxyLoop();
  ProxyLoop(const ProxyLoop&) = delete;
  ProxyLoop& operator=(const ProxyLoop&) = delete;

  asio::io_context& io() { return io_; }
  SocketEvents& events() { return events_; }
  ProxyShared& shared() { return shared_; }
  const std::shared_ptr<const ProxySettings>& settings() const { return settings_; }
  UpstreamPool& pool() { return pool_; }
  RequestScanner& scanner() { return scanner_; }
  RetryBudget& retry_budget() { return retry_budget_; }
  LoopTallies& tallies() { return tallies_; }
  const LoopTallies& tallies() const { return tallies_; }
  asio::ip::basic_resolver<asio::ip::tcp, LoopExecutor>& resolver() { return resolver_; }

  template <typename Work>
  void Post(Work work) {
    asio::post(io_, std::move(work));
  }

  void Use(std::shared_ptr<const ProxySettings> settings);
  // Clients of this loop, those on their way to it included. From any thread.
  std::int64_t clients() const { return client_count_.load(std::memory_order_relaxed); }
  void AddClients(std::int64_t n) { client_count_.fetch_add(n, std::memory_order_relaxed); }
  // A client that was accepted, and counted: here and in ProxyShared::connections.
  void Adopt(FileDescriptor socket, std::string address);
  // Idle clients go now, the others after their request; no new ones come.
  void FinishUp();
  // All go now.
  void Cut();

  std::unique_ptr<Exchange> TakeExchange();
  void Recycle(std::unique_ptr<Exchange> exchange);
  // 32 hexadecimal digits that nobody has had before.
  void MakeRequestId(std::array<char, 32>& id);

 private:
  void Sweep();
  void ScheduleSweep();
  void ForgetClient();

  asio::io_context io_{1};
  SocketEvents events_;
  ProxyShared& shared_;
  std::shared_ptr<const ProxySettings> settings_;
  const bool sweeps_gate_;
  UpstreamPool pool_;
  RequestScanner scanner_;
  RetryBudget retry_budget_;
  LoopTallies tallies_;
  asio::ip::basic_resolver<asio::ip::tcp, LoopExecutor> resolver_;
  std::list<std::shared_ptr<ClientConnection>> clients_;
  std::vector<std::shared_ptr<ClientConnection>> expired_;  // Of the sweep that runs.
  std::vector<std::unique_ptr<Exchange>> spare_;
  asio::basic_waitable_timer<std::chrono::steady_clock,
                             asio::wait_traits<std::chrono::steady_clock>, LoopExecutor>
      sweep_;
  std::atomic<std::int64_t> client_count_ = 0;
  bool stopping_ = false;  // No new clients.
  bool cut_ = false;       // Nothing is waited for but the end of those that are there.
  std::mt19937_64 random_;
};

}  // namespace sublet::internal
