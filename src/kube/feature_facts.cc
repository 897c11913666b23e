#include "kube/feature_facts.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <system_error>

#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kFactBytesMax = 4096;   // A line of text, or a device's whole configuration.
constexpr std::size_t kPciDevicesMax = 4096;  // More than a machine has; what is beyond is left.

// PCI Local Bus Specification 3.0, 6.1 and 6.7.
constexpr std::size_t kStatus = 0x06;
constexpr unsigned kStatusHasCapabilities = 0x10;
constexpr std::size_t kCapabilities = 0x34;
constexpr std::size_t kFirstCapability = 0x40;
constexpr unsigned kVendorSpecific = 0x09;

constexpr std::size_t kVgpuRecords = 5;  // Id, next, length, "VF".
constexpr std::size_t kVgpuTextBytes = 10;

std::string Trimmed(std::string text) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  while (!text.empty() && is_space(static_cast<unsigned char>(text.back()))) text.pop_back();
  text.erase(text.begin(), std::ranges::find_if_not(text, is_space));
  return text;
}

// The text in a fixed field, padded with zeros.
std::string Unpadded(std::string_view field) {
  const std::size_t first = std::min(field.find_first_not_of('\0'), field.size());
  const std::size_t last = field.find_last_not_of('\0');
  return last == std::string_view::npos ? "" : std::string(field.substr(first, last - first + 1));
}

unsigned ByteAt(std::string_view bytes, std::size_t at) {
  return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0;
}

// The first vendor-specific capability; empty where there is none.
std::string_view VendorCapability(std::string_view space) {
  if ((ByteAt(space, kStatus) & kStatusHasCapabilities) == 0) return {};
  std::size_t at = ByteAt(space, kCapabilities);
  // A list that runs in circles ends after as many steps as there can be capabilities.
  for (std::size_t steps = 0; at >= kFirstCapability && steps < 48; ++steps) {
    if (ByteAt(space, at) == kVendorSpecific) {
      const std::size_t length = ByteAt(space, at + 2);
      return at < space.size() ? space.substr(at, length) : std::string_view();
    }
    at = ByteAt(space, at + 1);
  }
  return {};
}

// "00000000:18:00.0", as NVML has it → "0000:18:00.0", as the kernel does.
std::string KernelBusId(std::string bus_id) {
  std::ranges::transform(bus_id, bus_id.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::size_t colon = bus_id.find(':');
  return colon == 8 ? bus_id.substr(4) : bus_id;
}

std::string ReadFact(const std::string& path) {
  return Trimmed(ReadFile(path, kFactBytesMax).value_or(""));
}

// By address, so that the last one counts wherever the folder's order puts it.
std::vector<std::string> NvidiaDevices(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  for (; !error && it != std::filesystem::directory_iterator() && paths.size() < kPciDevicesMax;
       it.increment(error)) {
    const std::string path = it->path().string();
    if (ReadFact(path + "/vendor") == "0x10de") paths.push_back(path);
  }
  std::ranges::sort(paths);
  return paths;
}

}  // namespace

std::optional<VgpuHost> VgpuHostIn(std::string_view config_space) {
  const std::string_view capability = VendorCapability(config_space);
  if (capability.size() < kVgpuRecords || capability.substr(3, 2) != "VF") return std::nullopt;
  std::size_t at = kVgpuRecords;
  while (at < capability.size() && ByteAt(capability, at) != 0) {
    const std::size_t length = ByteAt(capability, at + 1);
    if (length == 0) return std::nullopt;
    at += length;
  }
  if (at + 2 + 2 * kVgpuTextBytes > capability.size()) return std::nullopt;
  return VgpuHost{Unpadded(capability.substr(at + 2, kVgpuTextBytes)),
                  Unpadded(capability.substr(at + 2 + kVgpuTextBytes, kVgpuTextBytes))};
}

FeatureFacts FindFeatureFacts(const Inventory& inventory, const FactPlaces& places) {
  FeatureFacts facts;
  if (!places.machine_type_file.empty()) facts.machine_type = ReadFact(places.machine_type_file);
  for (const Gpu& gpu : inventory.gpus) {
    facts.pci_classes.push_back(
        gpu.pci_bus_id.empty()
            ? ""
            : ReadFact(places.pci_devices + "/" + KernelBusId(gpu.pci_bus_id) + "/class"));
  }
  for (const std::string& device : NvidiaDevices(places.pci_devices)) {
    const Result<std::string> space = ReadFile(device + "/config", kFactBytesMax);
    if (!space) continue;
    if (std::optional<VgpuHost> host = VgpuHostIn(*space)) {
      facts.vgpus.push_back(*std::move(host));
    }
  }
  return facts;
}

}  // namespace sublet
