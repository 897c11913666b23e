#include "kube/plugin_server.h"

#include <fmt/format.h>
#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "kube/grpc_errors.h"
#include "proto/deviceplugin.grpc.pb.h"

namespace sublet {
namespace {

using Service = v1beta1::DevicePlugin::AsyncService;

// kubelet has a stream and a few calls open; more than this at once is not kubelet.
constexpr int kCallsOfConnectionMax = 256;
constexpr std::string_view kHealthy = "Healthy";
constexpr std::string_view kUnhealthy = "Unhealthy";

// Something that the completion queue hands back; `ok` as gRPC means it.
class Arrival {
 public:
  virtual void Arrived(bool ok) = 0;

 protected:
  ~Arrival() = default;
};

v1beta1::ListAndWatchResponse MessageOf(const std::vector<ListedDevice>& devices) {
  v1beta1::ListAndWatchResponse message;
  message.mutable_devices()->Reserve(static_cast<int>(devices.size()));
  for (const ListedDevice& device : devices) {
    v1beta1::Device& line = *message.add_devices();
    line.set_id(device.id);
    line.set_health(std::string(device.healthy ? kHealthy : kUnhealthy));
    if (device.numa_node) line.mutable_topology()->add_nodes()->set_id(*device.numa_node);
  }
  return message;
}

void FillOptions(const OptionalCalls& options, v1beta1::DevicePluginOptions& message) {
  message.set_pre_start_required(options.pre_start_required);
  message.set_get_preferred_allocation_available(options.preferred_allocation);
}

void FillGrant(ContainerGrant grant, v1beta1::ContainerAllocateResponse& message) {
  for (auto& [name, value] : grant.envs) (*message.mutable_envs())[name] = std::move(value);
  for (GrantedMount& mount : grant.mounts) {
    v1beta1::Mount& line = *message.add_mounts();
    line.set_container_path(std::move(mount.container_path));
    line.set_host_path(std::move(mount.host_path));
    line.set_read_only(mount.read_only);
  }
  for (GrantedDeviceNode& node : grant.device_nodes) {
    v1beta1::DeviceSpec& line = *message.add_devices();
    line.set_container_path(std::move(node.container_path));
    line.set_host_path(std::move(node.host_path));
    line.set_permissions(std::move(node.permissions));
  }
  for (auto& [name, value] : grant.annotations) {
    (*message.mutable_annotations())[name] = std::move(value);
  }
  for (std::string& name : grant.cdi_devices) message.add_cdi_devices()->set_name(std::move(name));
}

}  // namespace

// ---- streams -----------------------------------------------------------------------------------

// What a resource's streams have in common. Its mutex guards them, too.
class ServedResource::State {
 public:
  // A stream of it: told, under the mutex, that there is something to send.
  class Stream {
   public:
    virtual void Look() = 0;

   protected:
    ~Stream() = default;
  };

  explicit State(std::shared_ptr<ResourceAnswers> what) : answers(std::move(what)) {}

  const std::shared_ptr<ResourceAnswers> answers;
  std::mutex mutex;
  std::uint64_t version = 0;  // 0: there is no list yet.
  v1beta1::ListAndWatchResponse message;
  bool closed = false;   // Streams are to end.
  bool severed = false;  // The server goes: nothing may be sent any more.
  std::set<Stream*> streams;

  void LookAll() {
    for (Stream* stream : streams) stream->Look();
  }
};

ServedResource::ServedResource(std::shared_ptr<ResourceAnswers> answers)
    : state_(std::make_shared<State>(std::move(answers))) {}

ServedResource::~ServedResource() {
  Close();
}

void ServedResource::List(const std::vector<ListedDevice>& devices) {
  v1beta1::ListAndWatchResponse message = MessageOf(devices);
  const std::lock_guard lock(state_->mutex);
  state_->message = std::move(message);
  ++state_->version;
  state_->LookAll();
}

void ServedResource::Close() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = true;
  state_->LookAll();
}

// ---- the server --------------------------------------------------------------------------------

class PluginServerCore {
 public:
  using Resource = std::shared_ptr<ServedResource::State>;

  Status Start();
  void Stop();
  void Serve(FileDescriptor connection, const Resource& resource);

  // Whose connection a call came by; null where it is gone.
  Resource ResourceOf(const grpc::ServerContext& context);
  Service& service() { return service_; }
  grpc::ServerCompletionQueue* queue() { return queue_.get(); }
  bool stopping();

