// sim/driver/mps_client.h
//
// How a simulated CUDA process becomes the client of an MPS server: what it reads from its
// environment, and what it asks of the control daemon.
//
//   MpsJoining joining;
//   switch (JoinMps(0, 1, joining)) { case MpsAnswer::kJoined: use(joining.grant) ...
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

// `device` of `devices` visible ones. Limits that the environment sets apply to that device.
MpsAnswer JoinMps(CardHost& host, int device, int devices, MpsJoining& joining);
void LeaveMps(std::optional<MpsGrant>& grant);

}  // namespace sublet::sim
