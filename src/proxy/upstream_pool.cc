#include "proxy/upstream_pool.h"

#include <algorithm>
#include <utility>

namespace sublet::internal {

struct UpstreamEndpoint::Idle : TransportSink {
  Idle(UpstreamPool& pool_in, UpstreamEndpoint& endpoint_in,
       std::unique_ptr<Transport> transport_in, std::int64_t since_ns_in)
      : pool(pool_in),
        endpoint(endpoint_in),
        transport(std::move(transport_in)),
        since_ns(since_ns_in) {
    transport->set_sink(this);
  }
  ~Idle() override {
    if (transport) transport->set_sink(nullptr);
  }
  // May destroy this.
  void OnTransport(bool readable) override {
    // TLS has business of its own, which isn't for us.
    char unasked = 0;
    if (readable && transport->Read(&unasked, 1).what != IoResult::What::kBlocked) {
      pool.Drop(endpoint, *this);
    }
  }

  UpstreamPool& pool;
  UpstreamEndpoint& endpoint;
  std::unique_ptr<Transport> transport;
  std::int64_t since_ns;
};

UpstreamEndpoint::UpstreamEndpoint(std::string url_text)
    : text(std::move(url_text)), url(ParseReplicaUrl(text)) {}
UpstreamEndpoint::~UpstreamEndpoint() = default;

UpstreamPool::UpstreamPool() = default;
UpstreamPool::~UpstreamPool() = default;

const std::shared_ptr<UpstreamEndpoint>& UpstreamPool::Find(ReplicaSlot slot,
                                                            const std::string& url,
                                                            std::int64_t now_ns) {
  if (slot >= by_slot_.size()) by_slot_.resize(slot + 1);
  std::shared_ptr<UpstreamEndpoint>& last = by_slot_[slot];
  if (!last || last->text != url) {
    const auto [at, added] = endpoints_.try_emplace(url);
    if (added) {
      at->second = std::make_shared<UpstreamEndpoint>(url);
    }
    last = at->second;
  }
  last->used_ns = now_ns;
  return last;
}

std::unique_ptr<Transport> UpstreamPool::TakeIdle(UpstreamEndpoint& endpoint) {
  if (endpoint.idle.empty()) return nullptr;
  std::unique_ptr<Transport> transport = std::move(endpoint.idle.back()->transport);
  transport->set_sink(nullptr);
  endpoint.idle.pop_back();
  --idle_count_;
  return transport;
}

void UpstreamPool::GiveBack(UpstreamEndpoint& endpoint, std::unique_ptr<Transport> transport,
                            std::size_t idle_max, std::int64_t now_ns) {
  if (endpoint.idle.size() >= idle_max) {
    transport->set_sink(nullptr);
    transport->Close();
    return;
  }
  endpoint.idle.push_back(
      std::make_unique<UpstreamEndpoint::Idle>(*this, endpoint, std::move(transport), now_ns));
  ++idle_count_;
}

void UpstreamPool::Drop(UpstreamEndpoint& endpoint, const UpstreamEndpoint::Idle& gone) {
  const auto at = std::find_if(endpoint.idle.begin(), endpoint.idle.end(),
                               [&](const auto& idle) { return idle.get() == &gone; });
  // The transport closes with it; whoever called may be that transport, so it goes last.
  const std::unique_ptr<UpstreamEndpoint::Idle> last = std::move(*at);
  endpoint.idle.erase(at);
  --idle_count_;
}

void UpstreamPool::Sweep(std::int64_t idle_since_ns, std::int64_t used_since_ns) {
  for (auto at = endpoints_.begin(); at != endpoints_.end();) {
    UpstreamEndpoint& endpoint = *at->second;
    // Those idle for longest are in front.
    while (!endpoint.idle.empty() && endpoint.idle.front()->since_ns < idle_since_ns) {
      Drop(endpoint, *endpoint.idle.front());
    }
    if (endpoint.idle.empty() && endpoint.used_ns < used_since_ns) {
      std::replace(by_slot_.begin(), by_slot_.end(), at->second,
                   std::shared_ptr<UpstreamEndpoint>());
      at = endpoints_.erase(at);  // Requests that still use it keep it.
    } else {
      ++at;
    }
  }
}

void UpstreamPool::CloseAll() {
  for (auto& [url, endpoint] : endpoints_) {
    while (!endpoint->idle.empty()) Drop(*endpoint, *endpoint->idle.back());
  }
}

}  // namespace sublet::internal
