// tests/kubelet/kubelet_rules.h
//
// What kubelet and the container runtime behind it take from a device plugin, and what they refuse.
//
//   if (const std::string fault = FaultOfResourceName("nvidia.com/gpu"); !fault.empty()) ...
//
// Written from how Kubernetes describes names and from what real kubelets were seen to do; each
// returns why something is refused, or nothing.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "proto/deviceplugin.pb.h"

namespace sublet::kubelet {

// An extended resource: a domain that isn't Kubernetes' own, and a name of at most 63 characters.
std::string FaultOfResourceName(std::string_view name);

// "key" or "domain/key", as labels and annotations have it.
std::string FaultOfQualifiedName(std::string_view name);

// One container's answer to Allocate: paths are absolute, permissions are of "rwm", no target
// twice, CDI devices are "vendor/class=name", annotations have names that the runtime takes.
std::string FaultOfGrant(const v1beta1::ContainerAllocateResponse& grant);

// A list of devices: no id twice, none empty, a health that kubelet knows.
std::string FaultOfList(const v1beta1::ListAndWatchResponse& list);

}  // namespace sublet::kubelet
