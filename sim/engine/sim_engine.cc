// The program sublet-sim-engine: one or several simulated engines in one process, in real time.
//
//   sublet-sim-engine --model demo --port 8000 --kv-events-port 5557 --replay-port 5558
//   sublet-sim-engine --model demo --engine name=a,gpu=g,sm=60 --engine name=b,gpu=g,sm=40
//
// Once an engine listens, a line of JSON says where:
//   {"name":"a","url":"http://127.0.0.1:43121","port":43121,"kv_events":null,"kv_replay":null}

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine_runner.h"
#include "engine/engine_server.h"
#include "engine/engine_spec.h"
#include "engine/kv_event_feed.h"
#include "engine/openai_answer.h"

namespace sublet {
namespace {

void Say(int fd, std::string line) {
  line += '\n';
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t written = ::write(fd, left.data(), left.size());
    if (written <= 0) return;
    left.remove_prefix(static_cast<std::size_t>(written));
  }
}

int Complain(const Error& error) {
  Say(STDERR_FILENO,
      "sublet-sim-engine: " + error.message + (error.hint.empty() ? "" : "\n  " + error.hint));
  return ExitStatus(error.code);
}

struct CommandLine {
  std::map<std::string, std::vector<std::string>> settings;  // By name, as given.
  std::vector<std::string> engines;
  double time_scale = 1;
};

Result<std::vector<EngineSpec>> SpecsOf(const CommandLine& line) {
  EngineSpec defaults;
  for (const auto& [name, values] : line.settings) {
    for (const std::string& value : values) RETURN_IF_ERROR(defaults.Set(name, value));
  }
  if (line.engines.empty()) return std::vector<EngineSpec>{defaults};
  std::vector<EngineSpec> specs;
  for (const std::string& text : line.engines) {
    ASSIGN_OR_RETURN(specs.emplace_back(), ParseEngineSpec(defaults, text));
  }
  return specs;
}

std::string EndpointJson(const std::string& endpoint) {
  return endpoint.empty() ? "null" : JsonString(endpoint);
}

Status Serve(const CommandLine& line) {
  ASSIGN_OR_RETURN(const std::vector<EngineSpec> specs, SpecsOf(line));
  if (!(line.time_scale > 0)) return Fail(ErrorCode::kUsage, "the time scale must be positive");
  boost::asio::io_context loop(1);
  EngineRunner runner(loop, line.time_scale);
  std::map<std::string, std::shared_ptr<SharedGpu>> gpus;
  std::vector<std::unique_ptr<EngineServer>> servers;
  for (const EngineSpec& spec : specs) {
    std::shared_ptr<SharedGpu> gpu;
    if (!spec.gpu.empty()) {
      gpu = gpus[spec.gpu] ? gpus[spec.gpu] : gpus[spec.gpu] = std::make_shared<SharedGpu>();
    }
    std::unique_ptr<KvEventFeed> feed;
    if (spec.events_port) {
      ASSIGN_OR_RETURN(feed, KvEventFeed::Open(loop, {.address = spec.server.address,
                                                      .port = *spec.events_port,
                                                      .replay_port = spec.replay_port,
                                                      .topic = spec.events_topic,
                                                      .encoding = spec.events_encoding}));
    }
    const std::string events = feed ? feed->endpoint() : "";
    const std::string replay = feed ? feed->replay_endpoint() : "";
    ASSIGN_OR_RETURN(std::unique_ptr<EngineServer> server,
                     EngineServer::Open(loop, runner, spec.server, gpu, std::move(feed)));
    const EngineServerOptions& options = spec.server;
    Say(STDOUT_FILENO,
        fmt::format(R"({{"name":{},"url":"http://{}:{}","port":{},"kv_events":{},"kv_replay":{}}})",
                    JsonString(options.name.empty() ? options.engine.model : options.name),
                    options.address, server->port(), server->port(), EndpointJson(events),
                    EndpointJson(replay)));
    servers.push_back(std::move(server));
  }
  boost::asio::signal_set signals(loop, SIGINT, SIGTERM);
  signals.async_wait([&loop](const boost::system::error_code&, int) { loop.stop(); });
  loop.run();
  return {};
}

}  // namespace
}  // namespace sublet

int main(int argc, char** argv) {
  using sublet::EngineSetting;
  CLI::App app("Simulated inference engines with an OpenAI-compatible API.", "sublet-sim-engine");
  sublet::CommandLine line;
  for (const EngineSetting& setting : sublet::EngineSpec::Settings()) {
    app.add_option("--" + std::string(setting.name), line.settings[std::string(setting.name)],
                   std::string(setting.help))
        ->allow_extra_args(false);
  }
  app.add_option("--engine", line.engines,
                 "one engine, as name=value,...; may be given again. The other options hold for "
                 "all that don't say otherwise")
      ->allow_extra_args(false);
  app.add_option("--time-scale", line.time_scale,
                 "seconds of the engines in one of ours (default: 1)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    sublet::Say(STDOUT_FILENO, app.help());
    return 0;
  } catch (const CLI::ParseError& error) {
    return sublet::Complain({sublet::ErrorCode::kUsage, error.what(), "--help has the options"});
  }
  if (const sublet::Status served = sublet::Serve(line); !served) {
    return sublet::Complain(served.error());
  }
  return 0;
}
