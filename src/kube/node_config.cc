#include "kube/node_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <system_error>

#include "base/files.h"
#include "model/device_plugin_config.h"
#include "model/document.h"

namespace sublet {
namespace {

constexpr std::size_t kFilesMax = 1000;              // A ConfigMap has 1 MiB.
constexpr std::size_t kConfigBytesMax = 1u << 20;    // As much.
constexpr std::size_t kCommandLineMax = 128u << 10;  // Linux' limit for one argument.
constexpr std::string_view kEmptyConfig = "version: v1\n";

// The files of a mounted ConfigMap: its own links "..data" and folders aren't any.
Result<std::vector<std::string>> FilesIn(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code unreadable;
    if (name.starts_with("..") || !it->is_regular_file(unreadable)) continue;
    if (files.size() == kFilesMax) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("more than {} configurations in {}", kFilesMax, folder));
    }
    files.push_back(name);
  }
  if (error) return FailFromErrno(error.value(), "reading " + folder);
  std::ranges::sort(files);
  return files;
}

// At `path` is from now on a link to `to`; who opens it meanwhile gets the old one or the new.
Status PutLink(const std::string& to, const std::string& path) {
  const std::string beside = fmt::format("{}.{}.new", path, ::getpid());
  if (::unlink(beside.c_str()) != 0 && errno != ENOENT) {
    return FailFromErrno(errno, "removing " + beside);
  }
  if (::symlink(to.c_str(), beside.c_str()) != 0) return FailFromErrno(errno, "making " + beside);
  if (::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return FailFromErrno(error, "renaming to " + path);
  }
  return {};
}

std::string_view LastPart(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

Result<std::vector<ConfigFallback>> ParseConfigFallbacks(const std::vector<std::string>& words) {
  std::vector<ConfigFallback> fallbacks;
  for (const std::string& word : words) {
    if (word == "named") {
      fallbacks.push_back(ConfigFallback::kNamed);
    } else if (word == "single") {
      fallbacks.push_back(ConfigFallback::kSingle);
    } else if (word == "empty") {
      fallbacks.push_back(ConfigFallback::kEmpty);
    } else if (!word.empty()) {
      return Fail(ErrorCode::kUsage, "unknown fallback strategy: " + word,
                  "they are named, single and empty");
    }
  }
  return fallbacks;
}

Result<std::optional<std::string>> ChooseNodeConfig(const NodeConfigPlaces& places,
                                                    std::string_view label,
                                                    const std::vector<std::string>& files) {
  const auto has = [&](std::string_view name) { return std::ranges::count(files, name) > 0; };
  const bool by_label = !label.empty();
  const std::string name(by_label ? label : std::string_view(places.default_name));
  if (!name.empty()) {
    if (has(name)) return name;
    return Fail(
        ErrorCode::kNotFound,
        fmt::format("{} names a configuration that isn't there: {}",
                    by_label ? kPluginConfigLabel : "the default", name),
        files.empty() ? "there is none" : fmt::format("there are {}", fmt::join(files, ", ")));
  }
  for (const ConfigFallback fallback : places.fallbacks) {
    if (fallback == ConfigFallback::kNamed && has("default")) return "default";
    if (fallback == ConfigFallback::kSingle && files.size() == 1) return files[0];
    if (fallback == ConfigFallback::kEmpty) return std::nullopt;
  }
  return Fail(ErrorCode::kNotFound,
              fmt::format("no label {}, no default, and no fallback fits: {} has {} files",
                          kPluginConfigLabel, places.folder, files.size()));
}

// What a former run has left at the target.
void NodeConfig::Resume() {
  if (std::exchange(resumed_, true)) return;
  Result<std::string> text = ReadFile(places_.target, kConfigBytesMax);
  if (!text || !ParseDevicePluginConfig(*text, places_.target)) return;
  text_ = *std::move(text);
  std::error_code none;
  name_ = std::filesystem::read_symlink(places_.target, none).filename().string();
}

NodeConfigLook NodeConfig::Look(std::string_view label) {
  Resume();
  const Result<bool> changed = Follow(label);
  NodeConfigLook look;
  if (changed) {
    look.changed = *changed;
  } else {
    look.problem = changed.error().message;
    if (!changed.error().hint.empty()) look.problem += "; " + changed.error().hint;
    look.problem += !chosen()       ? "; no configuration is in effect"
                    : name_.empty() ? "; the empty configuration stays in effect"
                                    : fmt::format("; {} stays in effect", name_);
  }
  look.name = name_;
  return look;
}

Result<bool> NodeConfig::Follow(std::string_view label) {
  ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesIn(places_.folder));
  ASSIGN_OR_RETURN(const std::optional<std::string> choice,
                   ChooseNodeConfig(places_, label, files));
  const std::string name = choice.value_or("");
  const std::string source = places_.folder + "/" + name;
  std::string text(kEmptyConfig);
  if (choice) {
    ASSIGN_OR_RETURN(text, ReadFile(source, kConfigBytesMax));
    RETURN_IF_ERROR(ParseDevicePluginConfig(text, source));
  }
  if (text_ == text && name_ == name) return false;
  if (choice) {
    RETURN_IF_ERROR(PutLink(source, places_.target));
  } else {
    // Writing to a link would write to the file behind it.
    std::error_code ignored;
    if (std::filesystem::is_symlink(places_.target, ignored)) ::unlink(places_.target.c_str());
    RETURN_IF_ERROR(WriteFileAtomically(places_.target, text));
  }
  name_ = name;
  text_ = std::move(text);
  return true;
}

int SignalByName(std::string_view program, int signal, const std::string& proc) {
  int signalled = 0;
  std::error_code error;
  std::filesystem::directory_iterator it(proc, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad != std::errc() || end != name.data() + name.size() || pid == ::getpid()) continue;
    const std::string line =
        ReadFile(it->path().string() + "/cmdline", kCommandLineMax).value_or("");
    const std::string_view first = std::string_view(line).substr(0, line.find('\0'));
    if (first.empty() || (first != program && LastPart(first) != program)) continue;
    if (::kill(pid, signal) == 0) ++signalled;
  }
  return signalled;
}

}  // namespace sublet
