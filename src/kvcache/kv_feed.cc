#include "kvcache/kv_feed.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>
#include <utility>

#include "kvcache/kv_frames.h"

namespace sublet {
namespace {

// Frames of a live message: topic, number, payload.
constexpr std::size_t kLiveFrames = 3;

// Finds a peer whose machine is gone without a word, well within the stream's patience.
constexpr int kHeartbeatMilliseconds = 2'000;
constexpr int kHeartbeatTimeoutMilliseconds = 6'000;

constexpr int kMonitored = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

std::int64_t Nanoseconds(double seconds) {
  return static_cast<std::int64_t>(seconds * 1e9);
}

void SetUp(ZmqSocket& socket, const std::string& endpoint, int high_water_mark) {
  socket.Set(ZMQ_RCVHWM, high_water_mark);
  socket.Set64(ZMQ_MAXMSGSIZE, static_cast<std::int64_t>(kKvBatchBytesMax));
  socket.Set(ZMQ_HEARTBEAT_IVL, kHeartbeatMilliseconds);
  socket.Set(ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMilliseconds);
  // Otherwise a name that has addresses of both families would be tried by the wrong one only.
  if (endpoint.find('[') != endpoint.npos) socket.Set(ZMQ_IPV6, 1);
}

KvEventStreamOptions StreamOptions(KvEventStreamOptions options, const KvFeedEndpoints& endpoints) {
  options.replay = !endpoints.replay.empty();
  return options;
}

}  // namespace

KvFeed::KvFeed(asio::io_context& loop, const ZmqContext& context,
               const KvSubscriberOptions& options, KvFeedEndpoints endpoints,
               KvFeedListener& listener, std::int64_t now_ns)
    : loop_(loop),
      context_(context),
      options_(options),
      endpoints_(std::move(endpoints)),
      listener_(listener),
      stream_options_(StreamOptions(options.stream, endpoints_)),
      stream_(stream_options_, now_ns) {}

// ---- the connection ----------------------------------------------------------------------------

Status KvFeed::Begin(std::int64_t now_ns) {
  if (!endpoints_.replay.empty()) {
    // Tried once, so that a wrong one is told by who set it and not by a replay.
    ASSIGN_OR_RETURN(ZmqSocket probe, ZmqSocket::Open(context_, ZMQ_DEALER));
    RETURN_IF_ERROR(probe.Connect(endpoints_.replay));
  }
  RETURN_IF_ERROR(Connect(now_ns));
  Wake();
  return {};
}

Status KvFeed::Connect(std::int64_t now_ns) {
  since_ns_ = now_ns;
  ASSIGN_OR_RETURN(ZmqSocket live, ZmqSocket::Open(context_, ZMQ_SUB));
  SetUp(live, endpoints_.live, options_.high_water_mark);
  live.Set(ZMQ_RECONNECT_IVL, -1);
  live.Set(ZMQ_CONNECT_TIMEOUT, static_cast<int>(options_.connect_timeout_s * 1e3));
  live.SetText(ZMQ_SUBSCRIBE, endpoints_.topic);
  const std::string name = context_.NewInprocEndpoint();
  RETURN_IF_ERROR(live.Monitor(name, kMonitored));
  ASSIGN_OR_RETURN(ZmqSocket monitor, ZmqSocket::Open(context_, ZMQ_PAIR));
  RETURN_IF_ERROR(monitor.Connect(name));
  RETURN_IF_ERROR(live.Connect(endpoints_.live));
  live_ = std::move(live);
  monitor_ = std::move(monitor);
  live_waiter_.emplace(loop_, live_);
  monitor_waiter_.emplace(loop_, monitor_);
  return {};
}

void KvFeed::Disconnect(std::int64_t now_ns) {
  live_waiter_.reset();
  monitor_waiter_.reset();
  replay_waiter_.reset();
  live_.Close();
  monitor_.Close();
  replay_.Close();
  since_ns_ = now_ns;
  if (std::exchange(connected_, false)) stream_.OnDisconnected(now_ns);
}

void KvFeed::End() {
  ended_ = true;
  Disconnect(since_ns_);
}

void KvFeed::StartAnew(std::int64_t now_ns) {
  batches_before_ += stream_.batches();
  gaps_before_ += stream_.gaps();
  restarts_before_ += stream_.restarts();
  replays_before_ += stream_.replays();
  Disconnect(now_ns);
  stream_ = KvEventStream(stream_options_, now_ns);
  since_ns_ = now_ns - Nanoseconds(options_.reconnect_s);  // At once, by the next tick.
}

void KvFeed::Tick(bool busy, std::int64_t now_ns) {
  const std::shared_ptr<KvFeed> self = shared_from_this();
  const std::int64_t lasts = now_ns - since_ns_;
  const bool held = stream_.holds_live();
  // That a try fails is told by the monitor; where it isn't, this ends it.
  if (live_.IsOpen() && !connected_ && lasts > 2 * Nanoseconds(options_.connect_timeout_s)) {
    Disconnect(now_ns);
  } else if (!live_.IsOpen() && lasts >= Nanoseconds(options_.reconnect_s)) {
    if (const Status connected = Connect(now_ns); !connected) {
      last_error_ = connected.error().message;
    }
    Wake();
  }
  stream_.OnTick(busy, now_ns);
  Report(now_ns);
  // Other sockets are to be heard than before.
  if (held != stream_.holds_live()) Wake();
}

// ---- what the loop wakes it for ----------------------------------------------------------------

void KvFeed::Wake() {
  if (ended_ || pumping_ || std::exchange(posted_, true)) return;
  asio::post(loop_, [self = shared_from_this()] {
    self->posted_ = false;
    self->Pump();
  });
}

void KvFeed::Pump() {
  if (ended_) return;
  const std::shared_ptr<KvFeed> self = shared_from_this();  // A handler may drop the last other.
  pumping_ = true;
  std::size_t bytes = 0;
  bool more = true;
  for (int i = 0; i < KvSubscriber::kMessagesAWake && bytes < KvSubscriber::kBytesAWake; ++i) {
    if (ended_) break;
    const std::int64_t now_ns = listener_.Now();
    // First, that nothing of an engine that is gone is taken for its successor's.
    if (HearMonitor(now_ns)) continue;
    if (ended_ || !live_.IsOpen()) break;
    more = stream_.holds_live() ? HearReplay(now_ns, bytes) : HearLive(now_ns, bytes);
    if (ended_ || !more) break;
  }
  pumping_ = false;
  if (ended_) return;
  if (!stream_.holds_live()) {
    replay_waiter_.reset();
    replay_.Close();
  }
  bytes_ += static_cast<std::int64_t>(bytes);
  if (more && live_.IsOpen()) {
    Wake();  // It is others' turn.
  } else {
    Wait();
  }
}

void KvFeed::Wait() {
  if (!live_.IsOpen()) return;  // Until a tick connects.
  WaitFor(monitor_, *monitor_waiter_);
  if (!stream_.holds_live()) {
    WaitFor(live_, *live_waiter_);
  } else if (replay_.IsOpen()) {
    WaitFor(replay_, *replay_waiter_);
  }
}

void KvFeed::WaitFor(const ZmqSocket& socket, ZmqWaiter& waiter) {
  if (socket.Readable()) return Wake();
  waiter.Arm([weak = weak_from_this()] {
    if (const std::shared_ptr<KvFeed> self = weak.lock()) self->Pump();
  });
}

bool KvFeed::HearMonitor(std::int64_t now_ns) {
  if (!monitor_.IsOpen() || !monitor_.Receive(frames_)) return false;
  // The first frame has the event's 16 bits and a value of 32, in the machine's order.
  std::uint16_t event = 0;
  if (frames_.size() == 0 || frames_[0].size() < sizeof(event)) return true;
  std::memcpy(&event, frames_[0].data(), sizeof(event));
  if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
    connected_ = true;
    stream_.OnConnected(now_ns);
  } else {
    Disconnect(now_ns);
  }
  Report(now_ns);
  return true;
}

