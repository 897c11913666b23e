// kvcache/zmq_socket.h
//
// ZeroMQ's sockets as Sublet uses them: never blocking, on an Asio loop, with errors as values.
//
//   ZmqContext context;
//   ASSIGN_OR_RETURN(ZmqSocket socket, ZmqSocket::Open(context, ZMQ_SUB));
//   RETURN_IF_ERROR(socket.Connect("tcp://10.0.0.7:5557"));
//   ZmqFrames frames;
//   while (socket.Receive(frames)) Use(frames[2]);
//
// The C interface, and not cppzmq: cppzmq throws where a peer or an endpoint is at fault, and its
// monitor waits; what is needed here are a dozen calls.
//
// The trap of a ZeroMQ socket's descriptor is that it tells of work inside the library, once: it
// becomes readable when something changed, stays silent when only messages are left, and any call
// on the socket, a send too, may use the sign up. So the order is: use the socket until Receive()
// gives nothing, and wait only where Readable() says no, asked after the last call on the socket.
// ZmqWaiter waits; it starts to wait where the descriptor is already readable by waking at once.
//
// Thread safety: a context is for all threads; a socket and its waiter belong to one.
#pragma once

#include <zmq.h>

#include <array>
#include <atomic>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "http/event_loop.h"

namespace sublet {

// Has one thread for all of its sockets' input and output, started with the first of them. Its end
// waits until they are really closed, so that their ports are free again.
class ZmqContext {
 public:
  ZmqContext();
  ~ZmqContext();
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;

  void* get() const { return context_; }
  // An endpoint within the process that none has had before: the name of a socket that was closed
  // stays taken for a while.
  std::string NewInprocEndpoint() const;

 private:
  void* context_;
  mutable std::atomic<std::uint64_t> names_ = 0;
};

// The frames of one message; used again for the next.
class ZmqFrames {
 public:
  // Sublet's protocols have four at most. Of a message with more, the rest is dropped.
  static constexpr std::size_t kFramesMax = 5;

  ZmqFrames() = default;
  ~ZmqFrames() { Clear(); }
  ZmqFrames(const ZmqFrames&) = delete;
  ZmqFrames& operator=(const ZmqFrames&) = delete;

  // As many as the message had, which may be more than kFramesMax.
  std::size_t size() const { return size_; }
  // Valid until the next Receive(). REQUIRES: i is less than both.
  std::string_view operator[](std::size_t i) const;
  std::size_t bytes() const;

 private:
  friend class ZmqSocket;
  void Clear();

  mutable std::array<zmq_msg_t, kFramesMax> frames_;
  std::size_t kept_ = 0;
  std::size_t size_ = 0;
};

class ZmqSocket {
 public:
  ZmqSocket() = default;
  ~ZmqSocket() { Close(); }
  ZmqSocket(ZmqSocket&& other) noexcept : socket_(std::exchange(other.socket_, nullptr)) {}
  ZmqSocket& operator=(ZmqSocket&& other) noexcept;

  // `type` as in ZMQ_SUB. Nothing lingers: what wasn't sent when it is closed is dropped.
  static Result<ZmqSocket> Open(const ZmqContext& context, int type);

  bool IsOpen() const { return socket_ != nullptr; }
  void Close();

  // An option as in ZMQ_RCVHWM. A wrong one is our own fault.
  void Set(int option, int value);
  void Set64(int option, std::int64_t value);
  void SetText(int option, std::string_view value);
  // kInvalid where the endpoint isn't one.
  Status Connect(const std::string& endpoint);
  Status Bind(const std::string& endpoint);
  // Of the last Bind(), with the port that the system chose.
  std::string BoundEndpoint() const;
  // Tells of connections on `endpoint` ("inproc://..."), for a ZMQ_PAIR socket.
  Status Monitor(const std::string& endpoint, int events);

  // One whole message; false where there is none now.
  bool Receive(ZmqFrames& frames);
  // All frames or none; false where the queue is full.
  bool Send(std::initializer_list<std::string_view> frames);
  bool Readable() const;
  int fd() const;

 private:
  explicit ZmqSocket(void* socket) : socket_(socket) {}

  void* socket_ = nullptr;
};

// Waits for a socket's descriptor.
class ZmqWaiter {
 public:
  ZmqWaiter(asio::io_context& loop, const ZmqSocket& socket);
  ~ZmqWaiter();
  ZmqWaiter(const ZmqWaiter&) = delete;
  ZmqWaiter& operator=(const ZmqWaiter&) = delete;

  // Calls `wake` once when there may be something to do; nothing where it waits already. After
  // the waiter's end it isn't called.
  void Arm(std::function<void()> wake);

 private:
  struct State {
    explicit State(asio::io_context& loop) : descriptor(loop) {}
    asio::posix::stream_descriptor descriptor;
    bool armed = false;
    bool gone = false;
  };

  std::shared_ptr<State> state_;
};

// "tcp://host:5557" for rank 0 is "tcp://host:5559" for rank 2; of other transports the name gets
// "_dp2" at its end. As vLLM and SGLang number the sockets of data-parallel ranks.
Result<std::string> EndpointOfRank(const std::string& endpoint, int rank);

}  // namespace sublet
