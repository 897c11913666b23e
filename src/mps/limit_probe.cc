#include "mps/limit_probe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/files.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

// The probe's line has some 150 bytes; an error of the driver's not many more.
constexpr std::size_t kLineBytesMax = 4096;
// It only has to read a byte and to leave the GPU.
constexpr StopPatience kProbePatience{.after_term_s = 0, .after_kill_s = 5};
constexpr double kLeaveSeconds = 5;

struct Ends {
  FileDescriptor read;
  FileDescriptor write;
};

Result<Ends> MakePipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) return FailFromErrno(errno, "making a pipe");
  return Ends{FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

// Until its end, or that of the pipe; what is there at the deadline.
std::string ReadLine(const FileDescriptor& pipe, Deadline deadline) {
  std::string line;
  while (line.size() < kLineBytesMax) {
    pollfd readable{pipe.get(), POLLIN, 0};
    const int ready = ::poll(&readable, 1, deadline.PollMilliseconds());
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) break;
    char byte = 0;
    const ssize_t got = ::read(pipe.get(), &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || byte == '\n') break;
    line += byte;
  }
  return line;
}

std::string Mib(Bytes amount) {
  return fmt::format("{} MiB", amount.mib());
}

// What the probe may try to have; nothing without a limit.
Bytes MostOf(const ProbeRequest& request) {
  return request.memory_limit ? *request.memory_limit + kProbeBeyondLimit : Bytes{0};
}

Status JudgeMemory(Bytes limit, const ProbeSight& sight) {
  const std::string figures = fmt::format("limit {}, granted {}, free before {}", Mib(limit),
                                          Mib(sight.granted), Mib(sight.free));
  if (!sight.refused || sight.granted > limit + kProbePiece) {
    return Fail(ErrorCode::kConflict, fmt::format("the memory limit does not hold: {}", figures),
                "a CUDA_MPS_PINNED_DEVICE_MEM_LIMIT that names an absent device drops all limits");
  }
  // The wall that it met was another one, or it could promise more than it gives.
  if (sight.granted + kProbeContextMost < limit) {
    return Fail(ErrorCode::kConflict,
                fmt::format("less memory is granted than the limit says: {}", figures),
                "others may have the GPU's memory");
  }
  return {};
}

}  // namespace

Json ProbeSightToJson(const ProbeSight& sight) {
  Json json{{"granted_bytes", sight.granted.count},
            {"refused", sight.refused},
            {"free_bytes", sight.free.count},
            {"total_bytes", sight.total.count},
            {"sm_count", sight.sm_count}};
  if (sight.mps) json["mps"] = *sight.mps;
  return json;
}

Result<ProbeSight> ParseProbeSight(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    ProbeSight sight{.granted = {json.at("granted_bytes")},
                     .refused = json.at("refused"),
                     .free = {json.at("free_bytes")},
                     .total = {json.at("total_bytes")},
                     .sm_count = json.at("sm_count"),
                     .mps = {}};
    if (json.contains("mps")) sight.mps = json["mps"].get<bool>();
    return sight;
  } catch (const Json::exception&) {
    return Fail(ErrorCode::kUnavailable, fmt::format("the mps probe says: {}", text));
  }
}

Status JudgeProbe(const ProbeRequest& request, const ProbeReport& report) {
  if (!report.was_client || !report.sight.mps.value_or(true)) {
    return Fail(
        ErrorCode::kConflict,
        fmt::format("the probe ran without MPS, although it was told to: process {}", report.pid),
        "it must be able to enter the pipe directory, in this pid namespace");
  }
  if (request.memory_limit) {
    RETURN_IF_ERROR(JudgeMemory(*request.memory_limit, report.sight));
  }
  if (!request.sm_percent || request.device_sm_count == 0) return {};
  constexpr int kPair = 2;    // SMs are handed out in pairs,
  constexpr int kFewest = 8;  // and never fewer of an H200, also for 1 %. Observed, driver 580.
  const int asked = (request.device_sm_count * *request.sm_percent + 99) / 100;
  const int most = std::max((asked + kPair - 1) / kPair * kPair, kFewest);
  if (report.sight.sm_count > 0 && report.sight.sm_count <= most) return {};
  return Fail(
      ErrorCode::kConflict,
      fmt::format("the SM cap does not hold: {} % of {} SMs are {}, the probe has {}",
                  *request.sm_percent, request.device_sm_count, most, report.sight.sm_count));
}

Result<ProbeReport> ProbeLimits(MpsDaemon& mps, const ProbeRequest& request) {
  const std::int64_t begun_ns = MonotonicNanoseconds();
  const Deadline deadline = Deadline::In(request.timeout_s);
  ASSIGN_OR_RETURN(Ends in, MakePipe());
  ASSIGN_OR_RETURN(Ends out, MakePipe());
  ChildOptions child;
  child.argv = {request.program.empty() ? "/proc/self/exe" : request.program,
                std::string(kProbeVerb), std::string(kProbeMostFlag),
                std::to_string(MostOf(request).count)};
  child.environment = request.environment;
  child.user = request.run_as;
  child.descriptors = {{in.read.get(), STDIN_FILENO},
                       {out.write.get(), STDOUT_FILENO},
                       {out.write.get(), STDERR_FILENO}};
  ASSIGN_OR_RETURN(ChildProcess probe, ChildProcess::Start(child));
  in.read.Close();
  out.write.Close();
  ProbeReport report;
  report.pid = probe.pid();
  const std::string line = ReadLine(out.read, deadline);
  report.seconds = static_cast<double>(MonotonicNanoseconds() - begun_ns) * 1e-9;
  if (line.empty()) {
    return Fail(ErrorCode::kUnavailable,
                fmt::format("the mps probe says nothing within {:g} s", request.timeout_s));
  }
  ASSIGN_OR_RETURN(report.sight, ParseProbeSight(line));
  // As long as its input is open it stays a client.
  ASSIGN_OR_RETURN(const std::set<int> clients, mps.AllClients());
  report.was_client = clients.contains(report.pid);
  in.write.Close();
  if (!probe.Wait(Deadline::In(kLeaveSeconds))) static_cast<void>(probe.Stop(kProbePatience));
  RETURN_IF_ERROR(JudgeProbe(request, report));
  return report;
}

}  // namespace sublet
