#include "base/user.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

namespace sublet {
namespace {

constexpr std::size_t kEntryBytes = 1024;         // A line of a passwd file is shorter.
constexpr std::size_t kEntryBytesMax = 1u << 20;  // A directory service may answer with more.

// Asks with more room until the entry fits. `ask` is getpwnam_r or one of its relatives with its
// key; the text in `entry` lies in `room`. Returns the C library's error number.
template <typename Ask, typename Entry>
int AskDatabase(const Ask& ask, Entry& entry, std::vector<char>& room, bool& found) {
  while (true) {
    Entry* result = nullptr;
    const int error = ask(&entry, room.data(), room.size(), &result);
    found = result != nullptr;
    if (error == EINTR) continue;
    if (error != ERANGE || room.size() >= kEntryBytesMax) return error;
    room.resize(room.size() * 2);
  }
}

// The numbers of absent users: what the C library answers for them differs between its databases.
bool MeansAbsent(int error) {
  return error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM;
}

std::optional<uid_t> ParseUid(std::string_view text) {
  uid_t uid = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), uid);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  // The largest number means "no change" to setuid's relatives.
  if (!whole || uid == std::numeric_limits<uid_t>::max()) return std::nullopt;
  return uid;
}

// One text of a user's entry; absent without an entry.
std::optional<std::string> AskAbout(uid_t uid, char* passwd::*text) {
  passwd entry{};
  std::vector<char> room(kEntryBytes);
  bool found = false;
  static_cast<void>(
      AskDatabase([&](auto... rest) { return ::getpwuid_r(uid, rest...); }, entry, room, found));
  if (!found || entry.*text == nullptr) return std::nullopt;
  return std::string(entry.*text);
}

}  // namespace

Result<gid_t> FindGroup(std::string_view name_or_number) {
  const std::string name(name_or_number);
  group entry{};
  std::vector<char> room(kEntryBytes);
  bool found = false;
  const int error = AskDatabase([&](auto... rest) { return ::getgrnam_r(name.c_str(), rest...); },
                                entry, room, found);
  if (found) return entry.gr_gid;
  if (MeansAbsent(error)) {
    if (const std::optional<uid_t> number = ParseUid(name_or_number)) return *number;
    return Fail(ErrorCode::kNotFound, fmt::format("no such group: {}", name));
  }
  return Fail(ErrorCode::kUnavailable,
              fmt::format("looking up group {}: {}", name, std::strerror(error)));
}

Result<UserIds> FindUser(std::string_view name_or_number) {
  const std::string name(name_or_number);
  passwd entry{};
  std::vector<char> room(kEntryBytes);
  bool found = false;
  int error = AskDatabase([&](auto... rest) { return ::getpwnam_r(name.c_str(), rest...); }, entry,
                          room, found);
  if (found) return UserIds{entry.pw_uid, entry.pw_gid};
  const std::optional<uid_t> uid = ParseUid(name_or_number);
  if (uid && MeansAbsent(error)) {
    error =
        AskDatabase([&](auto... rest) { return ::getpwuid_r(*uid, rest...); }, entry, room, found);
    if (found) return UserIds{entry.pw_uid, entry.pw_gid};
    if (MeansAbsent(error)) return UserIds{*uid, *uid};
  }
  if (MeansAbsent(error)) return Fail(ErrorCode::kNotFound, fmt::format("no such user: {}", name));
  return Fail(ErrorCode::kUnavailable,
              fmt::format("looking up user {}: {}", name, std::strerror(error)));
}

std::string UserName(uid_t uid) {
  return AskAbout(uid, &passwd::pw_name).value_or(fmt::format("{}", uid));
}

std::string HomeFolder(uid_t uid) {
  return AskAbout(uid, &passwd::pw_dir).value_or("/");
}

UserIds CurrentUser() {
  return {::geteuid(), ::getegid()};
}

}  // namespace sublet
