#include "node/api.h"

#include <fmt/format.h>

#include <charconv>
#include <deque>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "model/mig_target.h"
#include "node/bell.h"
#include "observe/metrics.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

// Prometheus's exposition format.
constexpr std::string_view kMetricsType = "text/plain; version=0.0.4; charset=utf-8";
constexpr int kEventsAtOnce = 500;
constexpr int kLogLinesMax = 100'000;

std::string Line(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// "/v1/logs/chat/0" below "/v1/logs/": "chat/0"; empty where it isn't below.
std::string Below(const std::string& path, std::string_view folder) {
  return path.starts_with(folder) ? path.substr(folder.size()) : "";
}

bool Asked(const HttpRequest& request, const char* flag) {
  const auto it = request.query.find(flag);
  return it != request.query.end() && it->second != "0" && it->second != "false";
}

Result<std::int64_t> NumberIn(const HttpRequest& request, const char* name, std::int64_t otherwise,
                              std::int64_t most) {
  const auto it = request.query.find(name);
  if (it == request.query.end()) return otherwise;
  std::int64_t number = 0;
  const char* const end = it->second.data() + it->second.size();
  const auto parsed = std::from_chars(it->second.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || number < 0 || number > most) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("{} must be a number from 0 to {}: {}", name, most, it->second));
  }
  return number;
}

// The GPU in POST /v1/gpus/GPU/clear; empty where it is another request.
std::string GpuToClear(const HttpRequest& request) {
  constexpr std::string_view kClear = "/clear";
  std::string gpu = Below(request.path, "/v1/gpus/");
  if (request.method != "POST" || !gpu.ends_with(kClear)) return "";
  gpu.resize(gpu.size() - kClear.size());
  return gpu;
}

// The plan and its folder in the body of PUT /v1/plan.
Result<std::pair<Plan, std::string>> ReadPlanRequest(const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("plan") || !json.contains("directory") ||
      !json["directory"].is_string() || json.size() != 2) {
    return Fail(ErrorCode::kInvalid, "the body must be {\"plan\": ..., \"directory\": \"/...\"}");
  }
  const std::string directory = json["directory"];
  if (!directory.starts_with('/')) {
    return Fail(ErrorCode::kInvalid, fmt::format("directory is not absolute: {}", directory));
  }
  ASSIGN_OR_RETURN(Plan plan, ParsePlan(json["plan"].dump(), "plan"));
  return std::make_pair(std::move(plan), directory);
}

std::string StepsBody(const std::vector<std::string>& steps) {
  return Json{{"steps", steps}}.dump() + "\n";
}

// What an operation says, on its way to a client that may have gone.
struct Feed {
  explicit Feed(asio::io_context& loop) : bell(loop) {}
  std::deque<std::string> lines;
  bool done = false;
  Bell bell;
};

Task<void> RunOperation(std::function<Task<Status>(Progress)> operation,
                        std::shared_ptr<Feed> feed) {
  const Progress progress = [feed](const ProgressLine& line) {
    feed->lines.push_back(
        Line({{"step", line.step}, {"state", line.state}, {"message", line.message}}));
    feed->bell.Ring();
  };
  const Status done = co_await operation(progress);
  feed->lines.push_back(done ? Line({{"done", true}}) : ErrorBody(done.error()));
  feed->done = true;
  feed->bell.Ring();
}

}  // namespace

HttpHandler NodeApi::Handler() {
  return [this](HttpRequest request, Responder& to) { return Answer(std::move(request), to); };
}

Task<void> NodeApi::Answer(HttpRequest request, Responder& to) {
  struct Active {
    int& count;
    explicit Active(int& of) : count(of) { ++count; }
    ~Active() { --count; }
  };
  const Active active(active_);
  const std::string& path = request.path;
  if (path == "/v1/plan") {
    co_await AnswerPlan(request, to);
  } else if (path == "/v1/mig") {
    co_await AnswerMig(request, to);
  } else if (path == "/v1/shares" || path.starts_with("/v1/shares/")) {
    co_await AnswerShares(request, to);
  } else if (request.method == "GET") {
    co_await AnswerGet(request, to);
  } else {
    co_await AnswerOther(request, to);
  }
}

