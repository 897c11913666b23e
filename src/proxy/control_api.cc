#include "proxy/control_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/clock.h"
#include "http/http_message.h"
#include "model/route_config.h"
#include "proxy/workers_json.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kMetricsType = "text/plain; version=0.0.4; charset=utf-8";
constexpr std::string_view kWorkers = "/workers";

ControlAnswer JsonAnswer(int status, const Json& json) {
  ControlAnswer answer;
  answer.status = status;
  answer.body = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return answer;
}

ControlAnswer Refusal(const Error& error) {
  ControlAnswer answer;
  answer.status = HttpStatusOf(error.code);
  answer.body = ErrorBody(error);
  return answer;
}

ControlAnswer Refusal(int status, ErrorCode code, std::string message, std::string hint = "") {
  ControlAnswer answer;
  answer.status = status;
  answer.body = ErrorBody({code, std::move(message), std::move(hint)});
  return answer;
}

ControlAnswer NotAllowed(const ControlRequest& request, const char* allowed) {
  ControlAnswer answer =
      Refusal(405, ErrorCode::kUsage,
              fmt::format("{} can't be asked with {}", request.path, request.method));
  answer.headers.emplace_back("allow", allowed);
  return answer;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string Decoded(std::string_view text, bool plus_is_space) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
    const int low = high >= 0 ? HexDigit(text[i + 2]) : -1;
    if (low >= 0) {
      out.push_back(static_cast<char>(high * 16 + low));
      i += 2;
    } else {
      out.push_back(plus_is_space && text[i] == '+' ? ' ' : text[i]);
    }
  }
  return out;
}

// The value of `name` in "a=1&url=http%3A%2F%2Fx"; a URL that wasn't encoded is taken, too, since
// that is how it is typed.
std::optional<std::string> InQuery(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    const std::size_t equals = std::min(pair.find('='), pair.size());
    if (pair.substr(0, equals) == name && equals < pair.size()) {
      return Decoded(pair.substr(equals + 1), true);
    }
  }
  return std::nullopt;
}

bool IsFromHere(const std::string& client) {
  boost::system::error_code error;
  const auto address = asio::ip::make_address(client, error);
  if (error) return false;
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).is_loopback();
  }
  return address.is_loopback();
}

bool IsChange(std::string_view method, std::string_view path) {
  if (path == "/add_worker" || path == "/remove_worker") return true;
  const bool workers = path == kWorkers || path.starts_with("/workers/");
  return workers && method != "GET" && method != "HEAD";
}

}  // namespace

PathAccess ControlApi::Access(std::string_view method, std::string_view path) {
  if (path == "/health" || path == "/ready" || path == "/metrics") return PathAccess::kOpen;
  if (path == "/v1/models") return PathAccess::kClient;
  if (IsChange(method, path)) return PathAccess::kAdmin;
  if (path == kWorkers || path.starts_with("/workers/") || path == "/list_workers") {
    return PathAccess::kClient;
  }
  return PathAccess::kReplicas;
}

Task<ControlAnswer> ControlApi::Answer(ControlRequest request) {
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const std::string& path = request.path;
  if (!reads &&
      (path == "/health" || path == "/ready" || path == "/metrics" || path == "/v1/models")) {
    co_return NotAllowed(request, "GET, HEAD");
  }
  if (path == "/health") co_return JsonAnswer(200, Json{{"ok", true}});
  if (path == "/ready") co_return AnswerReady();
  if (path == "/v1/models") co_return AnswerModels();
  if (IsChange(request.method, path) && !deps_.facts()->keys && !IsFromHere(request.client)) {
    co_return Refusal(403, ErrorCode::kPermission,
                      "without API keys, workers are changed from this machine only",
                      "set keys_file, and use a key with admin: true");
  }
  // The answer comes back to the loop that has the client.
  Task<ControlAnswer> work = AnswerWorkers(std::move(request));
  ControlAnswer answer = co_await asio::co_spawn(*deps_.loop, std::move(work), asio::use_awaitable);
  co_return answer;
}

