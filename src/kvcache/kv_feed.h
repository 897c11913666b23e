// kvcache/kv_feed.h
//
// Inside the subscriber: the sockets of one rank of one engine, and its stream.
//
//   auto feed = std::make_shared<KvFeed>(loop, context, options, endpoints, listener);
//   feed->Begin(now_ns);
//   feed->Tick(busy, now_ns);  // Now and then.
//   feed->End();
//
// Three sockets: SUB for the live batches, which never reconnects by itself, so that one socket
// carries one connection; a monitor, which tells of that connection's begin and end; and a DEALER
// for as long as a replay lasts.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kvcache/kv_event_stream.h"
#include "kvcache/kv_subscriber.h"
#include "kvcache/zmq_socket.h"

namespace sublet {

struct KvFeedEndpoints {
  std::string live;
  std::string replay;  // Empty: none.
  std::string topic;
};

// Who owns the feeds. It may end the feed in any of these calls.
class KvFeedListener {
 public:
  virtual ~KvFeedListener() = default;
  virtual std::int64_t Now() const = 0;
  virtual void OnFeedVerdict(const StreamVerdict& verdict, std::int64_t now_ns) = 0;
  virtual void OnFeedBatch(KvEventBatch batch, std::int64_t now_ns) = 0;
};

class KvFeed : public std::enable_shared_from_this<KvFeed> {
 public:
  KvFeed(asio::io_context& loop, const ZmqContext& context, const KvSubscriberOptions& options,
         KvFeedEndpoints endpoints, KvFeedListener& listener, std::int64_t now_ns);

  // Fails where an endpoint is none; a peer that isn't there is no failure.
  Status Begin(std::int64_t now_ns);
  void Tick(bool busy, std::int64_t now_ns);
  void OnHeardElsewhere(std::int64_t now_ns) { stream_.OnHeardElsewhere(now_ns); }
  // Forgets what it knows and connects anew.
  void StartAnew(std::int64_t now_ns);
  void End();

  bool connected() const { return connected_; }
  std::int64_t batches() const { return stream_.batches(); }
  // Adds this rank's figures.
  void AddTo(KvSourceStatus& status) const;

 private:
  enum class Origin { kLive, kReplay };

  Status Connect(std::int64_t now_ns);
  void Disconnect(std::int64_t now_ns);
  void BeginReplay(std::uint64_t from);
  void Pump();
  void Wake();
  void Wait();
  void WaitFor(const ZmqSocket& socket, ZmqWaiter& waiter);
  bool HearMonitor(std::int64_t now_ns);
  bool HearLive(std::int64_t now_ns, std::size_t& bytes);
  bool HearReplay(std::int64_t now_ns, std::size_t& bytes);
  void Take(Origin origin, std::uint64_t sequence, std::string_view payload, std::int64_t now_ns);
  void Report(std::int64_t now_ns);

  asio::io_context& loop_;
  const ZmqContext& context_;
  const KvSubscriberOptions& options_;
  const KvFeedEndpoints endpoints_;
  KvFeedListener& listener_;
  KvEventStreamOptions stream_options_;
  KvEventStream stream_;

  // Each socket before its waiter, which watches its descriptor.
  ZmqSocket live_;
  std::optional<ZmqWaiter> live_waiter_;
  ZmqSocket monitor_;
  std::optional<ZmqWaiter> monitor_waiter_;
  ZmqSocket replay_;
  std::optional<ZmqWaiter> replay_waiter_;
  ZmqFrames frames_;

  bool ended_ = false;
  bool connected_ = false;
  bool pumping_ = false;
  bool posted_ = false;        // Pump() is on the loop's list.
  std::int64_t since_ns_ = 0;  // The last try to connect, or the end of the connection.

  std::int64_t bytes_ = 0;
  std::int64_t bad_frames_ = 0;
  std::int64_t bad_batches_ = 0;
  std::int64_t unknown_events_ = 0;
  // Of streams before StartAnew().
  std::int64_t batches_before_ = 0, gaps_before_ = 0, restarts_before_ = 0, replays_before_ = 0;
  std::string last_error_;
};

}  // namespace sublet
