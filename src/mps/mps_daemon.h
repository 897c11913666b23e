// mps/mps_daemon.h
//
// An MPS control daemon of our own, for as long as its owner lives.
//
//   ASSIGN_OR_RETURN(auto mps, MpsDaemon::Start({.gpu_uuid = uuid}));
//   ... start clients with CUDA_MPS_PIPE_DIRECTORY=mps->pipe_directory() ...
//   ASSIGN_OR_RETURN(const std::vector<int> servers, mps->Servers());
//   RETURN_IF_ERROR(mps->Stop());              // Or let it go out of scope.
//
// It has a pipe directory of its own, so it neither sees nor disturbs another daemon; two of them
// work side by side on one GPU in the default compute mode, and take turns.
//
// What may surprise:
// - Limits that are set here hold for servers that start afterwards. A server starts with its first
//   client, or by StartServer().
// - A client whose environment names another folder, or a folder that it may not enter, silently
//   runs without MPS on the whole GPU. Clients() tells who has really come.
// - When this process is killed, the kernel sends the daemon SIGTERM, but its folder stays; the
//   next MpsDaemon of this user in the same parent folder removes it, and ends who is left there.
//
// Thread safety: one thread at a time, and the one that started it must outlive it
// (base/child_process.h).
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/child_process.h"
#include "base/result.h"
#include "mps/private_folder.h"

namespace sublet {

// The control program: SUBLET_MPS_CONTROL, else, when SUBLET_SIM is set, the simulated driver's at
// `program_folder`/../lib/sublet-sim, else NVIDIA's, to be looked up in PATH.
std::string FindMpsControl(const ChildEnvironment& environment, std::string_view program_folder);

struct MpsOptions {
  std::string gpu_uuid;      // Of the GPU or MIG instance that it serves.
  std::string program = {};  // Empty: FindMpsControl() for this process.
  // Where its folder is made. Its sockets' names may have 107 bytes, so it can't lie deep.
  std::string parent_folder = "/tmp";
  double start_timeout_s = 20;
  double answer_timeout_s = 10;
};

class MpsDaemon {
 public:
  // Returns once the daemon answers. Fails with kUnavailable where the program is missing, ends
  // (with what its log says) or doesn't answer in time; kUsage where the parent's path is too long.
  static Result<std::unique_ptr<MpsDaemon>> Start(const MpsOptions& options);

  MpsDaemon(const MpsDaemon&) = delete;
  MpsDaemon& operator=(const MpsDaemon&) = delete;
  ~MpsDaemon();

  // What clients need as CUDA_MPS_PIPE_DIRECTORY.
  const std::string& pipe_directory() const { return folder_.path(); }
  int pid() const { return daemon_.pid(); }

  // Gives the daemon one command and returns its answer without the last line's end. Fails with
  // kUnsupported where it doesn't know the command, kUnavailable where it doesn't answer. That it
  // refuses a command can only be read from the text.
  Result<std::string> Ask(std::string_view command);

  // Starts a server for this user without waiting for a client; returns its process.
  Result<int> StartServer();
  // Processes: the servers that run, and the clients of one.
  Result<std::vector<int>> Servers();
  Result<std::vector<int>> Clients(int server);
  // Of all servers.
  Result<std::set<int>> AllClients();
  Status TerminateClient(int server, int client);

  // Defaults for servers to come, read back: fails with kConflict where the daemon says something
  // else afterwards. Limits of 1 GiB and more are read back in whole GiB, as it tells no more.
  Status SetDefaultPinnedLimit(Bytes limit);
  Status SetDefaultActiveThreadPercentage(int percent);

  // Ends the daemon, its servers and who else uses its folder, and removes that. Fails with
  // kUnavailable where one doesn't end even when killed. Later calls do nothing.
  Status Stop();

 private:
  MpsDaemon(const MpsOptions& options, std::string program, PrivateFolder folder,
            ChildProcess daemon);
  static ChildEnvironment EnvironmentIn(const MpsOptions& options, const std::string& folder);

  struct Reply {
    std::string text;
    bool answered = false;  // By a daemon, and not by the program for want of one.
    bool busy = false;
  };
  Result<Reply> AskOnce(std::string_view command, double timeout_s);
  Status AwaitAnswer();
  // For messages: ": " and the last line of what the daemon logged or printed; empty without one.
  std::string LastWords() const;
  std::optional<ChildEnd> Pause(double seconds);

  const MpsOptions options_;
  const std::string program_;
  PrivateFolder folder_;
  ChildProcess daemon_;
  bool has_answered_ = false;  // Once it has, it can be told to quit.
  bool stopped_ = false;
};

}  // namespace sublet
