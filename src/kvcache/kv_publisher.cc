#include "kvcache/kv_publisher.h"

#include <utility>

#include "kvcache/kv_frames.h"

namespace sublet {

Result<std::unique_ptr<KvPublisher>> KvPublisher::Open(asio::io_context& loop,
                                                       const KvPublisherOptions& options) {
  std::unique_ptr<KvPublisher> publisher(new KvPublisher(loop, options));
  KvPublisherOptions& own = publisher->options_;
  if (options.rank > 0) {
    ASSIGN_OR_RETURN(own.endpoint, EndpointOfRank(options.endpoint, options.rank));
    if (!options.replay_endpoint.empty()) {
      ASSIGN_OR_RETURN(own.replay_endpoint, EndpointOfRank(options.replay_endpoint, options.rank));
    }
  }
  RETURN_IF_ERROR(publisher->Listen());
  return publisher;
}

KvPublisher::~KvPublisher() = default;

Status KvPublisher::Listen() {
  auto sockets = std::make_unique<Sockets>();
  ASSIGN_OR_RETURN(sockets->publish, ZmqSocket::Open(sockets->context, ZMQ_PUB));
  sockets->publish.Set(ZMQ_SNDHWM, options_.high_water_mark);
  RETURN_IF_ERROR(sockets->publish.Bind(options_.endpoint));
  options_.endpoint = sockets->publish.BoundEndpoint();
  if (!options_.replay_endpoint.empty()) {
    ASSIGN_OR_RETURN(sockets->replay, ZmqSocket::Open(sockets->context, ZMQ_ROUTER));
    // Room for a whole replay and its end; a ROUTER drops beyond its mark without a word.
    sockets->replay.Set(ZMQ_SNDHWM, static_cast<int>(options_.buffer_batches) + 1);
    RETURN_IF_ERROR(sockets->replay.Bind(options_.replay_endpoint));
    options_.replay_endpoint = sockets->replay.BoundEndpoint();
    sockets->waiter.emplace(loop_, sockets->replay);
  }
  sockets_ = std::move(sockets);
  if (sockets_->waiter) Serve();
  return {};
}

Status KvPublisher::Restart() {
  sockets_.reset();
  kept_.clear();
  next_ = 0;
  return Listen();
}

std::uint64_t KvPublisher::Publish(const KvEventBatch& batch, KvEncoding encoding) {
  return PublishBytes(EncodeKvEventBatch(batch, encoding));
}

std::uint64_t KvPublisher::PublishBytes(std::string payload) {
  const std::uint64_t sequence = next_++;
  if (lose_ > 0) {
    --lose_;
  } else if (sockets_) {
    // Asked, ZeroMQ takes in new subscriptions; by itself it does so every millisecond at most.
    (void)sockets_->publish.Readable();
    sockets_->publish.Send({options_.topic, SequenceFrame(sequence).view(), payload});
  }
  kept_.push_back({sequence, std::move(payload)});
  if (kept_.size() > options_.buffer_batches) kept_.pop_front();
  return sequence;
}

void KvPublisher::Serve() {
  ZmqFrames request;
  // Until nothing is left and, after the last answer, nothing came: only then the descriptor tells.
  do {
    while (sockets_->replay.Receive(request)) {
      // [client, empty, number]; as in vLLM, anything else is passed over.
      const std::optional<std::uint64_t> from =
          request.size() == 3 && request[1].empty() ? SequenceOfFrame(request[2]) : std::nullopt;
      if (from) Answer(request[0], *from);
    }
  } while (sockets_->replay.Readable());
  sockets_->waiter->Arm([this] { Serve(); });
}

void KvPublisher::Answer(std::string_view client, std::uint64_t from) {
  ++replays_;
  for (const Kept& batch : kept_) {
    if (batch.sequence < from) continue;
    sockets_->replay.Send({client, "", SequenceFrame(batch.sequence).view(), batch.payload});
  }
  sockets_->replay.Send({client, "", SequenceFrame(kReplayEndSequence).view(), ""});
}

}  // namespace sublet
