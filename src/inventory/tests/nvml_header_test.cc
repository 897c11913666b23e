// Compares our declarations of NVML with the real header. CMake compiles this file only where
// nvml.h is installed: in the CUDA toolkit's include folder, or where NVML_INCLUDE_DIR says.
#include <gtest/gtest.h>
#include <nvml.h>

#include <cstddef>

#include "inventory/nvml_api.h"

namespace sublet {
namespace {

#define EXPECT_SAME_SIZE(ours, theirs) EXPECT_EQ(sizeof(nvml::ours), sizeof(theirs))
#define EXPECT_SAME_FIELD(ours, field, theirs, their_field)              \
  EXPECT_EQ(offsetof(nvml::ours, field), offsetof(theirs, their_field)); \
  EXPECT_EQ(sizeof(nvml::ours::field), sizeof(theirs::their_field))
#define EXPECT_SAME_VALUE(ours, theirs) \
  EXPECT_EQ(static_cast<unsigned long long>(nvml::ours), static_cast<unsigned long long>(theirs))

TEST(NvmlHeader, StructuresOfDevicesAgree) {
  EXPECT_SAME_SIZE(PciInfo, nvmlPciInfo_t);
  EXPECT_SAME_FIELD(PciInfo, bus_id_legacy, nvmlPciInfo_t, busIdLegacy);
  EXPECT_SAME_FIELD(PciInfo, domain, nvmlPciInfo_t, domain);
  EXPECT_SAME_FIELD(PciInfo, bus, nvmlPciInfo_t, bus);
  EXPECT_SAME_FIELD(PciInfo, device, nvmlPciInfo_t, device);
  EXPECT_SAME_FIELD(PciInfo, pci_device_id, nvmlPciInfo_t, pciDeviceId);
  EXPECT_SAME_FIELD(PciInfo, pci_subsystem_id, nvmlPciInfo_t, pciSubSystemId);
  EXPECT_SAME_FIELD(PciInfo, bus_id, nvmlPciInfo_t, busId);
  EXPECT_SAME_SIZE(Memory, nvmlMemory_t);
  EXPECT_SAME_FIELD(Memory, total, nvmlMemory_t, total);
  EXPECT_SAME_FIELD(Memory, free, nvmlMemory_t, free);
  EXPECT_SAME_FIELD(Memory, used, nvmlMemory_t, used);
  EXPECT_SAME_SIZE(MemoryV2, nvmlMemory_v2_t);
  EXPECT_SAME_FIELD(MemoryV2, version, nvmlMemory_v2_t, version);
  EXPECT_SAME_FIELD(MemoryV2, total, nvmlMemory_v2_t, total);
  EXPECT_SAME_FIELD(MemoryV2, reserved, nvmlMemory_v2_t, reserved);
  EXPECT_SAME_FIELD(MemoryV2, free, nvmlMemory_v2_t, free);
  EXPECT_SAME_FIELD(MemoryV2, used, nvmlMemory_v2_t, used);
  EXPECT_EQ(nvml::StructVersion<nvml::MemoryV2>(2), nvmlMemory_v2);
  EXPECT_SAME_SIZE(Utilization, nvmlUtilization_t);
  EXPECT_SAME_FIELD(Utilization, gpu, nvmlUtilization_t, gpu);
  EXPECT_SAME_SIZE(ProcessInfo, nvmlProcessInfo_t);
  EXPECT_SAME_FIELD(ProcessInfo, pid, nvmlProcessInfo_t, pid);
  EXPECT_SAME_FIELD(ProcessInfo, used_gpu_memory, nvmlProcessInfo_t, usedGpuMemory);
  EXPECT_SAME_FIELD(ProcessInfo, gpu_instance_id, nvmlProcessInfo_t, gpuInstanceId);
  EXPECT_SAME_FIELD(ProcessInfo, compute_instance_id, nvmlProcessInfo_t, computeInstanceId);
  EXPECT_SAME_SIZE(ProcessUtilizationSample, nvmlProcessUtilizationSample_t);
  EXPECT_SAME_FIELD(ProcessUtilizationSample, pid, nvmlProcessUtilizationSample_t, pid);
  EXPECT_SAME_FIELD(ProcessUtilizationSample, time_us, nvmlProcessUtilizationSample_t, timeStamp);
  EXPECT_SAME_FIELD(ProcessUtilizationSample, sm, nvmlProcessUtilizationSample_t, smUtil);
  EXPECT_SAME_FIELD(ProcessUtilizationSample, memory, nvmlProcessUtilizationSample_t, memUtil);
  EXPECT_SAME_FIELD(ProcessUtilizationSample, encoder, nvmlProcessUtilizationSample_t, encUtil);
  EXPECT_SAME_FIELD(ProcessUtilizationSample, decoder, nvmlProcessUtilizationSample_t, decUtil);
  EXPECT_SAME_SIZE(GpuFabricInfoV2, nvmlGpuFabricInfo_v2_t);
  EXPECT_SAME_FIELD(GpuFabricInfoV2, cluster_uuid, nvmlGpuFabricInfo_v2_t, clusterUuid);
  EXPECT_SAME_FIELD(GpuFabricInfoV2, status, nvmlGpuFabricInfo_v2_t, status);
  EXPECT_SAME_FIELD(GpuFabricInfoV2, clique_id, nvmlGpuFabricInfo_v2_t, cliqueId);
  EXPECT_SAME_FIELD(GpuFabricInfoV2, state, nvmlGpuFabricInfo_v2_t, state);
  EXPECT_SAME_VALUE(kFabricCompleted, NVML_GPU_FABRIC_STATE_COMPLETED);
  EXPECT_SAME_SIZE(EventData, nvmlEventData_t);
  EXPECT_SAME_FIELD(EventData, device, nvmlEventData_t, device);
  EXPECT_SAME_FIELD(EventData, event_type, nvmlEventData_t, eventType);
  EXPECT_SAME_FIELD(EventData, event_data, nvmlEventData_t, eventData);
  EXPECT_SAME_FIELD(EventData, gpu_instance_id, nvmlEventData_t, gpuInstanceId);
  EXPECT_SAME_FIELD(EventData, compute_instance_id, nvmlEventData_t, computeInstanceId);
}

TEST(NvmlHeader, AttributesOfDevicesAgree) {
  EXPECT_SAME_SIZE(DeviceAttributes, nvmlDeviceAttributes_t);
  EXPECT_SAME_FIELD(DeviceAttributes, multiprocessor_count, nvmlDeviceAttributes_t,
                    multiprocessorCount);
  EXPECT_SAME_FIELD(DeviceAttributes, shared_copy_engine_count, nvmlDeviceAttributes_t,
                    sharedCopyEngineCount);
  EXPECT_SAME_FIELD(DeviceAttributes, shared_decoder_count, nvmlDeviceAttributes_t,
                    sharedDecoderCount);
  EXPECT_SAME_FIELD(DeviceAttributes, shared_encoder_count, nvmlDeviceAttributes_t,
                    sharedEncoderCount);
  EXPECT_SAME_FIELD(DeviceAttributes, shared_jpeg_count, nvmlDeviceAttributes_t, sharedJpegCount);
  EXPECT_SAME_FIELD(DeviceAttributes, shared_ofa_count, nvmlDeviceAttributes_t, sharedOfaCount);
  EXPECT_SAME_FIELD(DeviceAttributes, gpu_instance_slice_count, nvmlDeviceAttributes_t,
                    gpuInstanceSliceCount);
  EXPECT_SAME_FIELD(DeviceAttributes, compute_instance_slice_count, nvmlDeviceAttributes_t,
                    computeInstanceSliceCount);
  EXPECT_SAME_FIELD(DeviceAttributes, memory_size_mib, nvmlDeviceAttributes_t, memorySizeMB);
}

// The fields that all versions of a profile's information have.
#define EXPECT_SAME_PROFILE(ours, theirs)                         \
  EXPECT_SAME_SIZE(ours, theirs);                                 \
  EXPECT_SAME_FIELD(ours, id, theirs, id);                        \
  EXPECT_SAME_FIELD(ours, slice_count, theirs, sliceCount);       \
  EXPECT_SAME_FIELD(ours, instance_count, theirs, instanceCount); \
  EXPECT_SAME_FIELD(ours, multiprocessor_count, theirs, multiprocessorCount)
#define EXPECT_SAME_GPU_PROFILE(ours, theirs)                          \
  EXPECT_SAME_PROFILE(ours, theirs);                                   \
  EXPECT_SAME_FIELD(ours, copy_engine_count, theirs, copyEngineCount); \
  EXPECT_SAME_FIELD(ours, decoder_count, theirs, decoderCount);        \
  EXPECT_SAME_FIELD(ours, encoder_count, theirs, encoderCount);        \
  EXPECT_SAME_FIELD(ours, jpeg_count, theirs, jpegCount);              \
  EXPECT_SAME_FIELD(ours, ofa_count, theirs, ofaCount);                \
  EXPECT_SAME_FIELD(ours, memory_size_mib, theirs, memorySizeMB)
#define EXPECT_SAME_COMPUTE_PROFILE(ours, theirs)                                   \
  EXPECT_SAME_PROFILE(ours, theirs);                                                \
  EXPECT_SAME_FIELD(ours, shared_copy_engine_count, theirs, sharedCopyEngineCount); \
  EXPECT_SAME_FIELD(ours, shared_decoder_count, theirs, sharedDecoderCount);        \
  EXPECT_SAME_FIELD(ours, shared_encoder_count, theirs, sharedEncoderCount);        \
  EXPECT_SAME_FIELD(ours, shared_jpeg_count, theirs, sharedJpegCount);              \
  EXPECT_SAME_FIELD(ours, shared_ofa_count, theirs, sharedOfaCount)

TEST(NvmlHeader, StructuresOfMigAgree) {
  EXPECT_SAME_SIZE(InstancePlacement, nvmlGpuInstancePlacement_t);
  EXPECT_SAME_FIELD(InstancePlacement, start, nvmlGpuInstancePlacement_t, start);
  EXPECT_SAME_FIELD(InstancePlacement, size, nvmlGpuInstancePlacement_t, size);
  EXPECT_SAME_SIZE(InstancePlacement, nvmlComputeInstancePlacement_t);
  EXPECT_SAME_GPU_PROFILE(GpuInstanceProfileInfo, nvmlGpuInstanceProfileInfo_t);
  EXPECT_SAME_FIELD(GpuInstanceProfileInfo, is_p2p_supported, nvmlGpuInstanceProfileInfo_t,
                    isP2pSupported);
  EXPECT_SAME_GPU_PROFILE(GpuInstanceProfileInfoV2, nvmlGpuInstanceProfileInfo_v2_t);
  EXPECT_SAME_FIELD(GpuInstanceProfileInfoV2, name, nvmlGpuInstanceProfileInfo_v2_t, name);
  EXPECT_EQ(nvml::StructVersion<nvml::GpuInstanceProfileInfoV2>(2), nvmlGpuInstanceProfileInfo_v2);
  EXPECT_SAME_GPU_PROFILE(GpuInstanceProfileInfoV3, nvmlGpuInstanceProfileInfo_v3_t);
  EXPECT_SAME_FIELD(GpuInstanceProfileInfoV3, name, nvmlGpuInstanceProfileInfo_v3_t, name);
  EXPECT_SAME_FIELD(GpuInstanceProfileInfoV3, capabilities, nvmlGpuInstanceProfileInfo_v3_t,
                    capabilities);
  EXPECT_EQ(nvml::StructVersion<nvml::GpuInstanceProfileInfoV3>(3), nvmlGpuInstanceProfileInfo_v3);
  EXPECT_SAME_SIZE(GpuInstanceInfo, nvmlGpuInstanceInfo_t);
  EXPECT_SAME_FIELD(GpuInstanceInfo, device, nvmlGpuInstanceInfo_t, device);
  EXPECT_SAME_FIELD(GpuInstanceInfo, id, nvmlGpuInstanceInfo_t, id);
  EXPECT_SAME_FIELD(GpuInstanceInfo, profile_id, nvmlGpuInstanceInfo_t, profileId);
  EXPECT_SAME_FIELD(GpuInstanceInfo, placement, nvmlGpuInstanceInfo_t, placement);
  EXPECT_SAME_COMPUTE_PROFILE(ComputeInstanceProfileInfo, nvmlComputeInstanceProfileInfo_t);
  EXPECT_SAME_COMPUTE_PROFILE(ComputeInstanceProfileInfoV2, nvmlComputeInstanceProfileInfo_v2_t);
  EXPECT_SAME_COMPUTE_PROFILE(ComputeInstanceProfileInfoV3, nvmlComputeInstanceProfileInfo_v3_t);
  EXPECT_SAME_FIELD(ComputeInstanceProfileInfoV3, capabilities, nvmlComputeInstanceProfileInfo_v3_t,
                    capabilities);
  EXPECT_SAME_SIZE(ComputeInstanceInfo, nvmlComputeInstanceInfo_t);
  EXPECT_SAME_FIELD(ComputeInstanceInfo, gpu_instance, nvmlComputeInstanceInfo_t, gpuInstance);
  EXPECT_SAME_FIELD(ComputeInstanceInfo, id, nvmlComputeInstanceInfo_t, id);
  EXPECT_SAME_FIELD(ComputeInstanceInfo, profile_id, nvmlComputeInstanceInfo_t, profileId);
  EXPECT_SAME_FIELD(ComputeInstanceInfo, placement, nvmlComputeInstanceInfo_t, placement);
}

TEST(NvmlHeader, ReturnCodesAgree) {
  EXPECT_SAME_VALUE(kUninitialized, NVML_ERROR_UNINITIALIZED);
  EXPECT_SAME_VALUE(kInvalidArgument, NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_SAME_VALUE(kNotSupported, NVML_ERROR_NOT_SUPPORTED);
  EXPECT_SAME_VALUE(kNoPermission, NVML_ERROR_NO_PERMISSION);
  EXPECT_SAME_VALUE(kNotFound, NVML_ERROR_NOT_FOUND);
  EXPECT_SAME_VALUE(kInsufficientSize, NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_SAME_VALUE(kDriverNotLoaded, NVML_ERROR_DRIVER_NOT_LOADED);
  EXPECT_SAME_VALUE(kTimeout, NVML_ERROR_TIMEOUT);
  EXPECT_SAME_VALUE(kLibraryNotFound, NVML_ERROR_LIBRARY_NOT_FOUND);
  EXPECT_SAME_VALUE(kFunctionNotFound, NVML_ERROR_FUNCTION_NOT_FOUND);
  EXPECT_SAME_VALUE(kGpuIsLost, NVML_ERROR_GPU_IS_LOST);
  EXPECT_SAME_VALUE(kResetRequired, NVML_ERROR_RESET_REQUIRED);
  EXPECT_SAME_VALUE(kOperatingSystem, NVML_ERROR_OPERATING_SYSTEM);
  EXPECT_SAME_VALUE(kLibRmVersionMismatch, NVML_ERROR_LIB_RM_VERSION_MISMATCH);
  EXPECT_SAME_VALUE(kInUse, NVML_ERROR_IN_USE);
  EXPECT_SAME_VALUE(kMemory, NVML_ERROR_MEMORY);
  EXPECT_SAME_VALUE(kNoData, NVML_ERROR_NO_DATA);
  EXPECT_SAME_VALUE(kInsufficientResources, NVML_ERROR_INSUFFICIENT_RESOURCES);
  EXPECT_SAME_VALUE(kFreqNotSupported, NVML_ERROR_FREQ_NOT_SUPPORTED);
  EXPECT_SAME_VALUE(kArgumentVersionMismatch, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  EXPECT_SAME_VALUE(kDeprecated, NVML_ERROR_DEPRECATED);
  EXPECT_SAME_VALUE(kNotReady, NVML_ERROR_NOT_READY);
  EXPECT_SAME_VALUE(kGpuNotFound, NVML_ERROR_GPU_NOT_FOUND);
  EXPECT_SAME_VALUE(kInvalidState, NVML_ERROR_INVALID_STATE);
  EXPECT_SAME_VALUE(kUnknown, NVML_ERROR_UNKNOWN);
}

TEST(NvmlHeader, ConstantsAgree) {
  EXPECT_SAME_VALUE(kUuidBufferSize, NVML_DEVICE_UUID_V2_BUFFER_SIZE);
  EXPECT_SAME_VALUE(kNameBufferSize, NVML_DEVICE_NAME_V2_BUFFER_SIZE);
  EXPECT_SAME_VALUE(kVersionBufferSize, NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE);
  EXPECT_SAME_VALUE(kNvLinkMaxLinks, NVML_NVLINK_MAX_LINKS);
  EXPECT_SAME_VALUE(kEventSingleBitEcc, nvmlEventTypeSingleBitEccError);
  EXPECT_SAME_VALUE(kEventDoubleBitEcc, nvmlEventTypeDoubleBitEccError);
  EXPECT_SAME_VALUE(kEventXidCritical, nvmlEventTypeXidCriticalError);
  EXPECT_SAME_VALUE(kEventMigConfigChange, nvmlEventMigConfigChange);
  EXPECT_SAME_VALUE(kMigDisable, NVML_DEVICE_MIG_DISABLE);
  EXPECT_SAME_VALUE(kMigEnable, NVML_DEVICE_MIG_ENABLE);
  EXPECT_SAME_VALUE(kComputeModeDefault, NVML_COMPUTEMODE_DEFAULT);
  EXPECT_SAME_VALUE(kComputeModeExclusiveThread, NVML_COMPUTEMODE_EXCLUSIVE_THREAD);
  EXPECT_SAME_VALUE(kComputeModeProhibited, NVML_COMPUTEMODE_PROHIBITED);
  EXPECT_SAME_VALUE(kComputeModeExclusiveProcess, NVML_COMPUTEMODE_EXCLUSIVE_PROCESS);
  EXPECT_SAME_VALUE(kErrorCorrected, NVML_MEMORY_ERROR_TYPE_CORRECTED);
  EXPECT_SAME_VALUE(kErrorUncorrected, NVML_MEMORY_ERROR_TYPE_UNCORRECTED);
  EXPECT_SAME_VALUE(kEccVolatile, NVML_VOLATILE_ECC);
  EXPECT_SAME_VALUE(kTopologyInternal, NVML_TOPOLOGY_INTERNAL);
  EXPECT_SAME_VALUE(kTopologySingle, NVML_TOPOLOGY_SINGLE);
  EXPECT_SAME_VALUE(kTopologyMultiple, NVML_TOPOLOGY_MULTIPLE);
  EXPECT_SAME_VALUE(kTopologyHostBridge, NVML_TOPOLOGY_HOSTBRIDGE);
  EXPECT_SAME_VALUE(kTopologyNode, NVML_TOPOLOGY_NODE);
  EXPECT_SAME_VALUE(kTopologySystem, NVML_TOPOLOGY_SYSTEM);
  EXPECT_SAME_VALUE(kP2pCapsRead, NVML_P2P_CAPS_INDEX_READ);
  EXPECT_SAME_VALUE(kP2pCapsWrite, NVML_P2P_CAPS_INDEX_WRITE);
  EXPECT_SAME_VALUE(kP2pCapsNvLink, NVML_P2P_CAPS_INDEX_NVLINK);
  EXPECT_SAME_VALUE(kP2pStatusOk, NVML_P2P_STATUS_OK);
  EXPECT_SAME_VALUE(kP2pStatusNotSupported, NVML_P2P_STATUS_NOT_SUPPORTED);
  EXPECT_SAME_VALUE(kNvLinkDeviceGpu, NVML_NVLINK_DEVICE_TYPE_GPU);
  EXPECT_SAME_VALUE(kNvLinkDeviceSwitch, NVML_NVLINK_DEVICE_TYPE_SWITCH);
  EXPECT_SAME_VALUE(kAffinityScopeNode, NVML_AFFINITY_SCOPE_NODE);
}

TEST(NvmlHeader, MigProfilesAgree) {
  EXPECT_SAME_VALUE(kGpuInstanceProfile1Slice, NVML_GPU_INSTANCE_PROFILE_1_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile2Slice, NVML_GPU_INSTANCE_PROFILE_2_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile3Slice, NVML_GPU_INSTANCE_PROFILE_3_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile4Slice, NVML_GPU_INSTANCE_PROFILE_4_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile7Slice, NVML_GPU_INSTANCE_PROFILE_7_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile8Slice, NVML_GPU_INSTANCE_PROFILE_8_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile6Slice, NVML_GPU_INSTANCE_PROFILE_6_SLICE);
  EXPECT_SAME_VALUE(kGpuInstanceProfile1SliceRev1, NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1);
  EXPECT_SAME_VALUE(kGpuInstanceProfile2SliceRev1, NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1);
  EXPECT_SAME_VALUE(kGpuInstanceProfile1SliceRev2, NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV2);
  EXPECT_SAME_VALUE(kGpuInstanceProfile1SliceGfx, NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX);
  EXPECT_SAME_VALUE(kGpuInstanceProfile2SliceGfx, NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX);
  EXPECT_SAME_VALUE(kGpuInstanceProfile4SliceGfx, NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX);
  EXPECT_SAME_VALUE(kGpuInstanceProfile1SliceNoMe, NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME);
  EXPECT_SAME_VALUE(kGpuInstanceProfile2SliceNoMe, NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME);
  EXPECT_SAME_VALUE(kGpuInstanceProfile1SliceAllMe, NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME);
  EXPECT_SAME_VALUE(kGpuInstanceProfile2SliceAllMe, NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME);
  // Later headers have more profiles, never fewer.
  EXPECT_GE(NVML_GPU_INSTANCE_PROFILE_COUNT, nvml::kGpuInstanceProfile2SliceAllMe + 1);
  EXPECT_SAME_VALUE(kComputeInstanceEngineShared, NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED);
}

}  // namespace
}  // namespace sublet
