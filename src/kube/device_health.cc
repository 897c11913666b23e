#include "kube/device_health.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

namespace sublet {
namespace {

std::vector<std::string> WordsOf(std::string_view list) {
  std::vector<std::string> words;
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(','), list.size());
    std::string word;
    for (const char c : list.substr(0, end)) {
      if (c != ' ') word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    if (!word.empty()) words.push_back(std::move(word));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return words;
}

bool IsEverything(std::string_view word) {
  return word == "all" || word == "xids";
}

// Numbers of the list go to `numbers`; whether a word means all of them.
bool ReadList(std::string_view list, std::string_view variable, std::set<int>& numbers,
              std::vector<std::string>& warnings) {
  bool everything = false;
  for (const std::string& word : WordsOf(list)) {
    int number = 0;
    const auto parsed = std::from_chars(word.data(), word.data() + word.size(), number);
    if (IsEverything(word)) {
      everything = true;
    } else if (parsed.ec == std::errc() && parsed.ptr == word.data() + word.size()) {
      numbers.insert(number);
    } else {
      warnings.push_back(fmt::format("{}: no XID and no \"all\": {}", variable, word));
    }
  }
  return everything;
}

std::string WhenOf(const HealthSighting& sighting) {
  return sighting.count > 1 ? fmt::format("{} times", sighting.count) : std::string();
}

}  // namespace

HealthPolicy ParseHealthPolicy(std::string_view disabled, std::string_view enabled,
                               std::vector<std::string>& warnings) {
  HealthPolicy policy;
  policy.off = ReadList(disabled, "DP_DISABLE_HEALTHCHECKS", policy.ignored, warnings);
  policy.all_enabled = ReadList(enabled, "DP_ENABLE_HEALTHCHECKS", policy.enabled, warnings);
  return policy;
}

void DeviceHealth::SetNode(const Inventory& inventory) {
  std::map<std::string, HealthJudge, std::less<>> gpus;
  mig_.clear();
  for (const Gpu& gpu : inventory.gpus) {
    if (gpu.uuid.empty()) continue;
    const auto known = gpus_.find(gpu.uuid);
    gpus.emplace(gpu.uuid, known == gpus_.end() ? HealthJudge(limits_) : known->second);
    for (const GpuInstance& instance : gpu.instances) {
      std::vector<std::string>& uuids = mig_[{gpu.uuid, instance.id}];
      for (const ComputeInstance& compute : instance.compute_instances) {
        if (!compute.uuid.empty()) uuids.push_back(compute.uuid);
      }
    }
  }
  gpus_ = std::move(gpus);
  // An instance that is gone takes its trouble along: another one of its number is a new one.
  std::erase_if(instances_, [&](const auto& entry) { return !mig_.contains(entry.first); });
}

XidJudgement DeviceHealth::Judge(int xid) const {
  XidJudgement judged = JudgeXid(xid, {});
  if (policy_.all_enabled || policy_.enabled.contains(xid)) {
    const bool counts =
        judged.verdict == XidVerdict::kGpu || judged.verdict == XidVerdict::kGpuReset;
    if (!counts && policy_.enabled.contains(xid)) judged.verdict = XidVerdict::kGpu;
  } else if (policy_.off || policy_.ignored.contains(xid)) {
    judged.verdict = XidVerdict::kIgnore;
  }
  return judged;
}

void DeviceHealth::Note(const std::string& device, std::optional<HealthChange> change,
                        std::vector<DeviceHealthNote>& notes) {
  if (change) notes.push_back({device, std::move(*change)});
}

std::vector<DeviceHealthNote> DeviceHealth::On(const HealthSighting& sighting,
                                               std::int64_t now_ns) {
  using What = HealthSighting::What;
  std::vector<DeviceHealthNote> notes;
  if (policy_.off && sighting.what != What::kXid) return notes;
  const auto concerns = [&](const std::string& uuid) {
    return sighting.gpu_uuid.empty() || sighting.gpu_uuid == uuid;
  };
  if (sighting.what == What::kXid && sighting.gpu_instance && !sighting.gpu_uuid.empty() &&
      mig_.contains({sighting.gpu_uuid, *sighting.gpu_instance})) {
    const InstanceKey key{sighting.gpu_uuid, *sighting.gpu_instance};
    HealthJudge& judge = instances_.try_emplace(key, limits_).first->second;
    Note(fmt::format("{} instance {}", key.first, key.second),
         judge.OnXid(Judge(sighting.xid), WhenOf(sighting), now_ns), notes);
    return notes;
  }
  for (auto& [uuid, judge] : gpus_) {
    if (!concerns(uuid)) continue;
    if (sighting.what == What::kXid) {
      Note(uuid, judge.OnXid(Judge(sighting.xid), WhenOf(sighting), now_ns), notes);
    } else if (sighting.what == What::kPolled) {
      Note(uuid, judge.OnPoll(sighting.facts, now_ns), notes);
    } else if (sighting.what == What::kNoAnswer) {
      Note(uuid, judge.OnNoAnswer(sighting.message, now_ns), notes);
    }
  }
  if (sighting.what != What::kPolled) return notes;
  for (auto& [key, judge] : instances_) {
    if (!concerns(key.first)) continue;
    Note(fmt::format("{} instance {}", key.first, key.second), judge.OnPoll(sighting.facts, now_ns),
         notes);
  }
  return notes;
}

std::set<std::string, std::less<>> DeviceHealth::Unhealthy() const {
  std::set<std::string, std::less<>> uuids;
  for (const auto& [uuid, judge] : gpus_) {
    if (!judge.healthy()) uuids.insert(uuid);
  }
  for (const auto& [key, judge] : instances_) {
    const auto devices = mig_.find(key);
    if (judge.healthy() || devices == mig_.end()) continue;
    uuids.insert(devices->second.begin(), devices->second.end());
  }
  return uuids;
}

std::string DeviceHealth::Why(std::string_view uuid) const {
  if (const auto gpu = gpus_.find(uuid); gpu != gpus_.end()) return gpu->second.why();
  for (const auto& [key, devices] : mig_) {
    if (std::ranges::find(devices, uuid) == devices.end()) continue;
    const auto gpu = gpus_.find(key.first);
    if (gpu != gpus_.end() && !gpu->second.healthy()) return gpu->second.why();
    const auto instance = instances_.find(key);
    return instance == instances_.end() ? "" : instance->second.why();
  }
  return "";
}

}  // namespace sublet
