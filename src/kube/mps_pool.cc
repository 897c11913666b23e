#include "kube/mps_pool.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/crash_point.h"
#include "base/files.h"
#include "kube/mps_server.h"
#include "node/event_log.h"
#include "node/node_parts.h"
#include "node/share_search.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every machine and in every version.
std::uint64_t StableHash(std::string_view text, std::uint64_t hash = 0xcbf29ce484222325u) {
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

std::string ServerName(const std::string& device, const std::string& tenant) {
  if (tenant.empty()) return device;
  return fmt::format("{}.{:08x}", device, static_cast<std::uint32_t>(StableHash(tenant)));
}

bool SameFolder(const std::string& a, const std::string& b) {
  struct stat one {};
  struct stat other {};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &other) == 0 &&
         one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

}  // namespace

std::string ClaimName(std::string_view resource, std::vector<std::string> ids) {
  std::ranges::sort(ids);
  std::uint64_t hash = StableHash(resource);
  for (const std::string& id : ids) hash = StableHash(id, StableHash("\n", hash));
  return fmt::format("{:016x}", hash);
}

std::string MpsRootHere(const std::string& mps_root) {
  constexpr const char* kMounted = "/mps";
  std::error_code ignored;
  const bool mounted = !fs::exists(mps_root, ignored) && fs::is_directory(kMounted, ignored);
  return mounted ? kMounted : mps_root;
}

// What the keepers of servers work with: a node of their own, which has nothing but domains.
struct MpsPool::Parts {
  Parts(asio::io_context& loop, asio::thread_pool& threads, NodeStore opened, NodeSettings set)
      : store(std::move(opened)),
        settings(std::move(set)),
        events(loop, store),
        search(std::make_shared<ShareSearch>(loop, threads, settings.state)),
        node{loop, threads, store, events, counters, settings, *search} {}

  NodeStore store;
  NodeSettings settings;
  EventLog events;
  NodeCounters counters;
  std::shared_ptr<ShareSearch> search;
  NodeParts node;
  std::optional<MpsServerHome> home;
  // What the last program left, by server's name; without a row there was no control daemon yet.
  std::map<std::string, std::optional<DomainRow>> found;
};

MpsPool::MpsPool(asio::io_context& loop, MpsPoolOptions options, std::function<void()> changed)
    : loop_(loop), options_(std::move(options)), changed_(std::move(changed)) {}

MpsPool::~MpsPool() {
  for (const auto& [name, server] : servers_) server->LetGo();
}

Result<std::shared_ptr<MpsPool>> MpsPool::Open(asio::io_context& loop, asio::thread_pool& threads,
                                               MpsPoolOptions options,
                                               std::function<void()> changed) {
  std::error_code made;
  fs::create_directories(options.root, made);
  if (made) {
    return FailFromErrno(made.value(), fmt::format("making the MPS root {}", options.root));
  }
  std::shared_ptr<MpsPool> pool(new MpsPool(loop, std::move(options), std::move(changed)));
  const std::string& root = pool->options_.root;
  for (const char* folder : {"", "/servers", "/claims"}) {
    RETURN_IF_ERROR(MakePassage(root + folder));
  }
  NodeSettings settings;
  settings.state = root + "/state";
  settings.run = root;
  settings.program = pool->options_.program;
  settings.nvml = pool->options_.nvml;
  settings.libraries = pool->options_.libraries;
  ASSIGN_OR_RETURN(NodeStore store, NodeStore::Open(settings.state));
  pool->parts_ = std::make_unique<Parts>(loop, threads, std::move(store), std::move(settings));
  pool->parts_->home.emplace(MpsServerHome{pool->parts_->node, pool->options_, pool->changed_,
                                           [gone = pool.get()](const std::string& name) {
                                             gone->servers_.erase(name);
                                             gone->changed_();
                                           }});
  RETURN_IF_ERROR(pool->ReadWhatIsThere());
  return pool;
}

