// model/inventory.h
//
// What a node has: its GPUs as the driver reports them, what runs on them, and which sharing modes
// this environment can run.
//
// `sublet inspect` makes an Inventory from the driver; `--record FILE` writes it down and `--from
// FILE` reads it back, so that a node can be planned for, or simulated, somewhere else. The file is
// the JSON form below (docs/formats/node.md).
//
//   inventory
//    ├ host, driver           where this is, and what the driver can do
//    ├ gpus[]                 one physical GPU
//    │  ├ profiles[]          MIG profiles on offer, also with MIG mode off
//    │  ├ instances[]         GPU instances that exist, with their compute instances
//    │  └ processes[]         who holds memory on it
//    ├ links[]                how each pair of GPUs is connected
//    ├ mps_daemons[]          MPS control daemons found
//    └ modes[]                each sharing mode: on which GPUs it can run here, and why not on
//    others
//
//   ASSIGN_OR_RETURN(Inventory node, ParseInventory(text, "node.json"));
//   for (const Gpu& gpu : node.gpus) plan_for(gpu.board, gpu.uuid, gpu.memory);
//
// A figure that the driver did not give is absent, never guessed: such fields are std::optional,
// and absent in JSON.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/board.h"
#include "model/plan.h"

namespace sublet {

inline constexpr std::string_view kNodeVersion = "sublet.node/v1";

// The surroundings in which Sublet looked: facts, not conclusions. `modes` holds the conclusions.
struct Host {
  std::string hostname;
  std::string kernel;  // "6.1.0-18-amd64"
  int cpu_cores = 0;   // Cores that this process may run on.
  bool wsl2 = false;   // Windows Subsystem for Linux: GPUs come through Windows' driver.
  bool container = false;
  bool admin = false;       // CAP_SYS_ADMIN is effective: MIG may be changed.
  bool cgroup2 = false;     // The unified cgroup hierarchy is mounted at /sys/fs/cgroup.
  bool shm_usable = false;  // /dev/shm is there and writable: MPS clients talk through it.
  std::string mps_control;  // Path of nvidia-cuda-mps-control; empty where it isn't installed.
  std::string mps_pipe_directory;  // Where a client would look: CUDA_MPS_PIPE_DIRECTORY or default.
  bool mps_pipe_usable = false;    // That folder can be entered, or created where it doesn't exist.
};

// One thing that only some drivers can do.
struct Capability {
  std::string name;  // "mig", "mig-placement", "memory-limits", ...
  bool available = false;
  std::string how;  // How it was found: "exports nvmlDeviceCreateGpuInstanceWithPlacement".
};

struct Driver {
  std::string version;       // "580.159.04"
  std::string nvml_version;  // "13.580.159.04"
  int cuda_version = 0;      // 13000 is CUDA 13.0; 0 where the driver doesn't say.
  bool simulated = false;    // The library is the simulated driver of sim/driver.
  std::vector<Capability> capabilities;
};

enum class ComputeMode { kDefault, kExclusiveThread, kProhibited, kExclusiveProcess };
std::string_view ComputeModeName(ComputeMode mode);  // "default", "prohibited", "exclusive-process"

// A stretch of a GPU, in memory units of its MIG table (of a GPU instance: in compute slices).
struct Placement {
  int start = 0;
  int size = 0;

  friend bool operator==(const Placement&, const Placement&) = default;
};

// A MIG profile as this driver offers it on this GPU.
struct ReportedProfile {
  std::string name;      // "1g.18gb"; empty where the driver is too old to name it.
  int id = 0;            // As nvidia-smi mig -lgip numbers it.
  int nvml_profile = 0;  // NVML's enum: NVML_GPU_INSTANCE_PROFILE_*.
  int compute_slices = 0;
  int max_instances = 0;
  Bytes memory;
  int sm_count = 0;
  EngineCounts engines;
  std::vector<Placement> placements;  // Ascending start; empty where the driver doesn't tell.
};

// A compute instance inside a GPU instance; with it comes the MIG device that programs see.
struct ComputeInstance {
  int id = 0;
  int profile_id = 0;
  Placement placement;
  std::string uuid;  // "MIG-..."; empty where the driver gives no device for it.
};

struct GpuInstance {
  int id = 0;
  int profile_id = 0;
  std::string profile;  // Name of that profile; empty if unknown.
  Placement placement;
  std::vector<ComputeInstance> compute_instances;  // Ascending id.
};

// kCompute: runs kernels by itself. kMpsClient: through an MPS server (nvidia-smi's "M+C").
enum class ProcessType { kCompute, kGraphics, kMpsClient };
std::string_view ProcessTypeName(ProcessType type);  // "C", "G", "M+C"

struct GpuProcess {
  int pid = 0;
  std::string name;             // Empty where this process may not know.
  std::optional<Bytes> memory;  // Absent where the driver doesn't tell, as in some containers.
  ProcessType type = ProcessType::kCompute;
  std::optional<int> gpu_instance;  // Ids; absent outside MIG.
  std::optional<int> compute_instance;
};

struct GpuHealth {
  std::optional<bool> ecc;  // ECC is on.
  // Since the driver was loaded.
  std::optional<std::int64_t> ecc_errors_corrected;
  std::optional<std::int64_t> ecc_errors_uncorrected;
  std::optional<int> rows_remapped;       // Both causes together.
  std::optional<bool> row_remap_pending;  // A reset will remap rows.
  std::optional<bool> row_remap_failed;   // The GPU should be replaced.
  std::optional<bool> xid_events;         // XID errors of it can be watched.
};

// A place in an NVLink fabric of several nodes. GPUs of one clique reach each other's memory.
struct FabricPlace {
  std::string cluster_uuid;    // "1f0b8a5e-..."
  std::int64_t clique_id = 0;  // 32 bits without sign.

