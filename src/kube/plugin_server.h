// kube/plugin_server.h
//
// The gRPC side of a device plugin: kubelet's calls, answered.
//
//   ASSIGN_OR_RETURN(auto server, PluginServer::Start());
//   auto gpus = std::make_shared<ServedResource>(answers);   // Who knows what to answer.
//   gpus->List(devices);                       // What ListAndWatch says, now and from now on.
//   ...
//   server->Serve(std::move(connection), gpus);  // Accepted on the socket of that resource.
//   ...
//   gpus->List(changed);                       // Goes to every stream that is open.
//
// One server, one completion queue and one thread serve the sockets of all resources. The sockets
// themselves are the caller's (kube/plugin_socket.h): gRPC unlinks and binds paths as it likes, and
// would take the socket of a plugin that lives.
//
// What may surprise:
// - Every method of ResourceAnswers is called in the server's thread, so all other calls wait for
//   it: answer from memory. PreStart() may answer later and from any thread.
// - A list that is replaced while the one before is still being sent is skipped: kubelet gets the
//   newest.
// - kubelet takes the end of a ListAndWatch for the end of the plugin. A stream here ends with
//   Close(), with the server, or when its client goes.
//
// Thread safety: any thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "kube/allocation.h"
#include "kube/preferred_allocation.h"

namespace sublet {

// Which of its optional calls kubelet should make: DevicePluginOptions. Said at Register, and when
// kubelet asks.
struct OptionalCalls {
  bool pre_start_required = false;
  bool preferred_allocation = true;

  friend bool operator==(const OptionalCalls&, const OptionalCalls&) = default;
};

// One line of ListAndWatch.
struct ListedDevice {
  std::string id;
  bool healthy = true;
  std::optional<int> numa_node;

  friend bool operator==(const ListedDevice&, const ListedDevice&) = default;
};

class ResourceAnswers {
 public:
  virtual ~ResourceAnswers() = default;

  virtual OptionalCalls Options() = 0;
  virtual Result<std::vector<std::string>> Prefer(PreferenceRequest request) = 0;
  virtual Result<ContainerGrant> Allocate(const std::vector<std::string>& ids) = 0;
  // `done` is called once, by any thread; after the server's end it does nothing.
  virtual void PreStart(std::vector<std::string> ids, std::function<void(Status)> done) = 0;
  // So many ListAndWatch streams are open now.
  virtual void StreamsChanged(int open) = 0;
};

class ServedResource {
 public:
  explicit ServedResource(std::shared_ptr<ResourceAnswers> answers);
  ~ServedResource();
  ServedResource(const ServedResource&) = delete;
  ServedResource& operator=(const ServedResource&) = delete;

  void List(const std::vector<ListedDevice>& devices);
  // Ends every stream, once what is being sent is sent, and each that still comes.
  void Close();

  class State;  // Of the implementation.
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

class PluginServerCore;  // Of the implementation.

class PluginServer {
 public:
  // Fails with kUnavailable where gRPC can't start.
  static Result<std::unique_ptr<PluginServer>> Start();
  // Ends all calls and connections.
  ~PluginServer();
  PluginServer(const PluginServer&) = delete;
  PluginServer& operator=(const PluginServer&) = delete;

  // The calls on this connection are about `resource`. The connection doesn't block.
  void Serve(FileDescriptor connection, const std::shared_ptr<ServedResource>& resource);

 private:
  explicit PluginServer(std::unique_ptr<PluginServerCore> core);
  std::unique_ptr<PluginServerCore> core_;
};

}  // namespace sublet
