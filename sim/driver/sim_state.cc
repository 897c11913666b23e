#include "sim_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/files.h"

namespace sublet::sim {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kStateBytesMax = 16 << 20;  // 64 GPUs with thousands of processes: 1 MiB.
constexpr std::string_view kVersion = "sublet.sim/v1";

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

Json InstanceToJson(const GpuInstance& instance) {
  Json compute = Json::array();
  for (const ComputeInstance& one : instance.compute_instances) {
    compute.push_back({{"id", one.id},
                       {"profile", one.profile_id},
                       {"start", one.placement.start},
                       {"size", one.placement.size}});
  }
  return {{"id", instance.id},
          {"profile", instance.profile_id},
          {"start", instance.placement.start},
          {"size", instance.placement.size},
          {"compute", std::move(compute)}};
}

GpuInstance InstanceFromJson(const Json& json) {
  GpuInstance instance;
  instance.id = json.at("id");
  instance.profile_id = json.at("profile");
  instance.placement = {json.at("start"), json.at("size")};
  for (const Json& one : json.at("compute")) {
    ComputeInstance compute;
    compute.id = one.at("id");
    compute.profile_id = one.at("profile");
    compute.placement = {one.at("start"), one.at("size")};
    instance.compute_instances.push_back(std::move(compute));
  }
  return instance;
}

std::string ToText(const SimState& state) {
  Json json{{"version", kVersion}, {"events_seen", state.events_seen}, {"faults", state.faults}};
  json["gpus"] = Json::array();
  for (const GpuState& gpu : state.gpus) {
    Json instances = Json::array();
    for (const GpuInstance& instance : gpu.instances) instances.push_back(InstanceToJson(instance));
    json["gpus"].push_back({{"mig", gpu.mig},
                            {"mig_pending", gpu.mig_pending},
                            {"lost", gpu.lost},
                            {"ecc_uncorrected", gpu.ecc_uncorrected},
                            {"remap_pending", gpu.remap_pending},
                            {"compute_mode", gpu.compute_mode},
                            {"instances", std::move(instances)}});
  }
  json["processes"] = Json::array();
  for (const ProcessState& process : state.processes) {
    json["processes"].push_back({{"pid", process.pid},
                                 {"started", process.started},
                                 {"gpu", process.gpu},
                                 {"gpu_instance", process.gpu_instance},
                                 {"compute_instance", process.compute_instance},
                                 {"memory_bytes", process.memory.count},
                                 {"type", static_cast<int>(process.type)}});
  }
  json["events"] = Json::array();
  for (const XidEvent& event : state.events) {
    json["events"].push_back({{"number", event.number},
                              {"gpu", event.gpu},
                              {"xid", event.xid},
                              {"gpu_instance", event.gpu_instance},
                              {"compute_instance", event.compute_instance}});
  }
  return json.dump(1) + "\n";
}

// Throws nlohmann's exceptions on anything that ToText() doesn't write.
SimState FromJson(const Json& json) {
  SimState state;
  state.events_seen = json.at("events_seen");
  state.faults = json.at("faults");
  for (const Json& one : json.at("gpus")) {
    GpuState gpu;
    gpu.mig = one.at("mig");
    gpu.mig_pending = one.at("mig_pending");
    gpu.lost = one.at("lost");
    gpu.ecc_uncorrected = one.value("ecc_uncorrected", 0);
    gpu.remap_pending = one.value("remap_pending", false);
    gpu.compute_mode = one.at("compute_mode");
    for (const Json& instance : one.at("instances")) {
      gpu.instances.push_back(InstanceFromJson(instance));
    }
    state.gpus.push_back(std::move(gpu));
  }
  for (const Json& one : json.at("processes")) {
    ProcessState process;
    process.pid = one.at("pid");
    process.started = one.at("started");
    process.gpu = one.at("gpu");
    process.gpu_instance = one.at("gpu_instance");
    process.compute_instance = one.at("compute_instance");
    process.memory = Bytes{one.at("memory_bytes").get<std::int64_t>()};
    process.type = static_cast<ProcessType>(one.at("type").get<int>());
    state.processes.push_back(process);
  }
  for (const Json& one : json.at("events")) {
    state.events.push_back({.number = one.at("number"),
                            .gpu = one.at("gpu"),
                            .xid = one.at("xid"),
                            .gpu_instance = one.at("gpu_instance"),
                            .compute_instance = one.at("compute_instance")});
  }
  return state;
}

Result<SimState> FromText(std::string_view text, const std::string& path, std::size_t gpus) {
  const auto broken = [&](std::string_view why) {
    return Fail(ErrorCode::kInvalid, fmt::format("state of the simulated driver {}: {}", path, why),
                "remove the file to start afresh");
  };
  try {
    const Json json = Json::parse(text);
    if (json.at("version") != kVersion) return broken("another version's");
    SimState state = FromJson(json);
    if (state.gpus.size() != gpus) return broken("another number of GPUs");
    return state;
  } catch (const Json::exception& error) {
    return broken(error.what());
  }
}

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

bool IsOpenToAll(const struct stat& folder) {
  constexpr unsigned kWritable = S_IWOTH | S_IXOTH;
  // In a sticky one nobody could replace another user's file.
  return (folder.st_mode & kWritable) == kWritable && (folder.st_mode & S_ISVTX) == 0;
}

Status MakeFolder(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return FailFromErrno(errno, fmt::format("making {}", folder));
  }
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("looking at {}", folder));
  }
  // The default folder lies in /tmp, where anybody could have put it first.
  const bool named = std::getenv("SUBLET_SIM_STATE") != nullptr;
  const bool ours = status.st_uid == ::geteuid() || (named && IsOpenToAll(status));
  if (!S_ISDIR(status.st_mode) || !ours) {
    return Fail(ErrorCode::kPermission, fmt::format("not a folder of this user: {}", folder),
                "name another one with SUBLET_SIM_STATE");
  }
  return {};
}

}  // namespace

