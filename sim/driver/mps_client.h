// sim/driver/mps_client.h
//
// How a simulated CUDA process becomes the client of an MPS server: what it reads from its
// environment, and what it asks of the control daemon.
//
//   MpsJoining joining;
//   const MpsAnswer answer = JoinMps(host, devices, 0, joining);
//   if (answer == MpsAnswer::kJoined) Use(joining.grant);
//
// As with the real driver, a process whose pipe directory it can't enter, or where no daemon is,
// becomes nobody's client and has the whole GPU.
//
// Thread safety: no shared state.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "card_host.h"
#include "visible_devices.h"

namespace sublet::sim {

// A client's place on an MPS server; it holds as long as `connection` is open.
struct MpsGrant {
  int connection = -1;
  int server = 0;  // Index into CardTable::servers.
  int server_pid = 0;
  double sm_percent = 100;
  std::optional<Bytes> memory_limit;
};

enum class MpsAnswer { kNoServer, kJoined, kRefused };

struct MpsJoining {
  MpsGrant grant;  // kJoined
  int code = 0;    // kRefused: CUDA's.
};

// For `device` of the visible ones.
MpsAnswer JoinMps(CardHost& host, const std::vector<SimDevice>& devices, int device,
                  MpsJoining& joining);
void LeaveMps(std::optional<MpsGrant>& grant);

// The limits that hold for a client: the server's, and those that it sets itself, of which the
// smaller holds. An SM percentage that is none is ignored. As observed on a real driver, a list of
// memory limits that is wrong or names a device that isn't there drops all limits, the server's
// too. `uuids` are those of the devices that the client sees, `device` the place of its own there.
void ApplyClientLimits(const char* percent, const char* limits,
                       const std::vector<std::string>& uuids, int device, MpsGrant& grant);

}  // namespace sublet::sim
