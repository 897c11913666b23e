#include "node/health_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "inventory/nvml_library.h"

namespace sublet {

struct HealthWatch::Shared {
  HealthWatchOptions options;
  std::thread thread;

  std::mutex mutex;  // Guards what is below.
  std::condition_variable changed;
  bool stop = false;
  bool done = false;
  bool poll_soon = false;

  std::mutex gate;  // Held while the callback runs.
  bool closed = false;

  std::atomic<std::int64_t> answered_ns{0};
};

namespace {

using What = HealthSighting::What;

// Errors of a GPU's own; any other that every GPU has means that the driver is gone.
bool IsDriverGone(nvml::Return code) {
  return code == nvml::kUninitialized || code == nvml::kDriverNotLoaded ||
         code == nvml::kLibRmVersionMismatch;
}

struct WatchedGpu {
  std::string uuid;
  nvml::Device device = nullptr;        // nullptr where it isn't found at the moment.
  nvml::Return found = nvml::kSuccess;  // Why not.
  bool listening = false;               // Its events come.
};

// What the thread does, and what only it has.
class Watcher {
 public:
  struct Door {  // How it speaks with its owner.
    HealthWatchOptions options;
    std::function<bool()> stopping;
    std::function<void(double)> sleep;  // Until then, or until something is wanted.
    std::function<bool()> poll_wanted;  // Asked for since the last time.
    std::function<void(const HealthSighting&)> report;
    std::function<void()> answered;
  };
  explicit Watcher(Door door) : door_(std::move(door)) {}
  ~Watcher() { Close(); }
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  void Run() {
    while (!door_.stopping()) {
      if (!nvml_ && !Open()) {
        door_.sleep(door_.options.reopen_s);
        continue;
      }
      if (door_.poll_wanted() || next_poll_.Passed()) {
        next_poll_ = Deadline::In(door_.options.poll_s);
        Poll();
      }
      if (nvml_) Listen();
    }
  }

 private:
  const nvml::Api& api() const { return nvml_->api(); }

  bool Open() {
    Result<NvmlLibrary> opened = NvmlLibrary::Open(door_.options.nvml_path);
    door_.answered();
    if (!opened) {
      door_.report({.what = What::kNoAnswer, .message = opened.error().message});
      return false;
    }
    nvml_ = std::move(*opened);
    next_poll_ = Deadline::In(0);
    door_.report({.what = What::kFound});
    return true;
  }

  void CloseSet() {
    if (set_ != nullptr && api().event_set_free != nullptr) api().event_set_free(set_);
    set_ = nullptr;
    for (WatchedGpu& gpu : gpus_) gpu.listening = false;
  }

  void Close() {
    if (!nvml_) return;
    CloseSet();
    for (WatchedGpu& gpu : gpus_) gpu.device = nullptr;
    nvml_.reset();
  }

  void DriverIsGone(nvml::Return code) {
    Close();
    door_.report(
        {.what = What::kNoAnswer,
         .message = fmt::format("{} ({})", nvml::ReturnName(code), static_cast<int>(code))});
  }

  // The GPUs as the driver lists them now, and behind them those that it doesn't list any more.
  void List(unsigned count) {
    std::vector<WatchedGpu> before = std::move(gpus_);
    gpus_.clear();
    for (unsigned i = 0; i < count; ++i) {
      WatchedGpu gpu;
      gpu.found = api().device_by_index(i, &gpu.device);
      std::array<char, nvml::kUuidBufferSize> uuid{};
      if (gpu.found == nvml::kSuccess) {
        gpu.found = api().device_uuid(gpu.device, uuid.data(), uuid.size());
      }
      if (gpu.found == nvml::kSuccess) {
        gpu.uuid = uuid.data();
      } else if (gpu.device = nullptr; i < before.size()) {
        gpu.uuid = before[i].uuid;
      }
      gpus_.push_back(std::move(gpu));
    }
    for (WatchedGpu& old : before) {
      if (old.uuid.empty()) continue;
      const auto now = std::ranges::find(gpus_, old.uuid, &WatchedGpu::uuid);
      if (now != gpus_.end()) {
        now->listening = old.listening;
        continue;
      }
      gpus_.push_back({.uuid = std::move(old.uuid),
                       .device = nullptr,
                       .found = nvml::kNotFound,
                       .listening = false});
    }
    listed_ = count;
  }

  nvml::Return Look(nvml::Device device, GpuFacts& facts) {
    nvml::Memory memory{};
    if (const auto code = api().device_memory(device, &memory); code != nvml::kSuccess) return code;
    unsigned long long errors = 0;
    if (api().device_ecc_errors != nullptr &&
        api().device_ecc_errors(device, nvml::kErrorUncorrected, nvml::kEccVolatile, &errors) ==
            nvml::kSuccess) {
      facts.ecc_uncorrected = static_cast<std::int64_t>(errors);
    }
    unsigned long long energy_mj = 0;
    if (api().device_energy != nullptr &&
        api().device_energy(device, &energy_mj) == nvml::kSuccess) {
      facts.energy_mj = static_cast<std::int64_t>(energy_mj);
    }
    unsigned corrected = 0;
    unsigned uncorrected = 0;
    unsigned pending = 0;
    unsigned failed = 0;
    if (api().device_remapped_rows != nullptr &&
        api().device_remapped_rows(device, &corrected, &uncorrected, &pending, &failed) ==
            nvml::kSuccess) {
      facts.remap_pending = pending != 0;
      facts.remap_failed = failed != 0;
    }
    return nvml::kSuccess;
  }

