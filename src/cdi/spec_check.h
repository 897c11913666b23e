// cdi/spec_check.h
//
// The rules of the Container Device Interface, which a runtime holds a file to when it reads it.
// One broken rule makes the whole file unusable, and then every container that asks for one of its
// devices fails to start; so a file is checked before it is written.
//
//   spec.version = CdiVersionNeeded(spec);
//   RETURN_IF_ERROR(CheckCdiSpec(spec));
//
// The grammar of names is that of the reference implementation, which is narrower than the
// specification's text: a vendor and a class begin with a letter; a device's name with a letter or
// digit, and it may have colons.
//
// Some rules are stricter than CDI's, because no spec of ours needs more: paths are absolute and in
// printable ASCII, and so is all other text.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "cdi/spec.h"

namespace sublet {

inline constexpr std::string_view kCdiVersionMin = "0.3.0";
inline constexpr std::string_view kCdiVersionMax = "0.6.0";

// The lowest version that has all that the spec uses. A runtime refuses a file of a version that it
// doesn't know, so what a file doesn't use, it had better not ask for: podman 4.3 knows 0.5.0.
std::string CdiVersionNeeded(const CdiSpec& spec);

// Fails with kInvalid at the first rule that is broken.
Status CheckCdiSpec(const CdiSpec& spec);

bool IsCdiVendor(std::string_view vendor);
bool IsCdiClass(std::string_view class_name);
bool IsCdiDeviceName(std::string_view name);

}  // namespace sublet
