// kube/resource_endpoint.h
//
// One resource at kubelet: its socket, its registration, and both of them again whenever they are
// lost.
//
//   auto endpoint = std::make_shared<ResourceEndpoint>(parts, "nvidia.com/gpu", answers);
//   RETURN_IF_ERROR(endpoint->Bind());         // Its socket; before anything is registered.
//   endpoint->List(devices);
//   endpoint->Begin();
//   ...
//   endpoint->KubeletCame();                   // kubelet.sock is new.
//   endpoint->SocketMayBeGone();               // Somebody removed things in the folder.
//   co_await endpoint->End();                  // kubelet sees 0 devices, then no plugin.
//
// The order is always: listen, list, register. So kubelet never knows a resource whose plugin can't
// answer.
//
// Registered means that kubelet has a ListAndWatch open, and nothing else does: a kubelet that
// answered Register and then never asks, one that broke the stream off, and one that was started
// anew all lead to another Register, at once where kubelet's socket is new, else after pauses that
// grow to half a minute.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "http/event_loop.h"
#include "kube/plugin_server.h"
#include "kube/plugin_socket.h"
#include "node/bell.h"

namespace sublet {

struct EndpointParts {
  asio::io_context& loop;
  asio::thread_pool& pool;
  PluginServer& server;
  std::string folder;          // Of the sockets.
  std::string kubelet_socket;  // Empty: no registration.
};

// What a resource can answer; how many streams are open is the endpoint's to know.
class ResourceDesk {
 public:
  virtual ~ResourceDesk() = default;
  // In the server's thread.
  virtual OptionalCalls Options() = 0;
  virtual Result<std::vector<std::string>> Prefer(PreferenceRequest request) = 0;
  virtual Result<ContainerGrant> Allocate(const std::vector<std::string>& ids) = 0;
  virtual void PreStart(std::vector<std::string> ids, std::function<void(Status)> done) = 0;
};

class ResourceEndpoint : public std::enable_shared_from_this<ResourceEndpoint> {
 public:
  ResourceEndpoint(EndpointParts& parts, std::string resource, std::shared_ptr<ResourceDesk> desk);
  ~ResourceEndpoint();

  // Errors as PluginSocket::Listen(). Begin() tries again where it wasn't called or has failed.
  Status Bind();
  void List(const std::vector<ListedDevice>& devices);
  void Begin();
  Task<void> End();
  // Without a word to kubelet, whose pods go on: the next plugin takes over.
  void LetGo();

  void KubeletCame();
  void SocketMayBeGone();
  // The options at registration are others by now.
  void RegisterAgain();

  const std::string& resource() const { return resource_; }
  bool registered() const { return streams_ > 0; }
  // Why it isn't registered; empty where it is, or nothing was tried yet.
  const std::string& why() const { return why_; }
  int registrations() const { return registrations_; }

 private:
  class Counter;

  Task<void> Live();
  Task<void> Accept(int round);
  Task<void> Register();
  void StreamsAre(int open);

  EndpointParts& parts_;
  const std::string resource_;
  const std::shared_ptr<ResourceDesk> desk_;
  std::shared_ptr<ServedResource> served_;
  std::optional<PluginSocket> socket_;
  int round_ = 0;  // Of accepting: what accepts on an earlier socket stops.
  int streams_ = 0;
  int attempts_ = 0;       // Registrations in a row that led to nothing.
  bool asked_ = false;     // Register was answered, and its stream is awaited.
  bool outdated_ = false;  // The registration is to be made anew, though a stream is open.
  Moment next_try_{};
  bool wanted_ = true;
  bool running_ = false;
  int registrations_ = 0;
  std::string why_;
  Bell bell_;
  Broadcast changes_;
};

}  // namespace sublet
