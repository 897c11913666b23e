#include "model/inventory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/check.h"
#include "model/document.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

template <typename Enum>
using Words = std::vector<std::pair<std::string_view, Enum>>;

const Words<ComputeMode> kComputeModes{{"default", ComputeMode::kDefault},
                                       {"exclusive-thread", ComputeMode::kExclusiveThread},
                                       {"prohibited", ComputeMode::kProhibited},
                                       {"exclusive-process", ComputeMode::kExclusiveProcess}};
const Words<ProcessType> kProcessTypes{
    {"C", ProcessType::kCompute}, {"G", ProcessType::kGraphics}, {"M+C", ProcessType::kMpsClient}};
const Words<PciPath> kPciPaths{
    {"same-board", PciPath::kSameBoard}, {"one-switch", PciPath::kOneSwitch},
    {"switches", PciPath::kSwitches},    {"host-bridge", PciPath::kHostBridge},
    {"numa-node", PciPath::kNumaNode},   {"system", PciPath::kSystem}};

template <typename Enum>
std::string_view NameOf(const Words<Enum>& words, Enum value) {
  for (const auto& [name, known] : words) {
    if (known == value) return name;
  }
  CHECK(false);
}

Words<SharingMode> SharingModeWords() {
  Words<SharingMode> words;
  for (const SharingMode mode : {SharingMode::kExclusive, SharingMode::kStreams,
                                 SharingMode::kTimeSlicing, SharingMode::kMps, SharingMode::kMig}) {
    words.emplace_back(SharingModeName(mode), mode);
  }
  return words;
}

// ---- writing ----

template <typename T>
void Put(Json& json, const char* key, const std::optional<T>& value) {
  if (value) json[key] = *value;
}

template <typename T, typename Write>
Json ListToJson(const std::vector<T>& list, const Write& write) {
  Json json = Json::array();
  for (const T& item : list) json.push_back(write(item));
  return json;
}

std::string Hex(std::uint32_t value) {
  return fmt::format("0x{:08X}", value);
}

Json HostToJson(const Host& host) {
  return {{"hostname", host.hostname},
          {"kernel", host.kernel},
          {"cpu_cores", host.cpu_cores},
          {"wsl2", host.wsl2},
          {"container", host.container},
          {"admin", host.admin},
          {"cgroup2", host.cgroup2},
          {"shm_usable", host.shm_usable},
          {"mps_control", host.mps_control},
          {"mps_pipe_directory", host.mps_pipe_directory},
          {"mps_pipe_usable", host.mps_pipe_usable}};
}

Json DriverToJson(const Driver& driver) {
  return {
      {"version", driver.version},
      {"nvml_version", driver.nvml_version},
      {"cuda_version", driver.cuda_version},
      {"simulated", driver.simulated},
      {"capabilities", ListToJson(driver.capabilities, [](const Capability& capability) -> Json {
         return {{"name", capability.name},
                 {"available", capability.available},
                 {"how", capability.how}};
       })}};
}

Json PlacementToJson(const Placement& placement) {
  return {{"start", placement.start}, {"size", placement.size}};
}

Json EnginesToJson(const EngineCounts& engines) {
  return {{"copy", engines.copy},
          {"decoder", engines.decoder},
          {"encoder", engines.encoder},
          {"jpeg", engines.jpeg},
          {"ofa", engines.ofa}};
}

Json ProfileToJson(const ReportedProfile& profile) {
  return {{"name", profile.name},
          {"id", profile.id},
          {"nvml_profile", profile.nvml_profile},
          {"compute_slices", profile.compute_slices},
          {"max_instances", profile.max_instances},
          {"memory_mib", profile.memory.mib()},
          {"sm_count", profile.sm_count},
          {"engines", EnginesToJson(profile.engines)},
          {"placements", ListToJson(profile.placements, PlacementToJson)}};
}

Json ComputeInstanceToJson(const ComputeInstance& instance) {
  return {{"id", instance.id},
          {"profile_id", instance.profile_id},
          {"placement", PlacementToJson(instance.placement)},
          {"uuid", instance.uuid}};
}

Json GpuInstanceToJson(const GpuInstance& instance) {
  return {{"id", instance.id},
          {"profile_id", instance.profile_id},
          {"profile", instance.profile},
          {"placement", PlacementToJson(instance.placement)},
          {"compute_instances", ListToJson(instance.compute_instances, ComputeInstanceToJson)}};
}

Json ProcessToJson(const GpuProcess& process) {
  Json json{{"pid", process.pid}, {"name", process.name}};
  if (process.memory) json["memory_mib"] = process.memory->mib();
  json["type"] = ProcessTypeName(process.type);
  Put(json, "gpu_instance", process.gpu_instance);
  Put(json, "compute_instance", process.compute_instance);
  return json;
}

