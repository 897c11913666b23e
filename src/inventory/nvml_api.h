// inventory/nvml_api.h
//
// The part of NVML's binary interface that Sublet speaks, declared by ourselves.
//
// NVML is NVIDIA's management library, libnvidia-ml.so.1, which comes with the driver. Its header
// comes with the CUDA toolkit, which neither a user's node nor a build machine needs to have, so
// what is used is declared here: structures by their layout, constants by their value, functions by
// their exported name and signature. The layouts are those of the header of CUDA 13.0 on 64-bit
// Linux; tests/nvml_header_test.cc compares every one with the real header where that is installed.
//
// Three things that the interface asks of its callers:
//  - Structures with a `version` field must carry StructVersion<T>(n) in it on every call, or the
//    driver answers kArgumentVersionMismatch.
//  - Profiles are named by two numbers: an enum (kGpuInstanceProfile*), which asks for information,
//    and the `id` in that information, which everything else takes.
//  - Lists are read by passing capacity in `count`; kInsufficientSize comes back with the need.
//
// inventory/nvml_library.h loads the functions; sim/driver exports a look-alike of them.
#pragma once

#include <cstddef>

namespace sublet::nvml {

enum Return : int {
  kSuccess = 0,
  kUninitialized = 1,
  kInvalidArgument = 2,
  kNotSupported = 3,
  kNoPermission = 4,
  kAlreadyInitialized = 5,
  kNotFound = 6,
  kInsufficientSize = 7,
  kInsufficientPower = 8,
  kDriverNotLoaded = 9,
  kTimeout = 10,
  kIrqIssue = 11,
  kLibraryNotFound = 12,
  kFunctionNotFound = 13,
  kCorruptedInforom = 14,
  kGpuIsLost = 15,
  kResetRequired = 16,
  kOperatingSystem = 17,
  kLibRmVersionMismatch = 18,
  kInUse = 19,
  kMemory = 20,
  kNoData = 21,
  kVgpuEccNotSupported = 22,
  kInsufficientResources = 23,
  kFreqNotSupported = 24,
  kArgumentVersionMismatch = 25,
  kDeprecated = 26,
  kNotReady = 27,
  kGpuNotFound = 28,
  kInvalidState = 29,
  kResetTypeNotSupported = 30,
  kUnknown = 999,
};

// Opaque to callers.
using Device = struct DeviceHandle*;
using GpuInstance = struct GpuInstanceHandle*;
using ComputeInstance = struct ComputeInstanceHandle*;
using EventSet = struct EventSetHandle*;

template <typename T>
constexpr unsigned StructVersion(unsigned version) {
  return static_cast<unsigned>(sizeof(T)) | (version << 24);
}

inline constexpr unsigned kUuidBufferSize = 96;  // Of the second version, long enough for MIG.
inline constexpr unsigned kNameBufferSize = 96;
inline constexpr unsigned kVersionBufferSize = 80;
inline constexpr unsigned kNvLinkMaxLinks = 18;
inline constexpr unsigned kNoInstance = 0xFFFFFFFF;  // Of a process outside MIG.
inline constexpr unsigned long long kValueNotAvailable = ~0ULL;

struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain;
  unsigned bus;
  unsigned device;
  unsigned pci_device_id;  // Device << 16 | vendor.
  unsigned pci_subsystem_id;
  char bus_id[32];
};
static_assert(sizeof(PciInfo) == 68 && offsetof(PciInfo, bus_id) == 36);

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
static_assert(sizeof(Memory) == 24);

struct MemoryV2 {
  unsigned version;
  unsigned long long total;
  unsigned long long reserved;
  unsigned long long free;
  unsigned long long used;  // Without what is reserved, unlike in Memory.
};
static_assert(sizeof(MemoryV2) == 40 && offsetof(MemoryV2, total) == 8);

struct Utilization {
  unsigned gpu;
  unsigned memory;
};
static_assert(sizeof(Utilization) == 8);

