// NVML's event sets: how XID errors reach those who wait for them.
#include <poll.h>
#include <sys/inotify.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "driver.h"

namespace sublet::sim {

using namespace nvml;

namespace {

constexpr unsigned long long kSupported =
    kEventSingleBitEcc | kEventDoubleBitEcc | kEventXidCritical;

// Who waits for what, and how far it has read.
struct Subscription {
  std::mutex mutex;
  std::map<int, unsigned long long> types;  // By GPU.
  long long last_event = 0;
  std::size_t own_events = 0;  // Of the process's own xid faults, how many were handed out.
};

struct Subscriptions {
  std::mutex mutex;
  std::map<EventSet, std::shared_ptr<Subscription>> sets;
  std::uintptr_t next = 0x5B1EE0000001;
};

Subscriptions& TheSubscriptions() {
  static Subscriptions subscriptions;
  return subscriptions;
}

std::shared_ptr<Subscription> Find(EventSet set) {
  Subscriptions& all = TheSubscriptions();
  const std::lock_guard lock(all.mutex);
  const auto found = all.sets.find(set);
  return found == all.sets.end() ? nullptr : found->second;
}

unsigned InstanceId(int id) {
  return id < 0 ? kNoInstance : static_cast<unsigned>(id);
}

bool Wants(const Subscription& subscription, int gpu) {
  const auto found = subscription.types.find(gpu);
  return found != subscription.types.end() && (found->second & kEventXidCritical) != 0;
}

// The next event for the subscription, if there is one. REQUIRES: subscription.mutex.
bool Next(Driver& driver, const SimState& state, Subscription& subscription, EventData& data) {
  const auto fill = [&](int gpu, int xid, int gpu_instance, int compute_instance) {
    data = {.device = DeviceHandle(gpu),
            .event_type = kEventXidCritical,
            .event_data = static_cast<unsigned long long>(xid),
            .gpu_instance_id = InstanceId(gpu_instance),
            .compute_instance_id = InstanceId(compute_instance)};
    return true;
  };
  const std::vector<FaultRule>& own = driver.own_faults();
  while (subscription.own_events < own.size()) {
    const FaultRule& rule = own[subscription.own_events++];
    if (rule.kind == FaultRule::Kind::kXid && Wants(subscription, rule.gpu)) {
      return fill(rule.gpu, rule.xid, rule.gpu_instance, rule.compute_instance);
    }
  }
  for (const XidEvent& event : state.events) {
    if (event.number <= subscription.last_event) continue;
    subscription.last_event = event.number;
    if (Wants(subscription, event.gpu)) {
      return fill(event.gpu, event.xid, event.gpu_instance, event.compute_instance);
    }
  }
  return false;
}

// The folder of the node's state, watched. Its file is replaced by renaming another over it.
class StateChanges {
 public:
  explicit StateChanges(const std::string& folder) : events_(::inotify_init1(IN_CLOEXEC)) {
    if (events_.valid() && ::inotify_add_watch(events_.get(), folder.c_str(), IN_MOVED_TO) < 0) {
      events_.Close();
    }
  }

  // Until a change or the deadline. A user may have no watch left: then in steps.
  void Wait(Deadline deadline) {
    constexpr double kStepS = 0.05;
    if (!events_.valid()) {
      ::poll(nullptr, 0, Earlier(deadline, Deadline::In(kStepS)).PollMilliseconds());
      return;
    }
    pollfd one{.fd = events_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&one, 1, deadline.PollMilliseconds()) <= 0) return;
    alignas(inotify_event) char buffer[4096];
    if (::read(events_.get(), buffer, sizeof buffer) < 0) events_.Close();
  }

 private:
  FileDescriptor events_;
};

}  // namespace

SIM_EXPORT Return nvmlEventSetCreate(EventSet* set) {
  return Call(__func__, [&](Driver& driver) {
    if (set == nullptr) return kInvalidArgument;
    const Result<std::shared_ptr<const SimState>> state = driver.State();
    if (!state) return kUnknown;
    auto subscription = std::make_shared<Subscription>();
    subscription->last_event = (*state)->events_seen;  // What was before is not news.
    Subscriptions& all = TheSubscriptions();
    const std::lock_guard lock(all.mutex);
    *set = reinterpret_cast<EventSet>(all.next++);
    all.sets.emplace(*set, std::move(subscription));
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlEventSetFree(EventSet set) {
  return Call(__func__, [&](Driver&) {
    Subscriptions& all = TheSubscriptions();
    const std::lock_guard lock(all.mutex);
    return all.sets.erase(set) == 0 ? kInvalidArgument : kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetSupportedEventTypes(Device device, unsigned long long* types) {
  return CallOnGpu(__func__, device,
                   [&](Driver&, const Target&) { return Put(kSupported, types); });
}

SIM_EXPORT Return nvmlDeviceRegisterEvents(Device device, unsigned long long types, EventSet set) {
  return CallOnGpu(__func__, device, [&](Driver&, const Target& target) {
    const std::shared_ptr<Subscription> subscription = Find(set);
    if (subscription == nullptr) return kInvalidArgument;
    if ((types & ~kSupported) != 0) return kNotSupported;
    const std::lock_guard lock(subscription->mutex);
    subscription->types[target.gpu] |= types;
    return kSuccess;
  });
}

// Sleeps until the node's state is another one: events of other processes come through its file.
SIM_EXPORT Return nvmlEventSetWait_v2(EventSet set, EventData* data, unsigned timeout_ms) {
  return Call(__func__, [&](Driver& driver) {
    const std::shared_ptr<Subscription> subscription = Find(set);
    if (subscription == nullptr || data == nullptr) return kInvalidArgument;
    const Deadline deadline = Deadline::In(timeout_ms / 1000.0);
    std::unique_ptr<StateChanges> changes;  // Only where there is something to wait for.
    while (true) {
      const Result<std::shared_ptr<const SimState>> state = driver.State();
      if (!state) return kUnknown;
      {
        const std::lock_guard lock(subscription->mutex);
        if (Next(driver, **state, *subscription, *data)) return kSuccess;
      }
      if (deadline.Passed()) return kTimeout;
      // What changes between the look at the state and the watch is seen by the next look.
      if (changes == nullptr) {
        changes = std::make_unique<StateChanges>(driver.folder());
      } else {
        changes->Wait(deadline);
      }
    }
  });
}

SIM_EXPORT Return nvmlEventSetWait(EventSet set, EventData* data, unsigned timeout_ms) {
  return nvmlEventSetWait_v2(set, data, timeout_ms);
}

}  // namespace sublet::sim
