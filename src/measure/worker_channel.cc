#include "measure/worker_channel.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/files.h"

namespace sublet {
namespace {

// The longest is a round's answer: some 200 bytes a stream, and no workload has 100 streams.
constexpr std::size_t kMessageBytesMax = 64u << 10;

ErrorCode ErrorCodeOf(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    if (ErrorCodeName(static_cast<ErrorCode>(i)) == name) return static_cast<ErrorCode>(i);
  }
  return ErrorCode::kInternal;
}

}  // namespace

Result<ChannelEnds> MakeWorkerChannel() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return FailFromErrno(errno, "making a socket pair");
  }
  return ChannelEnds{FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

Status SendMessage(int fd, const nlohmann::json& message) {
  // A message of the driver's may hold any bytes.
  const std::string text = message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  ssize_t sent = 0;
  do {
    sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return Fail(ErrorCode::kUnavailable, fmt::format("sending a message: {}", strerror(errno)));
  }
  return {};
}

Result<std::optional<nlohmann::json>> ReceiveMessage(int fd) {
  std::string text(kMessageBytesMax, '\0');
  ssize_t got = 0;
  do {
    got = ::recv(fd, text.data(), text.size(), MSG_TRUNC);
  } while (got < 0 && errno == EINTR);
  // Reset: the other end went with a message of ours unread.
  if (got == 0 || (got < 0 && errno == ECONNRESET)) return std::optional<nlohmann::json>();
  if (got < 0) return FailFromErrno(errno, "receiving a message");
  text.resize(std::min(text.size(), static_cast<std::size_t>(got)));
  nlohmann::json message = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!message.is_object()) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("receiving a message: {} bytes that are no object", got));
  }
  return std::optional<nlohmann::json>(std::move(message));
}

nlohmann::json ErrorToMessage(const Error& error) {
  return {
      {"error",
       {{"code", ErrorCodeName(error.code)}, {"message", error.message}, {"hint", error.hint}}}};
}

std::optional<Error> ErrorInMessage(const nlohmann::json& message) {
  const auto it = message.find("error");
  if (it == message.end()) return std::nullopt;
  return Error{ErrorCodeOf(it->value("code", "")), it->value("message", "no reason given"),
               it->value("hint", "")};
}

nlohmann::json FiguresToMessage(const std::vector<StreamFigures>& streams) {
  nlohmann::json list = nlohmann::json::array();
  for (const StreamFigures& stream : streams) {
    list.push_back({{"units", stream.units},
                    {"rate_per_s", stream.rate_per_s},
                    {"latency_ms_p50", stream.latency_ms_p50},
                    {"latency_ms_p99", stream.latency_ms_p99},
                    {"latency_ms_max", stream.latency_ms_max},
                    {"gap_ms_max", stream.gap_ms_max}});
  }
  return {{"streams", std::move(list)}};
}

std::vector<StreamFigures> FiguresInMessage(const nlohmann::json& message) {
  std::vector<StreamFigures> streams;
  for (const nlohmann::json& stream : message.value("streams", nlohmann::json::array())) {
    streams.push_back({.units = stream.value("units", std::int64_t{0}),
                       .rate_per_s = stream.value("rate_per_s", 0.0),
                       .latency_ms_p50 = stream.value("latency_ms_p50", 0.0),
                       .latency_ms_p99 = stream.value("latency_ms_p99", 0.0),
                       .latency_ms_max = stream.value("latency_ms_max", 0.0),
                       .gap_ms_max = stream.value("gap_ms_max", 0.0)});
  }
  return streams;
}

}  // namespace sublet