Status MpsPool::ReadWhatIsThere() {
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(options_.root + "/servers", error)) {
    parts_->found[entry.path().filename().string()] = std::nullopt;
  }
  ASSIGN_OR_RETURN(const NodeRecord record, parts_->store.LoadAll());
  for (const DomainRow& row : record.domains) parts_->found[row.domain.name] = row;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(options_.root + "/claims", error)) {
    std::error_code unreadable;
    const fs::path target = fs::read_symlink(entry.path(), unreadable);
    if (unreadable) continue;
    claims_[entry.path().filename().string()] = {target.filename().string(), Clock()};
  }
  return {};
}

std::shared_ptr<MpsServer> MpsPool::Add(const std::string& name, const std::string& tenant) {
  const auto known = servers_.find(name);
  if (known != servers_.end()) return known->second;
  auto server = std::make_shared<MpsServer>(*parts_->home, name, tenant);
  servers_.emplace(name, server);
  std::optional<DomainRow> row;
  if (auto found = parts_->found.extract(name); !found.empty()) row = std::move(found.mapped());
  Sort(*server);  // Before it begins, which ends a server that isn't wanted.
  server->Begin(std::move(row));
  return server;
}

// Whether a server is one of those that are wanted.
void MpsPool::Sort(MpsServer& server) {
  const auto want = wants_.find(server.device());
  if (want != wants_.end() && want->second.per_tenant == !server.tenant().empty()) {
    server.Want(want->second);
  } else {
    server.Unwant();
  }
}

void MpsPool::Want(const std::vector<MpsWant>& wants) {
  wants_.clear();
  for (const MpsWant& want : wants) wants_.emplace(want.device, want);
  for (const auto& [name, row] : std::map(parts_->found)) {
    Add(name, row ? row->domain.tenant : std::string());
  }
  for (const auto& [device, want] : wants_) {
    if (!want.per_tenant) Add(device, "");
  }
  for (const auto& [name, server] : std::map(servers_)) Sort(*server);
}

std::string MpsPool::Obstacle(std::string_view device) const {
  const auto want = wants_.find(device);
  const bool shared = want != wants_.end() && !want->second.per_tenant;
  bool has_server = false;
  for (const auto& [name, server] : servers_) {
    if (server->device() != device) continue;
    has_server = true;
    // A tenant's trouble is the tenant's, and so is that its server ends; one of the wrong kind,
    // which has to go, is everybody's.
    if (want != wants_.end() && !shared && !server->tenant().empty()) continue;
    if (std::string obstacle = server->Obstacle(); !obstacle.empty()) return obstacle;
  }
  return shared && !has_server ? "its MPS server hasn't started yet" : "";
}

std::string MpsPool::ShmOnHost() const {
  constexpr const char* kShm = "/dev/shm";
  return SameFolder(kShm, options_.root + "/shm") ? options_.host_root + "/shm" : kShm;
}

std::optional<MpsServerFolder> MpsPool::FolderOf(std::string_view device, std::string_view resource,
                                                 const std::string& claim) const {
  const auto found = wants_.find(device);
  if (found == wants_.end()) return std::nullopt;
  const MpsWant& want = found->second;
  MpsServerFolder folder;
  folder.host_directory = want.per_tenant
                              ? fmt::format("{}/claims/{}", options_.host_root, claim)
                              : fmt::format("{}/servers/{}", options_.host_root, want.device);
  folder.host_pipe_directory = folder.host_directory + "/pipe";
  folder.container_directory = fmt::format("/mps/{}", resource);
  folder.container_pipe_directory = folder.container_directory + "/pipe";
  folder.host_shm_directory = ShmOnHost();
  folder.devices = {want.device};
  folder.default_limit.memory = want.wall.memory.value_or(want.memory);
  folder.default_limit.sm_percent = want.wall.sm_percent.value_or(100);
  if (want.per_tenant) folder.tenant = claim;
  return folder;
}