// A new one is made under another name and comes to its own with the right mode: between an open
// that creates it, which heeds the umask, and a chmod, another user's process would be refused.
int OpenStateFile(const std::string& path, int flags) {
  struct stat folder {};
  const bool shared =
      ::stat(path.substr(0, path.rfind('/')).c_str(), &folder) == 0 && IsOpenToAll(folder);
  for (;;) {
    const int file = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW);
    if (file >= 0 || errno != ENOENT) return file;
    std::string fresh = path + ".XXXXXX";
    const Descriptor made(::mkostemp(fresh.data(), O_CLOEXEC));
    if (made.get() < 0) return -1;
    const bool linked = ::fchmod(made.get(), shared ? 0666 : 0600) == 0 &&
                        (::link(fresh.c_str(), path.c_str()) == 0 || errno == EEXIST);
    const int error = errno;
    ::unlink(fresh.c_str());
    errno = error;
    if (!linked) return -1;
  }
}

long long StartTimeOf(int pid) {
  const Result<std::string> stat = ReadFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!stat) return 0;
  // Field 2 is the name in parentheses, in which anything may stand; field 22 is the start time.
  std::size_t place = stat->rfind(')');
  if (place == std::string::npos || place + 2 >= stat->size()) return 0;
  if ((*stat)[place + 2] == 'Z') return 0;  // Dead, and not waited for yet.
  for (int field = 2; field < 22 && place != std::string::npos; ++field) {
    place = stat->find(' ', place + 1);
  }
  long long started = 0;
  if (place == std::string::npos) return 0;
  std::from_chars(stat->data() + place + 1, stat->data() + stat->size(), started);
  return started;
}

bool IsAlive(const ProcessState& process) {
  const long long started = StartTimeOf(process.pid);
  return started != 0 && started == process.started;
}

void PushEvent(SimState& state, XidEvent event) {
  event.number = ++state.events_seen;
  state.events.push_back(event);
  if (state.events.size() > kEventsMax) state.events.erase(state.events.begin());
}

