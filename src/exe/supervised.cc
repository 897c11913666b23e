#include "exe/supervised.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <optional>
#include <utility>

#include "base/child_process.h"
#include "base/clock.h"
#include "base/files.h"
#include "http/event_loop.h"
#include "node/back_off.h"
#include "node/bell.h"

namespace sublet {
namespace {

// How shells tell of a program that a signal has ended.
constexpr int kEndedBySignal = 128;

class Supervisor {
 public:
  explicit Supervisor(std::vector<std::string> words) : words_(std::move(words)) {}

  Result<int> Run() {
    for (const int signal : {SIGTERM, SIGINT, SIGQUIT, SIGHUP}) signals_.add(signal);
    AwaitSignal();
    asio::co_spawn(loop_, Live(), EndsTheProgram);
    loop_.run();
    return outcome_;
  }

 private:
  void AwaitSignal() {
    signals_.async_wait([this](const boost::system::error_code& failed, int signal) {
      if (failed) return;
      if (child_) child_->Signal(signal);
      if (signal != SIGHUP) {
        ending_ = true;
        bell_.Ring();
      }
      AwaitSignal();
    });
  }

  Task<void> Live() {
    outcome_ = co_await KeepAlive();
    loop_.stop();
  }

  Task<Result<int>> KeepAlive() {
    for (int attempts = 0;;) {
      const Moment begin = Clock();
      Result<ChildProcess> child = ChildProcess::Start({.argv = words_});
      if (!child) co_return tl::unexpected<Error>(child.error());
      child_ = std::move(*child);
      const Status ended = co_await WaitReadable(child_->pidfd());
      if (!ended) co_return tl::unexpected<Error>(ended.error());
      const std::optional<ChildEnd> end = child_->Wait(Deadline::Never());
      const pid_t child_pid = child_->pid();
      child_.reset();
      if (end->signal == 0) co_return end->status;
      if (ending_) co_return kEndedBySignal + end->signal;
      attempts = AttemptsAfterEnd(attempts, SecondsSince(begin));
      const double pause_s = RestartDelay(attempts, words_.front());
      spdlog::error("process {} {}; {}", child_pid, DescribeEnd(*end),
                    DescribePause(attempts, pause_s));
      co_await bell_.Wait(MomentIn(pause_s));
      if (ending_) co_return 0;
    }
  }

  const std::vector<std::string> words_;
  asio::io_context loop_{1};
  asio::signal_set signals_{loop_};
  Bell bell_{loop_};
  std::optional<ChildProcess> child_;
  bool ending_ = false;
  Result<int> outcome_ = 0;
};

}  // namespace

Result<int> RunSupervised(std::vector<std::string> words, std::string_view flag) {
  std::erase(words, flag);
  words.front() = OwnProgramPath();
  return Supervisor(std::move(words)).Run();
}

}  // namespace sublet
