#include "kubelet/kubelet.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "kubelet/checkpoint.h"
#include "kubelet/kubelet_rules.h"
#include "proto/deviceplugin.grpc.pb.h"
#include "proto/podresources.grpc.pb.h"

namespace sublet::kubelet {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr seconds kDialPatience{10};
constexpr seconds kPreStartPatience{30};
constexpr seconds kAllocatePatience{60};

void SetPatience(grpc::ClientContext& context, seconds patience) {
  context.set_deadline(std::chrono::system_clock::now() + patience);
}

Error FromPlugin(const grpc::Status& status, const std::string& what) {
  return {ErrorCode::kUnavailable,
          fmt::format("{}: rpc error: code = {} desc = {}", what,
                      static_cast<int>(status.error_code()), status.error_message()),
          ""};
}

std::shared_ptr<grpc::Channel> Dial(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(fmt::format("unix:{}", socket),
                                   grpc::InsecureChannelCredentials(), arguments);
}

// A plugin that has registered. Its thread reads its list.
struct Plugin {
  std::unique_ptr<v1beta1::DevicePlugin::Stub> stub;
  v1beta1::DevicePluginOptions options;
  grpc::ClientContext stream_context;
  std::thread thread;
  bool ended = false;  // The stream broke off, or was replaced.
};

}  // namespace

class Kubelet::Core final : public v1beta1::Registration::Service,
                            public v1::PodResourcesLister::Service {
 public:
  explicit Core(KubeletOptions options) : options_(std::move(options)), random_(options_.seed) {
    if (options_.pod_resources_socket.empty()) {
      options_.pod_resources_socket = options_.folder + "/pod-resources.sock";
    }
  }
  ~Core() override { Stop(); }

  Status Start();
  void Stop();

  void Behave(Manner manner) {
    const std::lock_guard lock(mutex_);
    manner_ = manner;
    changed_.notify_all();
  }
  View Now() const {
    const std::lock_guard lock(mutex_);
    return Look();
  }
  bool Await(double wait_s, const std::function<bool(const View&)>& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(wait_s),
                             [&] { return condition(Look()); });
  }

  Result<std::vector<ContainerGot>> Admit(const PodAsk& pod);
  Status StartPod(const std::string& pod);
  void RemovePod(const std::string& pod) {
    const std::lock_guard lock(mutex_);
    books_.pods.erase(pod);
    Write();
    changed_.notify_all();
  }

  Result<std::shared_ptr<Plugin>> PluginOf(const std::string& resource) const {
    const std::lock_guard lock(mutex_);
    const auto found = plugins_.find(resource);
    if (found != plugins_.end() && !found->second->ended) return found->second;
    return Fail(ErrorCode::kNotFound, fmt::format("unregistered device {}", resource));
  }

  // Registration
  grpc::Status Register(grpc::ServerContext* context, const v1beta1::RegisterRequest* request,
                        v1beta1::Empty* answer) override;
  // PodResourcesLister
  grpc::Status List(grpc::ServerContext* context, const v1::ListPodResourcesRequest* request,
                    v1::ListPodResourcesResponse* answer) override;

 private:
  View Look() const;
  void Write();
  void RemoveContents() const;
  void Watch(const std::string& resource, const std::shared_ptr<Plugin>& plugin);
  void EndPlugin(const std::string& resource, const std::shared_ptr<Plugin>& plugin);
  Result<std::vector<std::string>> Choose(const std::string& resource, int count);
  Result<std::vector<std::string>> Available(const std::string& resource, int count);

  KubeletOptions options_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> pod_resources_;
  mutable std::mutex mutex_;  // Guards what is below.
  std::condition_variable changed_;
  std::mt19937 random_;
  Manner manner_ = Manner::kProper;
  bool running_ = false;
  std::map<std::string, ResourceState> resources_;
  std::map<std::string, std::shared_ptr<Plugin>> plugins_;
  std::vector<std::shared_ptr<Plugin>> replaced_;  // Their threads are to be joined.
  Checkpoint books_;
};

// ---- life --------------------------------------------------------------------------------------

