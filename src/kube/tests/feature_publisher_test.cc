#include "kube/feature_publisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/files.h"
#include "kube/tests/scripted_api.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const ApiPatience kQuick{.first_s = 0.001, .most_s = 0.002};
const NodeLabels kLabels{{"nvidia.com/gpu.count", "1"}, {"nvidia.com/gpu.family", "hopper"}};

TEST(FeaturePublisher, AFileIsReplacedWholeAndGoesAgain) {
  std::string folder = fs::temp_directory_path() / "sublet-publisher-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string file = folder + "/features.d/gfd";
  FeaturePublisher publisher({.to = LabelTarget::kFile, .file = file, .object = {}}, nullptr);
  ASSERT_TRUE(publisher.Publish(kLabels, 0));
  EXPECT_EQ(ReadFile(file, 1000).value_or(""),
            "nvidia.com/gpu.count=1\nnvidia.com/gpu.family=hopper\n");
  // What is published isn't published again, but for once in a while.
  fs::remove(file);
  ASSERT_TRUE(publisher.Publish(kLabels, 599));
  EXPECT_FALSE(fs::exists(file));
  ASSERT_TRUE(publisher.Publish(kLabels, 600));
  EXPECT_TRUE(fs::exists(file));
  // Nothing else lies there: NFD would read it.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder + "/features.d"), {}), 1);
  ASSERT_TRUE(publisher.Remove());
  EXPECT_FALSE(fs::exists(file));
  ASSERT_TRUE(publisher.Remove());
  // Where the folder can't be made, the next attempt isn't put off.
  ASSERT_TRUE(WriteFileAtomically(folder + "/no-folder", ""));
  FeaturePublisher bad({.to = LabelTarget::kFile, .file = folder + "/no-folder/gfd", .object = {}},
                       nullptr);
  EXPECT_FALSE(bad.Publish(kLabels, 0));
  EXPECT_FALSE(bad.Publish(kLabels, 1));
  fs::remove_all(folder);
}

class PublisherAtTheApi : public ::testing::Test {
 protected:
  explicit PublisherAtTheApi()
      : server_([this](const ApiCall& call) { return Answer(call); }),
        node_(ApiClient(ApiTransport(server_.Place(), {}), kQuick), "gpu-1") {}

  ApiAnswer Answer(const ApiCall& call) const {
    if (call.target.find("nodefeatures") != std::string::npos && !has_features_) {
      return {.status = 404, .parts = {R"({"message":"no such resource"})"}};
    }
    return {.parts = {R"({"metadata":{"name":"gpu-1","uid":"u-1"}})"}};
  }
  std::vector<std::string> Requests() const {
    std::vector<std::string> requests;
    for (const ApiCall& call : server_.Calls()) {
      requests.push_back(call.method + " " + call.target.substr(0, call.target.find('?')));
    }
    return requests;
  }

  static constexpr const char* kFeature =
      "/apis/nfd.k8s-sigs.io/v1alpha1/namespaces/sublet/nodefeatures/nvidia-features-for-gpu-1";

  bool has_features_ = true;
  ScriptedApi server_;
  ApiServerNode node_;
  FeaturePublisher publisher_{
      {.to = LabelTarget::kNodeFeature,
       .file = {},
       .object = {.node = "gpu-1", .name_space = "sublet", .pod_name = {}, .pod_uid = {}}},
      &node_};
};

TEST_F(PublisherAtTheApi, AnObjectIsAppliedAndRemovedAgain) {
  ASSERT_TRUE(publisher_.Publish(kLabels, 0));
  EXPECT_EQ(publisher_.note(), "");
  ASSERT_TRUE(publisher_.Remove());
  EXPECT_THAT(Requests(), ::testing::ElementsAre(
                              std::string("PATCH ") + kFeature, std::string("DELETE ") + kFeature,
                              "GET /api/v1/nodes/gpu-1", "PATCH /api/v1/nodes/gpu-1"));
  EXPECT_THAT(server_.Calls()[0].body, HasSubstr("hopper"));
}

TEST_F(PublisherAtTheApi, WithoutTheKindTheNodeIsLabelledFromThenOn) {
  has_features_ = false;
  ASSERT_TRUE(publisher_.Publish(kLabels, 0));
  EXPECT_THAT(publisher_.note(), HasSubstr("no such resource"));
  EXPECT_EQ(publisher_.target(), LabelTarget::kNode);
  ASSERT_THAT(server_.Calls(), SizeIs(3));
  EXPECT_THAT(server_.Calls()[2].target, HasSubstr("fieldManager=sublet-labels"));
  EXPECT_THAT(server_.Calls()[2].body, HasSubstr("u-1"));
  publisher_.Forget();
  ASSERT_TRUE(publisher_.Publish(kLabels, 1));
  EXPECT_THAT(server_.Calls(), SizeIs(5));
}

}  // namespace
}  // namespace sublet
