// proxy/control_api.h
//
// The router's own paths, answered: the workers' API, health, readiness, models, metrics.
// docs/formats/route-api.yaml describes them.
//
//   ControlApi api(deps);
//   hooks.access = ControlApi::Access;
//   hooks.control = [&](ControlRequest request) { return api.Answer(std::move(request)); };
//
// Who may change the workers: with API keys, an administrator's; without, who asks from this
// machine. So nobody can send a fleet's prompts elsewhere by knowing its address. /health, /ready
// and /metrics are open to all who reach the port, as load balancers and Prometheus need them;
// /workers shows URLs, and asks for a key where there are any.
//
// Beside its own form the API has that of SGLang's first router: POST /add_worker?url=,
// POST /remove_worker?url=, GET /list_workers.
//
// Thread safety: Answer() on any loop; what it does with the fleet it does on the control loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "http/event_loop.h"
#include "proxy/control_request.h"
#include "proxy/replica_fleet.h"
#include "proxy/route_metrics.h"
#include "route/router.h"

namespace sublet {

// What a reload may change. A value that is replaced whole.
struct ControlFacts {
  std::map<std::string, std::string> aliases;
  std::set<std::string, std::less<>> simulated;  // Names of replicas.
  bool keys = false;                             // There are API keys.
  std::string config_error;                      // The file that is there can't be used, because.
  std::int64_t started_s = 0;                    // Since 1970.
};

struct ControlDeps {
  asio::io_context* loop = nullptr;  // The control loop.
  Router* router = nullptr;
  ReplicaFleet* fleet = nullptr;
  const RouteMetrics* metrics = nullptr;
  std::function<RouteView()> view;  // Called on the control loop.
  std::function<std::shared_ptr<const ControlFacts>()> facts;
};

class ControlApi {
 public:
  explicit ControlApi(ControlDeps deps) : deps_(std::move(deps)) {}

  static PathAccess Access(std::string_view method, std::string_view path);
  Task<ControlAnswer> Answer(ControlRequest request);

 private:
  ControlAnswer AnswerReady() const;
  ControlAnswer AnswerModels() const;
  // On the control loop.
  Task<ControlAnswer> AnswerWorkers(ControlRequest request);
  ControlAnswer AskWorkers(const ControlRequest& request) const;
  ControlAnswer ChangeWorkers(const ControlRequest& request);
  ControlAnswer AddWorker(std::string_view body, std::string_view source);
  ControlAnswer AskOld(const ControlRequest& request);

  const ControlDeps deps_;
};

}  // namespace sublet
