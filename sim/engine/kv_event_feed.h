// sim/engine/kv_event_feed.h
//
// An engine's KV events over ZMQ, as vLLM sends them, with replay.
//
//   ASSIGN_OR_RETURN(auto feed, KvEventFeed::Open(loop, {.port = 0, .replay_port = 0}));
//   feed->endpoint()   // "tcp://127.0.0.1:40123"
//   auto server = EngineServer::Open(loop, runner, options, gpu, std::move(feed));
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"
#include "engine/engine_server.h"
#include "kvcache/kv_publisher.h"

namespace sublet {

struct KvEventFeedOptions {
  std::string address = "127.0.0.1";
  int port = 0;                         // 0: any free one.
  std::optional<int> replay_port = {};  // Absent: no replay. 0: any free one.
  std::string topic = {};
  KvEncoding encoding = KvEncoding::kArrayOfMaps;
};

class KvEventFeed : public KvEventSink {
 public:
  static Result<std::unique_ptr<KvEventFeed>> Open(boost::asio::io_context& loop,
                                                   const KvEventFeedOptions& options);

  const std::string& endpoint() const { return publisher_->endpoint(); }
  const std::string& replay_endpoint() const { return publisher_->replay_endpoint(); }

  void Publish(const KvEventBatch& batch) override;
  void Lose(const KvEventBatch& batch) override;
  void Restart() override;

 private:
  KvEventFeed(std::unique_ptr<KvPublisher> publisher, KvEncoding encoding)
      : publisher_(std::move(publisher)), encoding_(encoding) {}

  const std::unique_ptr<KvPublisher> publisher_;
  const KvEncoding encoding_;
};

}  // namespace sublet