Json HealthToJson(const GpuHealth& health) {
  Json json = Json::object();
  Put(json, "ecc", health.ecc);
  Put(json, "ecc_errors_corrected", health.ecc_errors_corrected);
  Put(json, "ecc_errors_uncorrected", health.ecc_errors_uncorrected);
  Put(json, "rows_remapped", health.rows_remapped);
  Put(json, "row_remap_pending", health.row_remap_pending);
  Put(json, "row_remap_failed", health.row_remap_failed);
  Put(json, "xid_events", health.xid_events);
  return json;
}

Json GpuToJson(const Gpu& gpu) {
  Json json{{"index", gpu.index},
            {"uuid", gpu.uuid},
            {"product", gpu.product},
            {"board", gpu.board},
            {"memory_mib", gpu.memory.mib()},
            {"memory_used_mib", gpu.memory_used.mib()}};
  if (gpu.memory_reserved) json["memory_reserved_mib"] = gpu.memory_reserved->mib();
  Put(json, "sm_count", gpu.sm_count);
  json["compute_capability_major"] = gpu.compute_capability_major;
  json["compute_capability_minor"] = gpu.compute_capability_minor;
  json["pci_bus_id"] = gpu.pci_bus_id;
  json["pci_device_id"] = Hex(gpu.pci_device_id);
  json["pci_subsystem_id"] = Hex(gpu.pci_subsystem_id);
  Put(json, "numa_node", gpu.numa_node);
  Put(json, "minor_number", gpu.minor_number);
  if (gpu.compute_mode) json["compute_mode"] = ComputeModeName(*gpu.compute_mode);
  if (gpu.fabric) {
    json["fabric"] = {{"cluster_uuid", gpu.fabric->cluster_uuid},
                      {"clique_id", gpu.fabric->clique_id}};
  }
  json["mig_capable"] = gpu.mig_capable;
  json["mig_enabled"] = gpu.mig_enabled;
  json["mig_pending"] = gpu.mig_pending;
  Put(json, "utilisation_percent", gpu.utilisation_percent);
  json["profiles"] = ListToJson(gpu.profiles, ProfileToJson);
  json["instances"] = ListToJson(gpu.instances, GpuInstanceToJson);
  json["processes"] = ListToJson(gpu.processes, ProcessToJson);
  json["health"] = HealthToJson(gpu.health);
  json["problem"] = gpu.problem;
  return json;
}

Json LinkToJson(const GpuLink& link) {
  Json json{{"a", link.a}, {"b", link.b}};
  if (link.pci_path) json["pci_path"] = PciPathName(*link.pci_path);
  Put(json, "nvlinks", link.nvlinks);
  json["nvswitch"] = link.nvswitch;
  Put(json, "p2p", link.p2p);
  return json;
}

Json DaemonToJson(const FoundMpsDaemon& daemon) {
  Json json{{"pipe_directory", daemon.pipe_directory}};
  Put(json, "pid", daemon.pid);
  json["answers"] = daemon.answers;
  json["servers"] = daemon.servers;
  return json;
}

Json ModeToJson(const ModeCheck& check) {
  return {{"mode", SharingModeName(check.mode)}, {"gpus", check.gpus}, {"reasons", check.reasons}};
}

// ---- reading ----

// Counts of what a real node has stay far below; what is above is a broken file.
constexpr Range kCount{.min = 0, .max = 1 << 20};
constexpr Range kMib{.min = 0, .max = 1LL << 32};  // 4 PiB
constexpr Range kNumber{.min = -1, .max = 1LL << 31};

void RequiredMib(ObjectReader& in, std::string_view key, Bytes& out) {
  std::int64_t mib = 0;
  in.Required(key, mib, kMib);
  out = Bytes::FromMib(mib);
}

void OptionalMib(ObjectReader& in, std::string_view key, std::optional<Bytes>& out) {
  std::optional<std::int64_t> mib;
  in.Optional(key, mib, kMib);
  if (mib) out = Bytes::FromMib(*mib);
}

template <typename T>
auto AsOptional(Result<T> (*read)(const Node&)) {
  return [read](const Node& node) -> Result<std::optional<T>> {
    ASSIGN_OR_RETURN(T value, read(node));
    return std::optional<T>(std::move(value));
  };
}

Result<int> ReadCount(const Node& node) {
  ASSIGN_OR_RETURN(const std::int64_t value, ReadInteger(node, kCount));
  return static_cast<int>(value);
}