void Kubelet::Core::RemoveContents() const {
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.folder)) {
    std::error_code ignored;
    if (entry.path().filename() == kCheckpointName || entry.is_directory(ignored)) continue;
    fs::remove(entry.path(), ignored);
  }
}

Status Kubelet::Core::Start() {
  std::error_code made;
  fs::create_directories(options_.folder, made);
  if (made) return Fail(ErrorCode::kIo, fmt::format("making {}", options_.folder));
  RemoveContents();
  ASSIGN_OR_RETURN(Checkpoint books, ReadCheckpoint(options_.folder));
  {
    const std::lock_guard lock(mutex_);
    books_ = std::move(books);
    resources_.clear();
    for (const auto& [resource, ids] : books_.registered) resources_[resource];
    running_ = true;
  }
  const auto serve = [](grpc::Service* service, const std::string& socket) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(fmt::format("unix:{}", socket), grpc::InsecureServerCredentials());
    builder.RegisterService(service);
    return builder.BuildAndStart();
  };
  pod_resources_ =
      serve(static_cast<v1::PodResourcesLister::Service*>(this), options_.pod_resources_socket);
  server_ =
      serve(static_cast<v1beta1::Registration::Service*>(this), options_.folder + "/kubelet.sock");
  if (server_ && pod_resources_) return {};
  return Fail(ErrorCode::kIo, fmt::format("can't listen in {}", options_.folder));
}

void Kubelet::Core::Stop() {
  std::vector<std::shared_ptr<Plugin>> ending;
  {
    const std::lock_guard lock(mutex_);
    running_ = false;
    for (auto& [resource, plugin] : plugins_) ending.push_back(plugin);
    plugins_.clear();
    ending.insert(ending.end(), replaced_.begin(), replaced_.end());
    replaced_.clear();
    changed_.notify_all();
  }
  const auto at_once = std::chrono::system_clock::now();
  if (server_) server_->Shutdown(at_once);
  if (pod_resources_) pod_resources_->Shutdown(at_once);
  for (const auto& plugin : ending) {
    plugin->stream_context.TryCancel();
    if (plugin->thread.joinable()) plugin->thread.join();
  }
  server_.reset();
  pod_resources_.reset();
}

void Kubelet::Core::Write() {
  for (auto& [resource, state] : resources_) {
    std::vector<std::string>& ids = books_.registered[resource];
    ids.clear();
    for (const auto& [id, healthy] : state.devices) {
      if (healthy) ids.push_back(id);
    }
  }
  static_cast<void>(WriteCheckpoint(options_.folder, books_));
}

Kubelet::View Kubelet::Core::Look() const {
  View view = resources_;
  for (auto& [resource, state] : view) {
    state.capacity = static_cast<int>(state.devices.size());
    state.allocatable = static_cast<int>(
        std::ranges::count_if(state.devices, [](const auto& device) { return device.second; }));
    const auto plugin = plugins_.find(resource);
    state.watched = plugin != plugins_.end() && !plugin->second->ended;
    for (const auto& [pod, containers] : books_.pods) {
      for (const ContainerGot& got : containers) {
        if (got.resource != resource) continue;
        state.in_use.insert(state.in_use.end(), got.ids.begin(), got.ids.end());
      }
    }
    std::ranges::sort(state.in_use);
  }
  return view;
}

// ---- registration ------------------------------------------------------------------------------

