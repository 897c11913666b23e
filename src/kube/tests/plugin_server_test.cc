// The server with clients of gRPC's own, as kubelet is one.
#include "kube/plugin_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "kube/plugin_socket.h"
#include "proto/deviceplugin.grpc.pb.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Answers final : public ResourceAnswers {
 public:
  OptionalCalls Options() override { return {.pre_start_required = true}; }
  Result<std::vector<std::string>> Prefer(PreferenceRequest request) override {
    return std::vector<std::string>(request.available.begin(),
                                    request.available.begin() + request.size);
  }
  Result<ContainerGrant> Allocate(const std::vector<std::string>& ids) override {
    if (ids.front() == "bad") return Fail(ErrorCode::kInvalid, "unknown device: bad", "no such");
    ContainerGrant grant;
    grant.envs = {{"NVIDIA_VISIBLE_DEVICES", ids.front()}};
    grant.mounts = {{.container_path = "/a", .host_path = "/b", .read_only = true}};
    grant.device_nodes = {{.container_path = "/dev/c", .host_path = "/dev/d", .permissions = "rw"}};
    grant.annotations = {{"e", "f"}};
    grant.cdi_devices = {"g.com/h=i"};
    return grant;
  }
  void PreStart(std::vector<std::string> ids, std::function<void(Status)> done) override {
    const std::lock_guard lock(mutex_);
    if (ids.front() == "later") {
      waiting_.push_back(std::move(done));
    } else {
      done({});
    }
  }
  void StreamsChanged(int open) override { streams = open; }

  // Answers those that wait, from a thread of ours.
  bool AnswerThoseThatWait() {
    const std::lock_guard lock(mutex_);
    for (const auto& done : waiting_) done(Fail(ErrorCode::kUnavailable, "not this time"));
    return !std::exchange(waiting_, {}).empty();
  }

  std::atomic<int> streams = 0;

 private:
  std::mutex mutex_;
  std::vector<std::function<void(Status)>> waiting_;
};

class PluginServerTest : public ::testing::Test {
 protected:
  PluginServerTest() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    socket_ = PluginSocket::Listen(folder_, "nvidia.com/gpu").value();
    server_ = PluginServer::Start().value();
    resource_ = std::make_shared<ServedResource>(answers_);
    accepting_ = std::thread([this] {
      while (!done_) {
        pollfd ready{socket_->fd(), POLLIN, 0};
        if (::poll(&ready, 1, 10) != 1) continue;
        FileDescriptor connection(
            ::accept4(socket_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        const std::lock_guard lock(mutex_);
        if (connection.valid() && server_) server_->Serve(std::move(connection), resource_);
      }
    });
  }
  ~PluginServerTest() override {
    done_ = true;
    accepting_.join();
    server_.reset();
    socket_.reset();
    std::filesystem::remove_all(folder_);
  }

  void EndServer() {
    const std::lock_guard lock(mutex_);
    server_.reset();
  }
  std::unique_ptr<v1beta1::DevicePlugin::Stub> Dial() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // As kubelet 1.34 has it; older ones have the path.
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
    return v1beta1::DevicePlugin::NewStub(grpc::CreateCustomChannel(
        fmt::format("unix:{}", socket_->path()), grpc::InsecureChannelCredentials(), arguments));
  }
  static bool Until(const std::function<bool()>& condition) {
    const Deadline deadline = Deadline::In(10);
    while (!condition()) {
      if (deadline.Passed()) return false;
      ::poll(nullptr, 0, 1);
    }
    return true;
  }

  std::string folder_ = "/tmp/sublet-test-XXXXXX";
  const std::shared_ptr<Answers> answers_ = std::make_shared<Answers>();
  std::shared_ptr<ServedResource> resource_;
  std::optional<PluginSocket> socket_;
  std::mutex mutex_;
  std::unique_ptr<PluginServer> server_;
  std::atomic<bool> done_ = false;
  std::thread accepting_;
};

TEST_F(PluginServerTest, AnswersEachCall) {
  const auto stub = Dial();
  grpc::ClientContext options_context;
  v1beta1::DevicePluginOptions options;
  ASSERT_TRUE(stub->GetDevicePluginOptions(&options_context, {}, &options).ok());
  EXPECT_TRUE(options.pre_start_required() && options.get_preferred_allocation_available());

  v1beta1::PreferredAllocationRequest wish;
  auto& line = *wish.add_container_requests();
  for (const char* id : {"a", "b"}) line.add_available_deviceids(id);
  line.set_allocation_size(1);
  grpc::ClientContext prefer_context;
  v1beta1::PreferredAllocationResponse preferred;
  ASSERT_TRUE(stub->GetPreferredAllocation(&prefer_context, wish, &preferred).ok());
  EXPECT_THAT(preferred.container_responses(0).deviceids(), ElementsAre("a"));

  v1beta1::AllocateRequest request;
  request.add_container_requests()->add_devices_ids("x");
  request.add_container_requests()->add_devices_ids("y");
  grpc::ClientContext allocate_context;
  v1beta1::AllocateResponse answer;
  ASSERT_TRUE(stub->Allocate(&allocate_context, request, &answer).ok());
  ASSERT_EQ(answer.container_responses_size(), 2);
  const auto& grant = answer.container_responses(1);
  EXPECT_EQ(grant.envs().at("NVIDIA_VISIBLE_DEVICES"), "y");
  EXPECT_EQ(grant.mounts(0).host_path(), "/b");
  EXPECT_TRUE(grant.mounts(0).read_only());
  EXPECT_EQ(grant.devices(0).permissions(), "rw");
  EXPECT_EQ(grant.annotations().at("e"), "f");
  EXPECT_EQ(grant.cdi_devices(0).name(), "g.com/h=i");
}