Result<int> ReadPid(const Node& node) {
  ASSIGN_OR_RETURN(const std::int64_t value, ReadInteger(node, {.min = 1, .max = 1LL << 30}));
  return static_cast<int>(value);
}

Result<std::uint32_t> ReadHex(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  std::uint32_t value = 0;
  const char* const end = text.data() + text.size();
  if (text.starts_with("0x") && text.size() > 2) {
    const auto [stop, ec] = std::from_chars(text.data() + 2, end, value, 16);
    if (ec == std::errc() && stop == end) return value;
  }
  return FailAt(node, "not a PCI id: '" + text.substr(0, 32) + "'", "write it like 0x233510DE");
}

template <typename Enum>
auto ReadWord(const Words<Enum>& words) {
  return [&words](const Node& node) -> Result<std::optional<Enum>> {
    ASSIGN_OR_RETURN(const std::string word, ReadString(node));
    std::vector<std::string_view> known;
    for (const auto& [name, value] : words) {
      if (name == word) return std::optional<Enum>(value);
      known.push_back(name);
    }
    return FailAt(node, "unknown value: '" + word.substr(0, 64) + "'", SuggestFor(word, known));
  };
}

Result<Host> ReadHost(const Node& node) {
  Host host;
  ObjectReader in(node, "host");
  in.Required("hostname", host.hostname);
  in.Required("kernel", host.kernel);
  in.Required("cpu_cores", host.cpu_cores, kCount);
  in.Required("wsl2", host.wsl2);
  in.Required("container", host.container);
  in.Required("admin", host.admin);
  in.Required("cgroup2", host.cgroup2);
  in.Required("shm_usable", host.shm_usable);
  in.Required("mps_control", host.mps_control);
  in.Required("mps_pipe_directory", host.mps_pipe_directory);
  in.Required("mps_pipe_usable", host.mps_pipe_usable);
  RETURN_IF_ERROR(in.Finish());
  return host;
}

Result<Capability> ReadCapability(const Node& node) {
  Capability capability;
  ObjectReader in(node, "capability");
  in.Required("name", capability.name);
  in.Required("available", capability.available);
  in.Required("how", capability.how);
  RETURN_IF_ERROR(in.Finish());
  return capability;
}

Result<Driver> ReadDriver(const Node& node) {
  Driver driver;
  ObjectReader in(node, "driver");
  in.Required("version", driver.version);
  in.Required("nvml_version", driver.nvml_version);
  in.Required("cuda_version", driver.cuda_version, kCount);
  in.Required("simulated", driver.simulated);
  in.RequiredList("capabilities", driver.capabilities, ReadCapability);
  RETURN_IF_ERROR(in.Finish());
  return driver;
}

Result<Placement> ReadPlacement(const Node& node) {
  Placement placement;
  ObjectReader in(node, "placement");
  in.Required("start", placement.start, {.min = 0, .max = 64});
  in.Required("size", placement.size, {.min = 0, .max = 64});
  RETURN_IF_ERROR(in.Finish());
  return placement;
}

Result<EngineCounts> ReadEngines(const Node& node) {
  EngineCounts engines;
  ObjectReader in(node, "engines");
  in.Required("copy", engines.copy, kCount);
  in.Required("decoder", engines.decoder, kCount);
  in.Required("encoder", engines.encoder, kCount);
  in.Required("jpeg", engines.jpeg, kCount);
  in.Required("ofa", engines.ofa, kCount);
  RETURN_IF_ERROR(in.Finish());
  return engines;
}

Result<ReportedProfile> ReadProfile(const Node& node) {
  ReportedProfile profile;
  ObjectReader in(node, "profile");
  in.Required("name", profile.name);
  in.Required("id", profile.id, kCount);
  in.Required("nvml_profile", profile.nvml_profile, {.min = 0, .max = 255});
  in.Required("compute_slices", profile.compute_slices, {.min = 1, .max = 64});
  in.Required("max_instances", profile.max_instances, {.min = 0, .max = 64});
  RequiredMib(in, "memory_mib", profile.memory);
  in.Required("sm_count", profile.sm_count, kCount);
  in.Required("engines", profile.engines, ReadEngines);
  in.RequiredList("placements", profile.placements, ReadPlacement);
  RETURN_IF_ERROR(in.Finish());
  return profile;
}

Result<ComputeInstance> ReadComputeInstance(const Node& node) {
  ComputeInstance instance;
  ObjectReader in(node, "compute instance");
  in.Required("id", instance.id, kCount);
  in.Required("profile_id", instance.profile_id, kCount);
  in.Required("placement", instance.placement, ReadPlacement);
  in.Required("uuid", instance.uuid);
  RETURN_IF_ERROR(in.Finish());
  return instance;
}

