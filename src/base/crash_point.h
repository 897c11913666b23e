// base/crash_point.h
//
// Places where a test may kill the program, as a power cut or an OOM killer would.
//
//   store.BookShare(share);
//   CrashPoint("share-booked");       // Between the two, the share has no process.
//   Launch(share);
//
// With SUBLET_CRASH_AT=share-booked in the environment the process ends there by SIGKILL; with
// share-booked:3, when it comes by the third time. A program lists the names that it has in one
// place (node/crash_points.h), and one test runs through all of them. Without the variable a
// crash point costs a comparison.
//
// Thread safety: call from any thread.
#pragma once

#include <string_view>

namespace sublet {

void CrashPoint(std::string_view name);

}  // namespace sublet
