// kube/feature_publisher.h
//
// Labels, brought to where they are looked for: a file for Node Feature Discovery, its NodeFeature
// object, or the node itself.
//
//   FeaturePublisher publisher({.to = LabelTarget::kNode}, &api);
//   RETURN_IF_ERROR(publisher.Publish(labels, now_s));
//   ...
//   RETURN_IF_ERROR(publisher.Remove());            // All that was published is gone.
//
// What is published already isn't published again before ten minutes are over: then, in case that
// somebody else has changed it.
//
// Where NodeFeature objects are wanted and the cluster has none of the kind, because Node Feature
// Discovery isn't installed, the node is labelled instead; `note()` says so.
//
// Thread safety: one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "kube/cluster_node.h"
#include "kube/feature_labels.h"
#include "kube/feature_output.h"

namespace sublet {

enum class LabelTarget { kFile, kNodeFeature, kNode };

struct PublishPlaces {
  LabelTarget to = LabelTarget::kFile;
  std::string file;         // With kFile: absolute.
  NodeFeaturePlace object;  // With kNodeFeature.
};

class FeaturePublisher {
 public:
  // `api` may be nullptr with kFile, and outlives the publisher.
  FeaturePublisher(PublishPlaces places, ApiServerNode* api)
      : places_(std::move(places)), api_(api) {}

  Status Publish(const NodeLabels& labels, double now_s);
  Status Remove();

  // Of what the node itself is to have on it: who sees that it has not calls Forget(), so that the
  // next Publish() writes.
  void Forget() { published_.reset(); }
  LabelTarget target() const { return places_.to; }
  std::string_view note() const { return note_; }

 private:
  Status Write(const NodeLabels& labels);

  PublishPlaces places_;
  ApiServerNode* api_;
  std::optional<NodeLabels> published_;
  double again_s_ = 0;
  std::string note_;
};

}  // namespace sublet
