// measure/mig_session.h
//
// MIG instances for the time of a measurement, on a GPU that has none: makes them, and puts back
// what it found.
//
//   ASSIGN_OR_RETURN(MigSession session, MigSession::Start(nvml.api(), gpu_uuid, {}));
//   for (const MigInstance& instance : session.instances()) measure_in(instance.uuid);
//   RETURN_IF_ERROR(session.Restore());
//
// Start() turns MIG mode on where it is off, fills the GPU with instances of one profile, each with
// one compute instance over all of it, and reads everything back. It begins only where the state
// found is sure to come back, and refuses
//  - a GPU that has instances: they are somebody's, and can be measured as they are;
//  - one in use, because turning MIG mode on needs it idle;
//  - one whose change of MIG mode is pending already;
//  - a driver without MIG functions, and a user who may not change MIG.
// Where the mode stays pending, as on boards that would need a reset, it is taken back. Whatever
// fails half-way, what was done before is undone; where that fails too, the error is kUnavailable,
// says what is left, and its hint has the commands that finish the work.
//
// What may surprise:
//  - MIG mode and instances are the driver's, not the process's: a program that is killed while a
//    session lives leaves them behind.
//  - Restore() judges by the state that it reads back, not by what the calls answered. It destroys
//    nothing but what this session made; where others have cut the GPU meanwhile, it says so.
//  - Workers must have ended before Restore(): instances in use can't be destroyed. The driver may
//    show a process for a moment after its end, which is what the patience is for.
//
// Thread safety: one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "inventory/nvml_library.h"

namespace sublet {

// What a worker is given.
struct MigInstance {
  std::string uuid;     // "MIG-...": of its compute instance, for CUDA_VISIBLE_DEVICES.
  std::string profile;  // "1g.18gb"
};

struct MigSessionOptions {
  // The profile's name as `nvidia-smi mig -lgip` has it. Empty: the smallest that is plain, that is
  // without extra media or graphics engines.
  std::string profile;
  double patience_s = 2;  // For processes that are about to end.
};

class MigSession {
 public:
  // REQUIRES: `api` outlives the session.
  static Result<MigSession> Start(const nvml::Api& api, const std::string& gpu_uuid,
                                  const MigSessionOptions& options);
  MigSession(MigSession&& other) noexcept;
  MigSession& operator=(MigSession&&) = delete;
  ~MigSession();  // Restores, unheard; who wants to know whether it worked calls Restore().

  const std::vector<MigInstance>& instances() const;  // In the order of their place on the GPU.
  const std::string& profile() const;

  // Fails with kConflict where the GPU isn't as it was found, or can't be seen to be. Calling it
  // again tries again what is left to do; once it has succeeded it does nothing.
  Status Restore();

 private:
  class State;
  explicit MigSession(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sublet