  // Calls whose answer comes later and from elsewhere. They are reached by number, because they may
  // be gone by then.
  struct Postponed {
    std::mutex mutex;
    std::uint64_t last = 0;
    bool closed = false;
    std::map<std::uint64_t, std::function<void(const Status&)>> calls;

    std::uint64_t Add(std::function<void(const Status&)> finish);
    void Answer(std::uint64_t number, const Status& status);
    // Those that wait and those to come.
    void Close();
  };
  const std::shared_ptr<Postponed>& postponed() const { return postponed_; }

 private:
  void Run();

  Service service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  std::thread thread_;
  const std::shared_ptr<Postponed> postponed_ = std::make_shared<Postponed>();
  std::mutex mutex_;                             // Guards what is below.
  std::map<std::string, Resource> connections_;  // By gRPC's name for the peer: "fd:17".
  bool stopping_ = false;
};

namespace {

// A call with one answer. It waits for its request, then answers, then goes.
template <typename Request, typename Response>
class UnaryCall final : public Arrival {
 public:
  using Ask = void (Service::*)(grpc::ServerContext*, Request*,
                                grpc::ServerAsyncResponseWriter<Response>*, grpc::CompletionQueue*,
                                grpc::ServerCompletionQueue*, void*);
  using Answer = void (*)(UnaryCall&, ResourceAnswers&);

  static void Arm(PluginServerCore& core, Ask ask, Answer answer) {
    auto* const call =
        new UnaryCall(core, ask, answer);  // Deleted when it arrives for the last time.
    (core.service().*ask)(&call->context_, &call->request_, &call->writer_, core.queue(),
                          core.queue(), static_cast<Arrival*>(call));
  }

  void Arrived(bool ok) override {
    if (!ok || answering_) {
      delete this;
      return;
    }
    answering_ = true;
    if (!core_.stopping()) Arm(core_, ask_, answer_);
    const auto resource = core_.ResourceOf(context_);
    if (resource) {
      answer_(*this, *resource->answers);
    } else {
      Finish(Fail(ErrorCode::kNotFound, "the resource of this socket is gone"));
    }
  }

  // Once; the call may be gone afterwards.
  void Finish(const Status& status) {
    const grpc::Status said = status ? grpc::Status::OK : ToGrpc(status.error());
    writer_.Finish(response_, said, static_cast<Arrival*>(this));
  }

  PluginServerCore& core() { return core_; }
  const Request& request() const { return request_; }
  Response& response() { return response_; }

 private:
  UnaryCall(PluginServerCore& core, Ask ask, Answer answer)
      : core_(core), ask_(ask), answer_(answer), writer_(&context_) {}
  ~UnaryCall() = default;

  PluginServerCore& core_;
  const Ask ask_;
  const Answer answer_;
  bool answering_ = false;
  grpc::ServerContext context_;
  Request request_;
  Response response_;
  grpc::ServerAsyncResponseWriter<Response> writer_;
};

using OptionsCall = UnaryCall<v1beta1::Empty, v1beta1::DevicePluginOptions>;
using PreferCall =
    UnaryCall<v1beta1::PreferredAllocationRequest, v1beta1::PreferredAllocationResponse>;
using AllocateCall = UnaryCall<v1beta1::AllocateRequest, v1beta1::AllocateResponse>;
using PreStartCall =
    UnaryCall<v1beta1::PreStartContainerRequest, v1beta1::PreStartContainerResponse>;

void AnswerOptions(OptionsCall& call, ResourceAnswers& answers) {
  FillOptions(answers.Options(), call.response());
  call.Finish({});
}

Status Prefer(PreferCall& call, ResourceAnswers& answers) {
  for (const auto& container : call.request().container_requests()) {
    PreferenceRequest request;
    request.available = {container.available_deviceids().begin(),
                         container.available_deviceids().end()};
    request.must_include = {container.must_include_deviceids().begin(),
                            container.must_include_deviceids().end()};
    request.size = container.allocation_size();
    ASSIGN_OR_RETURN(std::vector<std::string> ids, answers.Prefer(std::move(request)));
    auto& line = *call.response().add_container_responses();
    for (std::string& id : ids) line.add_deviceids(std::move(id));
  }
  return {};
}

Status Allocate(AllocateCall& call, ResourceAnswers& answers) {
  for (const auto& container : call.request().container_requests()) {
    ASSIGN_OR_RETURN(ContainerGrant grant, answers.Allocate({container.devices_ids().begin(),
                                                             container.devices_ids().end()}));
    FillGrant(std::move(grant), *call.response().add_container_responses());
  }
  return {};
}

void AnswerPrefer(PreferCall& call, ResourceAnswers& answers) {
  call.Finish(Prefer(call, answers));
}

void AnswerAllocate(AllocateCall& call, ResourceAnswers& answers) {
  call.Finish(Allocate(call, answers));
}

void AnswerPreStart(PreStartCall& call, ResourceAnswers& answers) {
  const auto postponed = call.core().postponed();
  const std::uint64_t number =
      postponed->Add([&call](const Status& status) { call.Finish(status); });
  answers.PreStart(
      {call.request().devices_ids().begin(), call.request().devices_ids().end()},
      [postponed, number](const Status& status) { postponed->Answer(number, status); });
}

// A ListAndWatch: sends the list, and each newer one.
class ListCall final : public ServedResource::State::Stream {
 public:
  static void Arm(PluginServerCore& core) {
    auto* const call = new ListCall(core);  // Deleted when nothing of it is outstanding.
    call->context_.AsyncNotifyWhenDone(static_cast<Arrival*>(&call->done_));
    core.service().RequestListAndWatch(&call->context_, &call->request_, &call->writer_,
                                       core.queue(), core.queue(),
                                       static_cast<Arrival*>(&call->begun_));
  }

