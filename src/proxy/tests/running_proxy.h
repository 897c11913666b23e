// proxy/tests/running_proxy.h
//
// A proxy in front of replicas, on a port of its own; and clients that send whatever bytes a test
// wants sent.
//
//   RunningProxy proxy({&replica_a, &replica_b});
//   TestClient client(proxy.port());
//   client.Say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
//   EXPECT_THAT(client.Hear("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
//   proxy.WaitRecords(1).front().outcome
//
// Thread safety: one thread, apart from what the proxy runs.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "http/tests/running_server.h"
#include "proxy/proxy_server.h"
#include "proxy/tests/fake_replica.h"

namespace sublet {

// An AccessRecord that owns its texts.
struct KeptRecord {
  AccessRecord record;
  std::string error, method, path, request_id, model, tenant, session, replica, traceparent;
};

// Limits at which a test of patience ends soon, but no test of anything else.
inline ProxyOptions TestOptions() {
  ProxyOptions options;
  options.limits.pool_idle_s = 60;
  return options;
}

class RunningProxy {
 public:
  explicit RunningProxy(std::vector<const FakeReplica*> replicas,
                        const ProxyOptions& options = TestOptions(), ProxyHooks hooks = {},
                        int in_flight_max = 1000)
      : router_(Router::Make({.policy = "round-robin"}, caches_).value()) {
    for (const FakeReplica* replica : replicas) AddReplica(replica->url(), in_flight_max);
    hooks.router = router_.get();
    hooks.on_finished = [this](const AccessRecord& record) { Keep(record); };
    server_ = ProxyServer::Open(options, std::move(hooks)).value();
    port_ = server_->Listen("127.0.0.1", 0).value();
    EXPECT_TRUE(server_->Start());
  }

  void AddReplica(const std::string& url, int in_flight_max = 1000) {
    ReplicaSpec spec;
    spec.name = "r" + std::to_string(replicas_++) + "-";  // A digit last would look like a chunk.
    spec.url = url;
    spec.models = {"m"};
    spec.in_flight_max = in_flight_max;
    EXPECT_TRUE(router_->Add(spec, MonotonicNanoseconds()));
  }

  ProxyServer& server() { return *server_; }
  Router& router() { return *router_; }
  int port() const { return port_; }

  // Those of the first `count` requests to end.
  std::vector<KeptRecord> WaitRecords(std::size_t count) {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, std::chrono::duration<double>(kPatienceSeconds),
                                        [&] { return records_.size() >= count; });
    EXPECT_TRUE(came) << "records: " << records_.size();
    return records_;
  }
  // Until `true_of` holds of the counters. They change on other threads, which tell nobody.
  template <typename Predicate>
  bool WaitCounters(Predicate true_of) {
    const Deadline deadline = Deadline::In(kPatienceSeconds);
    while (!true_of(server_->Counters())) {
      if (deadline.Passed()) return false;
      std::this_thread::yield();
    }
    return true;
  }

 private:
  void Keep(const AccessRecord& record) {
    const std::lock_guard lock(mutex_);
    records_.push_back({record, std::string(record.error), std::string(record.method),
                        std::string(record.path), std::string(record.request_id),
                        std::string(record.model), std::string(record.tenant),
                        std::string(record.session), std::string(record.replica),
                        std::string(record.traceparent)});
    changed_.notify_all();
  }

  FleetCache caches_;
  std::unique_ptr<Router> router_;
  int replicas_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<KeptRecord> records_;
  std::unique_ptr<ProxyServer> server_;  // Goes first.
  int port_ = 0;
};

using TestClient = RawClient;

inline std::string PostText(std::string_view path, std::string_view body,
                            std::string_view headers = "") {
  return "POST " + std::string(path) +
         " HTTP/1.1\r\nHost: router\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         std::string(headers) + "\r\n" + std::string(body);
}

inline constexpr std::string_view kChatBody = R"({"model":"m","messages":[]})";

inline std::string ChatText(std::string_view headers = "") {
  return PostText("/v1/chat/completions", kChatBody, headers);
}

}  // namespace sublet