grpc::Status Kubelet::Core::Register(grpc::ServerContext* /*context*/,
                                     const v1beta1::RegisterRequest* request,
                                     v1beta1::Empty* /*answer*/) {
  const auto refuse = [](const std::string& why) {
    return grpc::Status(grpc::StatusCode::UNKNOWN, why);
  };
  if (request->version() != "v1beta1") {
    return refuse(
        fmt::format("requested API version \"{}\" is not supported by kubelet. Supported "
                    "version is [\"v1beta1\"]",
                    request->version()));
  }
  const std::string& resource = request->resource_name();
  if (const std::string fault = FaultOfResourceName(resource); !fault.empty()) {
    return refuse(fault);
  }
  {
    std::unique_lock lock(mutex_);
    ++resources_[resource].registrations;
    changed_.notify_all();
    if (manner_ == Manner::kRefuses) return refuse("failed to register device plugin");
    if (manner_ == Manner::kForgets) return grpc::Status::OK;
    changed_.wait(lock, [&] { return manner_ != Manner::kHangs || !running_; });
    if (!running_) return {grpc::StatusCode::UNAVAILABLE, "kubelet ends"};
  }
  const std::string socket = fmt::format("{}/{}", options_.folder, request->endpoint());
  std::error_code ignored;
  if (request->endpoint().find('/') != std::string::npos || !fs::is_socket(socket, ignored)) {
    return refuse(fmt::format("failed to dial device plugin: no socket: {}", socket));
  }
  const auto channel = Dial(socket);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kDialPatience)) {
    return refuse(fmt::format("failed to dial device plugin with socketPath {}", socket));
  }
  const auto plugin = std::make_shared<Plugin>();
  plugin->stub = v1beta1::DevicePlugin::NewStub(channel);
  grpc::ClientContext asking;
  SetPatience(asking, kDialPatience);
  const grpc::Status asked = plugin->stub->GetDevicePluginOptions(&asking, {}, &plugin->options);
  if (!asked.ok()) return refuse("failed to get device plugin options: " + asked.error_message());
  if (plugin->options.SerializeAsString() != request->options().SerializeAsString()) {
    return refuse("the options at registration are others than the plugin's");
  }
  const std::lock_guard lock(mutex_);
  if (!running_) return {grpc::StatusCode::UNAVAILABLE, "kubelet ends"};
  if (const auto old = plugins_.find(resource); old != plugins_.end()) {
    old->second->ended = true;
    old->second->stream_context.TryCancel();
    replaced_.push_back(old->second);
  }
  plugins_[resource] = plugin;
  plugin->thread = std::thread([this, resource, plugin] { Watch(resource, plugin); });
  return grpc::Status::OK;
}

void Kubelet::Core::Watch(const std::string& resource, const std::shared_ptr<Plugin>& plugin) {
  const auto stream = plugin->stub->ListAndWatch(&plugin->stream_context, {});
  v1beta1::ListAndWatchResponse list;
  while (stream->Read(&list)) {
    const std::string fault = FaultOfList(list);
    const std::lock_guard lock(mutex_);
    if (plugin->ended || !running_) break;
    ResourceState& state = resources_[resource];
    ++state.lists;
    if (!fault.empty()) state.fault = fault;
    state.devices.clear();
    state.numa_nodes.clear();
    for (const v1beta1::Device& device : list.devices()) {
      state.devices[device.id()] = device.health() == "Healthy";
      if (device.topology().nodes_size() > 0) {
        state.numa_nodes[device.id()] = device.topology().nodes(0).id();
      }
    }
    Write();
    changed_.notify_all();
  }
  plugin->stream_context.TryCancel();
  const grpc::Status status = stream->Finish();
  EndPlugin(resource, plugin);
}

// Its devices are unhealthy from now on; they go altogether when it doesn't come back.
void Kubelet::Core::EndPlugin(const std::string& resource, const std::shared_ptr<Plugin>& plugin) {
  const std::lock_guard lock(mutex_);
  if (plugin->ended || !running_) return;
  plugin->ended = true;
  for (auto& [id, healthy] : resources_[resource].devices) healthy = false;
  changed_.notify_all();
}

// ---- admission ---------------------------------------------------------------------------------

Result<std::vector<std::string>> Kubelet::Core::Available(const std::string& resource, int count) {
  const std::lock_guard lock(mutex_);
  const View view = Look();
  const auto found = view.find(resource);
  if (found == view.end()) {
    return Fail(ErrorCode::kNotFound,
                fmt::format("cannot allocate unregistered device {}", resource));
  }
  const ResourceState& state = found->second;
  if (state.allocatable == 0) {
    return Fail(
        ErrorCode::kUnavailable,
        fmt::format("no healthy devices present; cannot allocate unhealthy devices {}", resource));
  }
  const std::set<std::string> taken(state.in_use.begin(), state.in_use.end());
  std::vector<std::string> available;
  for (const auto& [id, healthy] : state.devices) {
    if (healthy && !taken.contains(id)) available.push_back(id);
  }
  if (static_cast<int>(available.size()) < count) {
    return Fail(ErrorCode::kInfeasible,
                fmt::format("requested number of devices unavailable for {}. Requested: {}, "
                            "Available: {}",
                            resource, count, available.size()));
  }
  std::ranges::shuffle(available, random_);
  return available;
}

