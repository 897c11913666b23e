#include "proxy/socket_events.h"

#include <cerrno>

#include "base/check.h"
#include "proxy/transport.h"

namespace sublet::internal {

SocketEvents::SocketEvents(asio::io_context& io) : epoll_(io) {
  const int fd = ::epoll_create1(EPOLL_CLOEXEC);
  CHECK(fd >= 0);
  epoll_.assign(fd);
}

void SocketEvents::Start() {
  Wait();
}

void SocketEvents::Stop() {
  stopped_ = true;
  boost::system::error_code ignored;
  epoll_.cancel(ignored);
}

int SocketEvents::Add(int fd, Transport& transport) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &transport;
  return ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}

void SocketEvents::Remove(int fd, const Transport& transport) {
  epoll_event unused{};
  ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_DEL, fd, &unused);
  for (int i = told_; i < count_; ++i) {
    epoll_event& event = turn_[static_cast<std::size_t>(i)];
    if (event.data.ptr == &transport) event.data.ptr = nullptr;
  }
}

void SocketEvents::Wait() {
  epoll_.async_wait(asio::posix::descriptor_base::wait_read,
                    [this](const boost::system::error_code& error) {
                      if (!error) Tell();
                    });
}

// What comes meanwhile, or doesn't fit this turn, makes the next wait end at once.
void SocketEvents::Tell() {
  count_ = ::epoll_wait(epoll_.native_handle(), turn_.data(), kEventsAtOnce, 0);
  for (told_ = 0; told_ < count_;) {
    const epoll_event& event = turn_[static_cast<std::size_t>(told_++)];
    if (event.data.ptr != nullptr) static_cast<Transport*>(event.data.ptr)->OnEvents(event.events);
  }
  told_ = count_ = 0;
  if (!stopped_) Wait();
}

}  // namespace sublet::internal
