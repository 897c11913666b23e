#include "kube/pod_cgroup.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kUidBytes = 36;
constexpr std::size_t kStaticUidBytes = 32;  // A hash of the manifest.

// "" where it is none. systemd has "_" in the place of "-", which it takes for its hierarchy.
std::string AsUid(std::string_view word) {
  if (word.size() != kUidBytes && word.size() != kStaticUidBytes) return "";
  std::string uid(word);
  std::ranges::replace(uid, '_', '-');
  for (std::size_t i = 0; i < uid.size(); ++i) {
    const bool dash = uid.size() == kUidBytes && (i == 8 || i == 13 || i == 18 || i == 23);
    const bool digit = (uid[i] >= '0' && uid[i] <= '9') || (uid[i] >= 'a' && uid[i] <= 'f');
    if (dash ? uid[i] != '-' : !digit) return "";
  }
  return uid;
}

// "pod<uid>" of cgroupfs, "[...-]kubepods[-burstable|-besteffort]-pod<uid>.slice" of systemd.
std::string UidOfComponent(std::string_view name) {
  // containerd under cgroupfs, with a kubelet that speaks systemd: "...-pod<uid>.slice:...".
  name = name.substr(0, name.find(':'));
  constexpr std::string_view kPod = "pod";
  if (name.starts_with(kPod)) return AsUid(name.substr(kPod.size()));
  constexpr std::string_view kSlice = ".slice";
  constexpr std::string_view kInSlice = "-pod";
  if (!name.ends_with(kSlice)) return "";
  name.remove_suffix(kSlice.size());
  const std::size_t at = name.rfind(kInSlice);
  if (at == std::string_view::npos) return "";
  if (name.substr(0, at).find("kubepods") == std::string_view::npos) return "";
  return AsUid(name.substr(at + kInSlice.size()));
}

std::string UidOfPath(std::string_view path) {
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    if (std::string uid = UidOfComponent(path.substr(0, end)); !uid.empty()) return uid;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return "";
}

}  // namespace

std::string PodUidOfCgroup(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    // "4:memory:/kubepods/...", "0::/kubepods.slice/..."; a path may have colons of its own.
    for (int colon = 0; colon < 2; ++colon) {
      line.remove_prefix(std::min(line.find(':'), line.size()));
      if (!line.empty()) line.remove_prefix(1);
    }
    if (std::string uid = UidOfPath(line); !uid.empty()) return uid;
  }
  return "";
}

PodNames ReadPodNames(const std::string& folder) {
  PodNames names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    // Neither a namespace nor a pod has "_" in its name.
    const std::size_t first = name.find('_');
    const std::size_t last = name.rfind('_');
    if (first == std::string::npos || first == last) continue;
    const std::string uid = AsUid(std::string_view(name).substr(last + 1));
    if (uid.empty()) continue;
    names[uid] = {name.substr(0, first), name.substr(first + 1, last - first - 1)};
  }
  return names;
}

}  // namespace sublet
