#include "exe/node_place.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/files.h"
#include "base/user.h"
#include "http/http_client.h"
#include "http/unix_socket.h"
#include "model/node_status.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSocketName = "/sublet.sock";
constexpr std::string_view kSimulationFile = "/simulation";
constexpr std::string_view kSimulationPrefix = "sim-";
constexpr std::size_t kSimulationBytesMax = 16384;  // Two paths of PATH_MAX, escaped.
// A daemon answers in milliseconds; one that doesn't is none to look at.
constexpr double kLookSeconds = 2;
// Of the readable part: a socket's path has 107 bytes, and MPS's sockets lie deeper.
constexpr std::size_t kReadableMax = 24;

std::string Variable(const PlaceSurroundings& here, const char* name) {
  return here.environment(name).value_or("");
}

// A short name for a text, the same for every program that asks (FNV-1a, 32 bits).
std::string ShortHash(std::string_view text) {
  std::uint32_t hash = 2166136261u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return fmt::format("{:08x}", hash);
}

bool IsPlain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
}

// "a100-80gb:1" → "sim-a100-80gb_1". Where letters get lost, or a state was named, a hash of the
// whole keeps different simulations apart.
std::string SimulationFolder(const std::string& simulation, const std::string& state) {
  std::string readable = simulation;
  bool exact = state.empty() && simulation.size() <= kReadableMax;
  for (char& c : readable) {
    if (IsPlain(c)) continue;
    exact = exact && c == ':';
    c = '_';
  }
  if (readable.size() > kReadableMax) readable = readable.substr(readable.size() - kReadableMax);
  std::string folder = fmt::format("{}{}", kSimulationPrefix, readable);
  if (!exact) folder += fmt::format("-{}", ShortHash(fmt::format("{}\n{}", simulation, state)));
  return folder;
}

// A preset stays as it is; the path of a node file is the same wherever one stands.
std::string AbsoluteIfFile(const std::string& simulation) {
  if (simulation.find('/') == std::string::npos && !simulation.ends_with(".json")) {
    return simulation;
  }
  return fs::absolute(simulation).lexically_normal().string();
}

std::string Absolute(const std::string& path) {
  return fs::absolute(path).lexically_normal().string();
}

// Whether the folder is this user's and closed to others; nothing where there is none.
std::optional<bool> IsOwnFolder(const PlaceSurroundings& here, const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return std::nullopt;
  return S_ISDIR(status.st_mode) && status.st_uid == here.uid && (status.st_mode & 0077) == 0;
}

// The folder of this user's sockets. XDG_RUNTIME_DIR is often somebody else's after a `sudo`.
Result<std::string> RuntimeFolder(const PlaceSurroundings& here) {
  const std::string runtime = Variable(here, "XDG_RUNTIME_DIR");
  struct stat status {};
  if (runtime.starts_with('/') && ::stat(runtime.c_str(), &status) == 0 &&
      S_ISDIR(status.st_mode) && status.st_uid == here.uid) {
    return fmt::format("{}/sublet", runtime);
  }
  const std::string folder = fmt::format("{}/sublet-{}", here.temporary, here.uid);
  if (!IsOwnFolder(here, folder).value_or(true)) {
    return Fail(ErrorCode::kPermission, fmt::format("not a folder of this user alone: {}", folder),
                "somebody else may have made it; set XDG_RUNTIME_DIR to a folder of your own");
  }
  return folder;
}

std::string StateFolder(const PlaceSurroundings& here) {
  const std::string state = Variable(here, "XDG_STATE_HOME");
  if (state.starts_with('/')) return fmt::format("{}/sublet", state);
  return fmt::format("{}/.local/state/sublet", here.home);
}

// The user's own place: of the simulated node that the environment names, else of the real one.
Result<NodePlace> OwnPlace(const PlaceSurroundings& here) {
  ASSIGN_OR_RETURN(const std::string runtime, RuntimeFolder(here));
  NodePlace place;
  place.simulation = AbsoluteIfFile(Variable(here, "SUBLET_SIM"));
  std::string below;
  if (!place.simulation.empty()) {
    const std::string state = Variable(here, "SUBLET_SIM_STATE");
    if (!state.empty()) place.simulation_state = Absolute(state);
    below = fmt::format("/{}", SimulationFolder(place.simulation, place.simulation_state));
  }
  place.socket = fmt::format("{}{}{}", runtime, below, kSocketName);
  place.state = fmt::format("{}{}", StateFolder(here), below);
  return place;
}

