// proxy/proxy_server.h
//
// The HTTP reverse proxy: clients on one side, replicas on the other, and a router that says which.
//
//   ProxyHooks hooks;
//   hooks.router = router.get();
//   hooks.on_finished = [&](const AccessRecord& record) { log.Write(record); };
//   ASSIGN_OR_RETURN(auto proxy, ProxyServer::Open({.threads = 4}, hooks));
//   ASSIGN_OR_RETURN(const int port, proxy->Listen("0.0.0.0", 8080));
//   RETURN_IF_ERROR(proxy->Start());
//   ...
//   proxy->Drain(30);   // On SIGTERM: no new connections, requests that run come to their end.
//   proxy->Stop();
//
// A request is read whole, since it may have to be sent twice; its answer is passed on piece by
// piece as it comes, and no piece is read before the client has taken the one before. Nothing of an
// answer goes to the client before its first body byte is here, so that a replica that dies while
// it computes the prompt is replaced by another and the client never knows. When the client goes,
// what was done for it ends at once, in the queue, while connecting, or in the middle of an answer.
// docs/life_of_a_request.md follows one through the files.
//
// What may surprise:
// - A client that shuts down its sending half counts as gone, as in nginx: the kernel shows no
//   difference between one that has said all and one that has left.
// - A stream that breaks ends with an error as an event of its own, as vLLM's do, and then in
//   order; any other answer that breaks is cut off, so that nobody takes a half for the whole.
// - 100 Continue is ours; a replica's interim answers (1xx), trailers and offers to upgrade are
//   dropped.
//
// Thread safety: Open, Listen, Start, Drain, Stop, Reload and the destructor one at a time, from
// any thread that isn't the server's; Counters() and WakeWaiting() from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "http/event_loop.h"
#include "proxy/access_record.h"
#include "proxy/control_request.h"
#include "proxy/proxy_options.h"
#include "route/router.h"

namespace sublet {

// What the data plane asks of others. The functions are called from all of the server's threads.
struct ProxyHooks {
  Router* router = nullptr;  // Must outlive the server.
  // Absent: all paths are the replicas'.
  std::function<PathAccess(std::string_view method, std::string_view path)> access;
  std::function<Task<ControlAnswer>(ControlRequest)> control;
  // Once for each request whose head was read or refused. Must not block.
  std::function<void(const AccessRecord&)> on_finished;
};

// Since the start, unless said otherwise. Each figure is exact; together they are of one moment
// only as far as the threads stand still.
struct ProxyCounters {
  std::int64_t connections_open = 0;  // Now.
  std::int64_t connections_accepted = 0;
  std::int64_t connections_refused = 0;  // Beyond connections_max.
  std::int64_t requests = 0;
  std::int64_t requests_running = 0;      // Now, waiting ones included.
  std::int64_t requests_waiting = 0;      // Now, in the admission queues.
  std::int64_t bodies_bytes = 0;          // Now, of all requests together.
  std::int64_t retries = 0;               // After a failure, on another replica.
  std::int64_t retries_unaffordable = 0;  // The budget had none left.
  std::int64_t upstream_connects = 0;
  std::int64_t upstream_connects_failed = 0;
  std::int64_t upstream_reused = 0;  // Requests that went over a connection of the pool,
  std::int64_t upstream_stale = 0;   // of which these found it closed, and took another.
  std::int64_t upstream_idle = 0;    // Now, in the pools.
};

class ProxyServer {
 public:
  // Fails with kUsage where a limit makes no sense, and as LoadTls does for certificates.
  static Result<std::unique_ptr<ProxyServer>> Open(const ProxyOptions& options, ProxyHooks hooks);
  // Stops.
  ~ProxyServer();
  ProxyServer(const ProxyServer&) = delete;
  ProxyServer& operator=(const ProxyServer&) = delete;

  // Before Start(), as often as wanted. `address` is numeric; port 0 takes any free one. Returns
  // the port. Fails with kConflict where it is taken, kUsage where the address isn't one.
  Result<int> Listen(const std::string& address, int port);
  // Serves, on threads of its own.
  Status Start();
  // Accepts no more and closes idle connections; returns when the last request has ended, or after
  // `deadline_s`, when what still runs has been cut. Whether all came to their end by themselves.
  bool Drain(double deadline_s);
  // Cuts what runs, ends the threads.
  void Stop();

  // Limits, keys and certificates from now on; requests that run keep what they began with. What a
  // thread or a socket was made with (threads, admission) stays. Fails as Open() does, and then
  // changes nothing.
  Status Reload(const ProxyOptions& options);
  // A replica came, or got better: those who wait may try again.
  void WakeWaiting();

  ProxyCounters Counters() const;

 private:
  class Impl;
  explicit ProxyServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
