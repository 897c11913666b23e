// tests/kubelet/kubelet.h
//
// A kubelet of our own, as far as a device plugin can see it: its registration server, its calls,
// its books.
//
//   ASSIGN_OR_RETURN(auto kubelet, Kubelet::Start({.folder = "/tmp/k"}));
//   kubelet->Await(10, [](const Kubelet::View& view) {
//     const auto gpus = view.find("nvidia.com/gpu");
//     return gpus != view.end() && gpus->second.allocatable == 8;
//   });
//   ASSIGN_OR_RETURN(auto grants, kubelet->Admit({.name = "team/pod", .containers = {...}}));
//   RETURN_IF_ERROR(kubelet->StartPod("team/pod"));
//
// What it does as the real one does (observed with 1.20 and 1.34):
// - At its start it removes every file in its folder but its checkpoint, and knows the resources of
//   the checkpoint as having no devices.
// - Register: version, resource name, then a connection to the plugin's socket in this folder and
//   GetDevicePluginOptions before the answer; ListAndWatch after it.
// - The authority of its calls is "localhost", and messages of more than 4 MiB break a stream off.
// - A stream's end takes all devices away. A device that isn't "Healthy" isn't allocatable.
// - Admission: the healthy devices that nobody has, in random order, to GetPreferredAllocation,
// then
//   Allocate for each container; what it got is in the checkpoint. PreStartContainer before a
//   container starts, where the plugin asked for it.
// - The pod-resources API, v1, on a socket beside it.
// It is stricter in one thing: an answer that a container runtime would refuse fails the pod here.
//
// Thread safety: any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "proto/deviceplugin.pb.h"

namespace sublet::kubelet {

// How it answers Register.
enum class Manner {
  kProper,
  kRefuses,  // With an error.
  kHangs,    // Never, while it lives.
  kForgets,  // It says yes, and then doesn't ask for the devices.
};

struct KubeletOptions {
  std::string folder;                     // Absolute; made where it isn't there.
  std::string pod_resources_socket = {};  // Empty: <folder>/pod-resources.sock
  unsigned seed = 1;                      // Of the order of available devices.
};

struct ResourceState {
  int capacity = 0;
  int allocatable = 0;
  bool watched = false;                                 // A ListAndWatch is open.
  int registrations = 0;                                // Since this kubelet started.
  int lists = 0;                                        // Messages of ListAndWatch since then.
  std::string fault = {};                               // Of a list.
  std::map<std::string, bool> devices = {};             // Whether healthy, by id.
  std::map<std::string, std::int64_t> numa_nodes = {};  // Of those that have one.
  std::vector<std::string> in_use = {};
};

struct ContainerAsk {
  std::string name;
  std::map<std::string, int> requests;  // By resource.
};

struct PodAsk {
  std::string name;  // "namespace/name"
  std::vector<ContainerAsk> containers;
};

// What one container has of one resource.
struct ContainerGot {
  std::string container;
  std::string resource;
  std::vector<std::string> ids;
  v1beta1::ContainerAllocateResponse grant;
};

class Kubelet {
 public:
  using View = std::map<std::string, ResourceState>;

  static Result<std::unique_ptr<Kubelet>> Start(KubeletOptions options);
  ~Kubelet();
  Kubelet(const Kubelet&) = delete;
  Kubelet& operator=(const Kubelet&) = delete;

  void Behave(Manner manner);
  View Now() const;
  // Waits until it is so; false after `seconds`.
  bool Await(double seconds, const std::function<bool(const View&)>& condition);

  Result<std::vector<ContainerGot>> Admit(const PodAsk& pod);
  Status StartPod(const std::string& pod);  // PreStartContainer of its containers.
  void RemovePod(const std::string& pod);

  // Calls as they are, for what kubelet itself would never ask.
  Result<v1beta1::AllocateResponse> Allocate(const std::string& resource,
                                             const std::vector<std::string>& ids);
  Result<std::vector<std::string>> Prefer(const std::string& resource,
                                          const std::vector<std::string>& available,
                                          const std::vector<std::string>& must_include, int size);

  // As when its process ends: sockets stay behind, streams break off.
  void Stop();
  // Again after Stop(), from the checkpoint.
  Status StartAgain();

 private:
  class Core;
  explicit Kubelet(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace sublet::kubelet