struct ProcessInfo {
  unsigned pid;
  unsigned long long used_gpu_memory;  // kValueNotAvailable where the driver doesn't tell.
  unsigned gpu_instance_id;
  unsigned compute_instance_id;
};
static_assert(sizeof(ProcessInfo) == 24 && offsetof(ProcessInfo, gpu_instance_id) == 16);

// What a process did in the driver's last sample of it, or the mean over several of them.
struct ProcessUtilizationSample {
  unsigned pid;
  unsigned long long time_us;
  unsigned sm;  // Percent of the time in which a kernel of it ran.
  unsigned memory;
  unsigned encoder;
  unsigned decoder;
};
static_assert(sizeof(ProcessUtilizationSample) == 32 &&
              offsetof(ProcessUtilizationSample, sm) == 16);

struct DeviceAttributes {
  unsigned multiprocessor_count;
  unsigned shared_copy_engine_count;
  unsigned shared_decoder_count;
  unsigned shared_encoder_count;
  unsigned shared_jpeg_count;
  unsigned shared_ofa_count;
  unsigned gpu_instance_slice_count;
  unsigned compute_instance_slice_count;
  unsigned long long memory_size_mib;
};
static_assert(sizeof(DeviceAttributes) == 40 && offsetof(DeviceAttributes, memory_size_mib) == 32);

struct InstancePlacement {
  unsigned start;
  unsigned size;
};
static_assert(sizeof(InstancePlacement) == 8);

struct GpuInstanceProfileInfo {
  unsigned id;
  unsigned is_p2p_supported;
  unsigned slice_count;
  unsigned instance_count;
  unsigned multiprocessor_count;
  unsigned copy_engine_count;
  unsigned decoder_count;
  unsigned encoder_count;
  unsigned jpeg_count;
  unsigned ofa_count;
  unsigned long long memory_size_mib;
};
static_assert(sizeof(GpuInstanceProfileInfo) == 48);

struct GpuInstanceProfileInfoV2 {
  unsigned version;
  unsigned id;
  unsigned is_p2p_supported;
  unsigned slice_count;
  unsigned instance_count;
  unsigned multiprocessor_count;
  unsigned copy_engine_count;
  unsigned decoder_count;
  unsigned encoder_count;
  unsigned jpeg_count;
  unsigned ofa_count;
  unsigned long long memory_size_mib;
  char name[kNameBufferSize];
};
static_assert(sizeof(GpuInstanceProfileInfoV2) == 152 &&
              offsetof(GpuInstanceProfileInfoV2, memory_size_mib) == 48 &&
              offsetof(GpuInstanceProfileInfoV2, name) == 56);

struct GpuInstanceProfileInfoV3 {
  unsigned version;
  unsigned id;
  unsigned slice_count;
  unsigned instance_count;
  unsigned multiprocessor_count;
  unsigned copy_engine_count;
  unsigned decoder_count;
  unsigned encoder_count;
  unsigned jpeg_count;
  unsigned ofa_count;
  unsigned long long memory_size_mib;
  char name[kNameBufferSize];
  unsigned capabilities;
};
static_assert(sizeof(GpuInstanceProfileInfoV3) == 152 &&
              offsetof(GpuInstanceProfileInfoV3, memory_size_mib) == 40 &&
              offsetof(GpuInstanceProfileInfoV3, name) == 48 &&
              offsetof(GpuInstanceProfileInfoV3, capabilities) == 144);

struct GpuInstanceInfo {
  Device device;
  unsigned id;
  unsigned profile_id;
  InstancePlacement placement;
};
static_assert(sizeof(GpuInstanceInfo) == 24 && offsetof(GpuInstanceInfo, placement) == 16);

