// kvcache/kv_publisher.h
//
// Announces KV events as vLLM does: for the simulated engine and for tests.
//
//   ASSIGN_OR_RETURN(const auto publisher, KvPublisher::Open(loop, {.topic = "kv-events"}));
//   publisher->endpoint();                     // "tcp://127.0.0.1:41753"
//   publisher->Publish(batch);                 // Batch 0.
//
// A batch is three frames on a PUB socket: the topic, its number as 64 bits big-endian, and the
// payload. The last batches are kept for replay: a request [empty, number] to the ROUTER is
// answered by [empty, number, payload] for each that is kept from this number on, and by
// [empty, -1, empty] at the end. docs/formats/kv-events.md has the protocol.
//
// Who subscribes later doesn't get what was published before; who is too slow loses what its queue
// can't take. Both are as in the field, and what replay is for.
//
// Thread safety: the loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "kvcache/kv_event.h"
#include "kvcache/zmq_socket.h"

namespace sublet {

struct KvPublisherOptions {
  std::string endpoint = "tcp://127.0.0.1:*";         // A port that the system chooses.
  std::string replay_endpoint = "tcp://127.0.0.1:*";  // Empty: no replay.
  std::string topic = "";
  std::size_t buffer_batches = 10'000;  // vLLM's buffer_steps.
  int high_water_mark = 100'000;        // vLLM's hwm.
  int rank = 0;                         // Of a data-parallel engine: added to the ports.
};

class KvPublisher {
 public:
  static Result<std::unique_ptr<KvPublisher>> Open(asio::io_context& loop,
                                                   const KvPublisherOptions& options = {});
  ~KvPublisher();

  // Returns the batch's number.
  std::uint64_t Publish(const KvEventBatch& batch, KvEncoding encoding = KvEncoding::kArrayOfMaps);
  std::uint64_t PublishBytes(std::string payload);
  // As where a queue is full: the next batches are numbered and kept, but not sent.
  void LoseNext(int batches) { lose_ += batches; }
  // As another process in the old one's place: its connections end, it listens on the same ports,
  // its numbers begin at 0, nothing is kept. Waits until the ports are free.
  Status Restart();

  // As others reach it.
  const std::string& endpoint() const { return options_.endpoint; }
  const std::string& replay_endpoint() const { return options_.replay_endpoint; }
  std::uint64_t next_sequence() const { return next_; }
  std::int64_t replays() const { return replays_; }  // Asked for.

 private:
  struct Kept {
    std::uint64_t sequence;
    std::string payload;
  };
  // In this order: sockets go before their context.
  struct Sockets {
    ZmqContext context;
    ZmqSocket publish;
    ZmqSocket replay;
    std::optional<ZmqWaiter> waiter;
  };

  KvPublisher(asio::io_context& loop, const KvPublisherOptions& options)
      : loop_(loop), options_(options) {}
  Status Listen();
  void Serve();
  void Answer(std::string_view client, std::uint64_t from);

  asio::io_context& loop_;
  KvPublisherOptions options_;
  std::unique_ptr<Sockets> sockets_;
  std::deque<Kept> kept_;
  std::uint64_t next_ = 0;
  std::int64_t replays_ = 0;
  int lose_ = 0;
};

}  // namespace sublet