  std::vector<std::string> MigDevices(nvml::Device device) {
    std::vector<std::string> uuids;
    unsigned mode = 0;
    unsigned pending = 0;
    unsigned most = 0;
    if (api().device_mig_mode == nullptr || api().mig_device_count_max == nullptr ||
        api().mig_device_by_index == nullptr ||
        api().device_mig_mode(device, &mode, &pending) != nvml::kSuccess || mode == 0 ||
        api().mig_device_count_max(device, &most) != nvml::kSuccess) {
      return uuids;
    }
    for (unsigned i = 0; i < most; ++i) {
      nvml::Device instance = nullptr;
      std::array<char, nvml::kUuidBufferSize> uuid{};
      if (api().mig_device_by_index(device, i, &instance) == nvml::kSuccess &&
          api().device_uuid(instance, uuid.data(), uuid.size()) == nvml::kSuccess) {
        uuids.emplace_back(uuid.data());
      }
    }
    return uuids;
  }

  // Tells of one GPU; false where the whole driver is gone.
  bool PollOne(WatchedGpu& gpu) {
    GpuFacts facts;
    const nvml::Return code = gpu.device == nullptr ? gpu.found : Look(gpu.device, facts);
    door_.answered();
    if (IsDriverGone(code)) {
      DriverIsGone(code);
      return false;
    }
    if (gpu.uuid.empty()) return true;  // It never said which it is: nobody knows it either.
    facts.lost = code == nvml::kGpuIsLost;
    facts.reset_required = code == nvml::kResetRequired;
    if (code == nvml::kSuccess || facts.lost || facts.reset_required) {
      HealthSighting polled{.what = What::kPolled, .gpu_uuid = gpu.uuid, .facts = facts};
      if (door_.options.tell_mig && code == nvml::kSuccess) {
        polled.mig_devices = MigDevices(gpu.device);
      }
      door_.report(polled);
    } else {
      door_.report(
          {.what = What::kNoAnswer,
           .gpu_uuid = gpu.uuid,
           .message = fmt::format("{} ({})", nvml::ReturnName(code), static_cast<int>(code))});
    }
    if (code != nvml::kSuccess) gpu.device = nullptr;  // Looked up anew at the next poll.
    return true;
  }

  void Poll() {
    unsigned count = 0;
    const nvml::Return code = api().device_count(&count);
    door_.answered();
    if (code != nvml::kSuccess) {
      DriverIsGone(code);
      return;
    }
    const bool all_found =
        std::ranges::none_of(gpus_, [](const WatchedGpu& gpu) { return gpu.device == nullptr; });
    if (count != listed_ || !all_found) List(count);
    for (WatchedGpu& gpu : gpus_) {
      if (!PollOne(gpu)) return;
    }
    Register();
  }

  // Events of every GPU that gives them. One that is lost would end every wait at once.
  void Register() {
    if (api().event_set_create == nullptr || api().event_set_wait == nullptr ||
        api().device_register_events == nullptr) {
      return;
    }
    const bool left = std::ranges::any_of(
        gpus_, [](const WatchedGpu& gpu) { return gpu.device == nullptr && gpu.listening; });
    // The old set goes on collecting until the new one does, so that no event is missed.
    const nvml::EventSet old = left ? std::exchange(set_, nullptr) : nullptr;
    if (left) {
      for (WatchedGpu& gpu : gpus_) gpu.listening = false;
    }
    if (set_ == nullptr && api().event_set_create(&set_) != nvml::kSuccess) set_ = nullptr;
    if (set_ != nullptr) RegisterAll();
    if (old == nullptr) return;
    nvml::EventData event{};
    if (api().event_set_wait(old, &event, 0) == nvml::kSuccess) TellEvents(old, event);
    if (api().event_set_free != nullptr) api().event_set_free(old);
  }

  void RegisterAll() {
    for (WatchedGpu& gpu : gpus_) {
      if (gpu.device == nullptr || gpu.listening) continue;
      unsigned long long types = nvml::kEventXidCritical | nvml::kEventDoubleBitEcc;
      unsigned long long supported = types;
      if (api().device_event_types != nullptr) api().device_event_types(gpu.device, &supported);
      types &= supported;
      gpu.listening =
          types != 0 && api().device_register_events(gpu.device, types, set_) == nvml::kSuccess;
    }
  }

  bool IsListening() const {
    return set_ != nullptr && std::ranges::any_of(gpus_, &WatchedGpu::listening);
  }