struct ComputeInstanceProfileInfo {
  unsigned id;
  unsigned slice_count;
  unsigned instance_count;
  unsigned multiprocessor_count;
  unsigned shared_copy_engine_count;
  unsigned shared_decoder_count;
  unsigned shared_encoder_count;
  unsigned shared_jpeg_count;
  unsigned shared_ofa_count;
};
static_assert(sizeof(ComputeInstanceProfileInfo) == 36);

struct ComputeInstanceProfileInfoV2 {
  unsigned version;
  unsigned id;
  unsigned slice_count;
  unsigned instance_count;
  unsigned multiprocessor_count;
  unsigned shared_copy_engine_count;
  unsigned shared_decoder_count;
  unsigned shared_encoder_count;
  unsigned shared_jpeg_count;
  unsigned shared_ofa_count;
  char name[kNameBufferSize];
};
static_assert(sizeof(ComputeInstanceProfileInfoV2) == 136 &&
              offsetof(ComputeInstanceProfileInfoV2, name) == 40);

struct ComputeInstanceProfileInfoV3 {
  unsigned version;
  unsigned id;
  unsigned slice_count;
  unsigned instance_count;
  unsigned multiprocessor_count;
  unsigned shared_copy_engine_count;
  unsigned shared_decoder_count;
  unsigned shared_encoder_count;
  unsigned shared_jpeg_count;
  unsigned shared_ofa_count;
  char name[kNameBufferSize];
  unsigned capabilities;
};
static_assert(sizeof(ComputeInstanceProfileInfoV3) == 140 &&
              offsetof(ComputeInstanceProfileInfoV3, capabilities) == 136);

struct ComputeInstanceInfo {
  Device device;
  GpuInstance gpu_instance;
  unsigned id;
  unsigned profile_id;
  InstancePlacement placement;
};
static_assert(sizeof(ComputeInstanceInfo) == 32 && offsetof(ComputeInstanceInfo, placement) == 24);

struct EventData {
  Device device;
  unsigned long long event_type;
  unsigned long long event_data;  // The XID of an XID event.
  unsigned gpu_instance_id;
  unsigned compute_instance_id;
};
static_assert(sizeof(EventData) == 32 && offsetof(EventData, gpu_instance_id) == 24);

// nvmlGpuFabricInfo_v2_t: where a GPU is in an NVLink fabric.
struct GpuFabricInfoV2 {
  unsigned version;
  unsigned char cluster_uuid[16];
  Return status;  // Of joining it, once `state` is kFabricCompleted.
  unsigned clique_id;
  unsigned char state;
  unsigned health_mask;
};
static_assert(sizeof(GpuFabricInfoV2) == 36 && offsetof(GpuFabricInfoV2, clique_id) == 24 &&
              offsetof(GpuFabricInfoV2, health_mask) == 32);

inline constexpr unsigned char kFabricNotSupported = 0;
inline constexpr unsigned char kFabricCompleted = 3;

inline constexpr unsigned long long kEventSingleBitEcc = 0x1;
inline constexpr unsigned long long kEventDoubleBitEcc = 0x2;
inline constexpr unsigned long long kEventXidCritical = 0x8;
inline constexpr unsigned long long kEventMigConfigChange = 0x100;

inline constexpr unsigned kFeatureDisabled = 0;
inline constexpr unsigned kFeatureEnabled = 1;

inline constexpr unsigned kClockSm = 1;
inline constexpr unsigned kClockMemory = 2;
inline constexpr unsigned kTemperatureGpu = 0;

inline constexpr unsigned long long kClocksSwPowerCap = 0x4;
inline constexpr unsigned long long kClocksHwSlowdown = 0x8;
inline constexpr unsigned long long kClocksSyncBoost = 0x10;
inline constexpr unsigned long long kClocksSwThermalSlowdown = 0x20;
inline constexpr unsigned long long kClocksHwThermalSlowdown = 0x40;
inline constexpr unsigned long long kClocksHwPowerBrake = 0x80;

