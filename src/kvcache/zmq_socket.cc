#include "kvcache/zmq_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "base/check.h"
#include "base/files.h"

namespace sublet {
namespace {

// A router has three sockets a rank and up to 4096 replicas; ZeroMQ's own limit is 1023.
constexpr int kSocketsMax = 65'000;

tl::unexpected<Error> FailFromZmq(std::string_view what, const std::string& endpoint) {
  const int error = zmq_errno();
  if (error == EINVAL || error == EPROTONOSUPPORT || error == ENOCOMPATPROTO) {
    return Fail(ErrorCode::kInvalid, fmt::format("no endpoint of ZeroMQ: {}", endpoint));
  }
  const ErrorCode code = error == EADDRINUSE ? ErrorCode::kConflict : ErrorCode::kUnavailable;
  return Fail(code, fmt::format("{} {}: {}", what, endpoint, zmq_strerror(error)));
}

}  // namespace

// ---- context -----------------------------------------------------------------------------------

ZmqContext::ZmqContext() : context_(zmq_ctx_new()) {
  CHECK(context_ != nullptr);
  zmq_ctx_set(context_, ZMQ_MAX_SOCKETS, kSocketsMax);
}

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

std::string ZmqContext::NewInprocEndpoint() const {
  return fmt::format("inproc://sublet-{}", ++names_);
}

// ---- frames ------------------------------------------------------------------------------------

std::string_view ZmqFrames::operator[](std::size_t i) const {
  CHECK(i < kept_);
  return {static_cast<const char*>(zmq_msg_data(&frames_[i])), zmq_msg_size(&frames_[i])};
}

std::size_t ZmqFrames::bytes() const {
  std::size_t sum = 0;
  for (std::size_t i = 0; i < kept_; ++i) sum += zmq_msg_size(&frames_[i]);
  return sum;
}

void ZmqFrames::Clear() {
  for (std::size_t i = 0; i < kept_; ++i) zmq_msg_close(&frames_[i]);
  kept_ = size_ = 0;
}

// ---- socket ------------------------------------------------------------------------------------

Result<ZmqSocket> ZmqSocket::Open(const ZmqContext& context, int type) {
  ZmqSocket socket(zmq_socket(context.get(), type));
  if (!socket.IsOpen()) return FailFromErrno(zmq_errno(), "opening a ZeroMQ socket");
  socket.Set(ZMQ_LINGER, 0);
  return socket;
}

ZmqSocket& ZmqSocket::operator=(ZmqSocket&& other) noexcept {
  if (this != &other) {
    Close();
    socket_ = std::exchange(other.socket_, nullptr);
  }
  return *this;
}

void ZmqSocket::Close() {
  if (socket_ != nullptr) zmq_close(std::exchange(socket_, nullptr));
}

void ZmqSocket::Set(int option, int value) {
  CHECK(zmq_setsockopt(socket_, option, &value, sizeof(value)) == 0);
}

void ZmqSocket::Set64(int option, std::int64_t value) {
  CHECK(zmq_setsockopt(socket_, option, &value, sizeof(value)) == 0);
}

void ZmqSocket::SetText(int option, std::string_view value) {
  CHECK(zmq_setsockopt(socket_, option, value.data(), value.size()) == 0);
}

Status ZmqSocket::Connect(const std::string& endpoint) {
  if (zmq_connect(socket_, endpoint.c_str()) != 0) return FailFromZmq("connecting to", endpoint);
  return {};
}

Status ZmqSocket::Bind(const std::string& endpoint) {
  if (zmq_bind(socket_, endpoint.c_str()) != 0) return FailFromZmq("listening on", endpoint);
  return {};
}

std::string ZmqSocket::BoundEndpoint() const {
  char endpoint[1024];
  std::size_t size = sizeof(endpoint);
  if (zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, endpoint, &size) != 0 || size == 0) return "";
  return {endpoint, size - 1};  // It counts the zero at the end.
}

Status ZmqSocket::Monitor(const std::string& endpoint, int events) {
  if (zmq_socket_monitor(socket_, endpoint.c_str(), events) == 0) return {};
  return FailFromZmq("monitoring on", endpoint);
}

bool ZmqSocket::Receive(ZmqFrames& frames) {
  frames.Clear();
  bool more = true;
  while (more) {
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, socket_, ZMQ_DONTWAIT) < 0) {
      zmq_msg_close(&frame);
      // A message arrives whole or not at all: nothing is lost between two of its frames.
      if (zmq_errno() == EINTR) continue;
      frames.Clear();
      return false;
    }
    more = zmq_msg_more(&frame) != 0;
    if (++frames.size_ <= ZmqFrames::kFramesMax) {
      zmq_msg_init(&frames.frames_[frames.kept_]);
      zmq_msg_move(&frames.frames_[frames.kept_++], &frame);
    }
    zmq_msg_close(&frame);
  }
  return true;
}

bool ZmqSocket::Send(std::initializer_list<std::string_view> frames) {
  std::size_t left = frames.size();
  for (const std::string_view frame : frames) {
    const int flags = ZMQ_DONTWAIT | (--left > 0 ? ZMQ_SNDMORE : 0);
    while (zmq_send(socket_, frame.data(), frame.size(), flags) < 0) {
      // Only the first frame can find the queue full; the others go where it went.
      if (zmq_errno() != EINTR) return false;
    }
  }
  return true;
}

bool ZmqSocket::Readable() const {
  int events = 0;
  std::size_t size = sizeof(events);
  return zmq_getsockopt(socket_, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN) != 0;
}

int ZmqSocket::fd() const {
  int fd = -1;
  std::size_t size = sizeof(fd);
  CHECK(zmq_getsockopt(socket_, ZMQ_FD, &fd, &size) == 0);
  return fd;
}

// ---- waiting -----------------------------------------------------------------------------------

ZmqWaiter::ZmqWaiter(asio::io_context& loop, const ZmqSocket& socket)
    : state_(std::make_shared<State>(loop)) {
  // A copy: the loop closes its descriptor, and ZeroMQ its own.
  const int copy = ::fcntl(socket.fd(), F_DUPFD_CLOEXEC, 0);
  boost::system::error_code error;
  if (copy >= 0) state_->descriptor.assign(copy, error);
  if (copy >= 0 && error) ::close(copy);
}

ZmqWaiter::~ZmqWaiter() {
  state_->gone = true;
  boost::system::error_code ignored;
  state_->descriptor.close(ignored);
}

void ZmqWaiter::Arm(std::function<void()> wake) {
  if (state_->armed || !state_->descriptor.is_open()) return;
  state_->armed = true;
  state_->descriptor.async_wait(
      asio::posix::stream_descriptor::wait_read,
      [state = state_, wake = std::move(wake)](const boost::system::error_code& error) {
        state->armed = false;
        if (!error && !state->gone) wake();
      });
}

// ---- ranks -------------------------------------------------------------------------------------

Result<std::string> EndpointOfRank(const std::string& endpoint, int rank) {
  if (rank == 0) return endpoint;
  if (!endpoint.starts_with("tcp://")) return fmt::format("{}_dp{}", endpoint, rank);
  const std::size_t colon = endpoint.rfind(':');
  int port = 0;
  const char* const end = endpoint.data() + endpoint.size();
  const auto [at, error] = std::from_chars(endpoint.data() + colon + 1, end, port);
  if (error != std::errc() || at != end || port < 1 || port + rank > 65535) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("an endpoint without a port for rank {}: {}", rank, endpoint));
  }
  return fmt::format("{}:{}", endpoint.substr(0, colon), port + rank);
}

}  // namespace sublet