std::string FolderOfSocket(const NodePlace& place) {
  return place.socket.substr(0, place.socket.rfind('/'));
}

// Which node is simulated behind a socket, as its daemon noted it.
void ReadSimulation(NodePlace& place) {
  const Result<std::string> text =
      ReadFile(fmt::format("{}{}", FolderOfSocket(place), kSimulationFile), kSimulationBytesMax);
  if (!text) return;
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object()) return;
  for (const auto& [key, field] :
       {std::pair{"simulation", &place.simulation}, std::pair{"state", &place.simulation_state}}) {
    const auto value = json.find(key);
    if (value != json.end() && value->is_string()) *field = value->get<std::string>();
  }
}

Status NoteSimulation(const NodePlace& place) {
  const nlohmann::json json = {{"simulation", place.simulation}, {"state", place.simulation_state}};
  return WriteFileAtomically(fmt::format("{}{}", FolderOfSocket(place), kSimulationFile),
                             json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                             0600);
}

// The simulated nodes of this user whose daemons answer, in the order of their names.
std::vector<NodePlace> RunningSimulations(const PlaceSurroundings& here,
                                          const std::string& runtime) {
  std::vector<NodePlace> found;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(runtime, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kSimulationPrefix)) continue;
    NodePlace place;
    place.socket = fmt::format("{}{}", entry.path().string(), kSocketName);
    place.state = fmt::format("{}/{}", StateFolder(here), name);
    place.simulation = name;
    ReadSimulation(place);
    if (here.listens(place.socket)) found.push_back(std::move(place));
  }
  std::sort(found.begin(), found.end(),
            [](const NodePlace& a, const NodePlace& b) { return a.socket < b.socket; });
  return found;
}

// How a user names a simulation to a verb.
std::string InWords(const NodePlace& place) {
  if (place.simulation_state.empty()) return fmt::format("SUBLET_SIM={}", place.simulation);
  return fmt::format("SUBLET_SIM={} SUBLET_SIM_STATE={}", place.simulation, place.simulation_state);
}

// The simulated node that is meant where none was named; absent where none is up.
Result<std::optional<NodePlace>> MeantSimulation(const PlaceSurroundings& here,
                                                 const std::string& runtime) {
  std::vector<NodePlace> running = RunningSimulations(here, runtime);
  // A daemon lives on for a while after its last work. Such a one isn't meant beside one at work.
  if (running.size() > 1) {
    std::vector<NodePlace> busy;
    for (const NodePlace& place : running) {
      if (here.busy(place.socket)) busy.push_back(place);
    }
    if (!busy.empty()) running = std::move(busy);
  }
  if (running.size() > 1) {
    std::vector<std::string> names;
    for (const NodePlace& place : running) names.push_back(InWords(place));
    return Fail(ErrorCode::kConflict,
                fmt::format("several simulated nodes are up: {}", fmt::join(names, ", ")),
                fmt::format("put the one that you mean in front: {} sublet ...", names.front()));
  }
  std::optional<NodePlace> meant;
  if (!running.empty()) {
    meant = std::move(running.front());
    meant->note = fmt::format("using the simulated node {}", meant->simulation);
  }
  return meant;
}

Status MakeSocketFolder(const PlaceSurroundings& here, const std::string& folder, bool system) {
  const mode_t mode = system ? 0755 : 0700;
  for (std::size_t end = folder.find('/', 1);; end = folder.find('/', end + 1)) {
    const std::string part = folder.substr(0, end);
    if (::mkdir(part.c_str(), mode) == 0) {
      // The umask has taken from it.
      if (::chmod(part.c_str(), mode) != 0) return FailFromErrno(errno, "opening " + part);
    } else if (errno != EEXIST) {
      return FailFromErrno(errno, "making the folder " + part);
    }
    if (end == std::string::npos) break;
  }
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0) return FailFromErrno(errno, folder);
  // Whoever may write there could put a socket of his own in this one's place.
  const bool safe = status.st_uid == here.uid && (status.st_mode & 0022) == 0;
  if (S_ISDIR(status.st_mode) && (safe || (status.st_mode & S_ISVTX) != 0)) return {};
  return Fail(ErrorCode::kPermission,
              fmt::format("others than its user may change the socket's folder: {}", folder),
              fmt::format("chmod go-w {}, or name another socket with --socket", folder));
}