bool KvFeed::HearLive(std::int64_t now_ns, std::size_t& bytes) {
  if (!live_.Receive(frames_)) return false;
  bytes += frames_.bytes();
  const std::optional<std::uint64_t> sequence =
      frames_.size() == kLiveFrames ? SequenceOfFrame(frames_[1]) : std::nullopt;
  if (!sequence || *sequence >= kSequenceEnd) {
    ++bad_frames_;
    return true;
  }
  Take(Origin::kLive, *sequence, frames_[2], now_ns);
  return true;
}

// ---- replay ------------------------------------------------------------------------------------

void KvFeed::BeginReplay(std::uint64_t from) {
  replay_waiter_.reset();
  replay_.Close();
  Result<ZmqSocket> socket = ZmqSocket::Open(context_, ZMQ_DEALER);
  if (!socket) {
    last_error_ = socket.error().message;
    return;  // The stream notices that there is no answer.
  }
  SetUp(*socket, endpoints_.replay, options_.high_water_mark);
  if (const Status connected = socket->Connect(endpoints_.replay); !connected) {
    last_error_ = connected.error().message;
    return;
  }
  // The empty frame is what a REQ would put in front.
  socket->Send({"", SequenceFrame(from).view()});
  replay_ = std::move(*socket);
  replay_waiter_.emplace(loop_, replay_);
  Wake();
}