inline constexpr unsigned kMigDisable = 0;
inline constexpr unsigned kMigEnable = 1;

inline constexpr unsigned kComputeModeDefault = 0;
inline constexpr unsigned kComputeModeExclusiveThread = 1;
inline constexpr unsigned kComputeModeProhibited = 2;
inline constexpr unsigned kComputeModeExclusiveProcess = 3;

inline constexpr unsigned kErrorCorrected = 0;
inline constexpr unsigned kErrorUncorrected = 1;
inline constexpr unsigned kEccVolatile = 0;

inline constexpr unsigned kTopologyInternal = 0;
inline constexpr unsigned kTopologySingle = 10;
inline constexpr unsigned kTopologyMultiple = 20;
inline constexpr unsigned kTopologyHostBridge = 30;
inline constexpr unsigned kTopologyNode = 40;
inline constexpr unsigned kTopologySystem = 50;

inline constexpr unsigned kP2pCapsRead = 0;
inline constexpr unsigned kP2pCapsWrite = 1;
inline constexpr unsigned kP2pCapsNvLink = 2;
inline constexpr unsigned kP2pStatusOk = 0;
inline constexpr unsigned kP2pStatusNotSupported = 5;

inline constexpr unsigned kNvLinkDeviceGpu = 0;
inline constexpr unsigned kNvLinkDeviceSwitch = 2;

inline constexpr unsigned kAffinityScopeNode = 0;

inline constexpr unsigned kGpuInstanceProfile1Slice = 0x0;
inline constexpr unsigned kGpuInstanceProfile2Slice = 0x1;
inline constexpr unsigned kGpuInstanceProfile3Slice = 0x2;
inline constexpr unsigned kGpuInstanceProfile4Slice = 0x3;
inline constexpr unsigned kGpuInstanceProfile7Slice = 0x4;
inline constexpr unsigned kGpuInstanceProfile8Slice = 0x5;
inline constexpr unsigned kGpuInstanceProfile6Slice = 0x6;
inline constexpr unsigned kGpuInstanceProfile1SliceRev1 = 0x7;  // "+me"
inline constexpr unsigned kGpuInstanceProfile2SliceRev1 = 0x8;  // "+me"
inline constexpr unsigned kGpuInstanceProfile1SliceRev2 = 0x9;  // Twice the memory.
inline constexpr unsigned kGpuInstanceProfile1SliceGfx = 0xA;
inline constexpr unsigned kGpuInstanceProfile2SliceGfx = 0xB;
inline constexpr unsigned kGpuInstanceProfile4SliceGfx = 0xC;
inline constexpr unsigned kGpuInstanceProfile1SliceNoMe = 0xD;
inline constexpr unsigned kGpuInstanceProfile2SliceNoMe = 0xE;
inline constexpr unsigned kGpuInstanceProfile1SliceAllMe = 0xF;
inline constexpr unsigned kGpuInstanceProfile2SliceAllMe = 0x10;
inline constexpr unsigned kGpuInstanceProfile3SliceGfx = 0x11;  // From driver 595 on.
inline constexpr unsigned kGpuInstanceProfileCount = 0x12;

inline constexpr unsigned kComputeInstanceProfileCount = 0x9;
inline constexpr unsigned kComputeInstanceEngineShared = 0;

}  // namespace sublet::nvml

// X(member, exported name, parameters): every function that Sublet calls, each returning
// nvml::Return. kRequired must be there in any driver that is new enough to be useful; kOptional
// may be missing, and then what it would have told is absent.
#define SUBLET_NVML_REQUIRED(X)                                             \
  X(init, "nvmlInit_v2", ())                                                \
  X(shutdown, "nvmlShutdown", ())                                           \
  X(system_driver_version, "nvmlSystemGetDriverVersion", (char*, unsigned)) \
  X(device_count, "nvmlDeviceGetCount_v2", (unsigned*))                     \
  X(device_by_index, "nvmlDeviceGetHandleByIndex_v2", (unsigned, Device*))  \
  X(device_uuid, "nvmlDeviceGetUUID", (Device, char*, unsigned))            \
  X(device_name, "nvmlDeviceGetName", (Device, char*, unsigned))            \
  X(device_pci_info, "nvmlDeviceGetPciInfo_v3", (Device, PciInfo*))         \
  X(device_memory, "nvmlDeviceGetMemoryInfo", (Device, Memory*))