Result<GpuInstance> ReadGpuInstance(const Node& node) {
  GpuInstance instance;
  ObjectReader in(node, "GPU instance");
  in.Required("id", instance.id, kCount);
  in.Required("profile_id", instance.profile_id, kCount);
  in.Required("profile", instance.profile);
  in.Required("placement", instance.placement, ReadPlacement);
  in.RequiredList("compute_instances", instance.compute_instances, ReadComputeInstance);
  RETURN_IF_ERROR(in.Finish());
  return instance;
}

Result<GpuProcess> ReadProcess(const Node& node) {
  GpuProcess process;
  ObjectReader in(node, "process");
  in.Required("pid", process.pid, {.min = 0, .max = 1LL << 30});
  in.Required("name", process.name);
  OptionalMib(in, "memory_mib", process.memory);
  in.RequiredEnum("type", process.type, kProcessTypes);
  in.Optional("gpu_instance", process.gpu_instance, kCount);
  in.Optional("compute_instance", process.compute_instance, kCount);
  RETURN_IF_ERROR(in.Finish());
  return process;
}

Result<GpuHealth> ReadHealth(const Node& node) {
  GpuHealth health;
  ObjectReader in(node, "health");
  const auto read_bool = AsOptional<bool>(ReadBool);
  constexpr Range kErrors{.min = 0, .max = 9e15};  // Integers that a double holds exactly.
  in.Optional("ecc", health.ecc, read_bool);
  in.Optional("ecc_errors_corrected", health.ecc_errors_corrected, kErrors);
  in.Optional("ecc_errors_uncorrected", health.ecc_errors_uncorrected, kErrors);
  in.Optional("rows_remapped", health.rows_remapped, kCount);
  in.Optional("row_remap_pending", health.row_remap_pending, read_bool);
  in.Optional("row_remap_failed", health.row_remap_failed, read_bool);
  in.Optional("xid_events", health.xid_events, read_bool);
  RETURN_IF_ERROR(in.Finish());
  return health;
}

Result<FabricPlace> ReadFabric(const Node& node) {
  FabricPlace fabric;
  ObjectReader in(node, "fabric");
  in.Required("cluster_uuid", fabric.cluster_uuid);
  in.Required("clique_id", fabric.clique_id, {.min = 0, .max = (1LL << 32) - 1});
  RETURN_IF_ERROR(in.Finish());
  return fabric;
}

Result<Gpu> ReadGpu(const Node& node) {
  Gpu gpu;
  ObjectReader in(node, "GPU");
  in.Required("index", gpu.index, kCount);
  in.Required("uuid", gpu.uuid);
  in.Required("product", gpu.product);
  in.Required("board", gpu.board);
  RequiredMib(in, "memory_mib", gpu.memory);
  RequiredMib(in, "memory_used_mib", gpu.memory_used);
  OptionalMib(in, "memory_reserved_mib", gpu.memory_reserved);
  in.Optional("sm_count", gpu.sm_count, kCount);
  in.Required("compute_capability_major", gpu.compute_capability_major, kCount);
  in.Required("compute_capability_minor", gpu.compute_capability_minor, kCount);
  in.Required("pci_bus_id", gpu.pci_bus_id);
  in.Required("pci_device_id", gpu.pci_device_id, ReadHex);
  in.Required("pci_subsystem_id", gpu.pci_subsystem_id, ReadHex);
  in.Optional("numa_node", gpu.numa_node, kNumber);
  in.Optional("minor_number", gpu.minor_number, kCount);
  in.Optional("compute_mode", gpu.compute_mode, ReadWord(kComputeModes));
  in.Optional("fabric", gpu.fabric, AsOptional<FabricPlace>(ReadFabric));
  in.Required("mig_capable", gpu.mig_capable);
  in.Required("mig_enabled", gpu.mig_enabled);
  in.Required("mig_pending", gpu.mig_pending);
  in.Optional("utilisation_percent", gpu.utilisation_percent, {.min = 0, .max = 100});
  in.RequiredList("profiles", gpu.profiles, ReadProfile);
  in.RequiredList("instances", gpu.instances, ReadGpuInstance);
  in.RequiredList("processes", gpu.processes, ReadProcess);
  in.Required("health", gpu.health, ReadHealth);
  in.Required("problem", gpu.problem);
  RETURN_IF_ERROR(in.Finish());
  return gpu;
}

