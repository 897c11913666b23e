#include "cdi/root_path.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <memory>

#include "base/files.h"

namespace sublet {
namespace {

constexpr int kLinksMax = 40;  // The kernel's own limit (MAXSYMLINKS).
// Twenty times what /usr/lib/x86_64-linux-gnu of a full desktop has.
constexpr std::size_t kNamesMax = 100'000;

// Puts the parts of a path onto the stack so that the first lies on top.
void PushParts(std::string_view path, std::vector<std::string>& stack) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (!part.empty() && part != ".") parts.emplace_back(part);
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  stack.insert(stack.end(), parts.rbegin(), parts.rend());
}

Result<std::string> ReadLink(const std::string& path) {
  std::array<char, PATH_MAX> target;
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length < 0) return FailFromErrno(errno, "reading the link " + path);
  return std::string(target.data(), static_cast<std::size_t>(length));
}

}  // namespace

std::string PathBelow(std::string_view root, std::string_view path) {
  while (root.ends_with('/')) root.remove_suffix(1);
  return fmt::format("{}{}", root, path);
}

Result<std::string> ResolveInRoot(const std::string& root, std::string_view path) {
  std::vector<std::string> rest;
  PushParts(path, rest);
  std::string at;  // Without a link; empty is the root.
  int links = 0;
  while (!rest.empty()) {
    const std::string part = std::move(rest.back());
    rest.pop_back();
    if (part == "..") {
      if (!at.empty()) at.erase(at.rfind('/'));
      continue;
    }
    const std::string next = at + "/" + part;
    const std::string real = PathBelow(root, next);
    struct stat status {};
    if (::lstat(real.c_str(), &status) != 0) return FailFromErrno(errno, "looking at " + real);
    if (!S_ISLNK(status.st_mode)) {
      at = next;
      continue;
    }
    if (++links > kLinksMax) {
      return Fail(ErrorCode::kInvalid, fmt::format("too many links: {}", PathBelow(root, path)));
    }
    ASSIGN_OR_RETURN(const std::string target, ReadLink(real));
    if (target.starts_with('/')) at.clear();
    PushParts(target, rest);
  }
  return at.empty() ? "/" : at;
}

std::vector<std::string> NamesInRoot(const std::string& root, std::string_view folder) {
  const auto resolved = ResolveInRoot(root, folder);
  if (!resolved) return {};
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(PathBelow(root, *resolved).c_str()),
                                                 ::closedir);
  std::vector<std::string> names;
  while (open != nullptr && names.size() < kNamesMax) {
    const dirent* entry = ::readdir(open.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::ranges::sort(names);
  return names;
}

std::string FolderOf(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string_view::npos ? "/" : std::string(path.substr(0, slash));
}

std::string LastNameOf(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

}  // namespace sublet
