// proxy/admission_gate.h
//
// Where requests wait while all replicas of their model are full: the admission queues
// (route/admission_queue.h) of all models, shared by all loops.
//
//   auto waiter = std::make_shared<AdmissionWaiter>([loop, connection] { post a wake-up });
//   RETURN_IF_ERROR(gate.Enter(model, request, waiter, now_ns));
//   while (!waiter->late()) {
//     if (waiter->TakeTurn()) { ... choose a replica ...; if (chosen) break; }
//     co_await wake.Wait();
//   }
//   gate.Leave(*waiter, now_ns);
//
// A queue a model, so that those who wait for one model don't stand in the way of another's. Each
// time a request ends, the one of each queue whose turn it is tries; where it gets in, the next one
// may try too, until somebody finds all full again.
//
// Thread safety: all calls, from any thread. `wake` is called with the gate's lock held, and must
// only post.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "route/admission_queue.h"

namespace sublet::internal {

class AdmissionWaiter {
 public:
  explicit AdmissionWaiter(std::function<void()> wake) : wake_(std::move(wake)) {}

  // Whether it has been its turn since it was last asked.
  bool TakeTurn() { return turn_.exchange(false); }
  // It has waited too long, and has left the queue by that.
  bool late() const { return late_; }

 private:
  friend class AdmissionGate;
  const std::function<void()> wake_;
  std::atomic<bool> turn_ = false;
  std::atomic<bool> late_ = false;
  std::string model_;
  TicketId ticket_ = 0;
};

class AdmissionGate {
 public:
  explicit AdmissionGate(const AdmissionOptions& options) : options_(options) {}

  // How many wait. 0 is what nearly all requests find, and costs no lock.
  std::size_t waiting() const { return waiting_.load(std::memory_order_relaxed); }
  bool Waits(std::string_view model) const;

  // Fails as AdmissionQueue::Enter() does. Somebody's turn has come by the time it returns, since
  // a replica may have become free just before.
  Status Enter(const std::string& model, const AdmissionRequest& request,
               std::shared_ptr<AdmissionWaiter> waiter, std::int64_t now_ns);
  // Once for each waiter that entered and isn't late, whatever became of it. The next has its turn.
  void Leave(AdmissionWaiter& waiter, std::int64_t now_ns);
  // A request has ended. Of whatever model: replicas serve several, adapters above all.
  void Freed(std::int64_t now_ns);
  // Now and then, and when a replica has come: who waits too long goes, and one for each model
  // tries.
  void Sweep(std::int64_t now_ns);

 private:
  struct Line {
    explicit Line(const AdmissionOptions& options) : queue(options) {}
    AdmissionQueue queue;
    std::map<TicketId, std::shared_ptr<AdmissionWaiter>> waiters;
  };
  using Lines = std::map<std::string, std::unique_ptr<Line>, std::less<>>;
  void Call(Line& line, std::int64_t now_ns);
  void Expire(Line& line, std::int64_t now_ns);

  const AdmissionOptions options_;
  std::atomic<std::size_t> waiting_ = 0;
  mutable std::mutex mutex_;
  Lines lines_;  // Only of models for which somebody waits.
};

}  // namespace sublet::internal
