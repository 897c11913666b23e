// measure/worker_channel.h
//
// What the lab and a worker say to each other: one JSON object a message, over a socket pair that
// keeps messages apart.
//
// The lab asks, {"do": "prepare", ...}; the worker answers each question with one object, which has
// an "error" where it failed. In between a worker may say {"midway": true} once, when it was told
// to (WorkerDeed::kReport).
//
//   ASSIGN_OR_RETURN(ChannelEnds ends, MakeWorkerChannel());
//   SendMessage(ends.lab.get(), {{"do", "rest"}});
//
// Thread safety: no shared state.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "measure/crew.h"

namespace sublet {

// The verb under which a program becomes a worker, and the descriptors that it then has.
inline constexpr std::string_view kWorkerVerb = "measure-worker";
inline constexpr int kWorkerChannelFd = 3;
inline constexpr int kWorkerLineFd = 4;

// What a worker is to do in the middle of its window.
enum class WorkerDeed { kNone, kReport, kIllegalAccess, kSleepForever };

struct ChannelEnds {
  FileDescriptor lab;
  FileDescriptor worker;
};
Result<ChannelEnds> MakeWorkerChannel();

// Fails with kUnavailable where nobody is at the other end any more.
Status SendMessage(int fd, const nlohmann::json& message);
// The next message; waits for it. Absent where the other end is closed. Fails with kInvalid where
// it is no JSON object.
Result<std::optional<nlohmann::json>> ReceiveMessage(int fd);

nlohmann::json ErrorToMessage(const Error& error);
// The error that a message carries, if it does.
std::optional<Error> ErrorInMessage(const nlohmann::json& message);

nlohmann::json FiguresToMessage(const std::vector<StreamFigures>& streams);
std::vector<StreamFigures> FiguresInMessage(const nlohmann::json& message);

}  // namespace sublet