Result<GpuLink> ReadLink(const Node& node) {
  GpuLink link;
  ObjectReader in(node, "link");
  in.Required("a", link.a, kCount);
  in.Required("b", link.b, kCount);
  in.Optional("pci_path", link.pci_path, ReadWord(kPciPaths));
  in.Optional("nvlinks", link.nvlinks, kCount);
  in.Required("nvswitch", link.nvswitch);
  in.Optional("p2p", link.p2p, AsOptional<bool>(ReadBool));
  RETURN_IF_ERROR(in.Finish());
  return link;
}

Result<FoundMpsDaemon> ReadDaemon(const Node& node) {
  FoundMpsDaemon daemon;
  ObjectReader in(node, "MPS daemon");
  in.Required("pipe_directory", daemon.pipe_directory);
  in.Optional("pid", daemon.pid, AsOptional<int>(ReadPid));
  in.Required("answers", daemon.answers);
  in.RequiredList("servers", daemon.servers, ReadPid);
  RETURN_IF_ERROR(in.Finish());
  return daemon;
}

Result<ModeCheck> ReadMode(const Node& node) {
  ModeCheck check;
  ObjectReader in(node, "mode");
  in.RequiredEnum("mode", check.mode, SharingModeWords());
  in.RequiredList("gpus", check.gpus, ReadCount);
  in.RequiredList("reasons", check.reasons, ReadString);
  RETURN_IF_ERROR(in.Finish());
  return check;
}

// References between the parts: what no field can check by itself.
void CheckReferences(const Inventory& inventory, ObjectReader& in) {
  std::set<int> indices;
  std::set<std::string> uuids;
  for (const Gpu& gpu : inventory.gpus) {
    if (!indices.insert(gpu.index).second) {
      in.Reject("gpus", fmt::format("two GPUs have one index: {}", gpu.index));
    }
    if (!gpu.uuid.empty() && !uuids.insert(gpu.uuid).second) {
      in.Reject("gpus", fmt::format("two GPUs have one uuid: {}", gpu.uuid));
    }
  }
  for (const GpuLink& link : inventory.links) {
    if (link.a >= link.b || !indices.contains(link.a) || !indices.contains(link.b)) {
      in.Reject("links", fmt::format("not a pair of this node's GPUs, the smaller index first: {} "
                                     "and {}",
                                     link.a, link.b));
    }
  }
  for (const ModeCheck& check : inventory.modes) {
    for (const int index : check.gpus) {
      if (!indices.contains(index)) {
        in.Reject("modes", fmt::format("no such GPU in this node: {}", index));
      }
    }
  }
}

Result<Inventory> ReadInventory(const Node& node) {
  Inventory inventory;
  ObjectReader in(node, "node");
  in.Version(kNodeVersion);
  in.Required("host", inventory.host, ReadHost);
  in.Required("driver", inventory.driver, ReadDriver);
  in.RequiredList("gpus", inventory.gpus, ReadGpu);
  in.RequiredList("links", inventory.links, ReadLink);
  in.RequiredList("mps_daemons", inventory.mps_daemons, ReadDaemon);
  in.RequiredList("modes", inventory.modes, ReadMode);
  CheckReferences(inventory, in);
  RETURN_IF_ERROR(in.Finish());
  std::ranges::sort(inventory.gpus, {}, &Gpu::index);
  return inventory;
}

}  // namespace

std::string_view ComputeModeName(ComputeMode mode) {
  return NameOf(kComputeModes, mode);
}
std::string_view ProcessTypeName(ProcessType type) {
  return NameOf(kProcessTypes, type);
}
std::string_view PciPathName(PciPath path) {
  return NameOf(kPciPaths, path);
}

const ReportedProfile* Gpu::FindProfile(int profile_id) const {
  const auto found = std::ranges::find(profiles, profile_id, &ReportedProfile::id);
  return found == profiles.end() ? nullptr : &*found;
}

const Gpu* Inventory::FindGpu(std::string_view uuid) const {
  const auto found = std::ranges::find(gpus, uuid, &Gpu::uuid);
  return found == gpus.end() ? nullptr : &*found;
}

nlohmann::ordered_json InventoryToJson(const Inventory& inventory) {
  return {{"version", kNodeVersion},
          {"host", HostToJson(inventory.host)},
          {"driver", DriverToJson(inventory.driver)},
          {"gpus", ListToJson(inventory.gpus, GpuToJson)},
          {"links", ListToJson(inventory.links, LinkToJson)},
          {"mps_daemons", ListToJson(inventory.mps_daemons, DaemonToJson)},
          {"modes", ListToJson(inventory.modes, ModeToJson)}};
}

Result<Inventory> ParseInventory(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadInventory);
}

}  // namespace sublet
