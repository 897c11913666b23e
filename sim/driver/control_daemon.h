// sim/driver/control_daemon.h
//
// The simulated MPS control daemon: its servers, their clients, and the commands it answers
// (README.md lists them).
//
//   ASSIGN_OR_RETURN(auto daemon, ControlDaemon::Open(pipe_directory, log_directory, program));
//   daemon->Serve();     // until told to quit, or a signal that was blocked before comes
//
// A server is a process that does nothing, so that it has a number, memory and an end of its own;
// its clients share the card because they share its group in the CardTable. One server serves all
// clients, since the simulated node's state belongs to one user anyway.
//
// Thread safety: one thread.
#pragma once

#include <poll.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "card_host.h"
#include "driver.h"
#include "visible_devices.h"

namespace sublet::sim {

inline constexpr int kMpsClientsMax = 48;  // Measured, driver 580; the next one gets error 46.
// What nvidia-cuda-mps-server holds on a GPU from its first client there on.
inline constexpr Bytes kMpsServerMemory = Bytes::FromMib(74);

class ControlDaemon {
 public:
  // Takes the pipe directory, which it makes where it is missing. `program` is what is started as
  // a server. Fails with kConflict where another daemon has the directory.
  static Result<std::unique_ptr<ControlDaemon>> Open(const std::string& pipe_directory,
                                                     const std::string& log_directory,
                                                     const std::string& program);
  ~ControlDaemon();
  ControlDaemon(const ControlDaemon&) = delete;
  ControlDaemon& operator=(const ControlDaemon&) = delete;

  Status Serve();

 private:
  // Limits that a server is started with.
  struct Defaults {
    double sm_percent = 100;
    std::map<int, Bytes> memory;  // By the daemon's device numbers.
  };
  struct Server {
    int pid = 0;
    int index = 0;  // In CardTable::servers.
    Defaults limits;
    bool ending = false;  // Once its clients are gone.
  };
  struct Client {
    int socket = -1;
    int pid = 0;
    int number = 0;  // Counted from 0 by the server.
    int server_pid = 0;
    int device = 0;
  };

  ControlDaemon(std::string folder, std::string logs, std::string program);
  Status Prepare();
  Status EnterTable();
  void Log(const char* file, const char* who, std::string_view text) const;

  void Wait(std::vector<pollfd>& sockets);
  void Accept(int listener);
  std::string Answer(const std::vector<std::string>& words);
  std::string AnswerAboutServer(const std::string& verb, const std::vector<std::string>& words);
  std::string SetDefault(const std::string& verb, const std::vector<std::string>& words);
  std::string Ps(const std::vector<std::string>& words) const;
  std::string QuitBy(const std::vector<std::string>& words);

  Server* StartServer();
  Server* FindServer(int pid);
  void EndServer(Server& server);
  void ServersThatEnded();
  bool TakeMemory(const Server& server, int device);
  // The line that is the answer; the socket is kept where the client has joined.
  std::string Join(int socket, const std::vector<std::string>& words);
  int ClientsOf(int server_pid) const;
  void Leave(std::size_t client);
  bool Terminate(int server_pid, int client_pid);

  const std::string folder_;
  const std::string logs_;
  const std::string program_;
  std::unique_ptr<Driver> driver_;
  std::unique_ptr<CardHost> host_;
  std::vector<SimDevice> devices_;
  int entry_ = -1;  // Into CardTable::daemons.
  int lock_ = -1;
  int control_ = -1;
  int privileged_ = -1;
  int signals_ = -1;
  Defaults defaults_;
  std::vector<Server> servers_;
  std::vector<Client> clients_;
  int next_number_ = 0;
  bool quitting_ = false;
  std::optional<std::int64_t> quit_by_ms_;
  bool done_ = false;
};

}  // namespace sublet::sim
