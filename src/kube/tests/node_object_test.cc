#include "kube/node_object.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "kube/cluster_node.h"
#include "kube/feature_output.h"
#include "kube/tests/scripted_api.h"

namespace sublet {
namespace {

Result<NodeObject> Read(const std::string& text) {
  return ReadNodeObject(nlohmann::json::parse(text));
}

TEST(NodeObject, IsReadFromWhatTheServerSends) {
  const auto node = Read(R"({"kind":"Node","metadata":{"name":"gpu-1","uid":"u","resourceVersion":
      "7","labels":{"a":"b"},"annotations":{"c":"d"},"managedFields":[{}]},"status":{}})");
  ASSERT_TRUE(node);
  EXPECT_EQ(node->name, "gpu-1");
  EXPECT_EQ(node->uid, "u");
  EXPECT_EQ(node->resource_version, "7");
  EXPECT_EQ(node->Label("a"), "b");
  EXPECT_EQ(node->Label("x"), "");
  EXPECT_EQ(node->Annotation("c"), "d");
}

TEST(NodeObject, RefusesWhatIsNone) {
  EXPECT_FALSE(Read("[]"));
  EXPECT_FALSE(Read(R"({"metadata":{"name":7}})"));
  EXPECT_FALSE(Read(R"({"metadata":{"name":"x","labels":[]}})"));
  EXPECT_FALSE(Read(R"({"metadata":{"name":"x","labels":{"a":1}}})"));
  EXPECT_TRUE(Read(R"({"metadata":{"name":"x","labels":null}})"));
}

TEST(NodePatch, SetsAndRemoves) {
  const NodePatch patch{.labels = {{"a", "1"}, {"b", std::nullopt}},
                        .annotations = {{"c", "2"}},
                        .resource_version = "5"};
  EXPECT_EQ(NodePatchJson(patch).dump(),
            R"({"metadata":{"annotations":{"c":"2"},"labels":{"a":"1","b":null},)"
            R"("resourceVersion":"5"}})");
  NodeObject node;
  node.labels = {{"b", "x"}, {"z", "y"}};
  node = Patched(node, patch);
  EXPECT_EQ(node.labels, (NodeLabels{{"a", "1"}, {"z", "y"}}));
  EXPECT_EQ(node.Annotation("c"), "2");
}

TEST(NodeLabels, AreAppliedToThatNodeOnly) {
  EXPECT_EQ(NodeLabelsJson("gpu-1", "u-1", {{"nvidia.com/gpu.count", "2"}}).dump(),
            R"({"apiVersion":"v1","kind":"Node","metadata":{"labels":{"nvidia.com/gpu.count":"2"},)"
            R"("name":"gpu-1","uid":"u-1"}})");
}

TEST(ApiServerNode, AsksForThePodsOfTheseApps) {
  ScriptedApi server([](const ApiCall&) {
    return ApiAnswer{.parts = {R"({"items":[{"metadata":{"namespace":"n","name":"b"}},)"
                               R"({"metadata":{"namespace":"n","name":"a"}}]})"}};
  });
  ApiServerNode node(ApiClient(ApiTransport(server.Place(), {}), {}), "gpu-1");
  const auto pods = node.PodsHere("gpu-operator", {"x", "y"});
  ASSERT_TRUE(pods);
  EXPECT_EQ(*pods, (std::vector<std::string>{"n/a", "n/b"}));
  EXPECT_EQ(server.Calls()[0].target,
            "/api/v1/namespaces/gpu-operator/pods?fieldSelector=spec.nodeName%3Dgpu-1"
            "&labelSelector=app%20in%20%28x%2Cy%29");
}

TEST(ApiServerNode, TellsByAnEvent) {
  ScriptedApi server([](const ApiCall&) { return ApiAnswer{.status = 201, .parts = {"{}"}}; });
  ApiServerNode node(ApiClient(ApiTransport(server.Place(), {}), {}), "gpu-1");
  ASSERT_TRUE(node.Tell({.warning = true, .reason = "R", .message = std::string(5000, 'x')},
                        "2026-11-21T10:00:00Z"));
  const ApiCall call = server.Calls()[0];
  EXPECT_EQ(call.method, "POST");
  EXPECT_EQ(call.target, "/api/v1/namespaces/default/events");
  const auto event = nlohmann::json::parse(call.body);
  EXPECT_EQ(event["involvedObject"]["name"], "gpu-1");
  EXPECT_EQ(event["type"], "Warning");
  EXPECT_EQ(event["message"].get<std::string>().size(), 1024u);
}

TEST(NodeFeature, IsGpuFeatureDiscoverysObject) {
  const NodeFeaturePlace place{
      .node = "gpu-1", .name_space = "gpu-system", .pod_name = "p", .pod_uid = "u"};
  const ApiRequest request = NodeFeatureRequest(place, {{"nvidia.com/gpu.count", "2"}});
  EXPECT_EQ(request.path,
            "/apis/nfd.k8s-sigs.io/v1alpha1/namespaces/gpu-system/nodefeatures/"
            "nvidia-features-for-gpu-1?fieldManager=sublet-labels&force=true");
  const auto object = nlohmann::json::parse(request.body);
  EXPECT_EQ(object["kind"], "NodeFeature");
  EXPECT_EQ(object["metadata"]["name"], "nvidia-features-for-gpu-1");
  EXPECT_EQ(object["metadata"]["labels"]["nfd.node.kubernetes.io/node-name"], "gpu-1");
  EXPECT_EQ(object["metadata"]["ownerReferences"][0]["uid"], "u");
  EXPECT_EQ(object["spec"]["labels"]["nvidia.com/gpu.count"], "2");
  EXPECT_TRUE(object["spec"]["features"]["flags"].is_object());
}

}  // namespace
}  // namespace sublet
