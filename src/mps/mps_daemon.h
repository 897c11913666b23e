// mps/mps_daemon.h
//
// An MPS control daemon of our own: for as long as its owner lives, or for longer.
//
//   ASSIGN_OR_RETURN(auto mps, MpsDaemon::Start({.gpu_uuid = uuid}));
//   ... start clients with CUDA_MPS_PIPE_DIRECTORY=mps->pipe_directory() ...
//   ASSIGN_OR_RETURN(const std::vector<int> servers, mps->Servers());
//   RETURN_IF_ERROR(mps->Stop());              // Or let it go out of scope.
//
// It has a pipe directory of its own, so it neither sees nor disturbs another daemon; two of them
// work side by side on one GPU in the default compute mode, and take turns.
//
// One that outlives its owner has a folder with a name that its owner knows beforehand, so that
// whoever comes after it finds the daemon again, or ends what is left of it:
//
//   MpsOptions options;
//   options.gpu_uuid = uuid;
//   options.folder = "/run/sublet/mps/gpu0-search";
//   options.outlives_owner = true;
//   options.run_as = tenant;
//   options.memory_limit = 10_GiB;
//   ASSIGN_OR_RETURN(auto mps, MpsDaemon::Start(options));
//   store.Book(domain, mps->identity());                       // The owner ends here...
//   auto mps = MpsDaemon::Adopt(options, domain.process);      // ...and goes on there.
//   if (!mps) { EndLeftovers(options.folder); mps = MpsDaemon::Start(options); }
//
// What may surprise:
// - Limits that are set here hold for servers that start afterwards. A server starts with its first
//   client, or by StartServer().
// - Whoever may enter the folder may change the limits that its owner has set. ConfirmLimits()
//   tells; servers that run keep theirs.
// - A client whose environment names another folder, or a folder that it may not enter, silently
//   runs without MPS on the whole GPU. Clients() tells who has really come.
// - When this process is killed, the kernel sends the daemon SIGTERM, but its folder stays; the
//   next MpsDaemon of this user in the same parent folder removes it, and ends who is left there.
//   Neither holds for one that outlives its owner.
// - Each question starts the control program once: some milliseconds. What MPS itself has to tell
//   stands in its logs at once (mps/log_reader.h), and the end of a process in its pidfd.
//
// Thread safety: one thread at a time; unless it outlives its owner, the thread that started it
// must outlive it (base/child_process.h).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/child_process.h"
#include "base/process_handle.h"
#include "base/result.h"
#include "base/user.h"
#include "mps/pipe_folder.h"

namespace sublet {

// A server takes no more clients at once; the next one's first CUDA call fails. (NVIDIA, "Multi-
// Process Service": 48 from Volta on, 60 from Blackwell with driver 580 on. Met on an H200 with
// driver 580, so the smaller one holds for all.)
inline constexpr int kMpsClientsMax = 48;

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

  // Its folder, instead of a new one in parent_folder; absolute, and not there yet when it starts.
  // Its parent must be there, and be closed to whoever shall not see the daemon's name.
  std::string folder = {};
  // Neither the end of this process or thread nor that of the MpsDaemon ends it; it is the leader
  // of a session of its own. Needs `folder`.
  bool outlives_owner = false;
  // As whom the daemon and the control program run, and who owns the folder; absent: as this
  // process. Another user than this process's needs root, and that user must be able to reach the
  // folder through its parents. Needs `folder`.
  std::optional<UserIds> run_as = {};
  // Clients of every user share one server at a time, as containers do whose processes have users
  // of their own; without it each user waits until the one before has left. Needs root for users
  // other than the daemon's, and `folder`, which others may then enter.
  bool any_user = false;
  // Defaults for its servers, set before Start() returns and confirmed as ConfirmLimits() does.
  std::optional<Bytes> memory_limit = {};  // Of each client.
  std::optional<int> sm_percent = {};      // Of the SMs, for each client.
  // More of its environment, which its servers inherit: marks by which its owner knows it.
  std::map<std::string, std::string> variables = {};
};

// As get_server_status tells it.
enum class MpsServerState { kInitialising, kActive, kFault, kUnknown };

class MpsDaemon {
 public:
  // Returns once the daemon answers and has its limits. Fails with kUnavailable where the program
  // is missing, ends (with what its log says) or doesn't answer in time; kUsage where the folder's
  // path is too long; kConflict where the folder is there already, or a limit doesn't take.
  static Result<std::unique_ptr<MpsDaemon>> Start(const MpsOptions& options);

