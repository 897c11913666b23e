#include "kube/kubelet_client.h"

#include <fmt/format.h>
#include <grpc/support/time.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>

#include "kube/grpc_errors.h"
#include "proto/deviceplugin.grpc.pb.h"
#include "proto/podresources.grpc.pb.h"

namespace sublet {
namespace {

// As kubelet itself allows: lists of a node with thousands of pods have some MB.
constexpr int kAnswerBytesMax = 16 << 20;

std::shared_ptr<grpc::Channel> Dial(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kAnswerBytesMax);
  // Channels of equal targets would share a connection, which outlives a call.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(fmt::format("unix:{}", socket),
                                   grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(grpc::ClientContext& context, double timeout_s) {
  context.set_deadline(gpr_time_add(
      gpr_now(GPR_CLOCK_MONOTONIC),
      gpr_time_from_millis(static_cast<std::int64_t>(timeout_s * 1000), GPR_TIMESPAN)));
}

}  // namespace

Status RegisterWithKubelet(const Registration& registration) {
  const auto stub = v1beta1::Registration::NewStub(Dial(registration.kubelet_socket));
  v1beta1::RegisterRequest request;
  request.set_version(std::string(kDevicePluginApiVersion));
  request.set_endpoint(registration.endpoint);
  request.set_resource_name(registration.resource);
  auto& options = *request.mutable_options();
  options.set_pre_start_required(registration.options.pre_start_required);
  options.set_get_preferred_allocation_available(registration.options.preferred_allocation);
  grpc::ClientContext context;
  SetDeadline(context, registration.timeout_s);
  v1beta1::Empty answer;
  const grpc::Status status = stub->Register(&context, request, &answer);
  if (status.ok()) return {};
  return tl::unexpected<Error>(
      FromGrpc(status, fmt::format("kubelet does not register {}", registration.resource)));
}

Result<std::vector<PodDevices>> ListPodDevices(const std::string& socket, double timeout_s) {
  const auto stub = v1::PodResourcesLister::NewStub(Dial(socket));
  grpc::ClientContext context;
  SetDeadline(context, timeout_s);
  v1::ListPodResourcesResponse answer;
  const grpc::Status status = stub->List(&context, {}, &answer);
  if (!status.ok()) {
    return tl::unexpected<Error>(FromGrpc(status, "kubelet does not list its pods' devices"));
  }
  std::vector<PodDevices> found;
  for (const v1::PodResources& pod : answer.pod_resources()) {
    for (const v1::ContainerResources& container : pod.containers()) {
      std::map<std::string, std::set<std::string>> ids;  // By resource.
      for (const v1::ContainerDevices& devices : container.devices()) {
        ids[devices.resource_name()].insert(devices.device_ids().begin(),
                                            devices.device_ids().end());
      }
      for (const auto& [resource, of_it] : ids) {
        found.push_back({.pod_namespace = pod.namespace_(),
                         .pod = pod.name(),
                         .container = container.name(),
                         .resource = resource,
                         .ids = {of_it.begin(), of_it.end()}});
      }
    }
  }
  return found;
}

}  // namespace sublet
