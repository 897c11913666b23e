#include "proxy/transport.h"

#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

namespace sublet::internal {
namespace {

constexpr std::size_t kRecordBytes = 16u << 10;  // TLS has no larger ones.

IoResult FromErrno(int error) {
  if (error == EAGAIN || error == EWOULDBLOCK || error == EINTR) return {};
  return {.what = IoResult::What::kFailed, .error = error};
}

}  // namespace

Transport::Transport(SocketEvents& events, FileDescriptor socket, SslSession ssl)
    : events_(events), socket_(std::move(socket)), ssl_(std::move(ssl)) {
  // Each piece of a stream counts when it is sent.
  const int on = 1;
  ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (ssl_) ::SSL_set_fd(ssl_.get(), socket_.get());
  add_error_ = events_.Add(socket_.get(), *this);
}

Transport::~Transport() {
  Close();
}

void Transport::OnEvents(std::uint32_t mask) {
  if (connecting_ && (mask & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) connecting_ = false;
  hung_up_ = hung_up_ || (mask & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0;
  const bool readable = hung_up_ || (mask & EPOLLIN) != 0;
  // TLS may have to write in order to read, so any change may let it.
  if (sink_ != nullptr) sink_->OnTransport(readable || ssl_ != nullptr);
}

int Transport::BeginConnect(const asio::ip::tcp::endpoint& address) {
  if (add_error_ != 0) return add_error_;
  if (::connect(socket_.get(), address.data(), static_cast<socklen_t>(address.size())) == 0) {
    return 0;
  }
  const int error = errno;
  connecting_ = error == EINPROGRESS;
  return error;
}

int Transport::ConnectOutcome() {
  if (connecting_) return EINPROGRESS;
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

IoResult Transport::Read(char* to, std::size_t size) {
  if (!open() || add_error_ != 0) {
    return {.what = IoResult::What::kFailed, .error = open() ? add_error_ : ENOTCONN};
  }
  if (ssl_) {
    ::ERR_clear_error();
    const int got =
        ::SSL_read(ssl_.get(), to, static_cast<int>(std::min<std::size_t>(size, INT_MAX)));
    return SslOutcome(got);
  }
  const ssize_t got = ::recv(socket_.get(), to, size, 0);
  if (got < 0) return FromErrno(errno);
  if (got == 0) return {.what = IoResult::What::kEnded};
  const auto bytes = static_cast<std::size_t>(got);
  return {.what = IoResult::What::kDone, .bytes = bytes, .drained = bytes < size && !hung_up_};
}

IoResult Transport::Write(const iovec* parts, int count) {
  if (!open()) return {.what = IoResult::What::kFailed, .error = ENOTCONN};
  if (ssl_) return WriteRecord(parts, count);
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts);
  message.msg_iovlen = static_cast<std::size_t>(count);
  const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  if (sent < 0) return FromErrno(errno);
  return {.what = IoResult::What::kDone, .bytes = static_cast<std::size_t>(sent)};
}

// Small parts share a record: a head and the first piece of a body, a chunk and its frame.
IoResult Transport::WriteRecord(const iovec* parts, int count) {
  const void* from = parts[0].iov_base;
  std::size_t size = parts[0].iov_len;
  if (count > 1 && size < kRecordBytes) {
    thread_local std::array<char, kRecordBytes> record;
    size = 0;
    for (int i = 0; i < count && size < record.size(); ++i) {
      const std::size_t taken = std::min(parts[i].iov_len, record.size() - size);
      std::memcpy(record.data() + size, parts[i].iov_base, taken);
      size += taken;
    }
    from = record.data();
  }
  ::ERR_clear_error();
  // What was blocked is written again from its first byte on, as OpenSSL asks for.
  return SslOutcome(
      ::SSL_write(ssl_.get(), from, static_cast<int>(std::min<std::size_t>(size, INT_MAX))));
}

IoResult Transport::SslOutcome(int returned) {
  if (returned > 0) {
    // Never `drained`: the kernel may have bytes that OpenSSL hasn't taken, of which we would not
    // be told again.
    return {.what = IoResult::What::kDone, .bytes = static_cast<std::size_t>(returned)};
  }
  const int system_error = errno;
  switch (::SSL_get_error(ssl_.get(), returned)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return {};
    case SSL_ERROR_ZERO_RETURN:
      return {.what = IoResult::What::kEnded};
    case SSL_ERROR_SYSCALL:
      return {.what = IoResult::What::kFailed, .error = system_error};
    default:
      break;
  }
  // An end of the connection without TLS's own is an attacker's, or a server's that doesn't care;
  // neither may end a body.
  char text[256];
  ::ERR_error_string_n(::ERR_peek_last_error(), text, sizeof text);
  tls_error_ = text;
  return {.what = IoResult::What::kFailed};
}

void Transport::ShutdownWrite() {
  if (!open()) return;
  if (ssl_) {
    ::ERR_clear_error();
    ::SSL_shutdown(ssl_.get());
  }
  ::shutdown(socket_.get(), SHUT_WR);
}

void Transport::Close(bool reset) {
  if (!open()) return;
  if (reset) {
    const linger now{1, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  } else if (ssl_) {
    ::ERR_clear_error();
    ::SSL_shutdown(ssl_.get());
  }
  events_.Remove(socket_.get(), *this);
  socket_.Close();
}

}  // namespace sublet::internal