  // Under the resource's mutex.
  void Look() override {
    if (writing_ || finish_sent_ || over_ || resource_->severed) return;
    if (resource_->version > sent_) {
      sent_ = resource_->version;
      writing_ = true;
      writer_.Write(resource_->message, static_cast<Arrival*>(&written_));
    } else if (resource_->closed) {
      SendFinish(grpc::Status::OK);
    }
  }

 private:
  // Which of its operations has arrived.
  class Part final : public Arrival {
   public:
    Part(ListCall& call, void (ListCall::*then)(bool)) : call_(call), then_(then) {}
    void Arrived(bool ok) override { (call_.*then_)(ok); }

   private:
    ListCall& call_;
    void (ListCall::*const then_)(bool);
  };

  explicit ListCall(PluginServerCore& core) : core_(core), writer_(&context_) {}
  ~ListCall() = default;

  void SendFinish(const grpc::Status& status) {
    finish_sent_ = true;
    finishing_ = true;
    writer_.Finish(status, static_cast<Arrival*>(&finished_));
  }

  void Begun(bool ok) {
    if (!ok) {  // The server goes; there was no call, and so there is no end of it.
      delete this;
      return;
    }
    if (!core_.stopping()) Arm(core_);
    const auto resource = core_.ResourceOf(context_);
    if (!resource) {
      SendFinish(grpc::Status(grpc::StatusCode::NOT_FOUND, "the resource of this socket is gone"));
      return;
    }
    int open = 0;
    {
      const std::lock_guard lock(resource->mutex);
      resource_ = resource;
      resource_->streams.insert(this);
      open = static_cast<int>(resource_->streams.size());
      Look();
    }
    resource->answers->StreamsChanged(open);
  }

  void Written(bool ok) {
    Step([&] {
      writing_ = false;
      if (ok) Look();
    });
  }

  void Finished(bool /*ok*/) {
    Step([&] { finishing_ = false; });
  }

  // The call is over: the client has gone, or has our last word.
  void Done(bool /*ok*/) {
    const auto resource = resource_;
    int open = 0;
    Step([&] {
      over_ = true;
      if (!resource) return;
      resource->streams.erase(this);
      open = static_cast<int>(resource->streams.size());
    });
    if (resource) resource->answers->StreamsChanged(open);
  }

  // Changes the state, and goes when nothing is outstanding.
  template <typename Change>
  void Step(Change change) {
    const auto resource = resource_;
    bool last = false;
    {
      std::unique_lock<std::mutex> lock;
      if (resource) lock = std::unique_lock(resource->mutex);
      change();
      last = over_ && !writing_ && !finishing_;
    }
    if (last) delete this;
  }