Result<std::vector<std::string>> Kubelet::Core::Choose(const std::string& resource, int count) {
  ASSIGN_OR_RETURN(std::vector<std::string> available, Available(resource, count));
  ASSIGN_OR_RETURN(const std::shared_ptr<Plugin> plugin, PluginOf(resource));
  if (!plugin->options.get_preferred_allocation_available()) {
    available.resize(static_cast<std::size_t>(count));
    return available;
  }
  v1beta1::PreferredAllocationRequest request;
  auto& ask = *request.add_container_requests();
  for (const std::string& id : available) ask.add_available_deviceids(id);
  ask.set_allocation_size(count);
  grpc::ClientContext context;
  SetPatience(context, kAllocatePatience);
  v1beta1::PreferredAllocationResponse answer;
  const grpc::Status status = plugin->stub->GetPreferredAllocation(&context, request, &answer);
  if (!status.ok()) {
    return tl::unexpected<Error>(FromPlugin(status, "device plugin GetPreferredAllocation"));
  }
  // What it prefers counts as far as it is available; the rest is any.
  std::vector<std::string> chosen;
  const auto take = [&](const std::string& id) {
    const bool known = std::ranges::find(available, id) != available.end();
    if (known && std::ranges::find(chosen, id) == chosen.end() &&
        static_cast<int>(chosen.size()) < count) {
      chosen.push_back(id);
    }
  };
  if (answer.container_responses_size() > 0) {
    for (const std::string& id : answer.container_responses(0).deviceids()) take(id);
  }
  for (const std::string& id : available) take(id);
  return chosen;
}

Result<std::vector<ContainerGot>> Kubelet::Core::Admit(const PodAsk& pod) {
  std::vector<ContainerGot> all;
  for (const ContainerAsk& container : pod.containers) {
    for (const auto& [resource, count] : container.requests) {
      Result<std::vector<std::string>> chosen = Choose(resource, count);
      if (!chosen) {
        RemovePod(pod.name);
        return tl::unexpected<Error>(std::move(chosen).error().Prefixed("Allocate failed due to"));
      }
      ASSIGN_OR_RETURN(const std::shared_ptr<Plugin> plugin, PluginOf(resource));
      v1beta1::AllocateRequest request;
      auto& ask = *request.add_container_requests();
      for (const std::string& id : *chosen) ask.add_devices_ids(id);
      grpc::ClientContext context;
      SetPatience(context, kAllocatePatience);
      v1beta1::AllocateResponse answer;
      const grpc::Status status = plugin->stub->Allocate(&context, request, &answer);
      std::string fault;
      if (status.ok()) {
        fault = answer.container_responses_size() == 1
                    ? FaultOfGrant(answer.container_responses(0))
                    : "no containers return in allocation response";
      }
      if (!status.ok() || !fault.empty()) {
        RemovePod(pod.name);
        if (status.ok()) return Fail(ErrorCode::kInvalid, fault);
        return tl::unexpected<Error>(FromPlugin(status, "Allocate failed due to"));
      }
      ContainerGot got{container.name, resource, *chosen, answer.container_responses(0)};
      const std::lock_guard lock(mutex_);
      books_.pods[pod.name].push_back(got);
      Write();
      all.push_back(std::move(got));
    }
  }
  return all;
}

Status Kubelet::Core::StartPod(const std::string& pod) {
  std::vector<ContainerGot> containers;
  {
    const std::lock_guard lock(mutex_);
    const auto found = books_.pods.find(pod);
    if (found == books_.pods.end()) return Fail(ErrorCode::kNotFound, "no such pod: " + pod);
    containers = found->second;
  }
  for (const ContainerGot& got : containers) {
    ASSIGN_OR_RETURN(const std::shared_ptr<Plugin> plugin, PluginOf(got.resource));
    if (!plugin->options.pre_start_required()) continue;
    v1beta1::PreStartContainerRequest request;
    for (const std::string& id : got.ids) request.add_devices_ids(id);
    grpc::ClientContext context;
    SetPatience(context, kPreStartPatience);
    v1beta1::PreStartContainerResponse answer;
    const grpc::Status status = plugin->stub->PreStartContainer(&context, request, &answer);
    if (!status.ok()) {
      return tl::unexpected<Error>(FromPlugin(status, "device plugin PreStartContainer"));
    }
  }
  return {};
}

