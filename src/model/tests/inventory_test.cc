#include "model/inventory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// A node in which every field has a value of its own, so that a mix-up shows.
ReportedProfile FullProfile() {
  ReportedProfile profile;
  profile.name = "1g.18gb";
  profile.id = 19;
  profile.nvml_profile = 0;
  profile.compute_slices = 1;
  profile.max_instances = 7;
  profile.memory = Bytes::FromMib(16384);
  profile.sm_count = 16;
  profile.engines = {.copy = 1, .decoder = 2, .encoder = 3, .jpeg = 4, .ofa = 5};
  profile.placements = {{0, 1}, {1, 1}};
  return profile;
}

Gpu FullGpu() {
  Gpu gpu;
  gpu.index = 0;
  gpu.uuid = "GPU-1";
  gpu.product = "NVIDIA H200";
  gpu.board = "h200";
  gpu.memory = Bytes::FromMib(143771);
  gpu.memory_used = Bytes::FromMib(700);
  gpu.memory_reserved = Bytes::FromMib(561);
  gpu.sm_count = 132;
  gpu.compute_capability_major = 9;
  gpu.compute_capability_minor = 0;
  gpu.pci_bus_id = "00000000:18:00.0";
  gpu.pci_device_id = 0x233510DE;
  gpu.pci_subsystem_id = 0x18BE10DE;
  gpu.numa_node = 1;
  gpu.minor_number = 3;
  gpu.compute_mode = ComputeMode::kExclusiveProcess;
  gpu.fabric = FabricPlace{"1f0b8a5e-0000-4000-8000-00000000000a", 32766};
  gpu.mig_capable = true;
  gpu.mig_enabled = true;
  gpu.mig_pending = false;
  gpu.utilisation_percent = 42;
  gpu.profiles = {FullProfile()};
  GpuInstance instance;
  instance.id = 7;
  instance.profile_id = 19;
  instance.profile = "1g.18gb";
  instance.placement = {1, 1};
  instance.compute_instances = {{.id = 2, .profile_id = 4, .placement = {0, 1}, .uuid = "MIG-1"}};
  gpu.instances = {instance};
  GpuProcess process;
  process.pid = 4711;
  process.name = "python3";
  process.memory = Bytes::FromMib(512);
  process.type = ProcessType::kMpsClient;
  process.gpu_instance = 7;
  process.compute_instance = 2;
  gpu.processes = {process};
  gpu.health = {.ecc = true,
                .ecc_errors_corrected = 5,
                .ecc_errors_uncorrected = 6,
                .rows_remapped = 1,
                .row_remap_pending = true,
                .row_remap_failed = false,
                .xid_events = true};
  return gpu;
}

Inventory FullNode() {
  Inventory node;
  node.host = {.hostname = "node1",
               .kernel = "6.1.0",
               .cpu_cores = 16,
               .wsl2 = false,
               .container = true,
               .admin = true,
               .cgroup2 = true,
               .shm_usable = false,
               .mps_control = "/usr/bin/nvidia-cuda-mps-control",
               .mps_pipe_directory = "/tmp/nvidia-mps",
               .mps_pipe_usable = true};
  node.driver = {.version = "580.159.04",
                 .nvml_version = "13.580.159.04",
                 .cuda_version = 13000,
                 .simulated = true,
                 .capabilities = {{"mig", true, "a GPU reports a MIG mode"}}};
  node.gpus.push_back(FullGpu());
  Gpu lost;
  lost.index = 1;
  lost.problem = "gpu is lost";
  node.gpus.push_back(lost);
  GpuLink link;
  link.a = 0;
  link.b = 1;
  link.pci_path = PciPath::kHostBridge;
  link.nvlinks = 18;
  link.nvswitch = true;
  link.p2p = false;
  node.links = {link};
  node.mps_daemons = {
      {.pipe_directory = "/tmp/mps", .pid = 99, .answers = true, .servers = {100, 101}}};
  node.modes = {{.mode = SharingMode::kMps, .gpus = {0}, .reasons = {"GPU 1: gpu is lost"}}};
  return node;
}

std::string Text(const Json& json) {
  return json.dump(2);
}

std::string ErrorOf(const Json& json) {
  const Result<Inventory> node = ParseInventory(Text(json), "node.json");
  return node ? "no error" : node.error().message;
}

TEST(Inventory, ReadsBackWhatItWrites) {
  const Json json = InventoryToJson(FullNode());
  const Result<Inventory> node = ParseInventory(Text(json), "node.json");
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_EQ(Text(InventoryToJson(*node)), Text(json));
  const Gpu& gpu = node->gpus.at(0);
  EXPECT_EQ(gpu.pci_device_id, 0x233510DEu);
  EXPECT_EQ(gpu.memory, Bytes::FromMib(143771));
  EXPECT_EQ(gpu.compute_mode, ComputeMode::kExclusiveProcess);
  EXPECT_EQ(gpu.fabric->clique_id, 32766);
  EXPECT_EQ(gpu.health.row_remap_failed, false);
  EXPECT_EQ(gpu.processes.at(0).type, ProcessType::kMpsClient);
  EXPECT_EQ(node->links.at(0).pci_path, PciPath::kHostBridge);
  EXPECT_EQ(node->modes.at(0).mode, SharingMode::kMps);
}