Task<Status> MpsPool::Claim(std::string claim, std::string device, std::string tenant) {
  const auto self = shared_from_this();
  const auto want = wants_.find(device);
  if (want == wants_.end() || !want->second.per_tenant) {
    co_return Fail(ErrorCode::kConflict,
                   fmt::format("device {} has no MPS servers of tenants any more", device),
                   "the configuration was changed; delete the pod, so that it is admitted anew");
  }
  if (const std::string obstacle = Obstacle(device); !obstacle.empty()) {
    co_return Fail(ErrorCode::kUnavailable, fmt::format("device {}: {}", device, obstacle));
  }
  const std::string name = ServerName(device, tenant);
  claims_[claim] = {name, Clock()};
  const std::shared_ptr<MpsServer> server = Add(name, tenant);
  Sort(*server);
  const Status ready = co_await server->AwaitReady();
  if (!ready) co_return ready;
  const std::string link = fmt::format("{}/claims/{}", options_.root, claim);
  const std::string early = link + "~";
  ::unlink(early.c_str());
  const std::string target = fmt::format("../servers/{}", name);
  if (::symlink(target.c_str(), early.c_str()) != 0) {
    co_return FailFromErrno(errno, fmt::format("making {}", early));
  }
  CrashPoint("mps-claim-begun");
  if (::rename(early.c_str(), link.c_str()) != 0) {
    co_return FailFromErrno(errno, fmt::format("making {}", link));
  }
  co_return Status();
}

void MpsPool::KeepClaims(const std::set<std::string>& claims) {
  std::set<std::string> used;
  for (auto it = claims_.begin(); it != claims_.end();) {
    if (claims.contains(it->first) || SecondsSince(it->second.since) < options_.claim_grace_s) {
      used.insert(it->second.server);
      ++it;
      continue;
    }
    ::unlink(fmt::format("{}/claims/{}", options_.root, it->first).c_str());
    it = claims_.erase(it);
  }
  for (const auto& [name, server] : std::map(servers_)) {
    if (server->tenant().empty()) continue;
    if (used.contains(name)) {
      Sort(*server);
    } else {
      server->Unwant();
    }
  }
}

Task<Status> MpsPool::EndAll() {
  const auto self = shared_from_this();
  Want({});
  const auto servers = servers_;
  for (const auto& [name, server] : servers) server->EndNow();
  for (const auto& [name, server] : servers) co_await server->AwaitGone();
  Status removed;
  for (const char* folder : {"/claims", "/servers"}) {
    std::error_code error;
    fs::remove_all(options_.root + folder, error);
    if (error && removed) removed = FailFromErrno(error.value(), options_.root + folder);
  }
  co_return removed;
}

std::map<std::string, std::string, std::less<>> MpsPool::Claims() const {
  std::map<std::string, std::string, std::less<>> servers;
  for (const auto& [claim, made] : claims_) servers.emplace(claim, made.server);
  return servers;
}

std::vector<DomainStatus> MpsPool::Servers() const {
  std::vector<DomainStatus> states;
  for (const auto& [name, server] : servers_) {
    if (auto now = server->Now()) states.push_back(std::move(*now));
  }
  return states;
}

Task<Status> EndMpsServers(asio::io_context& loop, asio::thread_pool& threads,
                           MpsPoolOptions options) {
  const std::string state = options.root + "/state";
  auto opened = MpsPool::Open(loop, threads, std::move(options), [] {});
  if (!opened) co_return tl::unexpected<Error>(std::move(opened).error());
  std::shared_ptr<MpsPool> pool = std::move(*opened);
  const Status ended = co_await pool->EndAll();
  pool.reset();
  if (!ended) co_return ended;
  std::error_code error;
  fs::remove_all(state, error);
  if (error) co_return FailFromErrno(error.value(), fmt::format("removing {}", state));
  co_return Status();
}

}  // namespace sublet
