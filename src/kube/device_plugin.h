// kube/device_plugin.h
//
// A device plugin that runs: this node's resources at kubelet, kept true.
//
//   auto plugin = std::make_shared<DevicePlugin>(loop, threads, options);
//   asio::co_spawn(loop, [&] { ... outcome = co_await plugin->Run(); loop.stop(); });
//   signals: SIGHUP → plugin->Reload(), SIGTERM → plugin->Stop()
//
// What it reacts to, each time with the smallest change:
//
//   kubelet's socket is new             registers again; nothing else
//   its own socket was removed          a new socket, registered
//   the configuration file, SIGHUP      resources that are as before aren't touched; a file that is
//                                       wrong changes nothing
//   MIG devices came or went            likewise
//   an event of the driver's            the devices concerned are listed as unhealthy, and recover
//   the driver goes and comes back      unhealthy, then everything is read anew
//   an MPS server that isn't ready      its device is unhealthy meanwhile, and not handed out
//
//   DevicePlugin
//    ├ PluginServer          kubelet's calls (kube/plugin_server.h)
//    ├ ResourceEndpoint[]    a socket and a registration each
//    │  └ AllocationDesk     what it answers
//    ├ MpsPool               MPS servers
//    ├ DeviceHealth          fed by a HealthWatch
//    └ FolderWatch           kubelet's folder, the configuration's
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"
#include "kube/allocation_desk.h"
#include "kube/device_health.h"
#include "kube/folder_watch.h"
#include "kube/kube_metrics.h"
#include "kube/kubelet_client.h"
#include "kube/mps_pool.h"
#include "kube/node_stock.h"
#include "kube/plugin_server.h"
#include "kube/resource_endpoint.h"
#include "model/device_plugin_config.h"
#include "node/bell.h"
#include "node/health_watch.h"

namespace sublet {

// The value of a pod's label; empty where it has none.
using PodLabel = std::function<Result<std::string>(
    const std::string& pod_namespace, const std::string& pod, const std::string& label)>;

struct PluginRunOptions {
  // Reads the configuration from its file, the environment and the command line; again at reloads.
  std::function<Result<DevicePluginConfig>()> configure;
  std::string config_file;  // Watched; may be empty.
  std::string plugin_dir;   // Where the sockets are; absolute.
  std::string pod_resources_socket;
  StockSource stock;
  // But for its roots, which the configuration says. Which tenants have pods is looked at every
  // claim_grace_s.
  MpsPoolOptions mps;
  HealthLimits health = {};
  double health_poll_s = 5;
  // Asks the API server, in a thread of the pool. Without it there are no tenants by label.
  PodLabel pod_label = nullptr;
};

class DevicePlugin : public std::enable_shared_from_this<DevicePlugin> {
 public:
  DevicePlugin(asio::io_context& loop, asio::thread_pool& threads, PluginRunOptions options);
  ~DevicePlugin();

  // Until Stop(), or until it can't be what the configuration says and flags.failOnInitError is
  // set. With that off, it tries again, ever less often.
  Task<Status> Run();
  void Reload();
  void Stop();

  // What is offered now, for metrics and tests.
  std::vector<std::string> Resources() const;
  PluginState State() const;
  // Why it can't go on by itself: a call into the driver that hangs. Empty where it can.
  std::string Sickness() const;

 private:
  struct Offer {
    std::shared_ptr<AllocationDesk> desk;
    std::shared_ptr<ResourceEndpoint> endpoint;
    std::vector<ListedDevice> listed;
    // As was last told: by device, why it isn't handed out now.
    std::map<std::string, std::string, std::less<>> obstacles;
  };

  Task<Status> Begin();
  Task<Status> BringUp();
  Task<void> ReloadNow();
  Task<void> TakeStockAgain();
  Result<DevicePluginConfig> Configure();
  Status OpenPool();
  Status Apply(NodeStock stock, bool first);
  Status AddOffer(const AdvertisedResource& resource, bool bind_now);
  std::shared_ptr<const ResourceFacts> FactsOf(const AdvertisedResource& resource) const;
  void UpdateConditions();
  void WatchHealth();
  void OnSighting(const HealthSighting& seen);
  void OnFolder(const FolderChange& change);
  void WatchConfigFile();
  void LookForHungDriver();
  Task<void> LookAfterTenants();
  Task<Status> PreStart(std::string resource, std::vector<std::string> ids);
  // In a thread of the pool.
  static Result<std::string> TenantOf(const PodDevices& pod, const SubletSharing& sharing,
                                      const PodLabel& pod_label);

  asio::io_context& loop_;
  asio::thread_pool& threads_;
  const PluginRunOptions options_;

  std::shared_ptr<const DevicePluginConfig> config_;
  NodeStock stock_;
  std::unique_ptr<PluginServer> server_;
  std::optional<EndpointParts> parts_;
  std::map<std::string, Offer> offers_;  // By resource.
  std::shared_ptr<MpsPool> pool_;
  std::shared_ptr<FolderWatch> folders_;
  std::unique_ptr<HealthWatch> watch_;
  DeviceHealth health_;
  std::map<std::string, int, std::less<>> last_xid_;  // By the GPU's UUID.
  std::string config_text_;  // As it was last read, to know a change from a touch.

  bool stopping_ = false;
  bool reload_ = false;
  bool driver_found_ = false;
  bool stale_ = false;               // The node may be another than in stock_.
  bool conditions_pending_ = false;  // An update of them is posted.
  Moment next_tenants_ = kNever;
  Bell bell_;
};

}  // namespace sublet