Task<void> NodeApi::AnswerGet(const HttpRequest& request, Responder& to) {
  const std::string& path = request.path;
  if (path == "/v1/status") {
    const NodeStatus status = co_await node_.Now();
    co_await to.Send(200, kJsonType, NodeStatusToJson(status).dump() + "\n");
  } else if (path == "/v1/health") {
    co_await to.Send(200, kJsonType, "{\"ok\":true}\n");
  } else if (path == "/v1/node") {
    const Result<Inventory> inventory = co_await node_.TakeStock();
    if (inventory) {
      co_await to.Send(200, kJsonType, InventoryToJson(*inventory).dump() + "\n");
    } else {
      co_await to.Refuse(inventory.error());
    }
  } else if (path == "/v1/events") {
    co_await StreamEvents(request, to);
  } else if (path.starts_with("/v1/logs/")) {
    co_await StreamLog(request, to);
  } else if (path == "/metrics") {
    const NodeStatus status = co_await node_.Now();
    co_await to.Send(200, kMetricsType, MetricsText(status, node_.Counters()));
  } else {
    co_await to.Refuse(ErrorCode::kNotFound, fmt::format("no such resource: {}", path));
  }
}

Task<void> NodeApi::AnswerShares(const HttpRequest& request, Responder& to) {
  const std::string id = Below(request.path, "/v1/shares/");
  if (request.method == "POST" && id.empty()) {
    Result<ShareRequest> asked = ParseShareRequest(request.body, "request");
    if (!asked) co_return static_cast<void>(co_await to.Refuse(asked.error()));
    const Result<Granted> granted = co_await node_.Grant(std::move(*asked), request.peer);
    if (!granted) co_return static_cast<void>(co_await to.Refuse(granted.error()));
    Json environment = Json::object();
    for (const auto& [name, value] : granted->environment) {
      environment[name] = value ? Json(*value) : Json(nullptr);
    }
    const Json body = {{"share", ShareToJson(granted->share)},
                       {"environment", environment},
                       {"log", granted->log}};
    co_await to.Send(200, kJsonType, body.dump() + "\n");
  } else if (request.method == "DELETE" && !id.empty()) {
    const Status released = co_await node_.Release(id, request.peer);
    if (!released) co_return static_cast<void>(co_await to.Refuse(released.error()));
    co_await to.Send(200, kJsonType, "{\"done\":true}\n");
  } else {
    co_await to.Refuse(ErrorCode::kUsage, "shares take POST, and DELETE with an id");
  }
}

Task<void> NodeApi::AnswerPlan(const HttpRequest& request, Responder& to) {
  // Also to look at it: it has everybody's commands and environments.
  if (const Status may = node_.MayAdminister(request.peer); !may) {
    co_return static_cast<void>(co_await to.Refuse(may.error()));
  }
  if (request.method == "GET") {
    if (node_.plan()) {
      co_await to.Send(200, kJsonType, PlanToJson(*node_.plan()).dump() + "\n");
    } else {
      co_await to.Refuse(ErrorCode::kNotFound, "no plan is up", "sublet up FLEET");
    }
    co_return;
  }
  if (request.method == "DELETE") {
    co_await StreamOperation([this](Progress say) { return node_.Down(std::move(say)); }, to);
    co_return;
  }
  if (request.method != "PUT") {
    co_await to.Refuse(ErrorCode::kUsage, "the plan takes GET, PUT and DELETE");
    co_return;
  }
  Result<std::pair<Plan, std::string>> asked = ReadPlanRequest(request.body);
  if (!asked) co_return static_cast<void>(co_await to.Refuse(asked.error()));
  if (Asked(request, "dry_run")) {
    const auto steps = node_.UpSteps(asked->first, asked->second);
    if (!steps) co_return static_cast<void>(co_await to.Refuse(steps.error()));
    co_await to.Send(200, kJsonType, StepsBody(*steps));
    co_return;
  }
  const auto wanted = std::make_shared<std::pair<Plan, std::string>>(std::move(*asked));
  const auto operation = [this, wanted](Progress say) {
    return node_.Up(wanted->first, wanted->second, std::move(say));
  };
  co_await StreamOperation(operation, to);
}

Task<void> NodeApi::AnswerMig(const HttpRequest& request, Responder& to) {
  if (request.method != "PUT") {
    co_await to.Refuse(ErrorCode::kUsage, "mig takes PUT");
    co_return;
  }
  if (const Status may = node_.MayAdminister(request.peer); !may) {
    co_return static_cast<void>(co_await to.Refuse(may.error()));
  }
  const Result<std::vector<MigTarget>> targets = ParseMigTargets(request.body, "request");
  if (!targets) co_return static_cast<void>(co_await to.Refuse(targets.error()));
  if (Asked(request, "dry_run")) {
    const auto steps = node_.MigSteps(*targets);
    if (!steps) co_return static_cast<void>(co_await to.Refuse(steps.error()));
    co_await to.Send(200, kJsonType, StepsBody(*steps));
    co_return;
  }
  const std::vector<MigTarget> wanted = *targets;
  const auto operation = [this, wanted](Progress say) {
    return node_.ChangeMig(wanted, std::move(say));
  };
  co_await StreamOperation(operation, to);
}

