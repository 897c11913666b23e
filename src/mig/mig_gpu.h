// mig/mig_gpu.h
//
// One GPU, as who changes its MIG needs it: mode and instances read whole or not at all, and the
// single things that can be done to them. mig/mig_apply.h puts them together.
//
//   ASSIGN_OR_RETURN(MigGpu gpu, MigGpu::Open(nvml.api(), uuid));
//   RETURN_IF_ERROR(gpu.SetMode(true, Deadline::In(2)));
//   MigMade made;
//   ASSIGN_OR_RETURN(const bool room, gpu.Make(9, Placement{4, 4}, made));
//   if (room) RETURN_IF_ERROR(gpu.Complete(std::nullopt, made));
//
// What may surprise:
//  - A call that failed may have done its work. Who must know reads the state again.
//  - Changing the mode may reset the GPU, after which the driver has another handle for it;
//  SetMode()
//    sees to that.
//  - The driver tells GPU instances, and lets them be changed, to root only.
//
// Thread safety: one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "inventory/nvml_library.h"
#include "model/inventory.h"

namespace sublet {

// A GPU instance that is there.
struct MigFound {
  nvml::GpuInstance handle = nullptr;
  int id = 0;
  int profile_id = 0;
  Placement placement;
};

// What can be changed of a GPU.
struct MigState {
  bool on = false;
  bool pending = false;  // What the mode will be after a reset; `on` where nothing waits.
  std::vector<MigFound> instances;  // Ascending id.

  // Whether mode and ids are the same: handles may differ from call to call.
  bool IsLike(const MigState& other) const;
};

struct MigComputeFound {
  nvml::ComputeInstance handle = nullptr;
  int id = 0;
  int slices = 0;
};

// What is in a GPU instance.
struct MigComputeState {
  std::vector<MigComputeFound> instances;  // Ascending id.
  int whole = 0;                           // The slices of one that takes all of it.

  // As MigSeat::compute_slices has it.
  std::optional<std::vector<int>> SeatSlices() const;
};

// A GPU instance on its way, as far as it has come. Handles name it for the driver, ids for people.
struct MigMade {
  nvml::GpuInstance instance = nullptr;
  std::optional<int> id;  // Absent where the driver made it and then didn't tell.
  std::vector<nvml::ComputeInstance> compute;
  std::vector<int> compute_ids;
};

class MigGpu {
 public:
  // Fails with kUnsupported where the driver lacks a function, naming it, and kNotFound where there
  // is no such GPU. REQUIRES: `api` outlives it.
  static Result<MigGpu> Open(const nvml::Api& api, std::string uuid);

  const std::string& uuid() const { return uuid_; }
  nvml::Device device() const { return device_; }

  // Asks the driver for the GPU's handle once more.
  Status FindAgain();

  // Fails with kUnsupported where the GPU has no MIG.
  Result<MigState> Read() const;
  Result<MigComputeState> ReadCompute(nvml::GpuInstance instance) const;

  // Fails with kConflict, naming the processes that use the GPU, where it isn't idle by then, and
  // where the driver doesn't tell: then it isn't known to be idle.
  Status WaitUntilIdle(const Deadline& deadline) const;

  // Turns MIG mode on or off and reads it back; takes back a change that is pending. Fails with
  // kConflict where the change stays pending until the GPU is reset, and leaves it so.
  Status SetMode(bool on, const Deadline& deadline);

  // A GPU instance without compute instances, at `where` or at a place of the driver's choice;
  // `made` gets what is known of it. False where the driver has no room for it.
  Result<bool> Make(int profile_id, std::optional<Placement> where, MigMade& made) const;
  // Asks for the id of `made` and gives it compute instances of so many slices; absent: one that
  // has them all.
  Status Complete(const std::optional<std::vector<int>>& slices, MigMade& made) const;

  // Destroys the compute instances, then the GPU instance; what is gone already is no error. Waits
  // until nobody uses it, but not longer than `deadline`.
  Status Destroy(MigMade& made, const Deadline& deadline) const;

 private:
  MigGpu(const nvml::Api& api, std::string uuid) : api_(&api), uuid_(std::move(uuid)) {}
  Status ReadInstancesOf(const nvml::GpuInstanceProfileInfo& profile,
                         std::vector<MigFound>& found) const;
  Result<std::vector<unsigned>> Processes() const;
  Result<unsigned> ComputeProfileOf(nvml::GpuInstance instance, int slices) const;
  Status AddCompute(int slices, MigMade& made) const;

  const nvml::Api* api_;
  std::string uuid_;
  nvml::Device device_ = nullptr;
};

}  // namespace sublet