// Whether the service's socket is there; a note where it is and this user may not use it.
bool SystemSocketUsable(const PlaceSurroundings& here, std::string& note) {
  struct stat status {};
  if (::stat(here.system_socket.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  if (::access(here.system_socket.c_str(), R_OK | W_OK) == 0) return true;
  note = fmt::format("the system's node daemon isn't open to you ({}); using one of your own",
                     here.system_socket);
  return false;
}

}  // namespace

Result<NodePlace> FindNodePlaceIn(const PlaceSurroundings& here, const std::string& socket_flag,
                                  Intent intent) {
  const std::string named = socket_flag.empty() ? Variable(here, "SUBLET_SOCKET") : socket_flag;
  if (!named.empty()) {
    NodePlace place{.socket = Absolute(named)};
    place.system = place.socket == here.system_socket;
    ReadSimulation(place);
    return place;
  }
  const bool simulated = !Variable(here, "SUBLET_SIM").empty();
  std::string note;
  if (!simulated && SystemSocketUsable(here, note)) {
    return NodePlace{.socket = here.system_socket, .state = here.system_state, .system = true};
  }
  ASSIGN_OR_RETURN(NodePlace own, OwnPlace(here));
  own.note = note;
  if (simulated || intent == Intent::kStart || here.listens(own.socket)) return own;
  ASSIGN_OR_RETURN(std::optional<NodePlace> meant, MeantSimulation(here, FolderOfSocket(own)));
  return meant ? *std::move(meant) : own;
}

Result<NodePlace> PlaceOfDaemonIn(const PlaceSurroundings& here, const std::string& socket_flag,
                                  const std::string& state_flag,
                                  const std::string& socket_of_config) {
  NodePlace place;
  if (here.uid == 0 && Variable(here, "SUBLET_SIM").empty()) {
    place = {.socket = here.system_socket, .state = here.system_state};
  } else {
    ASSIGN_OR_RETURN(place, OwnPlace(here));
  }
  for (const std::string& named :
       {socket_flag, Variable(here, "SUBLET_SOCKET"), socket_of_config}) {
    if (named.empty()) continue;
    place.socket = Absolute(named);
    break;
  }
  if (!state_flag.empty()) place.state = Absolute(state_flag);
  place.system = place.socket == here.system_socket;
  RETURN_IF_ERROR(MakeSocketFolder(here, FolderOfSocket(place), place.system));
  if (!place.simulation.empty()) RETURN_IF_ERROR(NoteSimulation(place));
  return place;
}

PlaceSurroundings PlaceSurroundings::Real() {
  PlaceSurroundings here;
  here.environment = [](const char* name) -> std::optional<std::string> {
    const char* const value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  };
  here.uid = ::geteuid();
  const std::optional<std::string> home = here.environment("HOME");
  here.home = home && home->starts_with('/') ? *home : HomeFolder(here.uid);
  here.listens = [](const std::string& socket) {
    return ConnectToUnixSocket(socket, Deadline::In(kLookSeconds)).has_value();
  };
  here.busy = [](const std::string& socket) {
    Result<HttpClient> client = HttpClient::ConnectUnix(socket, kLookSeconds);
    if (!client) return false;
    const auto answer = client->Send({.target = "/v1/status", .timeout_s = kLookSeconds});
    if (!answer) return false;
    const Result<NodeStatus> status = ParseNodeStatus(answer->body, socket);
    if (!status) return false;
    return !status->plan.empty() || !status->shares.empty() || !status->operation.empty() ||
           std::any_of(status->gpus.begin(), status->gpus.end(),
                       [](const GpuStatus& gpu) { return gpu.mig; });
  };
  return here;
}

Result<NodePlace> FindNodePlace(const std::string& socket_flag, Intent intent) {
  return FindNodePlaceIn(PlaceSurroundings::Real(), socket_flag, intent);
}

Result<NodePlace> PlaceOfDaemon(const std::string& socket_flag, const std::string& state_flag,
                                const std::string& socket_of_config) {
  return PlaceOfDaemonIn(PlaceSurroundings::Real(), socket_flag, state_flag, socket_of_config);
}

}  // namespace sublet