bool KvFeed::HearReplay(std::int64_t now_ns, std::size_t& bytes) {
  if (!replay_.IsOpen() || !replay_.Receive(frames_)) return false;
  bytes += frames_.bytes();
  // [empty, number, payload]; some put the topic between, and a ROUTER that answers without the
  // empty frame has been seen.
  const std::size_t count = frames_.size();
  const std::optional<std::uint64_t> sequence =
      count >= 2 && count <= 4 ? SequenceOfFrame(frames_[count - 2]) : std::nullopt;
  if (!sequence) {
    ++bad_frames_;
    return true;
  }
  if (*sequence >= kSequenceEnd) {
    stream_.OnReplayEnd(now_ns);
    Report(now_ns);
    return true;
  }
  Take(Origin::kReplay, *sequence, frames_[count - 1], now_ns);
  return true;
}

// ---- batches -----------------------------------------------------------------------------------

void KvFeed::Take(Origin origin, std::uint64_t sequence, std::string_view payload,
                  std::int64_t now_ns) {
  Result<KvEventBatch> batch = DecodeKvEventBatch(payload);
  KvBatchMark mark{.sequence = sequence,
                   .fingerprint = XXH3_64bits(payload.data(), payload.size()),
                   .cleared = false,
                   .readable = batch.has_value()};
  if (batch) {
    mark.cleared = std::any_of(batch->events.begin(), batch->events.end(),
                               [](const KvEvent& e) { return e.what == KvEvent::What::kCleared; });
    unknown_events_ += batch->unknown_events;
  } else {
    ++bad_batches_;
    last_error_ = std::move(batch.error().message);
  }
  const KvEventStream::Advice advice =
      origin == Origin::kLive ? stream_.OnBatch(mark, now_ns) : stream_.OnReplayed(mark, now_ns);
  Report(now_ns);
  if (ended_ || advice != KvEventStream::Advice::kApply) return;
  listener_.OnFeedBatch(std::move(*batch), now_ns);
}

void KvFeed::Report(std::int64_t now_ns) {
  const StreamVerdict verdict = stream_.TakeVerdict();
  if (verdict.replay_from) BeginReplay(*verdict.replay_from);
  if (verdict.changed) listener_.OnFeedVerdict(verdict, now_ns);
}

void KvFeed::AddTo(KvSourceStatus& status) const {
  ++status.ranks;
  status.connected += connected_ ? 1 : 0;
  status.batches += batches_before_ + stream_.batches();
  status.bytes += bytes_;
  status.gaps += gaps_before_ + stream_.gaps();
  status.restarts += restarts_before_ + stream_.restarts();
  status.replays += replays_before_ + stream_.replays();
  status.bad_frames += bad_frames_;
  status.bad_batches += bad_batches_;
  status.unknown_events += unknown_events_;
  if (status.last_error.empty()) status.last_error = last_error_;
}

}  // namespace sublet