#define SUBLET_NVML_OPTIONAL(X)                                                                    \
  X(system_nvml_version, "nvmlSystemGetNVMLVersion", (char*, unsigned))                            \
  X(system_cuda_version, "nvmlSystemGetCudaDriverVersion_v2", (int*))                              \
  X(system_process_name, "nvmlSystemGetProcessName", (unsigned, char*, unsigned))                  \
  X(device_memory_v2, "nvmlDeviceGetMemoryInfo_v2", (Device, MemoryV2*))                           \
  X(device_minor_number, "nvmlDeviceGetMinorNumber", (Device, unsigned*))                          \
  X(device_compute_capability, "nvmlDeviceGetCudaComputeCapability", (Device, int*, int*))         \
  X(device_gpu_cores, "nvmlDeviceGetNumGpuCores", (Device, unsigned*))                             \
  X(device_compute_mode, "nvmlDeviceGetComputeMode", (Device, unsigned*))                          \
  X(set_compute_mode, "nvmlDeviceSetComputeMode", (Device, unsigned))                              \
  X(device_utilization, "nvmlDeviceGetUtilizationRates", (Device, Utilization*))                   \
  X(device_memory_affinity, "nvmlDeviceGetMemoryAffinity",                                         \
    (Device, unsigned, unsigned long*, unsigned))                                                  \
  X(device_ecc_mode, "nvmlDeviceGetEccMode", (Device, unsigned*, unsigned*))                       \
  X(device_ecc_errors, "nvmlDeviceGetTotalEccErrors",                                              \
    (Device, unsigned, unsigned, unsigned long long*))                                             \
  X(device_remapped_rows, "nvmlDeviceGetRemappedRows",                                             \
    (Device, unsigned*, unsigned*, unsigned*, unsigned*))                                          \
  X(device_event_types, "nvmlDeviceGetSupportedEventTypes", (Device, unsigned long long*))         \
  X(device_compute_processes, "nvmlDeviceGetComputeRunningProcesses_v3",                           \
    (Device, unsigned*, ProcessInfo*))                                                             \
  X(device_process_utilization, "nvmlDeviceGetProcessUtilization",                                 \
    (Device, ProcessUtilizationSample*, unsigned*, unsigned long long))                            \
  X(event_set_create, "nvmlEventSetCreate", (EventSet*))                                           \
  X(event_set_free, "nvmlEventSetFree", (EventSet))                                                \
  X(event_set_wait, "nvmlEventSetWait_v2", (EventSet, EventData*, unsigned))                       \
  X(device_register_events, "nvmlDeviceRegisterEvents", (Device, unsigned long long, EventSet))    \
  X(device_graphics_processes, "nvmlDeviceGetGraphicsRunningProcesses_v3",                         \
    (Device, unsigned*, ProcessInfo*))                                                             \
  X(device_mps_processes, "nvmlDeviceGetMPSComputeRunningProcesses_v3",                            \
    (Device, unsigned*, ProcessInfo*))                                                             \
  X(device_energy, "nvmlDeviceGetTotalEnergyConsumption", (Device, unsigned long long*))           \
  X(device_clock, "nvmlDeviceGetClockInfo", (Device, unsigned, unsigned*))                         \
  X(device_power, "nvmlDeviceGetPowerUsage", (Device, unsigned*))                                  \
  X(device_temperature, "nvmlDeviceGetTemperature", (Device, unsigned, unsigned*))                 \
  X(device_clock_reasons, "nvmlDeviceGetCurrentClocksEventReasons", (Device, unsigned long long*)) \
  X(device_throttle_reasons, "nvmlDeviceGetCurrentClocksThrottleReasons",                          \
    (Device, unsigned long long*))                                                                 \
  X(device_fabric, "nvmlDeviceGetGpuFabricInfoV", (Device, GpuFabricInfoV2*))                      \
  X(device_mig_mode, "nvmlDeviceGetMigMode", (Device, unsigned*, unsigned*))                       \
  X(set_mig_mode, "nvmlDeviceSetMigMode", (Device, unsigned, Return*))                             \
  X(gi_profile_info, "nvmlDeviceGetGpuInstanceProfileInfo",                                        \
    (Device, unsigned, GpuInstanceProfileInfo*))                                                   \
  X(gi_profile_info_v, "nvmlDeviceGetGpuInstanceProfileInfoV",                                     \
    (Device, unsigned, GpuInstanceProfileInfoV2*))                                                 \
  X(gi_placements, "nvmlDeviceGetGpuInstancePossiblePlacements_v2",                                \
    (Device, unsigned, InstancePlacement*, unsigned*))                                             \
  X(gpu_instances, "nvmlDeviceGetGpuInstances", (Device, unsigned, GpuInstance*, unsigned*))       \
  X(gpu_instance_info, "nvmlGpuInstanceGetInfo", (GpuInstance, GpuInstanceInfo*))                  \
  X(ci_profile_info, "nvmlGpuInstanceGetComputeInstanceProfileInfo",                               \
    (GpuInstance, unsigned, unsigned, ComputeInstanceProfileInfo*))                                \
  X(compute_instances, "nvmlGpuInstanceGetComputeInstances",                                       \
    (GpuInstance, unsigned, ComputeInstance*, unsigned*))                                          \
  X(compute_instance_info, "nvmlComputeInstanceGetInfo_v2",                                        \
    (ComputeInstance, ComputeInstanceInfo*))                                                       \
  X(create_gpu_instance, "nvmlDeviceCreateGpuInstance", (Device, unsigned, GpuInstance*))          \
  X(create_gpu_instance_at, "nvmlDeviceCreateGpuInstanceWithPlacement",                            \
    (Device, unsigned, const InstancePlacement*, GpuInstance*))                                    \
  X(destroy_gpu_instance, "nvmlGpuInstanceDestroy", (GpuInstance))                                 \
  X(create_compute_instance, "nvmlGpuInstanceCreateComputeInstance",                               \
    (GpuInstance, unsigned, ComputeInstance*))                                                     \
  X(destroy_compute_instance, "nvmlComputeInstanceDestroy", (ComputeInstance))                     \
  X(mig_device_count_max, "nvmlDeviceGetMaxMigDeviceCount", (Device, unsigned*))                   \
  X(mig_device_by_index, "nvmlDeviceGetMigDeviceHandleByIndex", (Device, unsigned, Device*))       \
  X(mig_device_gi_id, "nvmlDeviceGetGpuInstanceId", (Device, unsigned*))                           \
  X(mig_device_ci_id, "nvmlDeviceGetComputeInstanceId", (Device, unsigned*))                       \
  X(common_ancestor, "nvmlDeviceGetTopologyCommonAncestor", (Device, Device, unsigned*))           \
  X(p2p_status, "nvmlDeviceGetP2PStatus", (Device, Device, unsigned, unsigned*))                   \
  X(nvlink_state, "nvmlDeviceGetNvLinkState", (Device, unsigned, unsigned*))                       \
  X(nvlink_remote_type, "nvmlDeviceGetNvLinkRemoteDeviceType", (Device, unsigned, unsigned*))      \
  X(nvlink_remote_pci, "nvmlDeviceGetNvLinkRemotePciInfo_v2", (Device, unsigned, PciInfo*))
