// kube/grpc_errors.h
//
// Errors across gRPC: ours as a status that kubelet shows in the pod's events, and a peer's status
// as an Error of ours.
//
// Thread safety: pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <string_view>

#include "base/result.h"

namespace sublet {

// With the hint, since nobody sees anything but the message.
grpc::Status ToGrpc(const Error& error);

// "<what>: <message> (<code>)". kUnavailable where trying again may help, else kConflict: the peer
// has refused.
Error FromGrpc(const grpc::Status& status, std::string_view what);

}  // namespace sublet
