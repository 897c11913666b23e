// proxy/transport.h
//
// A connection's bytes, with or without TLS, without ever waiting: what can't be done now says so,
// and a sink is told when it is worth trying again.
//
//   const IoResult got = transport->Read(room.data(), room.size());
//   if (got.what == IoResult::What::kBlocked) ...        // Until sink->OnTransport(true).
//
// The sink hears of every change, wanted or not: bytes, room for bytes, the other end's end. An
// idle connection has no buffer and no operation under way.
//
// What may surprise:
// - Changes are told of once (edge-triggered). Who doesn't read all that is there, up to kBlocked
//   or `drained`, must come back by himself.
// - OnTransport() may destroy the transport.
//
// Thread safety: the loop's thread.
#pragma once

#include <openssl/ssl.h>
#include <sys/uio.h>

#include <boost/asio/ip/tcp.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/file_descriptor.h"
#include "proxy/socket_events.h"

namespace sublet::internal {

class TransportSink {
 public:
  virtual ~TransportSink() = default;
  // Something has changed; `readable`: a read would bring bytes, or an end.
  virtual void OnTransport(bool readable) = 0;
};

struct IoResult {
  enum class What {
    kDone,     // `bytes` is more than none.
    kBlocked,  // Nothing now.
    kEnded,    // The other end has closed in order.
    kFailed,   // The connection is of no more use; `error` is an errno, or 0 for TLS.
  };
  What what = What::kBlocked;
  std::size_t bytes = 0;
  int error = 0;
  // Reading: there is no more for now, so that the next read would only say so.
  bool drained = false;
};

struct SslFree {
  void operator()(SSL* ssl) const { ::SSL_free(ssl); }
};
using SslSession = std::unique_ptr<SSL, SslFree>;

class Transport {
 public:
  // `ssl`: null for none; otherwise it knows which side it is, and its handshake is done by the
  // first reads and writes. The socket must not block, and is set not to delay.
  Transport(SocketEvents& events, FileDescriptor socket, SslSession ssl);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  // Null: nobody listens.
  void set_sink(TransportSink* sink) { sink_ = sink; }

  // 0, EINPROGRESS (until an event; then ConnectOutcome()), or why not.
  int BeginConnect(const asio::ip::tcp::endpoint& address);
  // EINPROGRESS: not yet.
  int ConnectOutcome();

  IoResult Read(char* to, std::size_t size);
  // All parts in one call, or the first of them. `count` is at most kPartsMax.
  IoResult Write(const iovec* parts, int count);

  // With TLS, tells the other end that nothing was cut off.
  void ShutdownWrite();
  // `reset`: the other end is to see an error, not an end.
  void Close(bool reset = false);
  bool open() const { return socket_.valid(); }
  // Why TLS failed; empty where it didn't.
  const std::string& tls_error() const { return tls_error_; }

  // From SocketEvents.
  void OnEvents(std::uint32_t mask);

  static constexpr int kPartsMax = 64;

 private:
  IoResult WriteRecord(const iovec* parts, int count);
  IoResult SslOutcome(int returned);

  SocketEvents& events_;
  FileDescriptor socket_;
  SslSession ssl_;
  TransportSink* sink_ = nullptr;
  int add_error_ = 0;     // The kernel watches no more sockets for us.
  bool hung_up_ = false;  // There is an end behind what can be read, of which we were told already.
  bool connecting_ = false;
  std::string tls_error_;
};

}  // namespace sublet::internal
