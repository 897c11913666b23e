#include "engine/kv_event_feed.h"

#include <fmt/format.h>

#include "base/check.h"

namespace sublet {
namespace {

std::string EndpointAt(const std::string& address, int port) {
  return fmt::format("tcp://{}:{}", address, port == 0 ? "*" : fmt::format("{}", port));
}

}  // namespace

Result<std::unique_ptr<KvEventFeed>> KvEventFeed::Open(boost::asio::io_context& loop,
                                                       const KvEventFeedOptions& options) {
  KvPublisherOptions publishing;
  publishing.endpoint = EndpointAt(options.address, options.port);
  publishing.replay_endpoint =
      options.replay_port ? EndpointAt(options.address, *options.replay_port) : "";
  publishing.topic = options.topic;
  ASSIGN_OR_RETURN(std::unique_ptr<KvPublisher> publisher, KvPublisher::Open(loop, publishing));
  return std::unique_ptr<KvEventFeed>(new KvEventFeed(std::move(publisher), options.encoding));
}

void KvEventFeed::Publish(const KvEventBatch& batch) {
  publisher_->Publish(batch, encoding_);
}

void KvEventFeed::Lose(const KvEventBatch& batch) {
  publisher_->LoseNext(1);
  Publish(batch);
}

void KvEventFeed::Restart() {
  // On ports that were its own a moment ago: where that fails, the simulation has failed.
  const Status restarted = publisher_->Restart();
  CHECK(restarted.has_value());
}

}  // namespace sublet
