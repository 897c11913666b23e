// exe/node_place.h
//
// Where this user's node daemon lives: the socket that verbs talk to, and the folder of its state.
//
//   ASSIGN_OR_RETURN(const NodePlace place, FindNodePlace(flags.socket, Intent::kLook));
//   if (!place.note.empty()) fmt::print(stderr, "{}\n", place.note);
//   HttpClient::ConnectUnix(place.socket, 2)
//
// | who                    | socket                                   | state                  |
// |------------------------|------------------------------------------|------------------------|
// | the system's           | /run/sublet/sublet.sock                  | /var/lib/sublet        |
// | a user's own           | $XDG_RUNTIME_DIR/sublet/sublet.sock      | $XDG_STATE_HOME/sublet |
// | his, of a simulated    | .../sublet/sim-a100-80gb_1/sublet.sock   | .../sim-a100-80gb_1    |
// | node (SUBLET_SIM)      |                                          |                        |
//
// Without a runtime directory of this user it is /tmp/sublet-<uid>, without XDG_STATE_HOME
// ~/.local/state. Simulations are told apart by SUBLET_SIM and SUBLET_SIM_STATE, so that they never
// meet each other or a real GPU.
//
// A verb that only looks may be called without SUBLET_SIM after one that had it: where neither the
// system nor the user has a daemon, and one simulated node is up, that is it. A verb that would
// start something never lands there by itself: whoever means a real GPU shall not get a simulated
// one.
//
// Thread safety: no shared state.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "base/result.h"

namespace sublet {

struct NodePlace {
  std::string socket;      // Absolute.
  std::string state = {};  // Absolute; empty where only the socket was named.
  bool system = false;     // The service's: nobody starts it but the service manager.
  // What SUBLET_SIM and SUBLET_SIM_STATE say to the daemon there; empty: no simulation, or unknown.
  std::string simulation = {};
  std::string simulation_state = {};
  std::string note = {};  // What the user must be told of the choice; empty: nothing.
};

// kLook: ps, down, logs: what is there. kStart: run, up: a daemon will be started where none is.
enum class Intent { kLook, kStart };

// By the flag, else SUBLET_SOCKET, else as the table says, from the top. Makes nothing. Fails with
// kConflict where several simulated nodes could be meant, with kPermission where the folder in /tmp
// is another user's.
Result<NodePlace> FindNodePlace(const std::string& socket_flag, Intent intent);

// Where a daemon that begins now shall listen and keep its state: by the flags, else SUBLET_SOCKET,
// else `socket_of_config`, else the system's for root without SUBLET_SIM, else the user's own.
// Makes the socket's folder (0700; the system's 0755, since its socket says who may connect) and
// notes in it which node is simulated. The state's folder is the store's to make.
Result<NodePlace> PlaceOfDaemon(const std::string& socket_flag, const std::string& state_flag,
                                const std::string& socket_of_config);

// What the choice depends on; a test has its own.
struct PlaceSurroundings {
  std::function<std::optional<std::string>(const char* name)> environment;
  uid_t uid = 0;
  std::string system_socket = "/run/sublet/sublet.sock";
  std::string system_state = "/var/lib/sublet";
  std::string temporary = "/tmp";
  std::string home;
  // Whether a daemon listens at a socket.
  std::function<bool(const std::string& socket)> listens;
  // Whether the daemon there has anything to look after: a plan, shares, MIG instances.
  std::function<bool(const std::string& socket)> busy;

  static PlaceSurroundings Real();
};
Result<NodePlace> FindNodePlaceIn(const PlaceSurroundings& here, const std::string& socket_flag,
                                  Intent intent);
Result<NodePlace> PlaceOfDaemonIn(const PlaceSurroundings& here, const std::string& socket_flag,
                                  const std::string& state_flag,
                                  const std::string& socket_of_config);

}  // namespace sublet
