#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <memory>
#include <string>
#include <utility>

#include "base/files.h"
#include "base/service_notification.h"
#include "base/user.h"
#include "exe/node_place.h"
#include "exe/program.h"
#include "exe/this_node.h"
#include "http/http_server.h"
#include "model/daemon_config.h"
#include "model/document.h"
#include "node/api.h"
#include "node/local_node.h"

namespace sublet {
namespace {

// Of effects that block: a driver's call, an MPS control program, a probe. More would only queue in
// the driver.
constexpr std::size_t kWorkers = 16;
// An embedded daemon that has nothing left to do goes after so long.
constexpr double kIdleSeconds = 60;
constexpr double kIdleLookSeconds = 5;
constexpr double kDrainSeconds = 3;

struct Flags {
  std::string socket;
  std::string state;
  std::string config;
  std::string nvml;
  bool embedded = false;
  bool rebuild = false;
};

class Daemon {
 public:
  Daemon(Flags flags, DaemonConfig config, NodePlace place)
      : flags_(std::move(flags)),
        config_(std::move(config)),
        place_(std::move(place)),
        pool_(kWorkers),
        signals_(loop_, SIGTERM, SIGINT),
        bell_(loop_) {}

  ~Daemon() { pool_.join(); }

  Result<int> Run();

 private:
  Status Listen();
  NodeOptions Options() const;
  Task<void> Live();
  Task<void> WaitUntilDone();
  void Stop(std::string why);

  const Flags flags_;
  const DaemonConfig config_;
  const NodePlace place_;
  ServiceManager manager_ = ServiceManager::FromEnvironment();
  asio::io_context loop_{1};
  asio::thread_pool pool_;
  asio::signal_set signals_;
  Bell bell_;
  std::unique_ptr<LocalNode> node_;
  std::unique_ptr<NodeApi> api_;
  std::unique_ptr<HttpServer> server_;
  Status outcome_;
  bool stopping_ = false;
};

NodeOptions Daemon::Options() const {
  NodeOptions options;
  options.state = place_.state;
  options.run = place_.socket.substr(0, place_.socket.rfind('/'));
  options.program = OwnProgramPath();
  options.nvml = NvmlPath(flags_.nvml);
  // A tenant finds the simulated driver as it would find the real one.
  if (std::getenv("SUBLET_SIM") != nullptr) {
    options.libraries = options.nvml.substr(0, options.nvml.rfind('/'));
  }
  options.version = SUBLET_VERSION;
  options.config = config_;
  options.rebuild = flags_.rebuild;
  return options;
}

Result<int> Daemon::Run() {
  if (flags_.rebuild) {
    const Result<std::string> aside = NodeStore::SetAside(place_.state);
    if (aside) spdlog::warn("the old state is kept as {}", *aside);
    if (!aside && aside.error().code != ErrorCode::kNotFound) {
      return tl::unexpected<Error>(aside.error());
    }
  }
  ASSIGN_OR_RETURN(node_, LocalNode::Open(loop_, pool_, Options()));
  api_ = std::make_unique<NodeApi>(*node_, loop_, [this] { Stop("as it was asked to"); });
  ASSIGN_OR_RETURN(server_, HttpServer::Open(loop_, {}, api_->Handler()));
  signals_.async_wait([this](const boost::system::error_code& failed, int signal) {
    if (!failed) Stop(fmt::format("by signal {}", signal));
  });
  asio::co_spawn(loop_, Live(), EndsTheProgram);
  loop_.run();
  if (!outcome_) return tl::unexpected<Error>(outcome_.error());
  return 0;
}

Status Daemon::Listen() {
  std::vector<InheritedSocket> inherited = manager_.TakeSockets();
  for (InheritedSocket& socket : inherited) {
    RETURN_IF_ERROR(server_->AdoptUnixListener(std::move(socket.fd)));
  }
  if (inherited.empty()) {
    UnixListenerOptions listener;
    listener.path = place_.socket;
    listener.mode = config_.socket_mode;
    if (!config_.socket_group.empty()) {
      ASSIGN_OR_RETURN(listener.group, FindGroup(config_.socket_group));
    }
    RETURN_IF_ERROR(server_->AddUnixListener(listener));
  }
  if (!config_.listen_address.empty()) {
    ASSIGN_OR_RETURN(const std::string token, ReadFile(config_.token_file, 4096));
    TcpListenerOptions listener;
    listener.address = config_.listen_address;
    listener.port = config_.listen_port;
    listener.token = token.substr(0, token.find_last_not_of(" \n\r\t") + 1);
    RETURN_IF_ERROR(server_->AddTcpListener(listener));
  }
  return {};
}

Task<void> Daemon::Live() {
  outcome_ = co_await node_->Resume();
  if (outcome_) outcome_ = Listen();
  if (outcome_) {
    spdlog::info("serves {}", place_.socket);
    static_cast<void>(manager_.Notify("READY=1"));
    co_await WaitUntilDone();
  }
  static_cast<void>(manager_.Notify("STOPPING=1"));
  co_await server_->Close(kDrainSeconds);
  node_->LetGo();
  loop_.stop();
}

Task<void> Daemon::WaitUntilDone() {
  Moment idle_since = Clock();
  while (!stopping_) {
    const Moment now = Clock();
    if (!node_->Idle() || api_->active() > 0 || !flags_.embedded) idle_since = now;
    if (now - idle_since > std::chrono::duration<double>(kIdleSeconds)) {
      Stop("because nothing is left to do");
      break;
    }
    double pause_s = kIdleLookSeconds;
    if (const auto period_s = manager_.WatchdogPeriod()) {
      pause_s = std::min(pause_s, *period_s);
      static_cast<void>(manager_.Notify("WATCHDOG=1"));
    }
    co_await bell_.Wait(MomentIn(pause_s));
  }
}

void Daemon::Stop(std::string why) {
  spdlog::info("ends {}; what runs goes on", why);
  stopping_ = true;
  bell_.Ring();
}

Result<int> RunDaemon(const Flags& flags) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("sublet"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  ::umask(0077);
  // One started from within a share is not of that share.
  for (const char* name : {"SUBLET_SHARE", "SUBLET_STATE", "SUBLET_TENANT", "SUBLET_RECORD"}) {
    ::unsetenv(name);
  }
  DaemonConfig config;
  if (!flags.config.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.config, kYamlBytesMax));
    ASSIGN_OR_RETURN(config, ParseDaemonConfig(text, flags.config));
  }
  ASSIGN_OR_RETURN(const NodePlace place,
                   PlaceOfDaemon(flags.socket, flags.state, config.socket_path));
  Daemon daemon(flags, std::move(config), place);
  return daemon.Run();
}

}  // namespace

void AddDaemonVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "daemon", "Keep this machine's plan up and grant shares, over a UNIX socket");
  verb->add_option("--socket", flags->socket, "Where to listen")->type_name("PATH");
  verb->add_option("--state", flags->state, "Folder of what it must remember")->type_name("DIR");
  verb->add_option("--config", flags->config, "Tenants, quotas, rules: a YAML file")
      ->type_name("FILE");
  verb->add_option("--nvml", flags->nvml, "Load NVML from this path")->type_name("PATH");
  verb->add_flag("--rebuild", flags->rebuild,
                 "Set a damaged state aside and begin anew from what runs");
  verb->add_flag("--embedded", flags->embedded, "End when nothing is left to do");
  verb->callback([&program, flags] { program.chosen = [flags] { return RunDaemon(*flags); }; });
}

}  // namespace sublet