  // Takes over one that outlived its owner. `options` are those that it was started with. Fails
  // with kNotFound where its process is gone or its folder isn't what was made for it, with
  // kUnavailable where it doesn't answer, with kConflict where its limits are others by now. In
  // none of these cases is anything ended: EndLeftovers() does that.
  static Result<std::unique_ptr<MpsDaemon>> Adopt(const MpsOptions& options,
                                                  const ProcessIdentity& identity);

  MpsDaemon(const MpsDaemon&) = delete;
  MpsDaemon& operator=(const MpsDaemon&) = delete;
  ~MpsDaemon();

  // What clients need as CUDA_MPS_PIPE_DIRECTORY.
  const std::string& pipe_directory() const { return folder_.path(); }
  // What it and its servers say (mps/log_reader.h), and the folder of that alone.
  std::string log_path() const { return folder_.log_path(); }
  std::string log_directory() const { return folder_.log_directory(); }
  int pid() const { return identity_.pid; }
  const ProcessIdentity& identity() const { return identity_; }
  // Readable once the daemon has ended; of this object.
  int pidfd() const { return child_ ? child_->pidfd() : adopted_->fd(); }

  // Gives the daemon one command and returns its answer without the last line's end. Fails with
  // kUnsupported where it doesn't know the command, kUnavailable where it doesn't answer. That it
  // refuses a command can only be read from the text.
  Result<std::string> Ask(std::string_view command);

  // Starts a server for the user as whom the daemon runs without waiting for a client; returns its
  // process.
  Result<int> StartServer();
  // Processes: the servers that run, and the clients of one.
  Result<std::vector<int>> Servers();
  Result<std::vector<int>> Clients(int server);
  // Of all servers.
  Result<std::set<int>> AllClients();
  // A server with a fault takes no clients until all that were lost have ended; then it is active
  // again by itself. A server that hangs doesn't answer this, and until it does the daemon answers
  // nothing else either: kUnavailable.
  Result<MpsServerState> ServerState(int server);
  // Takes a client's contexts away, after which its process can be killed. Without this, killing it
  // within a kernel is a fault, which costs its neighbours their contexts, too. Fails with
  // kNotFound where the daemon says no. A client that is stopped (SIGSTOP) must be continued first.
  Status TerminateClient(int server, int client);

  // Defaults for servers to come, read back: fails with kConflict where the daemon says something
  // else afterwards. Limits of 1 GiB and more are read back in whole GiB, as it tells no more.
  Status SetDefaultPinnedLimit(Bytes limit);
  Status SetDefaultActiveThreadPercentage(int percent);
  // Whether the defaults are those of the options, where they say any: kConflict where not.
  Status ConfirmLimits();

  // Ends the daemon, its servers and who else uses its folder, and removes that. Fails with
  // kUnavailable where one doesn't end even when killed. Later calls do nothing.
  Status Stop();

 private:
  MpsDaemon(const MpsOptions& options, PipeFolder folder);
  static ChildEnvironment EnvironmentIn(const MpsOptions& options, const PipeFolder& folder);

  struct Reply {
    std::string text;
    bool answered = false;  // By a daemon, and not by the program for want of one.
    bool busy = false;
  };
  Result<Reply> AskOnce(std::string_view command, double timeout_s);
  Status AwaitAnswer();
  Status SetLimits();
  Status ConfirmPinnedLimit(Bytes limit);
  Status ConfirmActiveThreadPercentage(int percent);
  bool EndDaemon();
  // Waits until the daemon ends, for at most so long; whether it has.
  bool AwaitEnd(double seconds);
  // The same, but no longer than the user lets us.
  bool Pause(double seconds);
  // For messages: how it ended.
  std::string DescribeDaemonEnd();
  // For messages: ": " and the last line of what the daemon logged or printed; empty without one.
  std::string LastWords() const;
  uid_t User() const;

  const MpsOptions options_;
  const std::string program_;
  PipeFolder folder_;
  ProcessIdentity identity_;
  // One of them, always: what this process has started it must reap.
  std::optional<ChildProcess> child_;
  std::optional<ProcessHandle> adopted_;
  bool has_answered_ = false;  // Once it has, it can be told to quit.
  bool stopped_ = false;
};

// Ends every process that has `folder` as its CUDA_MPS_PIPE_DIRECTORY (a control daemon that is
// wedged, servers without one, their clients) by SIGKILL, and removes it. A folder that isn't there
// is no error: its users are ended all the same. `run_as` as in the options: whose folder it may
// be beside this process's own. Fails with kPermission where it is somebody else's or no folder,
// with kUnavailable where somebody doesn't end.
Status EndLeftovers(const std::string& folder, const std::optional<UserIds>& run_as = {});

}  // namespace sublet
