#include "http/event_loop.h"

#include <fcntl.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/system/system_error.hpp>
#include <cerrno>
#include <tuple>

#include "base/files.h"

namespace sublet {

Task<Status> WaitReadable(int fd) {
  // A copy, because the kernel's epoll takes each descriptor once, and two may wait for one.
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) co_return FailFromErrno(errno, "waiting for a descriptor");
  asio::posix::stream_descriptor waiting(co_await asio::this_coro::executor);
  boost::system::error_code error;
  waiting.assign(copy, error);
  if (error) {
    ::close(copy);
    co_return FailFromErrno(error.value(), "waiting for a descriptor");
  }
  constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
  std::tie(error) =
      co_await waiting.async_wait(asio::posix::stream_descriptor::wait_read, kAsTuple);
  if (error == asio::error::operation_aborted) throw boost::system::system_error(error);
  if (error) co_return Fail(ErrorCode::kIo, "waiting for a descriptor: " + error.message());
  co_return Status();
}

void EndsTheProgram(std::exception_ptr exception) {
  if (!exception) return;
  try {
    std::rethrow_exception(std::move(exception));
  } catch (const boost::system::system_error& error) {
    if (error.code() != asio::error::operation_aborted) throw;
  }
}

}  // namespace sublet