SimState InitialState(const SimNode& node) {
  SimState state;
  for (const SimGpu& gpu : node.gpus) {
    GpuState one;
    one.mig = gpu.facts.mig_enabled;
    one.mig_pending = gpu.facts.mig_pending;
    one.compute_mode = static_cast<int>(gpu.facts.compute_mode.value_or(ComputeMode::kDefault));
    one.instances = gpu.facts.instances;
    state.gpus.push_back(std::move(one));
  }
  return state;
}

Result<std::unique_ptr<StateStore>> StateStore::Open(const std::string& folder,
                                                     const SimNode& node) {
  RETURN_IF_ERROR(MakeFolder(folder));
  std::unique_ptr<StateStore> store(
      new StateStore(fmt::format("{}/{}.json", folder, node.key), node));
  if (::access(store->path_.c_str(), F_OK) != 0) {
    const nvml::Return made =
        store->Update([](SimState&) { return nvml::kSuccess; });  // Writes the initial state.
    if (made != nvml::kSuccess) {
      return Fail(ErrorCode::kIo, fmt::format("can't write {}", store->path_));
    }
  }
  ASSIGN_OR_RETURN(const auto state, store->Read());
  return store;
}

Result<std::shared_ptr<const SimState>> StateStore::Read() {
  const std::lock_guard lock(mutex_);
  struct stat now {};
  if (::stat(path_.c_str(), &now) != 0) {
    if (errno == ENOENT) return std::make_shared<const SimState>(InitialState(node_));
    return FailFromErrno(errno, fmt::format("looking at {}", path_));
  }
  if (known_ != nullptr && SameFile(now, known_file_)) return known_;
  // A rename between stat() and open() only means that the next call reads once more.
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path_, kStateBytesMax));
  ASSIGN_OR_RETURN(SimState state, FromText(text, path_, node_.gpus.size()));
  known_ = std::make_shared<const SimState>(std::move(state));
  known_file_ = now;
  return known_;
}

nvml::Return StateStore::Update(const std::function<nvml::Return(SimState&)>& change) {
  const Descriptor lock(OpenStateFile(path_ + ".lock", O_RDWR));
  if (lock.get() < 0) return nvml::kUnknown;
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return nvml::kUnknown;
  }
  const Result<std::shared_ptr<const SimState>> before = Read();
  if (!before) return nvml::kUnknown;
  SimState state = **before;
  std::erase_if(state.processes, [](const ProcessState& process) { return !IsAlive(process); });
  const nvml::Return code = change(state);
  if (code != nvml::kSuccess) return code;
  return Write(state) ? nvml::kSuccess : nvml::kUnknown;
}

// REQUIRES: the lock. The new file's time is later than the old one's by at least a nanosecond, so
// that readers can tell them apart even where the inode is used again within the clock's tick.
Status StateStore::Write(const SimState& state) {
  struct stat before {};
  const bool had_one = ::stat(path_.c_str(), &before) == 0;
  const std::string fresh = path_ + ".new";
  const std::string text = ToText(state);
  const Descriptor file(OpenStateFile(fresh, O_WRONLY | O_TRUNC));
  if (file.get() < 0) return FailFromErrno(errno, fmt::format("writing {}", fresh));
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FailFromErrno(errno, fmt::format("writing {}", fresh));
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  struct stat after {};
  if (had_one && ::fstat(file.get(), &after) == 0) {
    timespec times[2] = {after.st_atim, after.st_mtim};
    const bool later = after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
                       (after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
                        after.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
    if (!later) {
      times[1] = before.st_mtim;
      if (++times[1].tv_nsec == 1'000'000'000) {
        times[1].tv_nsec = 0;
        ++times[1].tv_sec;
      }
      ::futimens(file.get(), times);
    }
  }
  if (::rename(fresh.c_str(), path_.c_str()) != 0) {
    return FailFromErrno(errno, fmt::format("renaming {}", fresh));
  }
  return {};
}

}  // namespace sublet::sim
