#include "exe/node_client.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/interrupt.h"
#include "exe/start_daemon.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kSource = "the node's answer";
constexpr double kConnectSeconds = 2;
// The loop of a daemon answers at once, whatever its workers are busy with.
constexpr double kHealthSeconds = 5;
// A share may need an MPS server, started and probed; a change of MIG may be under way before it.
constexpr double kShareSeconds = 120;
constexpr double kDefaultSeconds = 30;

bool IsAbsent(const Error& error) {
  return error.code == ErrorCode::kNotFound || error.code == ErrorCode::kUnavailable;
}

// A connection to a daemon that has answered: one that is about to go still has connections that
// wait for it.
Result<HttpClient> Reach(const NodePlace& place) {
  ASSIGN_OR_RETURN(HttpClient http, HttpClient::ConnectUnix(place.socket, kConnectSeconds));
  ASSIGN_OR_RETURN(const HttpResponse response,
                   http.Send({.target = "/v1/health", .timeout_s = kHealthSeconds}));
  return http;
}

Error NobodyThere(const NodePlace& place, Error error) {
  if (!IsAbsent(error)) return error;
  Error absent{ErrorCode::kUnavailable, "", ""};
  if (place.system) {
    absent.message = fmt::format("the system's node daemon doesn't answer: {}", error.message);
    absent.hint = "systemctl start sublet";
  } else if (place.state.empty()) {
    absent.message = fmt::format("no node daemon answers at {}: {}", place.socket, error.message);
    absent.hint = fmt::format("sublet daemon --socket {}", place.socket);
  } else {
    absent.message = fmt::format("no node daemon of yours is running ({})", place.socket);
    absent.hint = "sublet up and sublet run start one";
  }
  return absent;
}

std::string StringIn(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

Error NotUnderstood(std::string_view source, std::string_view what) {
  return {ErrorCode::kUnavailable, fmt::format("{}: {}", source, what),
          "is the daemon of another version? sublet --version"};
}

Result<std::vector<std::string>> ParseSteps(const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("steps") || !json["steps"].is_array()) {
    return tl::unexpected<Error>(NotUnderstood(kSource, "no steps"));
  }
  std::vector<std::string> steps;
  for (const Json& step : json["steps"]) {
    if (!step.is_string()) return tl::unexpected<Error>(NotUnderstood(kSource, "no step"));
    steps.push_back(step.get<std::string>());
  }
  return steps;
}

std::string PlanBody(const Plan& plan, const std::string& directory) {
  return Json{{"plan", PlanToJson(plan)}, {"directory", directory}}.dump();
}

}  // namespace

Result<GrantedShare> ParseGrantedShare(std::string_view text, std::string_view source) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("share") || !json.contains("environment") ||
      !json["environment"].is_object()) {
    return tl::unexpected<Error>(NotUnderstood(source, "no share with an environment"));
  }
  GrantedShare granted;
  ASSIGN_OR_RETURN(granted.share, ParseShare(json["share"].dump(), source));
  for (const auto& [name, value] : json["environment"].items()) {
    if (!value.is_string() && !value.is_null()) {
      return tl::unexpected<Error>(NotUnderstood(source, fmt::format("{} is no text", name)));
    }
    granted.environment.emplace_back(
        name, value.is_null() ? std::nullopt : std::optional(value.get<std::string>()));
  }
  granted.log = StringIn(json, "log");
  return granted;
}

Result<std::optional<OperationStep>> ParseOperationLine(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return tl::unexpected<Error>(NotUnderstood(kSource, "a line of no JSON"));
  if (json.contains("error")) return tl::unexpected<Error>(ErrorFromBody(500, line));
  if (json.contains("done")) return std::optional<OperationStep>();
  OperationStep step{StringIn(json, "step"), StringIn(json, "state"), StringIn(json, "message")};
  return std::optional(std::move(step));
}

Result<NodeClient> NodeClient::Connect(const NodePlace& place, bool start_if_absent) {
  Result<HttpClient> http = Reach(place);
  const bool may_start = start_if_absent && !place.system && !place.state.empty();
  if (!http && may_start && IsAbsent(http.error()) && !Interrupted()) {
    RETURN_IF_ERROR(StartDaemon(place));
    http = Reach(place);
  }
  if (!http) return tl::unexpected<Error>(NobodyThere(place, std::move(http).error()));
  return NodeClient(place, *std::move(http));
}

Result<std::string> NodeClient::Get(const std::string& target) {
  ASSIGN_OR_RETURN(HttpResponse response,
                   http_.Send({.target = target, .timeout_s = kDefaultSeconds}));
  return std::move(response.body);
}

Result<std::string> NodeClient::Ask(const std::string& method, const std::string& target,
                                    std::string body) {
  ASSIGN_OR_RETURN(HttpResponse response, http_.Send({.method = method,
                                                      .target = target,
                                                      .body = std::move(body),
                                                      .timeout_s = kShareSeconds}));
  return std::move(response.body);
}

Result<NodeStatus> NodeClient::ReadStatus() {
  ASSIGN_OR_RETURN(const std::string body, Get("/v1/status"));
  return ParseNodeStatus(body, kSource);
}

Result<Inventory> NodeClient::ReadInventory() {
  ASSIGN_OR_RETURN(const std::string body, Get("/v1/node"));
  return ParseInventory(body, kSource);
}

Result<std::optional<Plan>> NodeClient::ReadPlan() {
  const Result<std::string> body = Get("/v1/plan");
  if (!body && body.error().code == ErrorCode::kNotFound) return std::optional<Plan>();
  if (!body) return tl::unexpected<Error>(body.error());
  ASSIGN_OR_RETURN(Plan plan, ParsePlan(*body, kSource));
  return std::optional(std::move(plan));
}