TEST_F(PluginServerTest, RefusesWithTheReasonAndTheHint) {
  const auto stub = Dial();
  v1beta1::AllocateRequest request;
  request.add_container_requests()->add_devices_ids("bad");
  grpc::ClientContext context;
  v1beta1::AllocateResponse answer;
  const grpc::Status status = stub->Allocate(&context, request, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "unknown device: bad (no such)");
}

TEST_F(PluginServerTest, SendsTheListToEachStreamAndEachNewOne) {
  const auto stub = Dial();
  resource_->List({{.id = "a", .healthy = true, .numa_node = 1}});
  grpc::ClientContext first_context;
  grpc::ClientContext second_context;
  auto first = stub->ListAndWatch(&first_context, {});
  v1beta1::ListAndWatchResponse message;
  ASSERT_TRUE(first->Read(&message));
  EXPECT_EQ(message.devices(0).health(), "Healthy");
  EXPECT_EQ(message.devices(0).topology().nodes(0).id(), 1);
  auto second = stub->ListAndWatch(&second_context, {});
  ASSERT_TRUE(second->Read(&message));
  EXPECT_TRUE(Until([&] { return answers_->streams == 2; }));
  resource_->List({{.id = "a", .healthy = false, .numa_node = std::nullopt}});
  for (auto* stream : {first.get(), second.get()}) {
    ASSERT_TRUE(stream->Read(&message));
    EXPECT_EQ(message.devices(0).health(), "Unhealthy");
    EXPECT_FALSE(message.devices(0).has_topology());
  }
  first_context.TryCancel();
  EXPECT_TRUE(Until([&] { return answers_->streams == 1; })) << "a client that went is noticed";
  resource_->Close();
  EXPECT_FALSE(second->Read(&message));
  EXPECT_TRUE(second->Finish().ok());
  EXPECT_TRUE(Until([&] { return answers_->streams == 0; }));
  static_cast<void>(first->Finish());
}

TEST_F(PluginServerTest, ManyListsInARowEndWithTheNewest) {
  const auto stub = Dial();
  constexpr int kLists = 500;
  resource_->List({});
  grpc::ClientContext context;
  auto stream = stub->ListAndWatch(&context, {});
  v1beta1::ListAndWatchResponse message;
  ASSERT_TRUE(stream->Read(&message));
  for (int i = 1; i <= kLists; ++i) {
    resource_->List({{.id = std::to_string(i), .healthy = true, .numa_node = std::nullopt}});
  }
  int last = 0;
  while (last < kLists && stream->Read(&message)) {
    const int now = std::stoi(message.devices(0).id());
    EXPECT_GT(now, last);
    last = now;
  }
  EXPECT_EQ(last, kLists);
  context.TryCancel();
  static_cast<void>(stream->Finish());
}

TEST_F(PluginServerTest, AnswersPreStartLater) {
  const auto stub = Dial();
  v1beta1::PreStartContainerRequest request;
  v1beta1::PreStartContainerResponse answer;
  request.add_devices_ids("now");
  grpc::ClientContext context;
  EXPECT_TRUE(stub->PreStartContainer(&context, request, &answer).ok());
  request.set_devices_ids(0, "later");
  std::thread caller([&] {
    grpc::ClientContext waiting;
    EXPECT_EQ(stub->PreStartContainer(&waiting, request, &answer).error_message(), "not this time");
  });
  EXPECT_TRUE(Until([&] { return answers_->AnswerThoseThatWait(); }));
  caller.join();
}

TEST_F(PluginServerTest, ItsEndEndsStreamsAndCallsThatWait) {
  const auto stub = Dial();
  resource_->List({});
  grpc::ClientContext stream_context;
  auto stream = stub->ListAndWatch(&stream_context, {});
  v1beta1::ListAndWatchResponse message;
  ASSERT_TRUE(stream->Read(&message));
  std::atomic<bool> begun = false;
  std::thread caller([&] {
    v1beta1::PreStartContainerRequest request;
    v1beta1::PreStartContainerResponse answer;
    request.add_devices_ids("later");
    grpc::ClientContext context;
    begun = true;
    EXPECT_FALSE(stub->PreStartContainer(&context, request, &answer).ok());
  });
  EXPECT_TRUE(Until([&] { return begun.load(); }));
  EndServer();
  caller.join();
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_FALSE(stream->Finish().ok());
  answers_->AnswerThoseThatWait();  // After the end; it does nothing.
}

}  // namespace
}  // namespace sublet
