// proxy/probe_gate.h
//
// How many coroutines of one loop may do something at once; the others wait for their turn.
//
//   const auto gate = std::make_shared<ProbeGate>(loop, 64);
//   const ProbePass pass = co_await ProbeGate::Enter(gate);   // Given back when it goes.
//
// A pass keeps its gate: coroutines that wait may outlive whoever started them, until the loop
// goes.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <list>
#include <memory>
#include <utility>

#include "http/event_loop.h"

namespace sublet {

class ProbeGate;

class ProbePass {
 public:
  explicit ProbePass(std::shared_ptr<ProbeGate> gate) : gate_(std::move(gate)) {}
  ProbePass(ProbePass&& other) noexcept = default;
  ProbePass& operator=(ProbePass&&) = delete;
  ~ProbePass();

 private:
  std::shared_ptr<ProbeGate> gate_;
};

class ProbeGate {
 public:
  ProbeGate(asio::io_context& loop, int most) : loop_(loop), free_(most) {}

  static Task<ProbePass> Enter(std::shared_ptr<ProbeGate> gate) {
    while (gate->free_ == 0) {
      const Waiter waiter(*gate);
      // A coroutine that is cancelled gets out of here at its next co_await.
      co_await waiter.at->async_wait(asio::as_tuple(asio::use_awaitable));
    }
    --gate->free_;
    co_return ProbePass(std::move(gate));
  }
  void Leave() {
    ++free_;
    if (!waiting_.empty()) waiting_.front().cancel();
  }
  int free() const { return free_; }

 private:
  struct Waiter {
    explicit Waiter(ProbeGate& of)
        : gate(of),
          at(of.waiting_.emplace(of.waiting_.end(), of.loop_,
                                 asio::steady_timer::time_point::max())) {}
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    ~Waiter() { gate.waiting_.erase(at); }
    ProbeGate& gate;
    std::list<asio::steady_timer>::iterator at;
  };

  asio::io_context& loop_;
  int free_;
  std::list<asio::steady_timer> waiting_;
};

inline ProbePass::~ProbePass() {
  if (gate_ != nullptr) gate_->Leave();
}

}  // namespace sublet