  friend bool operator==(const FabricPlace&, const FabricPlace&) = default;
};

struct Gpu {
  int index = 0;        // NVML's; nvidia-smi's too.
  std::string uuid;     // "GPU-..."
  std::string product;  // "NVIDIA H200"
  std::string board;    // Catalogue name; empty for a board that the catalogue doesn't know.
  Bytes memory;
  Bytes memory_used;  // With what the driver reserves where memory_reserved is absent.
  std::optional<Bytes> memory_reserved;
  std::optional<int> sm_count;
  int compute_capability_major = 0;
  int compute_capability_minor = 0;
  std::string pci_bus_id;           // "00000000:18:00.0"
  std::uint32_t pci_device_id = 0;  // Device and vendor, packed as NVML does: 0x233510DE.
  std::uint32_t pci_subsystem_id = 0;
  std::optional<int> numa_node;
  std::optional<int> minor_number;  // Of /dev/nvidia<n>.
  std::optional<ComputeMode> compute_mode;
  std::optional<FabricPlace> fabric;  // Absent while it is in none, or still on its way.
  bool mig_capable = false;
  bool mig_enabled = false;
  bool mig_pending = false;  // The mode after the next reset.
  std::optional<int> utilisation_percent;
  std::vector<ReportedProfile> profiles;  // Ascending id.
  std::vector<GpuInstance> instances;     // Ascending start.
  std::vector<GpuProcess> processes;      // Ascending pid.
  GpuHealth health;
  std::string problem;  // Why it can't be used: "gpu is lost"; then most other fields are empty.

  // nullptr where this GPU offers no such profile.
  const ReportedProfile* FindProfile(int profile_id) const;
};

// The nearest common point of two GPUs' paths through PCI Express, nearest first.
enum class PciPath { kSameBoard, kOneSwitch, kSwitches, kHostBridge, kNumaNode, kSystem };
std::string_view PciPathName(PciPath path);  // "same-board", "one-switch", ...

struct GpuLink {
  int a = 0;  // GPU indices, a < b.
  int b = 0;
  std::optional<PciPath> pci_path;
  std::optional<int> nvlinks;  // Links between the two, directly or through NVSwitch.
  bool nvswitch = false;
  std::optional<bool> p2p;  // Each can read and write the other's memory.
};

struct FoundMpsDaemon {
  std::string pipe_directory;
  std::optional<int> pid;    // Absent where only its folder was found.
  bool answers = false;      // It answered a harmless question.
  std::vector<int> servers;  // Pids of its MPS servers.
};

// Whether a sharing mode can run here.
struct ModeCheck {
  SharingMode mode = SharingMode::kExclusive;
  std::vector<int> gpus;  // Indices of the GPUs on which it can.
  std::vector<std::string>
      reasons;  // Why it can't on the others, what it lacks; one sentence each.

  bool available() const { return !gpus.empty(); }
};

struct Inventory {
  Host host;
  Driver driver;
  std::vector<Gpu> gpus;  // Ascending index.
  std::vector<GpuLink> links;
  std::vector<FoundMpsDaemon> mps_daemons;
  std::vector<ModeCheck> modes;  // One for each mode, in the enum's order.

  const Gpu* FindGpu(std::string_view uuid) const;
};

nlohmann::ordered_json InventoryToJson(const Inventory& inventory);
// Strict: unknown keys, another version, two GPUs with one index or UUID, and links to GPUs that
// aren't there fail with kInvalid.
Result<Inventory> ParseInventory(std::string_view text, std::string_view source);

}  // namespace sublet
