// sim/driver/control_daemon.h
//
// The simulated MPS control daemon: its servers, their clients, and the commands it answers
// (README.md lists them).
//
//   ASSIGN_OR_RETURN(auto daemon, ControlDaemon::Open(pipe_directory, MpsLog(""), program));
//   daemon->Serve();     // until told to quit, or a signal that was blocked before comes
//
// A server is a process that does nothing, so that it has a number, memory and an end of its own;
// its clients share the card because they share its group in the CardTable. One server serves all
// clients. It runs as the daemon's user, and clients of other users are refused, unless the daemon
// is root's.
//
// A fault on the card is met by whichever process moves the clock. The daemon looks for it in the
// shared table, while it has clients, every kLookMs.
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
#include "mps_log.h"
#include "visible_devices.h"

namespace sublet::sim {

inline constexpr int kMpsClientsMax = 48;  // Observed, driver 580; the next one gets error 808.
inline constexpr int kLookMs = 20;         // As long as a real driver's event of a fault takes.
// What nvidia-cuda-mps-server holds on a GPU from its first client there on.
inline constexpr Bytes kMpsServerMemory = Bytes::FromMib(74);

class ControlDaemon {
 public:
  // Takes the pipe directory, which it makes where it is missing. `program` is what is started as
  // a server. Fails with kConflict where another daemon has the directory.
  static Result<std::unique_ptr<ControlDaemon>> Open(const std::string& pipe_directory, MpsLog log,
                                                     const std::string& program);
  ~ControlDaemon();
  ControlDaemon(const ControlDaemon&) = delete;
  ControlDaemon& operator=(const ControlDaemon&) = delete;

  Status Serve();

 private:
  // Limits that a server is started with.
  struct Defaults {
    double sm_percent = 100;
    std::map<std::string, Bytes> memory;  // By device: a number, or a whole UUID.
  };
  struct Server {
    int pid = 0;
    int index = 0;  // In CardTable::servers.
    Defaults limits;
    bool ending = false;   // Once its clients are gone.
    bool faulted = false;  // Until the clients that were lost are gone; it takes none meanwhile.
  };
  struct Client {
    int socket = -1;
    int pid = 0;
    int number = 0;  // Counted from 0 by the server.
    int server_pid = 0;
    int device = 0;     // Of devices_.
    bool lost = false;  // By a fault.
  };
  // A client as it asks to be one.
  struct Request {
    int pid = 0;
    std::string device;  // UUID
    int index = 0;       // Of the device, by the client's own count.
    unsigned uid = 0;
  };

  ControlDaemon(std::string folder, MpsLog log, std::string program);
  Status Prepare();
  Status EnterTable();

  void Wait(std::vector<pollfd>& sockets);
  void Accept(int listener);
  std::string Answer(const std::vector<std::string>& words);
  std::string AnswerAboutServer(const std::string& verb, const std::vector<std::string>& words);
  std::string SetDefault(const std::string& verb, const std::vector<std::string>& words);
  std::string Ps(const std::vector<std::string>& words) const;
  void SetMemory(Defaults& defaults, const std::string& device, Bytes limit) const;
  std::string MemoryOf(const Defaults& defaults, const std::string& device) const;
  std::string WholeUuid(const std::string& device) const;
  std::string QuitBy(const std::vector<std::string>& words);
  void EndQuitting();

  Server* StartServer(unsigned uid);
  void LogServerStart(const Server& server, unsigned uid) const;
  Server* FindServer(int pid);
  void EndServer(Server& server);
  void ServersThatEnded();
  bool TakeMemory(const Server& server, int device);
  // The line that is the answer; the socket is kept where the client has joined.
  std::string Join(int socket, const Request& request);
  int RefusalOf(const Request& request);
  int RefusalBy(const Server& server, const Request& request) const;
  void LogJoin(const Client& client) const;
  int ClientsOf(int server_pid) const;
  void Leave(std::size_t client);
  bool Terminate(int server_pid, int client_pid);

  void LookForFaults();
  void TellFault(Server& server, int code);
  static std::int64_t NowMs();
  std::string DeviceName(int device) const;

  const std::string folder_;
  const MpsLog log_;
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
  std::vector<int> held_;  // Sockets of those who asked something while it waits for its clients.
  bool done_ = false;
};

}  // namespace sublet::sim
