#include "mps_client.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "mps_wire.h"
#include "mps_words.h"
#include "sim_state.h"

namespace sublet::sim {
namespace {

constexpr int kConnectionFailed = 805;
constexpr int kAnswerMs = 10'000;  // The daemon answers in a millisecond; the machine may be full.

// Whether a control daemon of the simulation has that folder.
bool IsOurs(CardHost& host, const std::string& folder) {
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0) return false;
  const CardHost::Locked lock(host);
  return std::ranges::any_of(host.table().daemons, [&](const MpsDaemonEntry& daemon) {
    return daemon.pid != 0 && daemon.folder_device == status.st_dev &&
           daemon.folder_inode == status.st_ino && StartTimeOf(daemon.pid) == daemon.started;
  });
}

template <typename T>
bool ReadNumber(const std::string& text, T& out) {
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), out);
  return ec == std::errc() && end == text.data() + text.size();
}

// "joined 0 4711 100 -1" or "refused 46".
bool ReadAnswer(const std::string& line, MpsJoining& joining) {
  const std::vector<std::string> words = Words(line);
  joining.code = kConnectionFailed;
  if (words.size() == 2 && words[0] == "refused") {
    ReadNumber(words[1], joining.code);
    return false;
  }
  std::int64_t limit = -1;
  const bool good = words.size() == 5 && words[0] == "joined" &&
                    ReadNumber(words[1], joining.grant.server) &&
                    ReadNumber(words[2], joining.grant.server_pid) &&
                    ReadNumber(words[3], joining.grant.sm_percent) && ReadNumber(words[4], limit);
  if (limit >= 0) joining.grant.memory_limit = Bytes{limit};
  return good;
}

}  // namespace

MpsAnswer JoinMps(CardHost& host, const std::vector<SimDevice>& devices, int device,
                  MpsJoining& joining) {
  const std::string folder = MpsPipeDirectory();
  if (!IsOurs(host, folder)) return MpsAnswer::kNoServer;
  const int connection = ConnectTo(folder + "/control");
  if (connection < 0) return MpsAnswer::kNoServer;
  const std::string& uuid = devices[static_cast<std::size_t>(device)].uuid;
  const bool joined =
      SendText(connection, fmt::format("client {} {} {}\n", ::getpid(), uuid, device)) &&
      ReadAnswer(ReadLine(connection, kAnswerMs), joining);
  if (!joined) {
    ::close(connection);
    return MpsAnswer::kRefused;
  }
  joining.grant.connection = connection;
  std::vector<std::string> uuids;
  for (const SimDevice& one : devices) uuids.push_back(one.uuid);
  ApplyClientLimits(std::getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
                    std::getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), uuids, device, joining.grant);
  return MpsAnswer::kJoined;
}

void LeaveMps(std::optional<MpsGrant>& grant) {
  if (grant) ::close(grant->connection);
  grant.reset();
}

void ApplyClientLimits(const char* percent, const char* limits,
                       const std::vector<std::string>& uuids, int device, MpsGrant& grant) {
  if (percent != nullptr) {
    const std::optional<double> own = ParsePercent(percent);
    if (own) grant.sm_percent = std::min(grant.sm_percent, *own);
  }
  if (limits == nullptr || *limits == '\0') return;
  const auto own = ParseDeviceLimits(limits);
  // The place of the device that is meant; -1 where there is none.
  const auto place = [&](const MpsDeviceLimit& one) {
    int number = -1;
    if (ReadNumber(one.device, number)) {
      return number < static_cast<int>(uuids.size()) ? number : -1;
    }
    const auto found = std::ranges::find_if(
        uuids, [&](const std::string& uuid) { return uuid.starts_with(one.device); });
    return found == uuids.end() ? -1 : static_cast<int>(found - uuids.begin());
  };
  const auto absent = [&](const MpsDeviceLimit& one) { return place(one) < 0; };
  if (!own || std::ranges::any_of(*own, absent)) {
    grant.memory_limit.reset();
    return;
  }
  for (const MpsDeviceLimit& one : *own) {
    if (place(one) != device) continue;
    grant.memory_limit = std::min(grant.memory_limit.value_or(one.limit), one.limit);
  }
}

}  // namespace sublet::sim
