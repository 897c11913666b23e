// tests/bench/node_under_test.h
//
// A node daemon of its own on a simulated driver, for a benchmark: in folders that nobody else has,
// and gone with everything that it started when this goes.
//
//   const NodeUnderTest node("h200:8");
//   node.Post("/v1/shares", R"({"name": "bench", "mode": "exclusive"})");
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "http/http_client.h"

namespace sublet::bench {

class NodeUnderTest {
 public:
  // Returns once it serves. `simulation` as SUBLET_SIM has it.
  explicit NodeUnderTest(const std::string& simulation);
  ~NodeUnderTest();
  NodeUnderTest(const NodeUnderTest&) = delete;
  NodeUnderTest& operator=(const NodeUnderTest&) = delete;

  static std::string Program() { return SUBLET_BINARY_DIR "/bin/sublet"; }

  pid_t pid() const { return daemon_->pid(); }
  const std::string& socket() const { return socket_; }
  const std::string& simulation() const { return simulation_; }
  std::string simulation_state() const { return folder_ + "/sim"; }
  // Of a verb that is to speak with this node.
  ChildEnvironment Environment() const;

  // One request by a connection of its own; a refusal ends the program, with what it says.
  std::string Get(const std::string& target) const;
  // A value of /metrics that has no labels.
  double Metric(const std::string& name) const;
  // Waits until the node holds so many shares.
  void AwaitShares(std::size_t count) const;

 private:
  std::string simulation_;
  std::string folder_;
  std::string socket_;
  std::optional<ChildProcess> daemon_;
};

// What is printed of a set of times.
struct Spread {
  double p50 = 0;
  double p99 = 0;
  double p999 = 0;
  double max = 0;
};
Spread SpreadOf(std::vector<double> values);

// How one program ran: from before it was made until its end was seen.
struct ProgramRun {
  int status = -1;
  double wall_us = 0;
  double cpu_us = 0;  // Its own.
};
ProgramRun RunProgram(const std::vector<std::string>& argv,
                      const std::vector<std::string>& environment);

}  // namespace sublet::bench
