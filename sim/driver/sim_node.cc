#include "sim_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>
#include <utility>

#include "base/files.h"
#include "inventory/environment.h"
#include "inventory/nvml_api.h"
#include "model/document.h"

namespace sublet::sim {
namespace {

constexpr std::string_view kDriverVersion = "580.159.04";

// FNV-1a, then one round of splitmix64 so that texts that differ at their ends differ everywhere.
// Short, and the same in every build.
std::uint64_t Hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
  return hash ^ (hash >> 31);
}

std::string UuidOf(std::string_view seed) {
  const std::uint64_t high = Hash(seed);
  const std::uint64_t low = Hash(fmt::format("{}/{}", seed, high));
  return fmt::format("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", high >> 32, high >> 16 & 0xFFFF,
                     high & 0xFFF, low >> 48 & 0xFFF, low & 0xFFFFFFFFFFFF);
}

// The CUDA version that a driver branch brings.
int CudaVersionOf(std::string_view driver) {
  struct Branch {
    std::string_view driver;
    int cuda;
  };
  constexpr std::array<Branch, 10> kBranches{{{"615", 13040},
                                              {"610", 13030},
                                              {"595", 13020},
                                              {"590", 13010},
                                              {"580", 13000},
                                              {"570", 12080},
                                              {"550", 12040},
                                              {"535", 12020},
                                              {"525", 12000},
                                              {"470", 11040}}};
  for (const Branch& branch : kBranches) {
    if (DriverAtLeast(driver, branch.driver)) return branch.cuda;
  }
  return 11000;
}

// Boards whose multi-GPU servers connect them all through NVSwitch, with their number of links.
int NvSwitchLinks(const Board& board) {
  if (board.name.starts_with("a100")) return 12;
  for (const std::string_view name : {"h100-80gb", "h20-", "h200", "b200", "b300"}) {
    if (board.name.starts_with(name)) return 18;
  }
  return 0;
}

// NVML's enum for a profile name on a board: digit, suffix, and for 1g whether it has the memory of
// two. -1 for a name that no enum stands for.
int NvmlProfileOf(const MigProfile& profile, int smallest_size) {
  std::string_view suffix = profile.name;
  const std::size_t end = suffix.find_first_of("+-");
  suffix = end == std::string_view::npos ? std::string_view() : suffix.substr(end);
  struct Row {
    int slices;
    std::string_view suffix;
    unsigned value;
  };
  using namespace nvml;
  constexpr std::array<Row, 17> kRows{{{1, "", kGpuInstanceProfile1Slice},
                                       {2, "", kGpuInstanceProfile2Slice},
                                       {3, "", kGpuInstanceProfile3Slice},
                                       {4, "", kGpuInstanceProfile4Slice},
                                       {6, "", kGpuInstanceProfile6Slice},
                                       {7, "", kGpuInstanceProfile7Slice},
                                       {8, "", kGpuInstanceProfile8Slice},
                                       {1, "+me", kGpuInstanceProfile1SliceRev1},
                                       {2, "+me", kGpuInstanceProfile2SliceRev1},
                                       {1, "+gfx", kGpuInstanceProfile1SliceGfx},
                                       {2, "+gfx", kGpuInstanceProfile2SliceGfx},
                                       {3, "+gfx", kGpuInstanceProfile3SliceGfx},
                                       {4, "+gfx", kGpuInstanceProfile4SliceGfx},
                                       {1, "-me", kGpuInstanceProfile1SliceNoMe},
                                       {2, "-me", kGpuInstanceProfile2SliceNoMe},
                                       {1, "+me.all", kGpuInstanceProfile1SliceAllMe},
                                       {2, "+me.all", kGpuInstanceProfile2SliceAllMe}}};
  if (profile.compute_slices == 1 && suffix.empty() && profile.size > smallest_size) {
    return static_cast<int>(kGpuInstanceProfile1SliceRev2);
  }
  for (const Row& row : kRows) {
    if (row.slices == profile.compute_slices && row.suffix == suffix) {
      return static_cast<int>(row.value);
    }
  }
  return -1;
}

std::vector<ReportedProfile> ProfilesOf(const Board& board) {
  int smallest = board.memory_units;
  for (const MigProfile& profile : board.profiles) smallest = std::min(smallest, profile.size);
  std::vector<ReportedProfile> profiles;
  for (const MigProfile& profile : board.profiles) {
    const int nvml_profile = NvmlProfileOf(profile, smallest);
    if (nvml_profile < 0) continue;  // A driver would have no number to offer it under, either.
    ReportedProfile reported;
    reported.name = profile.name;
    reported.id = profile.id;
    reported.nvml_profile = nvml_profile;
    reported.compute_slices = profile.compute_slices;
    reported.max_instances = profile.max_instances;
    reported.memory = profile.memory;
    reported.sm_count = profile.sm_count;
    reported.engines = profile.engines;
    for (const int start : profile.starts) reported.placements.push_back({start, profile.size});
    profiles.push_back(std::move(reported));
  }
  return profiles;
}

SimGpu FromBoard(const Board& board, int index, int of_board, std::string_view driver_version) {
  SimGpu gpu;
  Gpu& facts = gpu.facts;
  facts.index = index;
  facts.uuid = "GPU-" + UuidOf(fmt::format("{}/{}", board.name, of_board));
  facts.product = board.product;
  facts.board = board.name;
  facts.memory = board.memory;
  // Drivers keep about 0.4 % for themselves: 615 of 143,771 MiB on an H200 with driver 580.
  facts.memory_reserved = Bytes::FromMib(board.memory.mib() * 615 / 143771);
  facts.sm_count = board.sm_count;
  facts.compute_capability_major = board.compute_capability_major;
  facts.compute_capability_minor = board.compute_capability_minor;
  // Three buses apart, as behind switches; 64 GPUs stay below bus 0xC4.
  facts.pci_bus_id = fmt::format("00000000:{:02X}:00.0", 4 + 3 * index);
  constexpr std::uint32_t kVendor = 0x10DE;
  facts.pci_device_id = (board.pci_ids.empty() ? 0 : board.pci_ids.front() << 16) | kVendor;
  facts.pci_subsystem_id = kVendor;
  facts.minor_number = index;
  facts.compute_mode = ComputeMode::kDefault;
  facts.utilisation_percent = 0;
  facts.health.ecc = true;
  gpu.engines = board.engines;
  gpu.nvswitch_links = NvSwitchLinks(board);
  if (board.HasMig() && DriverAtLeast(driver_version, board.mig_driver_min)) {
    facts.mig_capable = true;
    facts.profiles = ProfilesOf(board);
    gpu.compute_slices = board.compute_slices;
    gpu.memory_units = board.memory_units;
    gpu.mig_toggle_needs_reset = board.mig_toggle_needs_reset;
  }
  return gpu;
}

int SliceSms(const std::vector<ReportedProfile>& profiles) {
  int sms = 0;
  for (const ReportedProfile& profile : profiles) {
    if (profile.compute_slices != 1) continue;
    sms = sms == 0 ? profile.sm_count : std::min(sms, profile.sm_count);
  }
  return sms;
}

void ConnectPreset(SimNode& node) {
  const int count = static_cast<int>(node.gpus.size());
  for (int i = 0; i < count; ++i)
    node.gpus[static_cast<std::size_t>(i)].facts.numa_node = 2 * i / count;
  for (int a = 0; a < count; ++a) {
    for (int b = a + 1; b < count; ++b) {
      const SimGpu& first = node.gpus[static_cast<std::size_t>(a)];
      const SimGpu& second = node.gpus[static_cast<std::size_t>(b)];
      const bool same_node = first.facts.numa_node == second.facts.numa_node;
      const bool nvswitch = first.nvswitch_links > 0 && first.facts.board == second.facts.board;
      GpuLink link;
      link.a = a;
      link.b = b;
      link.pci_path = same_node ? PciPath::kNumaNode : PciPath::kSystem;
      link.nvlinks = nvswitch ? first.nvswitch_links : 0;
      link.nvswitch = nvswitch;
      link.p2p = nvswitch;
      node.links.push_back(link);
    }
  }
}

Result<SimNode> FromPreset(std::string_view preset, std::string_view driver_version) {
  SimNode node;
  node.driver_version = driver_version.empty() ? kDriverVersion : driver_version;
  std::map<std::string, int> of_board;
  std::string_view rest = preset;
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    const std::size_t colon = part.find(':');
    int count = 1;
    if (colon != std::string_view::npos) {
      const std::string_view digits = part.substr(colon + 1);
      const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
      if (ec != std::errc() || end != digits.data() + digits.size() || count < 1) {
        return Fail(ErrorCode::kInvalid, fmt::format("not a number of GPUs: '{}'", digits),
                    "write SUBLET_SIM like h100-80gb:8");
      }
    }
    ASSIGN_OR_RETURN(const Board* board, BuiltInBoards().Find(part.substr(0, colon)));
    if (node.gpus.size() + static_cast<std::size_t>(count) > kSimGpusMax) {
      return Fail(ErrorCode::kInvalid, fmt::format("more than {} GPUs: {}", kSimGpusMax, preset));
    }
    for (int i = 0; i < count; ++i) {
      node.gpus.push_back(FromBoard(*board, static_cast<int>(node.gpus.size()),
                                    of_board[board->name]++, node.driver_version));
    }
  }
  if (node.gpus.empty()) return Fail(ErrorCode::kInvalid, "SUBLET_SIM names no GPU");
  ConnectPreset(node);
  node.key = std::string(preset);
  for (char& c : node.key) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '.') c = '_';
  }
  return node;
}

