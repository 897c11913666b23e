#include "kubelet/checkpoint.h"

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/files.h"

namespace sublet::kubelet {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kBytesMax = 64u << 20;

// FNV-1a: any that notices a damaged file would do.
std::uint64_t ChecksumOf(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// Bytes as text that JSON takes.
std::string Hex(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
}

std::string FromHex(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

}  // namespace

Status WriteCheckpoint(const std::string& folder, const Checkpoint& checkpoint) {
  Json entries = Json::array();
  for (const auto& [pod, containers] : checkpoint.pods) {
    for (const ContainerGot& got : containers) {
      entries.push_back({{"PodUID", pod},
                         {"ContainerName", got.container},
                         {"ResourceName", got.resource},
                         {"DeviceIDs", {{"-1", got.ids}}},
                         {"AllocResp", Hex(got.grant.SerializeAsString())}});
    }
  }
  const Json data = {{"PodDeviceEntries", entries}, {"RegisteredDevices", checkpoint.registered}};
  const Json all = {{"Data", data}, {"Checksum", ChecksumOf(data.dump())}};
  return WriteFileAtomically(fmt::format("{}/{}", folder, kCheckpointName), all.dump(), 0600);
}

Result<Checkpoint> ReadCheckpoint(const std::string& folder) {
  const auto text = ReadFile(fmt::format("{}/{}", folder, kCheckpointName), kBytesMax);
  if (!text) return Checkpoint{};
  Checkpoint checkpoint;
  try {
    const Json all = Json::parse(*text);
    const Json& data = all.at("Data");
    if (all.at("Checksum").get<std::uint64_t>() != ChecksumOf(data.dump())) {
      return Fail(ErrorCode::kInvalid, "checkpoint is corrupted");
    }
    for (const Json& entry : data.at("PodDeviceEntries")) {
      ContainerGot got;
      got.container = entry.at("ContainerName");
      got.resource = entry.at("ResourceName");
      got.ids = entry.at("DeviceIDs").at("-1").get<std::vector<std::string>>();
      if (!got.grant.ParseFromString(FromHex(entry.at("AllocResp")))) {
        return Fail(ErrorCode::kInvalid, "checkpoint is corrupted");
      }
      checkpoint.pods[entry.at("PodUID")].push_back(std::move(got));
    }
    checkpoint.registered =
        data.at("RegisteredDevices").get<std::map<std::string, std::vector<std::string>>>();
  } catch (const Json::exception& wrong) {
    return Fail(ErrorCode::kInvalid, fmt::format("checkpoint is corrupted: {}", wrong.what()));
  }
  return checkpoint;
}

}  // namespace sublet::kubelet
