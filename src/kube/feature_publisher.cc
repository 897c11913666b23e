#include "kube/feature_publisher.h"

#include <unistd.h>

#include <cerrno>

#include "base/check.h"
#include "base/files.h"

namespace sublet {
namespace {

constexpr double kAgainSeconds = 600;

}  // namespace

Status FeaturePublisher::Publish(const NodeLabels& labels, double now_s) {
  if (published_ == labels && now_s < again_s_) return {};
  RETURN_IF_ERROR(Write(labels));
  published_ = labels;
  again_s_ = now_s + kAgainSeconds;
  return {};
}

Status FeaturePublisher::Write(const NodeLabels& labels) {
  if (places_.to == LabelTarget::kFile) return WriteFeaturesFile(places_.file, labels);
  CHECK(api_ != nullptr);
  if (places_.to == LabelTarget::kNodeFeature) {
    const Status status = api_->ApplyNodeFeature(places_.object, labels);
    if (status || status.error().code != ErrorCode::kNotFound) return status;
    places_.to = LabelTarget::kNode;
    note_ = "the cluster has no NodeFeature objects, so the node itself is labelled: " +
            status.error().message;
  }
  // By uid, so that a label doesn't make a node again that was deleted.
  ASSIGN_OR_RETURN(const NodeObject node, api_->Read());
  return api_->ApplyLabels(labels, node.uid);
}

Status FeaturePublisher::Remove() {
  published_.reset();
  switch (places_.to) {
    case LabelTarget::kFile:
      if (::unlink(places_.file.c_str()) != 0 && errno != ENOENT) {
        return FailFromErrno(errno, "removing " + places_.file);
      }
      return {};
    case LabelTarget::kNodeFeature:
      RETURN_IF_ERROR(api_->RemoveNodeFeature(places_.object));
      [[fallthrough]];  // It may have been the node, where the kind was missing.
    case LabelTarget::kNode: {
      const Result<NodeObject> node = api_->Read();
      if (!node && node.error().code == ErrorCode::kNotFound) return {};
      RETURN_IF_ERROR(node);
      return api_->ApplyLabels({}, node->uid);
    }
  }
  return {};
}

}  // namespace sublet
