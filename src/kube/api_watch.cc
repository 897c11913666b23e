#include "kube/api_watch.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>

#include "kube/api_json.h"

namespace sublet {
namespace {

constexpr double kPastTheEnd = 30;       // Beyond what the server was asked for: then it is lost.
constexpr double kErrorBodySeconds = 5;  // For the text of a refusal.
// A watch that lived so long was none that the server refused by closing it.
constexpr double kSettledSeconds = 10;
// A connection that is cut once, or a token that ends a moment too early, is nobody's business.
constexpr int kToldFailures = 2;
constexpr int kGone = 410;

// Sleeps until one of the two; false where the fd woke it.
bool Rest(Deadline until, int wake_fd) {
  pollfd wake{wake_fd, POLLIN, 0};
  while (!until.Passed()) {
    if (::poll(&wake, wake_fd < 0 ? 0 : 1, until.PollMilliseconds()) > 0) return false;
  }
  return true;
}

}  // namespace

ApiWatch::ApiWatch(ApiTransport transport, ApiWatchTarget target, ApiPatience patience)
    : transport_(std::move(transport)),
      target_(std::move(target)),
      patience_(std::move(patience)) {}

std::optional<ApiChange> ApiWatch::Next(Deadline deadline, int wake_fd) {
  while (true) {
    if (!stream_) {
      if (!Rest(Earlier(deadline, retry_), wake_fd)) return std::nullopt;
      if (!retry_.Passed()) return std::nullopt;
      if (resource_version_.empty()) {
        if (auto change = List()) return change;
      } else {
        Open();
      }
    }
    if (stream_) {
      if (auto change = Read(deadline, wake_fd)) return change;
      // It is still open: there is no time left.
      if (stream_) return std::nullopt;
    }
    if (problem_ || deadline.Passed()) return std::nullopt;
  }
}

// The object as it is, or that it isn't; absent where the server couldn't be asked.
std::optional<ApiChange> ApiWatch::List() {
  const std::string selector = UrlEncoded("metadata.name=" + target_.name);
  const Result<ApiResponse> response =
      transport_.Send({.path = fmt::format("{}?fieldSelector={}", target_.path, selector)});
  if (!response) {
    Failed(response.error());
    return std::nullopt;
  }
  const std::string what = "GET " + target_.path;
  if (response->status != 200) {
    Failed(ApiErrorOf(response->status, response->body, what));
    return std::nullopt;
  }
  Result<nlohmann::json> list = ParseApiJson(response->body, what);
  if (!list) {
    Failed(std::move(list).error());
    return std::nullopt;
  }
  std::string version = TextAt(*list, {"metadata", "resourceVersion"});
  if (version.empty()) {
    Failed({ErrorCode::kInvalid, what + ": the list has no metadata.resourceVersion", ""});
    return std::nullopt;
  }
  resource_version_ = std::move(version);
  if (const nlohmann::json* const items = ValueAt(*list, {"items"});
      items != nullptr && items->is_array()) {
    // A server that knows no field selectors gives all.
    for (const nlohmann::json& item : *items) {
      if (TextAt(item, {"metadata", "name"}) == target_.name) return ApiChange{false, item};
    }
  }
  return ApiChange{.deleted = true, .object = {}};
}

void ApiWatch::Open() {
  const std::string path = fmt::format(
      "{}?fieldSelector={}&watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
      target_.path, UrlEncoded("metadata.name=" + target_.name), UrlEncoded(resource_version_),
      target_.keep_open_s);
  Result<ApiStream> stream = transport_.Begin({.path = path});
  if (!stream) return Failed(std::move(stream).error());
  stream_.emplace(*std::move(stream));
  answered_ = false;
  stream_end_ = Deadline::In(target_.keep_open_s + kPastTheEnd);
}

std::optional<ApiChange> ApiWatch::Read(Deadline deadline, int wake_fd) {
  const Deadline until = Earlier(deadline, stream_end_);
  if (!answered_) {
    const Result<std::optional<int>> status = stream_->HttpStatus(until, wake_fd);
    if (!status) {
      Failed(status.error());
      return std::nullopt;
    }
    if (!*status && stream_end_.Passed()) {
      Failed({ErrorCode::kUnavailable, "the API server doesn't answer a watch", ""});
    }
    if (!*status) return std::nullopt;
    if (**status == kGone) {
      Gone();
      return std::nullopt;
    }
    if (**status != 200) {
      Failed(ApiErrorOf(**status, stream_->Rest(Deadline::In(kErrorBodySeconds), wake_fd),
                        "watching " + target_.path));
      return std::nullopt;
    }
    answered_ = true;
    settled_ = Deadline::In(kSettledSeconds);
  }
  while (true) {
    const Result<std::optional<std::string>> line = stream_->NextLine(until, wake_fd);
    if (!line) {
      Failed(line.error());
      return std::nullopt;
    }
    if (!*line) {
      // Its time is over: what comes now would come late.
      if (stream_end_.Passed()) stream_.reset();
      return std::nullopt;
    }
    if (auto change = TakeLine(**line)) return change;
    if (!stream_) return std::nullopt;
  }
}

// A change, or nothing where the line tells of none. What can't be read ends the stream, for the
// place in it is lost; it resumes after the last line that could be.
std::optional<ApiChange> ApiWatch::TakeLine(const std::string& line) {
  if (line.empty()) return std::nullopt;
  Result<nlohmann::json> event = ParseApiJson(line, "a line of the watch");
  if (!event) {
    Failed(std::move(event).error());
    return std::nullopt;
  }
  const std::string type = TextAt(*event, {"type"});
  const nlohmann::json* const object = ValueAt(*event, {"object"});
  if (type == "ERROR") {
    const nlohmann::json* const code = object == nullptr ? nullptr : ValueAt(*object, {"code"});
    const int status = code != nullptr && code->is_number_integer() ? code->get<int>() : 500;
    if (status == kGone) {
      Gone();
    } else {
      Failed(ApiErrorOf(status, object == nullptr ? "" : ApiJsonText(*object), "watching"));
    }
    return std::nullopt;
  }
  std::string version = object == nullptr ? "" : TextAt(*object, {"metadata", "resourceVersion"});
  if (version.empty()) {
    Failed({ErrorCode::kInvalid, "a line of the watch has no object with a resourceVersion", ""});
    return std::nullopt;
  }
  resource_version_ = std::move(version);
  failures_ = 0;
  gones_ = 0;
  const bool ours = TextAt(*object, {"metadata", "name"}) == target_.name;
  if (type == "DELETED" && ours) return ApiChange{.deleted = true, .object = {}};
  if ((type == "ADDED" || type == "MODIFIED") && ours) return ApiChange{false, *object};
  return std::nullopt;  // A bookmark, or what a newer server may send.
}

void ApiWatch::Failed(Error error) {
  // Servers end watches all the time, and one that had settled was none of many failures.
  if (answered_ && settled_.Passed()) failures_ = 0;
  stream_.reset();
  answered_ = false;
  ++failures_;
  retry_ = Deadline::In(patience_.Pause(failures_));
  if (failures_ == kToldFailures) problem_ = std::move(error);
}

// The server is well, and only our place is lost: at once the first time. One that says so again
// and again is treated as one that fails.
void ApiWatch::Gone() {
  stream_.reset();
  answered_ = false;
  resource_version_.clear();
  failures_ = 0;
  ++gones_;
  retry_ = Deadline::In(gones_ == 1 ? 0 : patience_.Pause(gones_));
}

}  // namespace sublet