Task<void> NodeApi::AnswerOther(const HttpRequest& request, Responder& to) {
  constexpr std::string_view kRestart = "/restart";
  std::string replica = Below(request.path, "/v1/replicas/");
  if (request.method == "POST" && replica.ends_with(kRestart)) {
    replica.resize(replica.size() - kRestart.size());
    const Status restarted = node_.Restart(replica, request.peer);
    if (!restarted) co_return static_cast<void>(co_await to.Refuse(restarted.error()));
    co_await to.Send(200, kJsonType, "{\"done\":true}\n");
  } else if (const std::string gpu = GpuToClear(request); !gpu.empty()) {
    const Status cleared = node_.ClearHealth(gpu, request.peer);
    if (!cleared) co_return static_cast<void>(co_await to.Refuse(cleared.error()));
    co_await to.Send(200, kJsonType, "{\"done\":true}\n");
  } else if (request.method == "POST" && request.path == "/v1/stop") {
    if (const Status may = node_.MayAdminister(request.peer); !may) {
      co_return static_cast<void>(co_await to.Refuse(may.error()));
    }
    co_await to.Send(200, kJsonType, "{\"done\":true}\n");
    stop_();
  } else {
    co_await to.Refuse(ErrorCode::kNotFound,
                       fmt::format("no such resource: {} {}", request.method, request.path));
  }
}

Task<void> NodeApi::StreamEvents(const HttpRequest& request, Responder& to) {
  const auto after = NumberIn(request, "after", 0, std::numeric_limits<std::int64_t>::max());
  if (!after) co_return static_cast<void>(co_await to.Refuse(after.error()));
  const bool follow = Asked(request, "follow");
  std::int64_t last = *after;
  if (!co_await to.Begin(200, kNdjsonType)) co_return;
  while (true) {
    const Result<std::vector<NodeEvent>> events = node_.events().After(last, kEventsAtOnce);
    if (!events) {
      co_await to.Write(ErrorBody(events.error()));
      break;
    }
    std::string lines;
    for (const NodeEvent& event : *events) {
      lines += Line(NodeEventToJson(event));
      last = event.sequence;
    }
    if (!lines.empty() && !co_await to.Write(std::move(lines))) co_return;
    if (!events->empty()) continue;
    if (!follow) break;
    co_await node_.events().news().Next();
  }
  co_await to.End();
}

Task<void> NodeApi::StreamLog(const HttpRequest& request, Responder& to) {
  const auto lines = NumberIn(request, "lines", kLogLinesMax, kLogLinesMax);
  if (!lines) co_return static_cast<void>(co_await to.Refuse(lines.error()));
  const std::string name = Below(request.path, "/v1/logs/");
  const auto log = node_.Log(name, request.peer);
  if (!log) co_return static_cast<void>(co_await to.Refuse(log.error()));
  // Held, because the replica may go while its log is read.
  const std::shared_ptr<const ReplicaLog> kept = *log;
  Result<LogText> text = kept->Tail(static_cast<std::size_t>(*lines));
  if (!text) co_return static_cast<void>(co_await to.Refuse(text.error()));
  if (!co_await to.Begin(200, kTextType)) co_return;
  while (text) {
    if (!text->text.empty()) {
      if (!co_await to.Write(text->text)) co_return;
    } else if (!Asked(request, "follow")) {
      break;
    } else {
      // Half a second: a person reads along, and a look costs little.
      Bell pause(loop_);
      co_await pause.Wait(MomentIn(0.5));
    }
    text = kept->ReadFrom(text->next);
  }
  co_await to.End();
}

Task<void> NodeApi::StreamOperation(std::function<Task<Status>(Progress)> operation,
                                    Responder& to) {
  const auto feed = std::make_shared<Feed>(loop_);
  if (!co_await to.Begin(200, kNdjsonType, WhenPeerGone::kGoOn)) co_return;
  asio::co_spawn(loop_, RunOperation(std::move(operation), feed), EndsTheProgram);
  while (true) {
    while (!feed->lines.empty()) {
      std::string line = std::move(feed->lines.front());
      feed->lines.pop_front();
      if (!co_await to.Write(std::move(line))) co_return;
    }
    if (feed->done) break;
    co_await feed->bell.Wait();
  }
  co_await to.End();
}

}  // namespace sublet