  // Waits for events until the next poll, at most one piece.
  void Listen() {
    const double seconds = std::min(next_poll_.SecondsLeft(), door_.options.wait_s);
    if (!IsListening()) {
      door_.sleep(seconds);
      return;
    }
    nvml::EventData event{};
    const auto wait_ms = static_cast<unsigned>(seconds * 1000) + 1;
    const nvml::Return code = api().event_set_wait(set_, &event, wait_ms);
    door_.answered();
    if (code == nvml::kTimeout) return;
    if (code == nvml::kSuccess) {
      TellEvents(set_, event);
      door_.sleep(kStormPauseS);
      return;
    }
    // The set is no good any more, as after a GPU was lost. The poll says what happened and makes
    // another one, at most once a second.
    CloseSet();
    next_poll_ = Earlier(next_poll_, Deadline::In(std::min(1.0, door_.options.poll_s)));
    door_.sleep(std::min(next_poll_.SecondsLeft(), door_.options.wait_s));
  }

  // This event and those that wait behind it; equal ones once, with their number.
  void TellEvents(nvml::EventSet set, nvml::EventData event) {
    std::map<std::tuple<std::string, int, std::optional<int>>, int> counts;
    for (int i = 0; i < kEventsAtOnceMax; ++i) {
      if (event.event_type == nvml::kEventXidCritical) {
        std::optional<int> instance;
        if (event.gpu_instance_id != nvml::kNoInstance) {
          instance = static_cast<int>(event.gpu_instance_id);
        }
        ++counts[{UuidOf(event.device), static_cast<int>(event.event_data), instance}];
      } else {
        next_poll_ = Deadline::In(0);  // The counters tell.
      }
      if (api().event_set_wait(set, &event, 0) != nvml::kSuccess) break;
    }
    for (const auto& [key, count] : counts) {
      door_.report({.what = What::kXid,
                    .gpu_uuid = std::get<0>(key),
                    .xid = std::get<1>(key),
                    .count = count,
                    .gpu_instance = std::get<2>(key)});
    }
  }

  std::string UuidOf(nvml::Device device) {
    const auto known = std::ranges::find(gpus_, device, &WatchedGpu::device);
    if (known != gpus_.end() && device != nullptr) return known->uuid;
    std::array<char, nvml::kUuidBufferSize> uuid{};
    const bool told =
        device != nullptr && api().device_uuid(device, uuid.data(), uuid.size()) == nvml::kSuccess;
    return told ? uuid.data() : std::string();
  }

  static constexpr int kEventsAtOnceMax = 1000;  // So that a storm doesn't hold up the polls.
  static constexpr double kStormPauseS = 0.02;   // Lets a storm gather: 50 tellings a second.

  Door door_;
  std::optional<NvmlLibrary> nvml_;
  std::vector<WatchedGpu> gpus_;
  unsigned listed_ = 0;
  nvml::EventSet set_ = nullptr;
  Deadline next_poll_ = Deadline::In(0);
};

}  // namespace

HealthWatch::HealthWatch(HealthWatchOptions options) : shared_(std::make_shared<Shared>()) {
  shared_->options = std::move(options);
  shared_->answered_ns = MonotonicNanoseconds();
  // The thread has its own hold on what it shares: it may outlive this object.
  shared_->thread = std::thread([shared = shared_] {
    const auto wanted = [&] { return shared->stop || shared->poll_soon; };
    {
      Watcher watcher({.options = shared->options,
                       .stopping =
                           [&] {
                             const std::lock_guard lock(shared->mutex);
                             return shared->stop;
                           },
                       .sleep =
                           [&](double seconds) {
                             std::unique_lock lock(shared->mutex);
                             shared->changed.wait_for(lock, std::chrono::duration<double>(seconds),
                                                      wanted);
                           },
                       .poll_wanted =
                           [&] {
                             const std::lock_guard lock(shared->mutex);
                             return std::exchange(shared->poll_soon, false);
                           },
                       .report =
                           [&](const HealthSighting& sighting) {
                             const std::lock_guard lock(shared->gate);
                             if (!shared->closed) shared->options.report(sighting);
                           },
                       .answered = [&] { shared->answered_ns = MonotonicNanoseconds(); }});
      watcher.Run();
    }
    const std::lock_guard lock(shared->mutex);
    shared->done = true;
    shared->changed.notify_all();
  });
}

HealthWatch::~HealthWatch() {
  Stop();
}

void HealthWatch::Stop() {
  if (!shared_->thread.joinable()) return;
  bool done = false;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->stop = true;
    shared_->changed.notify_all();
    done = shared_->changed.wait_for(
        lock, std::chrono::duration<double>(shared_->options.wait_s + shared_->options.give_up_s),
        [&] { return shared_->done; });
  }
  if (done) {
    shared_->thread.join();
  } else {
    shared_->thread.detach();
  }
  const std::lock_guard lock(shared_->gate);
  shared_->closed = true;
}

void HealthWatch::PollSoon() {
  const std::lock_guard lock(shared_->mutex);
  shared_->poll_soon = true;
  shared_->changed.notify_all();
}

double HealthWatch::SecondsSinceAnswer() const {
  return static_cast<double>(MonotonicNanoseconds() - shared_->answered_ns) / 1e9;
}

}  // namespace sublet