TEST(Inventory, WritesNoFieldForWhatTheDriverDidNotTell) {
  const Json json = InventoryToJson(FullNode());
  EXPECT_TRUE(json["gpus"][0].contains("sm_count"));
  const Json& lost = json["gpus"][1];
  for (const char* key : {"sm_count", "numa_node", "memory_reserved_mib", "compute_mode", "fabric",
                          "minor_number", "utilisation_percent"}) {
    EXPECT_FALSE(lost.contains(key)) << key;
  }
  EXPECT_TRUE(lost["health"].empty());
}

TEST(Inventory, RefusesAnUnknownKeyWithItsPlaceAndASuggestion) {
  Json json = InventoryToJson(FullNode());
  json["gpus"][0]["utilization_percent"] = 3;
  const Result<Inventory> node = ParseInventory(Text(json), "node.json");
  ASSERT_FALSE(node);
  EXPECT_EQ(node.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(node.error().message, HasSubstr("node.json:"));
  EXPECT_THAT(node.error().message, HasSubstr("utilization_percent"));
  EXPECT_THAT(node.error().hint, HasSubstr("utilisation_percent"));
}

TEST(Inventory, RefusesAnotherVersion) {
  Json json = InventoryToJson(FullNode());
  json["version"] = "sublet.node/v2";
  EXPECT_THAT(ErrorOf(json), HasSubstr("sublet.node/v2"));
}

TEST(Inventory, RefusesAMissingField) {
  Json json = InventoryToJson(FullNode());
  json["gpus"][0].erase("uuid");
  EXPECT_THAT(ErrorOf(json), HasSubstr("uuid"));
}

TEST(Inventory, RefusesNumbersOutOfRange) {
  Json json = InventoryToJson(FullNode());
  json["gpus"][0]["memory_mib"] = -1;
  EXPECT_NE(ErrorOf(json), "no error");
  json = InventoryToJson(FullNode());
  json["gpus"][0]["utilisation_percent"] = 101;
  EXPECT_NE(ErrorOf(json), "no error");
  json = InventoryToJson(FullNode());
  json["gpus"][0]["sm_count"] = 1.5;
  EXPECT_NE(ErrorOf(json), "no error");
}

TEST(Inventory, RefusesAPciIdThatIsNoHexNumber) {
  for (const char* text : {"233510DE", "0x", "0x12345678A", "0x12G4", ""}) {
    Json json = InventoryToJson(FullNode());
    json["gpus"][0]["pci_device_id"] = text;
    EXPECT_THAT(ErrorOf(json), HasSubstr("not a PCI id")) << text;
  }
}

TEST(Inventory, RefusesTwoGpusWithOneIndexOrUuid) {
  Json json = InventoryToJson(FullNode());
  json["gpus"][1]["index"] = 0;
  EXPECT_THAT(ErrorOf(json), HasSubstr("two GPUs have one index"));
  json = InventoryToJson(FullNode());
  json["gpus"][1]["uuid"] = "GPU-1";
  EXPECT_THAT(ErrorOf(json), HasSubstr("two GPUs have one uuid"));
}

TEST(Inventory, RefusesReferencesToGpusThatAreNotThere) {
  Json json = InventoryToJson(FullNode());
  json["links"][0]["b"] = 2;
  EXPECT_THAT(ErrorOf(json), HasSubstr("not a pair"));
  json = InventoryToJson(FullNode());
  json["links"][0]["b"] = 0;
  EXPECT_THAT(ErrorOf(json), HasSubstr("not a pair"));
  json = InventoryToJson(FullNode());
  json["modes"][0]["gpus"] = {5};
  EXPECT_THAT(ErrorOf(json), HasSubstr("no such GPU"));
}

TEST(Inventory, RefusesATruncatedFile) {
  const std::string text = Text(InventoryToJson(FullNode()));
  const Result<Inventory> node = ParseInventory(text.substr(0, text.size() / 2), "node.json");
  ASSERT_FALSE(node);
  EXPECT_THAT(node.error().message, HasSubstr("node.json:"));
}

TEST(Inventory, SortsGpusByIndex) {
  Json json = InventoryToJson(FullNode());
  std::swap(json["gpus"][0], json["gpus"][1]);
  const Result<Inventory> node = ParseInventory(Text(json), "node.json");
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_EQ(node->gpus.at(0).uuid, "GPU-1");
}

TEST(Inventory, FindsGpusAndProfiles) {
  const Inventory node = FullNode();
  ASSERT_NE(node.FindGpu("GPU-1"), nullptr);
  EXPECT_EQ(node.FindGpu("GPU-1")->index, 0);
  EXPECT_EQ(node.FindGpu("GPU-2"), nullptr);
  ASSERT_NE(node.gpus[0].FindProfile(19), nullptr);
  EXPECT_EQ(node.gpus[0].FindProfile(14), nullptr);
}

}  // namespace
}  // namespace sublet
