#include "node/process_owners.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/files.h"
#include "node/launcher.h"

namespace sublet {
namespace {

constexpr std::size_t kStatBytesMax = 4096;             // 52 numbers and a name.
constexpr std::size_t kEnvironmentBytesMax = 4u << 20;  // The kernel's limit is a quarter stack.
constexpr int kAncestorsMax = 32;  // A launcher's depth; deeper, a process counts as foreign.

struct Stat {
  std::string name;
  int parent = 0;
  int session = 0;
  std::int64_t started = 0;
};

template <typename Number>
bool Parse(std::string_view word, Number& number) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  return !word.empty() && error == std::errc() && end == word.data() + word.size();
}

// proc(5): "pid (name) state parent group session ... start". A name may contain anything.
std::optional<Stat> ReadStat(const std::string& path) {
  const Result<std::string> text = ReadFile(path, kStatBytesMax);
  if (!text) return std::nullopt;
  const std::size_t open = text->find('(');
  const std::size_t close = text->rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open) return std::nullopt;
  Stat stat{.name = text->substr(open + 1, close - open - 1), .parent = 0, .session = 0};
  std::string_view rest(*text);
  rest.remove_prefix(std::min(close + 2, rest.size()));
  for (int field = 3; field <= 22; ++field) {
    const std::size_t end = std::min(rest.find_first_of(" \n"), rest.size());
    const std::string_view word = rest.substr(0, end);
    if (field == 3 && (word == "Z" || word == "X")) return std::nullopt;
    if (field == 4 && !Parse(word, stat.parent)) return std::nullopt;
    if (field == 6 && !Parse(word, stat.session)) return std::nullopt;
    if (field == 22 && !Parse(word, stat.started)) return std::nullopt;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return stat;
}

std::string_view Variable(std::string_view environment, std::string_view name) {
  while (!environment.empty()) {
    const std::size_t end = std::min(environment.find('\0'), environment.size());
    const std::string_view line = environment.substr(0, end);
    if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == '=') {
      return line.substr(name.size() + 1);
    }
    environment.remove_prefix(std::min(end + 1, environment.size()));
  }
  return {};
}

bool IsNameless(const ProcessOwner& owner) {
  return owner.kind == ProcessOwner::Kind::kOwn && owner.id.empty();
}

}  // namespace

bool ProcessDirectory::ReadMarks(int pid, ProcessOwner& owner) const {
  const Result<std::string> environment =
      ReadFile(fmt::format("{}/{}/environ", proc_, pid), kEnvironmentBytesMax);
  if (!environment || Variable(*environment, kStateVariable) != state_directory_) return false;
  owner.id = Variable(*environment, kShareVariable);
  owner.kind = owner.id.empty() ? ProcessOwner::Kind::kOwn : ProcessOwner::Kind::kShare;
  return true;
}

std::optional<ProcessOwner> ProcessDirectory::Told(int pid, std::int64_t started,
                                                   const ProcessOwners& known) {
  const auto told = known.find(pid);
  if (told != known.end() && (told->second.started == 0 || told->second.started == started)) {
    return told->second;
  }
  const auto entry = entries_.find(pid);
  if (entry != entries_.end() && entry->second.owner.started == started) {
    entry->second.used = true;
    return entry->second.owner;
  }
  ProcessOwner owner;
  if (ReadMarks(pid, owner)) return owner;
  return std::nullopt;
}

std::optional<ProcessOwner> ProcessDirectory::Elder(int parent, int session,
                                                    const ProcessOwners& known) {
  for (int depth = 0; depth < kAncestorsMax && parent > 1; ++depth) {
    const std::optional<Stat> stat = ReadStat(fmt::format("{}/{}/stat", proc_, parent));
    if (!stat) break;
    const std::optional<ProcessOwner> owner = Told(parent, stat->started, known);
    if (owner && !IsNameless(*owner)) return owner;
    parent = stat->parent;
  }
  const std::optional<Stat> first = ReadStat(fmt::format("{}/{}/stat", proc_, session));
  if (first) return Told(session, first->started, known);
  // It may be gone, and what the node knows of it holds all the same: a session's number is not
  // given to another process as long as the session has members.
  const auto told = known.find(session);
  if (told != known.end()) return told->second;
  return std::nullopt;
}

ProcessOwner ProcessDirectory::Find(int pid, const ProcessOwners& known) {
  const std::optional<Stat> stat = ReadStat(fmt::format("{}/{}/stat", proc_, pid));
  if (!stat) return {};
  std::optional<ProcessOwner> owner = Told(pid, stat->started, known);
  if (!owner || IsNameless(*owner)) {
    const std::optional<ProcessOwner> elder = Elder(stat->parent, stat->session, known);
    // A domain's name is only with the node: a server's is its daemon's.
    if (elder && (!owner || elder->kind == ProcessOwner::Kind::kOwn)) owner = elder;
  }
  if (!owner) owner.emplace();
  owner->name = stat->name;
  owner->started = stat->started;
  if (owner->kind != ProcessOwner::Kind::kForeign && !IsNameless(*owner)) {
    entries_[pid] = {*owner, true};
  }
  return *owner;
}

ProcessOwners ProcessDirectory::Owners(const UsageSample& sample, const ProcessOwners& known) {
  for (auto& [pid, entry] : entries_) entry.used = false;
  ProcessOwners owners;
  for (const GpuUsage& gpu : sample.gpus) {
    for (const ProcessUsage& process : gpu.processes) {
      if (owners.contains(process.pid)) continue;
      ProcessOwner owner = Find(process.pid, known);
      if (owner.started != 0) owners.emplace(process.pid, std::move(owner));
    }
  }
  std::erase_if(entries_, [](const auto& item) { return !item.second.used; });
  return owners;
}

}  // namespace sublet
