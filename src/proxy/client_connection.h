// proxy/client_connection.h
//
// One client: its requests one after another, each handed to an Exchange (proxy/exchange.h), and
// the news that it has gone.
//
//   auto client = std::make_shared<ClientConnection>(loop, std::move(transport), "10.0.0.9");
//   asio::co_spawn(loop.io(), client->Run(), ...);
//
// Everything that happens to a client or to what is done for it (bytes, a free replica, a limit
// that has passed) wakes the one coroutine, which looks at what has changed. Between requests a
// client costs this object, its coroutine's frames and the kernel's socket; buffers come with the
// first byte of a request, and go when the last one is answered.
//
// Thread safety: the loop's thread.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include "proxy/input_buffer.h"
#include "proxy/output_parts.h"
#include "proxy/proxy_loop.h"
#include "proxy/transport.h"
#include "proxy/wake_signal.h"

namespace sublet::internal {

class ClientConnection : public TransportSink,
                         public std::enable_shared_from_this<ClientConnection> {
 public:
  ClientConnection(ProxyLoop& loop, std::unique_ptr<Transport> transport, std::string address);
  ~ClientConnection() override;

  // Until the connection's end.
  LoopTask<void> Run();

  // ---- for the loop
  // The limit of what is being waited for has passed.
  bool Overdue(std::int64_t now_ns) const { return now_ns >= limit_ns_; }
  void Expire();
  void FinishUp();
  void Cut();
  void OnTransport(bool readable) override;

  // ---- for the exchange
  ProxyLoop& loop() { return loop_; }
  const std::string& address() const { return address_; }
  // Something has changed that the coroutine may wait for.
  void Wake() { wake_.Notify(); }
  LoopTask<void> Changed() { return wake_.Wait(); }

  // The client has left, or was cut: nothing that is done for it is of use.
  bool gone() const { return gone_; }
  bool cut() const { return cut_; }
  // A byte of a request has come.
  void BeginRequest() {
    idle_ = false;
    ClearLimit();
  }
  bool last_request() const { return last_request_; }
  void MakeLast() { last_request_ = true; }

  // From `from_ns`, for what is waited for from now on. TimedOut() says whether it has passed.
  void SetLimit(double seconds, std::int64_t from_ns);
  void SetDeadline(std::int64_t at_ns);
  void ClearLimit() { SetDeadline(INT64_MAX); }
  bool TimedOut() const { return timed_out_; }

  // While a request is worked on: notices that the client goes, and keeps what it sends ahead.
  void Watch();
  void Unwatch() { watching_ = false; }

  // Bytes of a request that is being read, into `to`; 0: none will come, or not in time.
  LoopTask<std::size_t> ReadInto(char* to, std::size_t size);
  // More into `input`.
  LoopTask<bool> ReadMore(InputBuffer& input);
  // What the kernel takes at once. Whether that was all; if not, FinishWrite() waits for it.
  bool WriteNow(OutputParts& parts);
  // False: the client is gone or takes nothing.
  LoopTask<bool> FinishWrite(OutputParts& parts);

 private:
  LoopTask<bool> UntilInput();
  LoopTask<void> Linger();
  void Close(bool reset = false);

  ProxyLoop& loop_;
  const std::unique_ptr<Transport> transport_;
  const std::string address_;
  WakeSignal wake_;
  std::unique_ptr<Exchange> exchange_;  // While there is a request, or a part of one.

  std::int64_t limit_ns_ = INT64_MAX;
  bool timed_out_ = false;
  bool may_read_ = false;  // A read may bring something.
  bool watching_ = false;
  bool idle_ = false;  // Between two requests.
  bool gone_ = false;
  bool cut_ = false;
  bool last_request_ = false;
};

}  // namespace sublet::internal
