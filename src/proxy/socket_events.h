// proxy/socket_events.h
//
// Tells the transports of a loop when their sockets have changed: an epoll of our own, which the
// loop's io_context waits for as for any other descriptor.
//
//   SocketEvents events(io);
//   events.Start();
//   events.Add(fd, transport);     // transport->OnEvents(mask), whenever anything changes.
//   events.Remove(fd, transport);  // Before fd is closed.
//
// Asio waits for one operation at a time: each wait is an object, two locks, and a system call that
// asks the kernel anew. A proxy that only wants to know "something has changed" for each of its
// sockets can register each once, edge-triggered, and needs nothing per event; and an idle
// connection has no operation at all. All that are ready are told of in one turn of the io_context.
//
// Thread safety: the loop's thread.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <cstdint>

#include "http/event_loop.h"
#include "proxy/wake_signal.h"

namespace sublet::internal {

class Transport;

class SocketEvents {
 public:
  explicit SocketEvents(asio::io_context& io);
  SocketEvents(const SocketEvents&) = delete;
  SocketEvents& operator=(const SocketEvents&) = delete;

  void Start();
  // No more events; the io_context doesn't wait for any.
  void Stop();

  // Errno, or 0.
  int Add(int fd, Transport& transport);
  // Events of this turn that haven't been told of are dropped.
  void Remove(int fd, const Transport& transport);

 private:
  void Wait();
  void Tell();

  static constexpr int kEventsAtOnce = 256;
  asio::posix::basic_stream_descriptor<LoopExecutor> epoll_;
  std::array<epoll_event, kEventsAtOnce> turn_;
  bool stopped_ = false;
  int told_ = 0;   // Of `turn_`; those behind it are still to be told of,
  int count_ = 0;  // up to here.
};

}  // namespace sublet::internal