ControlAnswer ControlApi::AnswerReady() const {
  const std::vector<ReplicaStatus> replicas = deps_.router->Replicas(MonotonicNanoseconds());
  const std::string why = WhyNotReady(replicas);
  if (why.empty()) return JsonAnswer(200, Json{{"ready", true}, {"replicas", replicas.size()}});
  ControlAnswer answer = Refusal(503, ErrorCode::kUnavailable, why);
  answer.headers.emplace_back("retry-after", "1");
  return answer;
}

ControlAnswer ControlApi::AnswerModels() const {
  const auto facts = deps_.facts();
  return JsonAnswer(200, ModelsToJson(deps_.router->Models(), facts->aliases, facts->started_s));
}

Task<ControlAnswer> ControlApi::AnswerWorkers(ControlRequest request) {
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (request.path == "/metrics") {
    ControlAnswer answer;
    answer.content_type = kMetricsType;
    answer.body = RouteMetricsText(*deps_.metrics, deps_.view());
    co_return answer;
  }
  if (!request.path.starts_with(kWorkers)) co_return AskOld(request);
  if (reads) co_return AskWorkers(request);
  co_return ChangeWorkers(request);
}

ControlAnswer ControlApi::AskWorkers(const ControlRequest& request) const {
  const auto facts = deps_.facts();
  const RouteView view = deps_.view();
  if (request.path == kWorkers) {
    return JsonAnswer(
        200, WorkersToJson(view, deps_.fleet->refused(), facts->simulated, facts->config_error));
  }
  const std::string name =
      Decoded(std::string_view(request.path).substr(kWorkers.size() + 1), false);
  const auto at = std::find_if(view.replicas.begin(), view.replicas.end(),
                               [&](const ReplicaStatus& each) { return each.spec.name == name; });
  if (at == view.replicas.end()) {
    return Refusal(404, ErrorCode::kNotFound, fmt::format("no such worker: {}", name));
  }
  return JsonAnswer(200, WorkerToJson(*at, SourceOf(view, name), facts->simulated.contains(name)));
}

ControlAnswer ControlApi::AddWorker(std::string_view body, std::string_view source) {
  Result<RouteReplica> replica = ParseRouteReplica(body, source);
  if (!replica) return Refusal(replica.error());
  if (replica->simulate) {
    return Refusal(501, ErrorCode::kUnsupported, "simulated replicas are the route file's only");
  }
  const std::string name = replica->spec.name;
  const Status added = deps_.fleet->Add(std::move(replica->spec), MonotonicNanoseconds());
  if (!added) return Refusal(added.error());
  return JsonAnswer(201, Json{{"added", name}});
}

ControlAnswer ControlApi::ChangeWorkers(const ControlRequest& request) {
  if (request.path == kWorkers) {
    if (request.method != "POST") return NotAllowed(request, "GET, HEAD, POST");
    return AddWorker(request.body, "body");
  }
  if (request.method != "DELETE") return NotAllowed(request, "GET, HEAD, DELETE");
  const std::string name =
      Decoded(std::string_view(request.path).substr(kWorkers.size() + 1), false);
  const Status removed = deps_.fleet->Remove(name, MonotonicNanoseconds());
  if (!removed) return Refusal(removed.error());
  return JsonAnswer(200, Json{{"removed", name}});
}

ControlAnswer ControlApi::AskOld(const ControlRequest& request) {
  if (request.path == "/list_workers") {
    if (request.method != "GET") return NotAllowed(request, "GET");
    Json urls = Json::array();
    for (const ReplicaStatus& each : deps_.router->Replicas(MonotonicNanoseconds())) {
      if (!each.draining) urls.push_back(each.spec.url);
    }
    return JsonAnswer(200, Json{{"urls", std::move(urls)}});
  }
  if (request.method != "POST") return NotAllowed(request, "POST");
  const std::optional<std::string> url = InQuery(request.query, "url");
  if (!url || url->empty()) {
    return Refusal(400, ErrorCode::kUsage, "whose worker is missing",
                   fmt::format("{}?url=http://10.0.0.7:8000", request.path));
  }
  if (request.path == "/add_worker") return AddWorker(Json{{"url", *url}}.dump(), "url");
  const Status removed = deps_.fleet->Remove(*url, MonotonicNanoseconds());
  if (!removed) return Refusal(removed.error());
  return JsonAnswer(200, Json{{"removed", *url}});
}

}  // namespace sublet