Result<SimNode> FromFile(const std::string& path, std::string_view driver_version) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDocumentBytesMax));
  ASSIGN_OR_RETURN(Inventory inventory, ParseInventory(text, path));
  SimNode node;
  node.key = fmt::format("node-{:016x}", Hash(text));  // An edited file starts afresh.
  node.driver_version = driver_version.empty() ? inventory.driver.version : driver_version;
  node.cuda_version = driver_version.empty() ? inventory.driver.cuda_version : 0;
  node.links = std::move(inventory.links);
  for (Gpu& facts : inventory.gpus) {
    if (!facts.problem.empty()) continue;
    if (facts.index != static_cast<int>(node.gpus.size()) || node.gpus.size() >= kSimGpusMax) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("{}: GPUs must be numbered from 0 without gaps, at most {}", path,
                              kSimGpusMax));
    }
    SimGpu gpu;
    gpu.facts = std::move(facts);
    gpu.facts.processes.clear();  // Their pids mean nothing on this machine.
    for (const ReportedProfile& profile : gpu.facts.profiles) {
      gpu.compute_slices = std::max(gpu.compute_slices, profile.compute_slices);
      gpu.engines.decoder = std::max(gpu.engines.decoder, profile.engines.decoder);
      gpu.engines.encoder = std::max(gpu.engines.encoder, profile.engines.encoder);
      gpu.engines.jpeg = std::max(gpu.engines.jpeg, profile.engines.jpeg);
      gpu.engines.ofa = std::max(gpu.engines.ofa, profile.engines.ofa);
      for (const Placement& placement : profile.placements) {
        gpu.memory_units = std::max(gpu.memory_units, placement.start + placement.size);
      }
    }
    const Result<const Board*> board = BuiltInBoards().Find(gpu.facts.board);
    if (board) gpu.mig_toggle_needs_reset = (*board)->mig_toggle_needs_reset;
    node.gpus.push_back(std::move(gpu));
  }
  for (const GpuLink& link : node.links) {
    if (link.nvswitch && link.b < static_cast<int>(node.gpus.size())) {
      for (const int end : {link.a, link.b}) {
        node.gpus[static_cast<std::size_t>(end)].nvswitch_links = link.nvlinks.value_or(0);
      }
    }
  }
  return node;
}

}  // namespace

Result<SimNode> LoadSimNode(std::string_view preset, std::string_view driver_version) {
  const bool file = preset.find('/') != std::string_view::npos || preset.ends_with(".json");
  Result<SimNode> node =
      file ? FromFile(std::string(preset), driver_version) : FromPreset(preset, driver_version);
  if (!node) return node;
  if (node->cuda_version == 0) node->cuda_version = CudaVersionOf(node->driver_version);
  for (SimGpu& gpu : node->gpus) gpu.slice_sm_count = SliceSms(gpu.facts.profiles);
  return node;
}

}  // namespace sublet::sim
