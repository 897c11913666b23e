// proxy/upstream_pool.h
//
// One loop's connections to replicas: those that are idle wait here for the next request.
//
//   std::shared_ptr<UpstreamEndpoint> endpoint = pool.Find(lease.decision().slot, lease.url(),
//   now); std::unique_ptr<Transport> transport = pool.TakeIdle(*endpoint);    // Null: connect.
//   ... a request and its whole answer, and nothing behind it ...
//   pool.GiveBack(*endpoint, std::move(transport));
//
// The one used last is taken first, so that those that aren't needed grow old and go. An idle
// connection that becomes readable has been closed by its replica, or says what nobody asked for;
// it goes at once. All the same a connection can be closed while a request is on its way to it,
// which whoever sends it must expect.
//
// Names are resolved by the system's resolver, off the loop, and kept for a while.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/fleet_cache.h"
#include "proxy/replica_url.h"
#include "proxy/transport.h"

namespace sublet::internal {

class ClientConnection;
class UpstreamPool;

// Where a replica listens, and what is idle there.
struct UpstreamEndpoint {
  explicit UpstreamEndpoint(std::string url_text);
  ~UpstreamEndpoint();

  const std::string text;  // The URL as it was given.
  const Result<ReplicaUrl> url;
  std::vector<asio::ip::tcp::endpoint> addresses;  // Empty: to be resolved.
  bool numeric = false;                            // The URL has the address itself.
  std::int64_t resolved_ns = 0;
  std::int64_t resolutions = 0;                            // That have ended, well or not.
  std::string resolve_error;                               // Of the last one.
  std::vector<std::shared_ptr<ClientConnection>> waiting;  // For the one under way.
  std::int64_t used_ns = 0;

  struct Idle;
  std::vector<std::unique_ptr<Idle>> idle;  // The one used last is the last.
};

class UpstreamPool {
 public:
  UpstreamPool();
  ~UpstreamPool();

  // Whoever keeps it keeps it from being forgotten.
  const std::shared_ptr<UpstreamEndpoint>& Find(ReplicaSlot slot, const std::string& url,
                                                std::int64_t now_ns);
  std::unique_ptr<Transport> TakeIdle(UpstreamEndpoint& endpoint);
  // Keeps `idle_max` of an endpoint, and none for longer than the Sweep() that finds it too old.
  void GiveBack(UpstreamEndpoint& endpoint, std::unique_ptr<Transport> transport,
                std::size_t idle_max, std::int64_t now_ns);

  // Closes what has been idle since before `idle_since_ns`, forgets endpoints not used since
  // `used_since_ns`.
  void Sweep(std::int64_t idle_since_ns, std::int64_t used_since_ns);
  void CloseAll();
  std::int64_t idle_count() const { return idle_count_; }

 private:
  friend struct UpstreamEndpoint::Idle;
  void Drop(UpstreamEndpoint& endpoint, const UpstreamEndpoint::Idle& gone);

  std::map<std::string, std::shared_ptr<UpstreamEndpoint>, std::less<>> endpoints_;  // By URL.
  std::vector<std::shared_ptr<UpstreamEndpoint>> by_slot_;  // The slot's last; null: none.
  std::int64_t idle_count_ = 0;
};

}  // namespace sublet::internal
