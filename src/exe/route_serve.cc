#include "exe/route_serve.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/files.h"
#include "base/service_notification.h"
#include "exe/node_place.h"
#include "exe/program.h"
#include "exe/simulated_engines.h"
#include "model/document.h"
#include "model/http_url.h"
#include "proxy/kubernetes_watch.h"
#include "proxy/proxy_server.h"
#include "proxy/proxy_settings_of.h"
#include "proxy/route_service.h"

namespace sublet {
namespace {

constexpr const char* kNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
constexpr std::size_t kNamespaceBytesMax = 256;

std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<RouteConfig> ReadConfigFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kYamlBytesMax));
  ASSIGN_OR_RETURN(RouteConfig config, ParseRouteConfig(text, path));
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return FailFromErrno(error.value(), "reading " + path);
  ResolvePaths(config, absolute.parent_path().string());
  return config;
}

// Each URL of the command line as a replica of the file.
Status AddReplicas(const std::vector<std::string>& urls, RouteConfig& config) {
  for (const std::string& text : urls) {
    const Result<HttpUrl> url = ParseHttpUrl(text);
    if (!url) return Fail(ErrorCode::kUsage, "--replica: " + url.error().message, url.error().hint);
    RouteReplica replica;
    replica.spec.url = url->Text();
    replica.spec.name = NameOfUrl(replica.spec.url);
    for (const RouteReplica& other : config.replicas) {
      if (other.spec.name == replica.spec.name || other.spec.url == replica.spec.url) {
        return Fail(ErrorCode::kUsage,
                    fmt::format("--replica is there already, as {}: {}", other.spec.name, text));
      }
    }
    config.replicas.push_back(std::move(replica));
  }
  return {};
}

// Standard output may be the access log's.
void LogToStandardError() {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("sublet"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
}

}  // namespace

void AddRouteServeFlags(CLI::App& verb, RouteServeFlags& flags) {
  verb.add_option("--config", flags.config, "What to serve: a YAML file (docs/formats/route.md)")
      ->type_name("FILE");
  verb.add_option("--replica", flags.replicas, "A replica, besides those of the file; repeatable")
      ->type_name("URL");
  verb.add_option("--port", flags.port, "Where to listen, instead of the file's (8080)")
      ->check(CLI::Range(0, 65535))
      ->type_name("PORT");
  verb.add_option("--address", flags.address, "On which address, instead of the file's (127.0.0.1)")
      ->type_name("ADDRESS");
  verb.add_flag("--check", flags.check, "Only say whether the file can be used");
}

Result<RouteConfig> LoadRouteConfig(const RouteServeFlags& flags) {
  RouteConfig config;
  if (!flags.config.empty()) {
    ASSIGN_OR_RETURN(config, ReadConfigFile(flags.config));
  }
  RETURN_IF_ERROR(AddReplicas(flags.replicas, config));
  if (flags.port) config.listen.port = *flags.port;
  if (!flags.address.empty()) config.listen.address = flags.address;
  if (!flags.policy.empty()) config.policy = flags.policy;
  if (config.node && config.node->socket.empty()) {
    ASSIGN_OR_RETURN(const NodePlace place, FindNodePlace("", Intent::kLook));
    config.node->socket = place.socket;
  }
  if (config.kubernetes) {
    const Result<std::string> name_space = ReadFile(kNamespaceFile, kNamespaceBytesMax);
    ASSIGN_OR_RETURN(config.kubernetes,
                     InCluster(*config.kubernetes, Variable("KUBERNETES_SERVICE_HOST"),
                               Variable("KUBERNETES_SERVICE_PORT"), name_space.value_or("")));
  }
  return config;
}

Result<int> CheckRoute(const RouteServeFlags& flags) {
  ASSIGN_OR_RETURN(const RouteConfig config, LoadRouteConfig(flags));
  ASSIGN_OR_RETURN(const RouteSecrets secrets, ReadSecrets(config));
  // What a running router would be made of says no to what it can't use.
  FleetCache caches;
  ASSIGN_OR_RETURN(const std::unique_ptr<Router> router,
                   Router::Make(RouterOptionsOf(config), caches));
  KeyRateBook rates;
  ProxyHooks hooks;
  hooks.router = router.get();
  RETURN_IF_ERROR(ProxyServer::Open(ProxyOptionsOf(config, secrets, rates), hooks));
  fmt::print("{}: can be used; policy {}, {} replicas, {} API keys, would listen at {}:{}\n",
             flags.config.empty() ? "the command line" : flags.config, config.policy,
             config.replicas.size(), secrets.keys.keys.size(), config.listen.address,
             config.listen.port);
  return 0;
}

Result<int> ServeRoute(const RouteServeFlags& flags) {
  if (flags.config.empty() && flags.replicas.empty()) {
    return Fail(ErrorCode::kUsage, "no replicas are named",
                "sublet route --config FILE, or --replica http://127.0.0.1:8000; --help has more");
  }
  LogToStandardError();
  ServiceManager manager = ServiceManager::FromEnvironment();
  const std::unique_ptr<SimulatedEngines> engines = MakeSimulatedEngines();
  RouteServiceHooks hooks;
  hooks.load = [&flags] { return LoadRouteConfig(flags); };
  if (!flags.config.empty()) hooks.files = {flags.config};
  hooks.engines = engines.get();
  hooks.notify = [&manager](const std::string& line) { static_cast<void>(manager.Notify(line)); };
  hooks.watchdog_s = manager.WatchdogPeriod().value_or(0);
  // Of pauses and intervals: two routers that start at one moment shall not keep step.
  hooks.seed = static_cast<std::uint64_t>(MonotonicNanoseconds());
  hooks.version = SUBLET_VERSION;
  ASSIGN_OR_RETURN(const std::unique_ptr<RouteService> service,
                   RouteService::Open(std::move(hooks)));
  RETURN_IF_ERROR(service->Start());
  service->Run();
  return 0;
}

}  // namespace sublet