grpc::Status Kubelet::Core::List(grpc::ServerContext* /*context*/,
                                 const v1::ListPodResourcesRequest* /*request*/,
                                 v1::ListPodResourcesResponse* answer) {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, containers] : books_.pods) {
    v1::PodResources& pod = *answer->add_pod_resources();
    pod.set_namespace_(name.substr(0, name.find('/')));
    pod.set_name(name.substr(name.find('/') + 1));
    std::map<std::string, v1::ContainerResources*> by_name;
    for (const ContainerGot& got : containers) {
      v1::ContainerResources*& container = by_name[got.container];
      if (container == nullptr) container = pod.add_containers();
      container->set_name(got.container);
      for (const std::string& id : got.ids) {
        v1::ContainerDevices& device = *container->add_devices();
        device.set_resource_name(got.resource);
        device.add_device_ids(id);
      }
    }
  }
  return grpc::Status::OK;
}

// ---- what others see ---------------------------------------------------------------------------

Kubelet::Kubelet(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Kubelet::~Kubelet() = default;

Result<std::unique_ptr<Kubelet>> Kubelet::Start(KubeletOptions options) {
  auto core = std::make_unique<Core>(std::move(options));
  RETURN_IF_ERROR(core->Start());
  return std::unique_ptr<Kubelet>(new Kubelet(std::move(core)));
}

void Kubelet::Behave(Manner manner) {
  core_->Behave(manner);
}
Kubelet::View Kubelet::Now() const {
  return core_->Now();
}
bool Kubelet::Await(double seconds, const std::function<bool(const View&)>& condition) {
  return core_->Await(seconds, condition);
}
Result<std::vector<ContainerGot>> Kubelet::Admit(const PodAsk& pod) {
  return core_->Admit(pod);
}
Status Kubelet::StartPod(const std::string& pod) {
  return core_->StartPod(pod);
}
void Kubelet::RemovePod(const std::string& pod) {
  core_->RemovePod(pod);
}
void Kubelet::Stop() {
  core_->Stop();
}
Status Kubelet::StartAgain() {
  return core_->Start();
}

Result<v1beta1::AllocateResponse> Kubelet::Allocate(const std::string& resource,
                                                    const std::vector<std::string>& ids) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Plugin> plugin, core_->PluginOf(resource));
  v1beta1::AllocateRequest request;
  auto& ask = *request.add_container_requests();
  for (const std::string& id : ids) ask.add_devices_ids(id);
  grpc::ClientContext context;
  SetPatience(context, kAllocatePatience);
  v1beta1::AllocateResponse answer;
  const grpc::Status status = plugin->stub->Allocate(&context, request, &answer);
  if (!status.ok()) return tl::unexpected<Error>(FromPlugin(status, "Allocate"));
  return answer;
}

Result<std::vector<std::string>> Kubelet::Prefer(const std::string& resource,
                                                 const std::vector<std::string>& available,
                                                 const std::vector<std::string>& must_include,
                                                 int size) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Plugin> plugin, core_->PluginOf(resource));
  v1beta1::PreferredAllocationRequest request;
  auto& ask = *request.add_container_requests();
  for (const std::string& id : available) ask.add_available_deviceids(id);
  for (const std::string& id : must_include) ask.add_must_include_deviceids(id);
  ask.set_allocation_size(size);
  grpc::ClientContext context;
  SetPatience(context, kAllocatePatience);
  v1beta1::PreferredAllocationResponse answer;
  const grpc::Status status = plugin->stub->GetPreferredAllocation(&context, request, &answer);
  if (!status.ok()) return tl::unexpected<Error>(FromPlugin(status, "GetPreferredAllocation"));
  const auto& ids = answer.container_responses(0).deviceids();
  return std::vector<std::string>(ids.begin(), ids.end());
}

}  // namespace sublet::kubelet