Result<GrantedShare> NodeClient::AskShare(const ShareRequest& request) {
  ASSIGN_OR_RETURN(const std::string body,
                   Ask("POST", "/v1/shares", ShareRequestToJson(request).dump()));
  return ParseGrantedShare(body, kSource);
}

Status NodeClient::ReleaseShare(const std::string& id) {
  ClientRequest request;
  request.method = "DELETE";
  request.target = fmt::format("/v1/shares/{}", EncodeComponent(id));
  request.interruptible = false;
  ASSIGN_OR_RETURN(const HttpResponse response, http_.Send(request));
  return {};
}

Status NodeClient::Operate(ClientRequest request, const OnStep& on_step) {
  bool done = false;
  std::optional<Error> failure;
  RETURN_IF_ERROR(http_.Stream(request, [&](std::string_view line) {
    Result<std::optional<OperationStep>> step = ParseOperationLine(line);
    if (!step) {
      failure = std::move(step).error();
    } else if (*step) {
      on_step(**step);
    } else {
      done = true;
    }
    return !failure;
  }));
  if (failure) return tl::unexpected<Error>(*std::move(failure));
  if (done) return {};
  return Fail(ErrorCode::kUnavailable, "the node daemon ended in the middle of it",
              "the next one finishes or undoes what was begun: sublet ps");
}

Status NodeClient::PutPlan(const Plan& plan, const std::string& directory, const OnStep& on_step,
                           std::optional<double> patience_s) {
  const Deadline deadline = patience_s ? Deadline::In(*patience_s) : Deadline::Never();
  ClientRequest request;
  request.method = "PUT";
  request.target = "/v1/plan";
  request.body = PlanBody(plan, directory);
  request.timeout_s = kShareSeconds;
  request.stream_timeout_s = patience_s;
  const Status put = Operate(std::move(request), on_step);
  if (put || !deadline.Passed()) return put;
  return Fail(ErrorCode::kUnavailable, fmt::format("not all is ready after {:.0f} s", *patience_s),
              "the node goes on with it; sublet ps shows how far it is");
}

Result<std::vector<std::string>> NodeClient::PlanSteps(const Plan& plan,
                                                       const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string body,
                   Ask("PUT", "/v1/plan?dry_run=1", PlanBody(plan, directory)));
  return ParseSteps(body);
}

Status NodeClient::DeletePlan(const OnStep& on_step) {
  ClientRequest request;
  request.method = "DELETE";
  request.target = "/v1/plan";
  request.timeout_s = kShareSeconds;
  return Operate(std::move(request), on_step);
}

Status NodeClient::PutMig(const std::vector<MigTarget>& targets, const OnStep& on_step) {
  ClientRequest request;
  request.method = "PUT";
  request.target = "/v1/mig";
  request.body = MigTargetsToJson(targets).dump();
  request.timeout_s = kShareSeconds;
  return Operate(std::move(request), on_step);
}

Result<std::vector<std::string>> NodeClient::MigSteps(const std::vector<MigTarget>& targets) {
  ASSIGN_OR_RETURN(const std::string body,
                   Ask("PUT", "/v1/mig?dry_run=1", MigTargetsToJson(targets).dump()));
  return ParseSteps(body);
}

Status NodeClient::Events(std::int64_t after, bool follow,
                          const std::function<bool(const NodeEvent& event)>& on_event) {
  std::optional<Error> failure;
  ClientRequest request;
  request.target = fmt::format("/v1/events?after={}{}", after, follow ? "&follow=1" : "");
  RETURN_IF_ERROR(http_.Stream(request, [&](std::string_view line) {
    Result<NodeEvent> event = ParseNodeEvent(line, kSource);
    if (event) return on_event(*event);
    // A line may also be the error that ended them.
    const Json json = Json::parse(line, nullptr, false);
    const bool told = json.is_object() && json.contains("error");
    failure = told ? ErrorFromBody(500, line) : std::move(event).error();
    return false;
  }));
  if (failure) return tl::unexpected<Error>(*std::move(failure));
  return {};
}

Status NodeClient::Logs(const std::string& name, std::optional<int> lines, bool follow,
                        const std::function<bool(std::string_view line)>& on_line) {
  ClientRequest request;
  request.target = fmt::format("/v1/logs/{}?follow={}", EncodeComponent(name), follow ? 1 : 0);
  if (lines) request.target += fmt::format("&lines={}", *lines);
  return http_.Stream(request, on_line);
}

Status NodeClient::Restart(const std::string& replica) {
  ASSIGN_OR_RETURN(
      const std::string body,
      Ask("POST", fmt::format("/v1/replicas/{}/restart", EncodeComponent(replica)), ""));
  return {};
}

Status NodeClient::Stop() {
  ASSIGN_OR_RETURN(const std::string body, Ask("POST", "/v1/stop", ""));
  return {};
}

Result<NodeClient> ConnectToNode(const std::string& socket_flag, Intent intent) {
  ASSIGN_OR_RETURN(const NodePlace place, FindNodePlace(socket_flag, intent));
  if (!place.note.empty()) fmt::print(stderr, "sublet: {}\n", place.note);
  Result<NodeClient> client = NodeClient::Connect(place, intent == Intent::kStart);
  if (client || intent == Intent::kLook || !place.simulation.empty()) return client;
  // Somebody who began on a simulated node may have left out the variable this time.
  const Result<NodePlace> other = FindNodePlace(socket_flag, Intent::kLook);
  if (!other || other->simulation.empty()) return client;
  Error error = std::move(client).error();
  error.hint = fmt::format(
      "the simulated node {0} is up; if you mean it: SUBLET_SIM={0} sublet ...", other->simulation);
  return tl::unexpected<Error>(std::move(error));
}

}  // namespace sublet