  PluginServerCore& core_;
  Part begun_{*this, &ListCall::Begun};
  Part written_{*this, &ListCall::Written};
  Part finished_{*this, &ListCall::Finished};
  Part done_{*this, &ListCall::Done};
  std::shared_ptr<ServedResource::State> resource_;
  std::uint64_t sent_ = 0;
  bool writing_ = false;      // A write is outstanding,
  bool finishing_ = false;    // or the last word,
  bool finish_sent_ = false;  // which is said once.
  bool over_ = false;
  grpc::ServerContext context_;
  v1beta1::Empty request_;
  grpc::ServerAsyncWriter<v1beta1::ListAndWatchResponse> writer_;
};

Status TheEnd() {
  return Fail(ErrorCode::kUnavailable, "the device plugin ends");
}

// Ends the queue from within its thread, which is the only one that then still answers calls.
class QueueEnd final : public Arrival {
 public:
  explicit QueueEnd(grpc::ServerCompletionQueue& queue) : queue_(queue) {}
  void Arrived(bool /*ok*/) override { queue_.Shutdown(); }

 private:
  grpc::ServerCompletionQueue& queue_;
};

// Signals are the program's, not this thread's.
void BlockAllSignals() {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace

std::uint64_t PluginServerCore::Postponed::Add(std::function<void(const Status&)> finish) {
  const std::lock_guard lock(mutex);
  ++last;
  if (closed) {
    finish(TheEnd());
  } else {
    calls.emplace(last, std::move(finish));
  }
  return last;
}

void PluginServerCore::Postponed::Answer(std::uint64_t number, const Status& status) {
  const std::lock_guard lock(mutex);
  const auto found = calls.find(number);
  if (found == calls.end()) return;
  found->second(status);
  calls.erase(found);
}

void PluginServerCore::Postponed::Close() {
  const std::lock_guard lock(mutex);
  closed = true;
  for (const auto& [number, finish] : calls) finish(TheEnd());
  calls.clear();
}

Status PluginServerCore::Start() {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service_);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kCallsOfConnectionMax);
  queue_ = builder.AddCompletionQueue();
  server_ = builder.BuildAndStart();
  if (!server_) return Fail(ErrorCode::kUnavailable, "the gRPC server does not start");
  OptionsCall::Arm(*this, &Service::RequestGetDevicePluginOptions, AnswerOptions);
  PreferCall::Arm(*this, &Service::RequestGetPreferredAllocation, AnswerPrefer);
  AllocateCall::Arm(*this, &Service::RequestAllocate, AnswerAllocate);
  PreStartCall::Arm(*this, &Service::RequestPreStartContainer, AnswerPreStart);
  ListCall::Arm(*this);
  thread_ = std::thread([this] { Run(); });
  return {};
}

void PluginServerCore::Run() {
  BlockAllSignals();
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) static_cast<Arrival*>(tag)->Arrived(ok);
}

void PluginServerCore::Stop() {
  std::map<std::string, Resource> connections;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    connections.swap(connections_);
  }
  for (const auto& [peer, resource] : connections) {
    const std::lock_guard lock(resource->mutex);
    resource->severed = true;
  }
  postponed_->Close();
  const auto at_once = std::chrono::system_clock::time_point();
  server_->Shutdown(at_once);
  QueueEnd end(*queue_);
  grpc::Alarm alarm;
  alarm.Set(queue_.get(), at_once, static_cast<Arrival*>(&end));
  thread_.join();
}

bool PluginServerCore::stopping() {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

void PluginServerCore::Serve(FileDescriptor connection, const Resource& resource) {
  const int fd = connection.Release();
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      FileDescriptor(fd).Close();
      return;
    }
    // gRPC closes a connection before the kernel gives its number to another one.
    connections_[fmt::format("fd:{}", fd)] = resource;
  }
  grpc::AddInsecureChannelFromFd(server_.get(), fd);
}

PluginServerCore::Resource PluginServerCore::ResourceOf(const grpc::ServerContext& context) {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(context.peer());
  return found == connections_.end() ? nullptr : found->second;
}

PluginServer::PluginServer(std::unique_ptr<PluginServerCore> core) : core_(std::move(core)) {}

PluginServer::~PluginServer() {
  core_->Stop();
}

Result<std::unique_ptr<PluginServer>> PluginServer::Start() {
  auto core = std::make_unique<PluginServerCore>();
  RETURN_IF_ERROR(core->Start());  // Where it fails, nothing of it runs yet.
  return std::unique_ptr<PluginServer>(new PluginServer(std::move(core)));
}

void PluginServer::Serve(FileDescriptor connection,
                         const std::shared_ptr<ServedResource>& resource) {
  core_->Serve(std::move(connection), resource->state());
}

}  // namespace sublet
